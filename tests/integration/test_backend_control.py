"""The control plane: its socket, its limits, its answers to bad requests, how it is found."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pifus
from pifus._core._session import Session
from pifus._core._settings import Settings
from tests.conftest import BackendProcess, descriptors

SECONDS = 10.0
StartBackend = Callable[..., BackendProcess]


def test_second_backend_of_a_name_is_refused(backend: BackendProcess) -> None:
    command = [sys.executable, "-m", "pifus.backend", "--name", "test"]
    found = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert found.returncode == 1
    assert f"a backend runs at {backend.path} already (process {backend.pid})" in str(found.stderr)
    with pifus.Client(backend.path):
        pass


def test_socket_of_a_dead_backend_is_taken_over(start_backend: StartBackend) -> None:
    dead = start_backend("dead")
    dead.kill()
    assert Path(dead.path).exists()
    with pytest.raises(pifus.BackendUnavailable, match="no backend named 'dead' runs at"):
        pifus.Client("dead")
    alive = start_backend("dead")
    with pifus.Client("dead"):
        pass
    assert alive.stop() == 0
    assert not Path(alive.path).exists()
    assert not Path(alive.path + ".lock").exists()


def test_socket_of_another_program_is_left_alone(runtime_dir: Path) -> None:
    path = runtime_dir / "pifus-foreign.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen()
        command = [sys.executable, "-m", "pifus.backend", "--name", "foreign"]
        found = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert found.returncode == 1
        assert b"another program listens at" in found.stderr
        assert path.exists()
    path.unlink()
    (runtime_dir / "pifus-foreign.sock.lock").unlink()


def test_mode_of_the_socket(start_backend: StartBackend) -> None:
    assert Path(start_backend("mode-a").path).stat().st_mode & 0o777 == 0o600
    assert Path(start_backend("mode-b", "--mode", "0666").path).stat().st_mode & 0o777 == 0o666


def test_limits(start_backend: StartBackend) -> None:
    options = "--max-clients 3 --max-clients-per-user 2 --max-sockets 8 --max-client-bytes 8388608"
    path = start_backend("limits", *options.split(), "--best-priority", "medium").path
    small = {"max_sockets": 4, "arena_bytes": 65536}
    with pytest.raises(OSError, match="max_sockets is 9; this backend allows 1 to 8"):
        pifus.Client(path, max_sockets=9, arena_bytes=65536)
    with pytest.raises(OSError, match=r"up to 8388608 \(--max-client-bytes\)"):
        pifus.Client(path, max_sockets=8, rx_bytes=1 << 20, arena_bytes=1 << 20)
    with pifus.Client(path, **small) as first, pifus.Client(path, **small):  # type: ignore[arg-type]
        with pytest.raises(OSError, match="allows 2 for each"):
            pifus.Client(path, **small)  # type: ignore[arg-type]
        sock = first.socket(priority=pifus.Priority.HIGH)
        sock.nop()
        sock.wait(SECONDS).check()
        assert sock.priority is pifus.Priority.MEDIUM
        sock.set_priority(pifus.Priority.HIGH)
        with pytest.raises(PermissionError):
            sock.wait(SECONDS).check()
    with pifus.Client(path, **small):  # type: ignore[arg-type]
        pass


def test_bad_requests_are_answered(backend: BackendProcess) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.settimeout(SECONDS)
        raw.connect(backend.path)
        for packet, says in (
            (b'{"type":"dance"}', "type is 'dance'"),
            (b'{"type":"attach"}', "needs the field abi"),
            (b'{"type":"mirrors","count":1}', "attach first"),
            (b'{"type":"status","after":-1}', "after is -1"),
        ):
            raw.send(packet)
            reply = json.loads(raw.recv(65536))
            assert reply["type"] == "error"
            assert says in reply["message"]
        raw.send(b"not json")
        assert json.loads(raw.recv(65536))["type"] == "error"
        assert raw.recv(100) == b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.settimeout(SECONDS)
        raw.connect(backend.path)
        raw.send(b" " * 70000)
        assert "longer than 65536" in json.loads(raw.recv(65536))["message"]
        assert raw.recv(100) == b""


def test_a_client_that_does_not_read_harms_nobody(backend: BackendProcess) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.connect(backend.path)
        raw.settimeout(SECONDS)
        send_many = lambda: [raw.send(b'{"type":"status"}') for _ in range(100_000)]  # noqa: E731
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_many()
    with pifus.Client(backend.path):
        pass


def test_discovery(start_backend: StartBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    named = start_backend("named")
    monkeypatch.setenv("PIFUS_BACKEND", "named")
    with pifus.Client() as client:
        assert client.backend == named.path
    default = start_backend("default")
    with pifus.Client() as client:
        assert client.backend == named.path
    monkeypatch.delenv("PIFUS_BACKEND")
    with pifus.Client() as client:
        assert client.backend == default.path
    with pifus.Client("named") as client:
        assert client.backend == named.path
    with pifus.Client(driver="loopback") as client:
        assert "private" in client.backend
    monkeypatch.setenv("PIFUS_BACKEND", "absent")
    with pytest.raises(pifus.BackendUnavailable, match="pifus backend --name absent"):
        pifus.Client()
    with pytest.raises(ValueError, match="either backend or driver"):
        pifus.Client("named", driver="loopback")
    with pytest.raises(ValueError, match="queue_depth is 5; allowed is a power of two"):
        pifus.Client("named", queue_depth=5)


def test_failure_of_a_private_backend_is_told() -> None:
    with pytest.raises(OSError, match="--driver tap needs an address"):
        pifus.Client(driver=["tap"])
    for words in (["tpa"], ["tap", "--tap-ipv4", "192.168.77.2/24", "tpa"]):
        with pytest.raises(OSError, match="--driver is 'tpa': allowed is loopback, tap"):
            pifus.Client(driver=words)


def test_a_stopped_backend_does_not_hang_a_closing_client(
    start_backend: StartBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = start_backend("stopped")
    client = pifus.Client(started.path)
    client._session._channel._connection.settimeout(0.2)
    started.process.send_signal(signal.SIGSTOP)
    try:
        client.close()
    finally:
        started.process.send_signal(signal.SIGCONT)
    assert client.closed


class ControlCError(Exception):
    """What a signal handler raises."""


def interrupt(_number: int, _frame: object) -> None:
    raise ControlCError


@pytest.mark.parametrize("given_up", [TimeoutError, ControlCError])
def test_a_request_that_was_given_up_does_not_answer_the_next(
    start_backend: StartBackend, given_up: type[Exception]
) -> None:
    started = start_backend("given-up")
    session = Session.join(started.path, Settings(max_sockets=4, arena_bytes=65536), None)
    _, mirror = session.take_mirror()
    before = descriptors()
    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(3):
            started.process.send_signal(signal.SIGSTOP)
            for _ in range(2):  # the second one is given up while it looks for its answer
                if given_up is TimeoutError:
                    session._channel._connection.settimeout(0.05)
                else:
                    signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises((given_up, pifus.BackendUnavailable)):
                    session.show(mirror)
            started.process.send_signal(signal.SIGCONT)
            session._channel._connection.settimeout(SECONDS)
            os.close(session.take_bell())
            assert 0 < session.show(mirror) < session.show(mirror)
        assert descriptors() == before
    finally:
        signal.signal(signal.SIGALRM, handler)
        started.process.send_signal(signal.SIGCONT)
        os.close(mirror)
        session.close()


def test_socket_given_by_systemd(runtime_dir: Path) -> None:
    path = runtime_dir / "pifus-activated.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        listening.listen()
        program = f"""
import os, sys
os.dup2({listening.fileno()}, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "pifus.backend", "--log-level", "error"])
"""
        command = [sys.executable, "-c", program]
        process = subprocess.Popen(command, pass_fds=[listening.fileno()])
    try:
        with pifus.Client(str(path)) as client:
            sock = client.socket()
            sock.nop()
            sock.wait(SECONDS).check()
    finally:
        process.terminate()
        assert process.wait(SECONDS) == 0
    assert path.exists()  # systemd's, not ours to remove
    path.unlink()


def test_a_descriptor_shown_while_attaching(backend: BackendProcess) -> None:
    """A forked child attaches and gets its ticket in one round trip; else there is none."""
    settings = Settings(max_sockets=4, arena_bytes=65536)
    owner = Session.join(backend.path, settings, None)
    _, mirror = owner.take_mirror()
    with open(os.devnull) as no_mirror:
        for shown, given in ((mirror, True), (no_mirror.fileno(), False)):
            other = Session.join(backend.path, settings, shown)
            assert bool(other.ticket) is given
            assert other.show(mirror) > other.ticket
            other.close()
    assert owner.ticket == 0
    os.close(mirror)
    owner.close()
