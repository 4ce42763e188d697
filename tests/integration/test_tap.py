"""A TAP device with the machine's own kernel as the peer."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pifus
from tests.conftest import BackendProcess

StartBackend = Callable[..., BackendProcess]
SECONDS = 30.0
BULK_BYTES = 100_000_000
CHUNK = 65536


def may_make_devices() -> bool:
    """CAP_NET_ADMIN (bit 12), and the device node."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (effective,) = (line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> 12 & 1) and os.access("/dev/net/tun", os.W_OK)


needs_tap = pytest.mark.skipif(
    not may_make_devices(), reason="making a TAP device needs CAP_NET_ADMIN and /dev/net/tun"
)


@dataclass(slots=True)
class Tap:
    """A backend on a TAP device, and both ends' addresses."""

    backend: BackendProcess
    device: str
    host4: str
    stack4: str
    host6: str
    stack6: str


_taps = itertools.count()


def start_tap(start_backend: StartBackend, *options: str) -> Tap:
    """Another device, other addresses with each call: several may be there at once."""
    count, number = next(_taps), os.getpid() % 200 + 20
    device = f"pft{os.getpid() % 100000}n{count}"
    net4, net6 = f"10.{200 + count % 50}.{number}", f"fd13:{number:x}:{count + 1:x}:"
    host4, stack4, host6, stack6 = f"{net4}.1", f"{net4}.2", f"{net6}:1", f"{net6}:2"
    backend = start_backend(
        f"tap{count}",
        *("--driver", "tap", "--tap-name", device),
        *("--tap-ipv4", f"{stack4}/24", "--tap-host-ipv4", f"{host4}/24"),
        *("--tap-ipv6", f"{stack6}/64", "--tap-host-ipv6", f"{host6}/64"),
        *options,
    )
    return Tap(backend, device, host4, stack4, host6, stack6)


@pytest.fixture(params=["offload", "no-offload"])
def tap(request: pytest.FixtureRequest, start_backend: StartBackend) -> Tap:
    return start_tap(start_backend, f"--{request.param}")


@contextlib.contextmanager
def kernel_server(host: str, serve: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """A kernel socket that serves one connection in a thread."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    done = threading.Event()

    def run() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(SECONDS)
            serve(connection)
        done.set()

    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(SECONDS)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[:2]
        finally:
            thread.join()
    assert done.is_set()  # pytest shows what the thread raised


def connected(client: pifus.Client, address: tuple[str, int]) -> pifus.Socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = client.socket(pifus.TCP, family=family)
    sock.connect(address)
    sock.wait(SECONDS).check()
    return sock


@needs_tap
@pytest.mark.skipif(shutil.which("ping") is None, reason="ping is not installed")
def test_ping_is_answered(start_backend: StartBackend) -> None:
    tap = start_tap(start_backend)
    for address in (tap.stack4, tap.stack6):
        for size in ("56", "4000"):  # the second one in fragments
            command = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "5", "-s", size, address]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


@needs_tap
def test_echo_of_a_kernel_peer(tap: Tap) -> None:
    def echo(connection: socket.socket) -> None:
        while data := connection.recv(4096):
            connection.sendall(data)

    with pifus.Client(tap.backend.path) as client:
        for host in (tap.host4, tap.host6):
            with kernel_server(host, echo) as address:
                sock = connected(client, address)
                for number in range(200):
                    sock.write(b"%d" % number)
                    sock.recv(100)
                    answers = [sock.wait(SECONDS).check() for _ in range(2)]
                    received = [a.data for a in answers if a.opcode is pifus.Opcode.RECV]
                    assert received == [b"%d" % number]
                sock.shutdown(socket.SHUT_WR)
                sock.wait(SECONDS).check()
                sock.recv(1)
                assert sock.wait(SECONDS).check().data == b""
                sock.release()


@needs_tap
def test_bulk_to_the_kernel_is_whole(tap: Tap) -> None:
    received = hashlib.sha256()

    def sink(connection: socket.socket) -> None:
        while data := connection.recv(CHUNK):
            received.update(data)

    block = os.urandom(CHUNK)
    sent = hashlib.sha256()
    with pifus.Client(tap.backend.path) as client, kernel_server(tap.host4, sink) as address:
        sock = connected(client, address)
        under_way = 0
        for _ in range(BULK_BYTES // CHUNK):
            while under_way >= 8:
                sock.wait(SECONDS).check()
                under_way -= 1
            sock.write(block)
            under_way += 1
            sent.update(block)
        sock.release()  # what was written still arrives
    assert received.digest() == sent.digest()


@needs_tap
def test_bulk_from_the_kernel_is_whole(tap: Tap) -> None:
    block = os.urandom(CHUNK)
    sent = hashlib.sha256()

    def source(connection: socket.socket) -> None:
        for _ in range(BULK_BYTES // CHUNK):
            connection.sendall(block)
            sent.update(block)

    received = hashlib.sha256()
    with pifus.Client(tap.backend.path) as client, kernel_server(tap.host4, source) as address:
        sock = connected(client, address)
        while True:
            sock.recv(CHUNK)
            data = sock.wait(SECONDS).check().data
            if not data:
                break
            received.update(data)
        sock.release()
    assert received.digest() == sent.digest()


@needs_tap
def test_connections_from_the_kernel(tap: Tap) -> None:
    with pifus.Client(tap.backend.path) as client:
        listener = client.socket(pifus.TCP)
        listener.bind((tap.stack4, 0))
        listener.wait(SECONDS).check()
        listener.listen()
        listener.wait(SECONDS).check()
        local = listener.local_address
        assert local is not None
        listener.accept(multishot=True)
        for _ in range(50):
            with socket.create_connection((tap.stack4, local[1]), SECONDS) as peer:
                accepted = listener.wait(SECONDS).check().accepted
                assert accepted is not None
                assert accepted.peer_address == peer.getsockname()
                peer.sendall(b"hello")
                accepted.recv(10)
                assert accepted.wait(SECONDS).check().data == b"hello"
                accepted.release()
                assert peer.recv(1) == b""


@needs_tap
def test_refusals_both_ways(tap: Tap) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((tap.stack4, 9), SECONDS)
    with pifus.Client(tap.backend.path) as client:
        sock = client.socket(pifus.TCP)
        sock.connect((tap.host4, 9))
        with pytest.raises(ConnectionRefusedError):
            sock.wait(SECONDS).check()


def test_without_the_privilege_the_message_says_which(tmp_path: Path) -> None:
    """As a normal user: a clear sentence and exit status 1, not a traceback."""
    command = [sys.executable, "-m", "pifus.backend", "--driver", "tap"]
    command += ["--socket", str(tmp_path / "b.sock"), "--tap-name", "pfnone0"]
    command += ["--tap-ipv4", "10.213.0.2/24"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv, to drop privileges with, is not installed")
        # The same user, so that the interpreter's files stay readable, but no capability at all.
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    if os.access("/dev/net/tun", os.R_OK | os.W_OK):
        assert "CAP_NET_ADMIN" in done.stderr
        assert "ip tuntap add" in done.stderr
    else:  # a machine that lets users not even open it
        assert "cannot open /dev/net/tun for TAP device 'pfnone0'" in done.stderr
    assert "Traceback" not in done.stderr
