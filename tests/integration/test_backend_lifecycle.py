"""Backends and clients come and go: by plan, all at once, by kill -9."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pifus
from pifus._core._session import Session
from pifus.backend._config import SPIN_NS
from pifus.cli import read_status
from tests.conftest import BackendProcess, connect_pair, wait_until_asleep

SECONDS = 10.0
StartBackend = Callable[..., BackendProcess]


def status_of(backend: str) -> dict[str, object]:
    found = subprocess.run(
        [sys.executable, "-m", "pifus.cli", "status", "--json", "--backend", backend],
        capture_output=True,
        check=True,
    )
    status: dict[str, object] = json.loads(found.stdout)
    return status


def settle(backend: str, sockets: int) -> None:
    """Fails unless the backend soon has nothing of gone clients and so many sockets of others."""
    deadline = time.monotonic() + SECONDS
    while True:
        status = read_status(backend)
        numbers = status["statistics"]
        if status["lingering"] == 0 and numbers["sockets"] == sockets:
            return
        assert time.monotonic() < deadline, (status["lingering"], numbers)


def gone(pid: int) -> bool:
    """Whether a process ends, or has ended, within a few seconds."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        threading.Event().wait(0.01)
    return False


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def test_attach_and_detach_leave_nothing(backend: BackendProcess) -> None:
    with pifus.Client(backend.path):
        pass
    before = descriptors()
    for _ in range(20):
        with pifus.Client(backend.path, name="one of many") as client:
            session = Session.open(backend.path)
            assert session.take_mirror()[0] > 0
            session.close()
            connect_pair(client)
    # Each take_mirror above handed its descriptor to this test.
    assert descriptors() == before + 20


def test_a_forgotten_client_detaches(start_backend: StartBackend) -> None:
    started = start_backend("forgotten")
    client = pifus.Client(started.path)
    client.socket().nop()
    assert status_of(started.path)["clients"] == 1
    del client
    gc.collect()
    assert status_of(started.path)["clients"] == 0


def test_thousand_clients_one_after_another(start_backend: StartBackend) -> None:
    started = start_backend("thousand")
    for number in range(1000):
        with pifus.Client(started.path, max_sockets=16) as client:
            sock = client.socket()
            sock.nop()
            sock.wait(SECONDS).check()
            if number % 100 == 0:
                connect_pair(client)
    assert status_of("thousand")["clients"] == 0
    settle(started.path, sockets=0)


ONE_OF_MANY = """
import sys, pifus
sys.stdin.readline()
with pifus.Client() as client:
    sock = client.socket()
    sock.nop()
    sock.wait(10).check()
    print(client.backend)
"""


def test_clients_starting_at_the_same_instant(start_backend: StartBackend) -> None:
    started = start_backend("default")
    read_end, write_end = os.pipe()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_MANY], stdin=read_end, stdout=subprocess.PIPE, text=True
        )
        for _ in range(32)
    ]
    os.close(read_end)
    os.close(write_end)  # every one reads the end at once
    for child in children:
        out, _ = child.communicate(timeout=60)
        assert (child.returncode, out.strip()) == (0, started.path)


def test_threads_attaching_at_the_same_instant(backend: BackendProcess) -> None:
    together = threading.Barrier(32)
    failures: list[Exception] = []

    def run() -> None:
        together.wait()
        try:
            with pifus.Client(backend.path, max_sockets=4) as client:
                sock = client.socket()
                sock.nop()
                sock.wait(SECONDS).check()
        except Exception as error:  # noqa: BLE001 - told by the assertion
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_end_of_the_backend_reaches_every_blocked_call(
    start_backend: StartBackend, how: str
) -> None:
    started = start_backend(f"end-{how}")
    client = pifus.Client(started.path)
    sock, other = client.socket(), client.socket()
    ended: list[tuple[type[Exception], str, float]] = []
    waiting = threading.Barrier(4)

    def run(call: Callable[[], object]) -> None:
        waiting.wait()
        try:
            call()
        except Exception as error:  # noqa: BLE001 - told by the assertion
            ended.append((type(error), str(error), time.monotonic()))

    threads = [
        threading.Thread(target=run, args=(call,))
        for call in (sock.wait, lambda: other.wait(60), client.wait_any)
    ]
    for thread in threads:
        thread.start()
    waiting.wait()
    at = time.monotonic()
    if how == "kill":
        started.kill()
    else:
        assert started.stop() == 0
    for thread in threads:
        thread.join(SECONDS)
    assert [kind for kind, _, _ in ended] == [pifus.BackendGone] * 3
    assert max(moment for _, _, moment in ended) - at < 1.0
    says = "killed, or it crashed" if how == "kill" else "shut down"
    assert all(says in text for _, text, _ in ended)
    with pytest.raises(pifus.BackendGone):
        sock.nop()
    client.close()
    with pytest.raises(pifus.ClientClosed):
        sock.nop()


