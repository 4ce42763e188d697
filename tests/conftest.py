"""Fixtures with a real backend; nothing here stands in for one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pifus
from tests import network
from tests.guard import Guard

START_SECONDS = 60.0
END_SECONDS = 20.0


def pytest_configure() -> None:
    """Before anything of the tests is imported, let alone started."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background: what the tests start would ignore Ctrl-C, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    network.enter()


@dataclass(slots=True)
class BackendProcess:
    """A backend that a test started."""

    name: str
    path: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> int:
        """Ends it as an operator does; returns its exit status. Twice is no error."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_SECONDS)

    def kill(self) -> None:
        """Ends it as a crash does."""
        self.process.kill()
        self.process.wait(END_SECONDS)


def launch_backend(name: str, *options: str) -> BackendProcess:
    """Starts a backend and returns when it says, as to systemd, that it is ready."""
    options = ("--log-level", "error", *options)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.settimeout(START_SECONDS)
        ready.bind("")  # an abstract name, chosen by the kernel
        address = "@" + ready.getsockname()[1:].decode()
        process = subprocess.Popen(
            [sys.executable, "-m", "pifus.backend", "--name", name, *options],
            env={**os.environ, "NOTIFY_SOCKET": address},
        )
        try:
            assert ready.recv(100) == b"READY=1"
        except BaseException:
            process.kill()
            process.wait()
            raise
    path = Path(os.environ["PIFUS_RUNTIME_DIR"]) / f"pifus-{name}.sock"
    return BackendProcess(name, str(path), process)


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def wait_until_asleep(pid: int) -> None:
    """Until the process, or thread, was seen asleep several times: in the call it was to make."""
    asleep = 0
    beat = threading.Event()
    while asleep < 5:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state not in "ZX"
        asleep = asleep + 1 if state == "S" else 0
        beat.wait(0.005)


@pytest.fixture(scope="session", autouse=True)
def runtime_dir() -> Iterator[Path]:
    """A directory for sockets, of its own: the machine's backends stay out of the tests."""
    # Not pytest's: the path of a UNIX socket has to be short.
    directory = Path(tempfile.mkdtemp(prefix="pifus-", dir="/tmp"))
    before = os.environ.get("PIFUS_RUNTIME_DIR")
    os.environ["PIFUS_RUNTIME_DIR"] = str(directory)
    os.environ.pop("PIFUS_BACKEND", None)
    yield directory
    if before is None:
        del os.environ["PIFUS_RUNTIME_DIR"]
    else:
        os.environ["PIFUS_RUNTIME_DIR"] = before
    shutil.rmtree(directory)


@pytest.fixture(scope="session", autouse=True)
def guard(runtime_dir: Path) -> Iterator[Guard]:
    """Clears up if this run is killed."""
    with Guard(runtime_dir) as started:
        yield started


@pytest.fixture(scope="session")
def backend(runtime_dir: Path) -> Iterator[BackendProcess]:
    """A started loopback backend, shared by the tests."""
    started = launch_backend("test")
    yield started
    assert started.stop() == 0


@pytest.fixture
def start_backend() -> Iterator[Callable[..., BackendProcess]]:
    """Starts backends of a test's own: `start_backend(name, *options)`; ends them afterwards."""
    started: list[BackendProcess] = []

    def start(name: str, *options: str) -> BackendProcess:
        started.append(launch_backend(name, *options))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def client(backend: BackendProcess) -> Iterator[pifus.Client]:
    """A client of the shared backend."""
    with pifus.Client(backend.path) as attached:
        yield attached


Pair = tuple[pifus.Socket, pifus.Socket]


def connect_pair(client: pifus.Client, family: int = socket.AF_INET) -> Pair:
    """Two connected sockets of a client: the one that connected, the one that was accepted."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with client.socket(family=family) as listener:
        listener.bind((host, 0))
        listener.wait(5).check()
        listener.listen()
        listener.wait(5).check()
        listener.accept()
        ours = client.socket(family=family)
        address = listener.local_address
        assert address is not None
        ours.connect(address)
        ours.wait(5).check()
        theirs = listener.wait(5).check().accepted
        assert theirs is not None
        return ours, theirs


@pytest.fixture
def pair(client: pifus.Client) -> Pair:
    """Two connected IPv4 sockets of `client`."""
    return connect_pair(client)
