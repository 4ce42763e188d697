"""Callback mode, signals, fork: how completions and errors reach a program."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading

import pytest

import pifus
from tests.conftest import BackendProcess

SECONDS = 10.0


def test_callback_gets_everything(backend: BackendProcess) -> None:
    got: queue.Queue[tuple[pifus.Completion, str]] = queue.Queue()

    def callback(done: pifus.Completion) -> None:
        got.put((done, threading.current_thread().name))

    with pifus.Client(backend.path, on_completion=callback) as client:
        socks = [client.socket() for _ in range(200)]
        ops = {sock.nop() for sock in socks} and {(sock, sock.nop()) for sock in socks}
        seen = set()
        for _ in range(2 * len(socks)):
            done, name = got.get(timeout=SECONDS)
            seen.add((done.sock, done.op))
            assert name == f"pifus-{client.session}"
        assert ops <= seen
        with pytest.raises(RuntimeError, match="on_completion"):
            socks[0].wait(1)
        with pytest.raises(RuntimeError, match="on_completion"):
            client.poll_any()
    assert client.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pifus-")]


def test_server_made_of_callbacks(backend: BackendProcess) -> None:
    finished = threading.Event()
    echoed: list[bytes] = []

    def callback(done: pifus.Completion) -> None:
        if done.accepted is not None:
            done.accepted.recv(100)
        elif done.data:
            done.sock.write(done.data)
        elif done.data == b"":
            done.sock.close()
        elif done.opcode is pifus.Opcode.CLOSE:
            finished.set()

    with pifus.Client(backend.path, on_completion=callback) as server:
        listener = server.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.accept(multishot=True)
        with pifus.Client(backend.path) as client:
            sock = client.socket()
            # The listener listens as soon as the backend has got so far: until then, refused.
            for _ in range(1000):
                address = listener.local_address
                if address is not None and pifus.SocketState.LISTENING in listener.state:
                    break
                sock.nop()
                sock.wait(SECONDS)
            assert address is not None
            sock.connect(address)
            sock.wait(SECONDS).check()
            sock.write(b"ping")
            sock.wait(SECONDS).check()
            sock.recv(10)
            data = sock.wait(SECONDS).check().data
            assert data is not None
            echoed.append(data)
            sock.close()
        listener.nop()
    assert echoed == [b"ping"]


def test_what_a_callback_raises_is_reported(
    backend: BackendProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: queue.Queue[threading.ExceptHookArgs] = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", reported.put)
    called: queue.Queue[int] = queue.Queue()

    def callback(done: pifus.Completion) -> None:
        called.put(done.op)
        raise LookupError("of the test")

    with pifus.Client(backend.path, on_completion=callback) as client:
        sock = client.socket()
        for _ in range(3):
            op = sock.nop()
            assert called.get(timeout=SECONDS) == op
            assert reported.get(timeout=SECONDS).exc_type is LookupError


def test_close_from_the_callback(backend: BackendProcess) -> None:
    closed = threading.Event()

    def callback(done: pifus.Completion) -> None:
        done.sock.client.close()
        closed.set()

    client = pifus.Client(backend.path, on_completion=callback)
    client.socket().nop()
    assert closed.wait(SECONDS)
    client.close()
    assert client.closed


@pytest.mark.parametrize("any_socket", [False, True])
def test_signal_handlers_run_during_a_wait(client: pifus.Client, any_socket: bool) -> None:
    sock = client.socket()
    ran: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: ran.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        # PEP 475: the wait goes on, and keeps its deadline.
        with pytest.raises(TimeoutError):
            (client.wait_any if any_socket else sock.wait)(0.5)
        signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(ran) >= 5


@pytest.mark.parametrize("wait", ["sock.wait()", "client.wait_any()", "sock.wait(30)"])
def test_ctrl_c_ends_a_wait(backend: BackendProcess, wait: str) -> None:
    program = f"""
import pifus
client = pifus.Client({backend.path!r})
sock = client.socket()
try:
    print("waiting", flush=True)
    {wait}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        assert child.wait(SECONDS) == 0


def test_a_forked_child_cannot_use_the_client(
    client: pifus.Client, backend: BackendProcess
) -> None:
    sock = client.socket()
    sock.nop()
    sock.wait(SECONDS).check()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        told = []
        for call in (sock.nop, sock.wait, client.socket, client.wait_any, lambda: sock.state):
            try:
                call()
            except pifus.ClientClosed as error:
                told.append("fork" in str(error))
        client.close()
        # A client of its own works.
        with pifus.Client(backend.path) as own:
            other = own.socket()
            other.nop()
            told.append(other.wait(SECONDS).result == 0)
        os.write(writer, str(told).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reader, 1000) == str([True] * 6).encode()
    os.close(reader)
    os.close(writer)
    # The parent's goes on.
    sock.nop()
    sock.wait(SECONDS).check()