def test_a_killed_client_takes_only_itself(start_backend: StartBackend) -> None:
    started = start_backend("killed")
    program = f"""
import pifus, os
client = pifus.Client({started.path!r})
socks = [client.socket() for _ in range(50)]
for sock in socks:
    sock.nop()
print("ready", flush=True)
client.wait_any()
socks[0].wait()
import signal
signal.pause()
"""
    with pifus.Client(started.path) as client:
        ours, theirs = connect_pair(client)
        for _ in range(3):
            with subprocess.Popen(
                [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
            ) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == "ready\n"
                child.kill()
            ours.write(b"still here")
            theirs.recv(100)
            assert theirs.wait(SECONDS).check().data == b"still here"
            ours.wait(SECONDS).check()
        settle(started.path, sockets=2)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="on one processor nobody spins")
def test_the_budget_of_spins_follows_what_waking_costs(start_backend: StartBackend) -> None:
    for name, spin_ns in SPIN_NS.items():
        started = start_backend(name, "--profile", name)
        assert status_of(started.path)["spin_ns"] == spin_ns
        with pifus.Client(started.path) as client, client.socket() as sock:
            client.set_spin(0)
            threads = [int(path.name) for path in Path(f"/proc/{started.pid}/task").iterdir()]
            (stack,) = set(threads) - {started.pid}
            seen = set()
            for _ in range(8):
                wait_until_asleep(stack)
                sock.nop()
                sock.wait(SECONDS).check()
                seen.add(read_status(started.path)["spin_ns"])
        if name == "balanced":
            assert len(seen) > 1
            assert all(20_000 <= one <= 100_000 for one in seen)
        else:
            assert seen == {spin_ns}


def test_private_backend_ends_with_its_last_client(runtime_dir: Path) -> None:
    first = pifus.Client()
    second = pifus.Client()
    assert first.backend == second.backend
    pid = status_of(first.backend)["pid"]
    assert isinstance(pid, int)
    with second.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        for _ in range(2):
            listener.wait(SECONDS).check()
        listener.accept()
        address = listener.local_address
        assert address is not None
        sock = first.socket()
        sock.connect(address)
        sock.wait(SECONDS).check()
        listener.wait(SECONDS).check()
    first.close()
    assert Path(second.backend).exists()
    second.close()
    assert gone(pid)
    assert not Path(second.backend).exists()
    assert not list(runtime_dir.glob("pifus-private-*"))
    # And the next one starts anew.
    with pifus.Client() as third:
        assert third.backend != second.backend


def test_private_backend_ends_with_a_killed_program(runtime_dir: Path) -> None:
    program = """
import pifus, signal
client = pifus.Client()
print(client.backend, flush=True)
signal.pause()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        path = child.stdout.readline().strip()
        pid = status_of(path)["pid"]
        assert isinstance(pid, int)
        child.kill()
    assert gone(pid)
    assert not Path(path).exists()


def test_exit_without_close_is_clean() -> None:
    program = """
import pifus
client = pifus.Client(on_completion=print)
client.socket().nop()
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program]
    found = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert found.returncode == 0
    assert found.stderr == b""
