"""A backend that is killed: its sockets' descriptors show it, and every call that looks says so.

Also one that does not wait: else an event loop, which is woken for ever, would go on for ever.
"""

from __future__ import annotations

import asyncio
import errno
import select
import signal
import socket as names
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import pifus
import pifus.compat.socket as net
from pifus._compat import _current
from tests.conftest import BackendProcess
from tests.contract.conftest import PATIENCE_SECONDS, fill, launcher, python_environment
from tests.contract.programs import HEAD

StartBackend = Callable[..., BackendProcess]


@dataclass(frozen=True, slots=True)
class Doomed:
    """A backend that this process's sockets are on, and some of them."""

    backend: BackendProcess
    listener: Any
    near: Any
    far: Any
    datagrams: Any

    def kill(self) -> None:
        """Ends it in the middle; what the kernel closes for it is closed."""
        self.backend.kill()


@pytest.fixture
def doomed(
    start_backend: StartBackend, drop_in_backend: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Doomed]:
    started = start_backend("doomed")
    monkeypatch.setenv("PIFUS_BACKEND", started.path)
    before, _current._session = _current._session, None
    listener = net.create_server(("127.0.0.1", 0))
    near = net.create_connection(listener.getsockname(), PATIENCE_SECONDS)
    far, _ = listener.accept()
    datagrams = net.socket(names.AF_INET, names.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    everything = (listener, near, far, datagrams)
    for sock in everything:
        sock.setblocking(False)
    yield Doomed(started, *everything)
    for sock in everything:
        sock.close()
    session, _current._session = _current._session, before
    if session is not None:
        session.close()


def shown(sock: Any) -> int:
    """What its descriptor shows, as soon as it shows anything."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    found = poller.poll(PATIENCE_SECONDS * 1000)
    return found[0][1] if found else 0


def send_for_ever(sock: Any) -> None:
    while True:
        sock.send(b"x" * 10_000)


CALLS: dict[str, Callable[[Doomed], Any]] = {
    "recv": lambda on: on.near.recv(10),
    "recv_into": lambda on: on.near.recv_into(bytearray(10)),
    "peek": lambda on: on.near.recv(10, names.MSG_PEEK),
    "recvmsg": lambda on: on.near.recvmsg(10),
    "accept": lambda on: on.listener.accept(),
    "recvfrom": lambda on: on.datagrams.recvfrom(10),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_that_does_not_wait_says_that_the_backend_is_gone(
    doomed: Doomed, call: Callable[[Doomed], Any]
) -> None:
    with pytest.raises(BlockingIOError):
        call(doomed)
    for sock in (doomed.near, doomed.listener, doomed.datagrams):
        sock.fileno()  # from now on it shows what it is asked for
    doomed.kill()
    for sock in (doomed.near, doomed.listener, doomed.datagrams):
        assert shown(sock) & select.POLLHUP
    for _ in range(2):
        with pytest.raises(pifus.BackendGone, match="killed, or it crashed"):
            call(doomed)


def test_a_flag_not_to_wait_on_a_blocking_socket(doomed: Doomed) -> None:
    doomed.near.setblocking(True)
    doomed.kill()
    with pytest.raises(ConnectionResetError):
        doomed.near.recv(10, names.MSG_DONTWAIT)


def test_what_had_come_is_read_first(doomed: Doomed) -> None:
    doomed.far.send(b"the last words")
    assert shown(doomed.near) & select.POLLIN
    doomed.kill()
    assert doomed.near.recv(100) == b"the last words"
    with pytest.raises(pifus.BackendGone):
        doomed.near.recv(100)


def test_sending_when_there_is_no_room(doomed: Doomed) -> None:
    fill(doomed.near)
    doomed.kill()
    assert shown(doomed.near) & select.POLLHUP
    for _ in range(2):
        with pytest.raises(pifus.BackendGone):
            doomed.near.send(b"x")


def test_bytes_that_nobody_takes_any_more_are_not_taken_for_ever(doomed: Doomed) -> None:
    doomed.kill()
    with pytest.raises(ConnectionResetError):
        send_for_ever(doomed.near)


def test_the_number_of_the_descriptor_is_told_all_the_same(doomed: Doomed) -> None:
    numbers = [doomed.near.fileno(), doomed.listener.fileno()]
    with pytest.raises(BlockingIOError):
        doomed.near.recv(1)  # so that what the descriptor shows is to be looked at again
    doomed.kill()
    assert [doomed.near.fileno(), doomed.listener.fileno()] == numbers
    assert doomed.far.fileno() > 2  # asked for the first time
    for sock in (doomed.near, doomed.listener, doomed.far):
        assert shown(sock) & select.POLLHUP
        with pytest.raises(pifus.BackendGone):
            sock.accept() if sock is doomed.listener else sock.recv(1)
        assert sock.fileno() > 2


def test_once_told_every_call_says_it(doomed: Doomed) -> None:
    doomed.kill()
    with pytest.raises(pifus.BackendGone):
        doomed.near.recv(1)
    for call in (
        lambda: doomed.far.send(b"x"),
        lambda: doomed.far.recv(1),
        lambda: doomed.datagrams.sendto(b"x", ("127.0.0.1", 9)),
        doomed.listener.accept,
    ):
        with pytest.raises(pifus.BackendGone):
            call()


def test_a_connect_under_way(doomed: Doomed) -> None:
    address = doomed.listener.getsockname()
    with net.socket() as waiting:
        waiting.setblocking(False)
        doomed.backend.process.send_signal(signal.SIGSTOP)  # so it does not answer
        code = waiting.connect_ex(address)
        doomed.kill()
        assert code == errno.EINPROGRESS
        assert shown(waiting) & select.POLLHUP
        with pytest.raises(pifus.BackendGone):
            waiting.getsockopt(names.SOL_SOCKET, names.SO_ERROR)
        with pytest.raises(pifus.BackendGone):
            waiting.recv(1)


def test_tasks_of_asyncio(doomed: Doomed) -> None:
    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(sock=doomed.near)
        calls: list[Awaitable[object]] = [
            reader.read(10),
            loop.sock_recv(doomed.far, 10),
            loop.sock_accept(doomed.listener),
            loop.sock_recv(doomed.datagrams, 10),
        ]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        doomed.kill()
        _, left = await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
        for task in left:
            task.cancel()
        assert not left
        writer.close()
        return [task.exception() for task in tasks]

    assert [type(error) for error in asyncio.run(main())] == [pifus.BackendGone] * 4


_POPEN = """
near, far = pair()
process = subprocess.Popen(["cat"], stdin=near, stdout=near)
far.sendall(b"there and back")
assert exactly(far, 14) == b"there and back"
os.kill(int(sys.argv[1]), signal.SIGKILL)
assert process.wait(20) == 0
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join(20)
        assert not thread.is_alive(), thread
"""
_EXEC = """
near, far = pair()
def become():
    os.dup2(near.fileno(), 0)
    os.dup2(near.fileno(), 1)
    os.execvp("cat", ["cat"])
pid = fork(become)
far.sendall(b"there and back")
assert exactly(far, 14) == b"there and back"
os.kill(int(sys.argv[1]), signal.SIGKILL)
ended(pid)
"""


@pytest.mark.parametrize("code", [_POPEN, _EXEC], ids=["popen", "exec"])
def test_a_program_that_is_not_python_gets_its_end(
    start_backend: StartBackend, drop_in_backend: None, code: str
) -> None:
    started = start_backend("doomed")
    command = [sys.executable, "-c", HEAD + "import subprocess\n" + code, str(started.pid)]
    done = subprocess.run(
        launcher(*command),
        env={**python_environment(), "PIFUS_BACKEND": started.path},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
