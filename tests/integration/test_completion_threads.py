"""The completion API and other threads and processes: closing under a wait, batches and forks."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pifus
from pifus._core import _lane, _ops
from pifus._core._client import lib
from tests.conftest import BackendProcess, Pair, connect_pair, descriptors, wait_until_asleep

SECONDS = 10.0
# A wait that nobody wakes looks again after this.
PULSE_SECONDS = 0.2
ROUNDS = 50


def in_thread(call: Callable[[], object]) -> Callable[[], object]:
    """Starts it; the result waits for its end and gives its value, or raises what it raised."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001 - handed on
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> object:
        thread.join(SECONDS)
        assert outcome, "the thread still waits"
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    return join


@pytest.mark.parametrize("many", [False, True])
def test_a_close_by_another_thread_ends_a_wait(backend: BackendProcess, many: bool) -> None:
    took = []
    for _ in range(ROUNDS):
        client = pifus.Client(backend.path)
        client.socket().nop()
        client.wait_any(SECONDS)
        waiting = threading.Event()

        def wait(client: pifus.Client = client, waiting: threading.Event = waiting) -> object:
            waiting.set()
            return client.wait_many() if many else client.wait_any()

        join = in_thread(wait)
        assert waiting.wait(SECONDS)
        begun = time.monotonic()
        client.close()
        with pytest.raises(pifus.ClientClosed):
            join()
        took.append(time.monotonic() - begun)
    # Not at the pulse.
    assert max(took) < PULSE_SECONDS / 2


@pytest.fixture
def one_slice() -> Iterator[None]:
    """A wait that does not come back into the interpreter in between."""
    _lane.set_slice(int(SECONDS * 1e9))
    yield
    _lane.set_slice(_ops.SLICE_NS)


@pytest.mark.usefixtures("one_slice")
def test_other_threads_run_while_one_waits_for_its_socket(client: pifus.Client) -> None:
    sock = client.socket()
    for timeout in (SECONDS, None):
        waiting = threading.Event()

        def wait(timeout: float | None = timeout, waiting: threading.Event = waiting) -> object:
            waiting.set()
            return sock.wait(timeout).op

        join = in_thread(wait)
        waiting.wait()
        op = sock.nop()
        assert join() == op


def test_a_socket_that_other_threads_close(backend: BackendProcess) -> None:
    for end in (pifus.Socket.release, lambda sock: sock.client.close()):
        client = pifus.Client(backend.path)
        sock = client.socket()

        def use(sock: pifus.Socket = sock) -> None:
            while True:
                with contextlib.suppress(pifus.QueueFull):
                    sock.nop()
                sock.poll()

        joins = [in_thread(use) for _ in range(4)]
        end(sock)
        for join in joins:
            with pytest.raises((OSError, pifus.ClientClosed), match="is closed"):
                join()
        for call in (sock.nop, sock.wait, sock.poll):
            with pytest.raises((OSError, pifus.ClientClosed), match="is closed"):
                call()
        client.close()


def test_what_was_taken_before_a_close_is_not_lost(
    backend: BackendProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = pifus.Client(backend.path)
    sock = client.socket()
    take = client.wait_any

    def take_and_close(timeout: float | None) -> pifus.Completion:
        done = take(timeout)
        client.close()  # as another thread would, between the two steps of wait_many
        return done

    monkeypatch.setattr(client, "wait_any", take_and_close)
    timer = threading.Timer(PULSE_SECONDS, sock.nop)
    timer.start()
    assert [done.opcode for done in client.wait_many(timeout=SECONDS)] == [pifus.Opcode.NOP]
    timer.join()


def test_a_wait_in_a_batch_is_for_what_was_submitted_before(pair: Pair) -> None:
    ours, theirs = pair
    client = ours.client
    received = theirs.recv(10)
    peer = threading.Timer(2 * PULSE_SECONDS, lambda: ours.write(b"late"))
    with client.batch():
        peer.start()
        theirs.nop()
        # Longer than a pulse, and it still waits.
        assert theirs.wait(SECONDS).check().op == received
        begun = time.monotonic()
        with pytest.raises(RuntimeError, match="wait behind the block"):
            theirs.wait()
        with pytest.raises(RuntimeError, match="wait behind the block"):
            theirs.wait(SECONDS)
        assert time.monotonic() - begun < PULSE_SECONDS / 2
    assert theirs.wait(SECONDS).check().opcode is pifus.Opcode.NOP


def test_waiting_for_any_in_a_batch(client: pifus.Client) -> None:
    one, other = client.socket(), client.socket()
    early = one.nop()
    with client.batch():
        other.nop()
        assert client.wait_any(SECONDS).op == early
        begun = time.monotonic()
        for wait in (client.wait_any, client.wait_many):
            with pytest.raises(RuntimeError, match="wait behind the block"):
                wait(timeout=SECONDS)
        assert time.monotonic() - begun < PULSE_SECONDS / 2
        # Another thread is in no batch: it waits for what is to come.
        join = in_thread(lambda: client.wait_any(SECONDS).opcode)
    assert join() is pifus.Opcode.NOP


class TakenBackError(Exception):
    """Raised in a batch."""


def fill(sock: pifus.Socket) -> None:
    while True:
        sock.nop()


def takes_back_while_another_waits(sock: pifus.Socket) -> float:
    """How long the one that waits for room is not told."""
    client = sock.client
    waits: queue.SimpleQueue[int] = queue.SimpleQueue()

    def wait() -> float:
        waits.put(threading.get_native_id())
        assert lib.pf_await_room(client._require(), sock._slot, int(SECONDS * 1e9)) == 1
        return time.monotonic()

    begun = 0.0
    with contextlib.suppress(TakenBackError), client.batch():
        with pytest.raises(pifus.QueueFull):
            fill(sock)
        join = in_thread(wait)
        wait_until_asleep(waits.get(timeout=SECONDS))
        begun = time.monotonic()
        raise TakenBackError
    woken = join()
    assert isinstance(woken, float)
    return woken - begun


def test_a_batch_that_is_taken_back_wakes_who_waits_for_room(client: pifus.Client) -> None:
    for _ in range(ROUNDS // 5):
        with client.socket() as sock:
            assert takes_back_while_another_waits(sock) < PULSE_SECONDS / 2


def child_uses_it(client: pifus.Client, sock: pifus.Socket, path: str) -> None:
    """What a child may do with what it inherited in the middle of a batch."""
    for use in (sock.nop, sock.poll, client.poll_any, lambda: sock.write(b"child's")):
        with pytest.raises(pifus.ClientClosed, match="parent"):
            use()
    with pifus.Client(path) as own:
        ours, theirs = connect_pair(own)
        theirs.recv(10)
        with own.batch():
            ours.write(b"own")
        assert theirs.wait(SECONDS).check().data == b"own"


def check_arrived(theirs: pifus.Socket, expected: bytes) -> None:
    got = b""
    while len(got) < len(expected):
        theirs.recv(100)
        got += theirs.wait(SECONDS).check().data or b""
    assert got == expected


def forked(use: Callable[[], None], go_on: bool) -> int:
    """A child that uses what it inherited; if all is right it goes on, or ends with status 0."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            use()
            status = 0
        except BaseException:  # noqa: BLE001 - a child of pytest must not go on
            traceback.print_exc()
        if status or not go_on:
            os._exit(status)
    return child


@pytest.mark.parametrize("by_another_thread", [False, True])
@pytest.mark.parametrize("taken_back", [False, True])
def test_a_fork_in_the_middle_of_a_batch(
    client: pifus.Client, pair: Pair, by_another_thread: bool, taken_back: bool
) -> None:
    ours, theirs = pair
    path = client.backend

    def fork() -> int:
        return forked(lambda: child_uses_it(client, ours, path), not by_another_thread)

    for turn in range(5):
        ops = []
        child = -1
        try:
            with client.batch():
                ops.append(ours.write(b"before"))
                child = int(in_thread(fork)()) if by_another_thread else fork()  # type: ignore[call-overload]
                # The child goes on here as well: what follows is refused.
                ops.append(ours.write(b"behind"))
                if taken_back:
                    raise TakenBackError
        except pifus.ClientClosed:
            os._exit(0 if child == 0 else 1)
        except TakenBackError:
            pass
        except BaseException:
            if child == 0:
                os._exit(1)
            raise
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        if taken_back:
            ours.write(b"%d" % turn)
            assert ours.wait(SECONDS).check().result == 1
        else:
            assert {ours.wait(SECONDS).check().op for _ in ops} == set(ops)
        check_arrived(theirs, b"%d" % turn if taken_back else b"beforebehind")
        assert ours.poll() is None


def test_names_of_an_accepted_socket_are_there_at_once(client: pifus.Client) -> None:
    listener = client.socket()
    listener.bind(("127.0.0.1", 0))
    listener.wait(SECONDS).check()
    listener.listen()
    listener.wait(SECONDS).check()
    address = listener.local_address
    for _ in range(20 * ROUNDS):
        with client.socket(family=socket.AF_INET) as ours:
            ours.connect(address)
            listener.accept()
            accepted = listener.wait(SECONDS).check().accepted
            assert accepted is not None
            with accepted:
                assert accepted.peer_address is not None
                assert accepted.local_address == address
            ours.wait(SECONDS).check()


def test_a_child_outlives_what_its_parent_had_closed(backend: BackendProcess) -> None:
    """Collected in the child, a closed client's mappings are not unmapped: others are there."""
    closed = pifus.Client(backend.path)
    kept = [closed._require()]  # as a call of another thread, or a cycle, keeps it
    closed.close()

    def use() -> None:
        with pifus.Client(backend.path) as own:
            kept.clear()
            sock = own.socket()
            sock.nop()
            sock.wait(SECONDS).check()

    child = forked(use, go_on=False)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def numbers() -> set[int]:
    """Of the descriptors of this process, but for the one by which they are found."""
    found = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return {fd for fd in found if is_open(fd)}


def test_a_fork_while_another_thread_closes(
    start_backend: Callable[..., BackendProcess],
) -> None:
    """The child has nothing of the client, whose control connection would keep the session."""
    backend = start_backend("closing")
    before = numbers()
    client = pifus.Client(backend.path)
    session = client._session
    os.close(session.take_mirror()[1])  # the others of its batch are kept for later
    opened = numbers() - before
    assert len(opened) > 2
    closes: queue.SimpleQueue[int] = queue.SimpleQueue()

    def close() -> None:
        closes.put(threading.get_native_id())
        client.close()

    os.kill(backend.pid, signal.SIGSTOP)
    try:
        join = in_thread(close)
        thread = closes.get(timeout=SECONDS)
        while session.handle is not None or session._mirrors:
            wait_until_asleep(thread)

        def use() -> None:
            assert not [fd for fd in opened if is_open(fd)]
            client.close()
            assert client.closed

        child = forked(use, go_on=False)
    finally:
        os.kill(backend.pid, signal.SIGCONT)
    join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class ControlCError(Exception):
    """What a signal handler raises."""


def test_a_close_that_is_interrupted_has_closed(
    start_backend: Callable[..., BackendProcess],
) -> None:
    backend = start_backend("interrupted")
    before = descriptors()
    client = pifus.Client(backend.path)

    def interrupt(_number: int, _frame: object) -> None:
        client.close()  # is under way: nothing to wait for
        raise ControlCError

    handler = signal.signal(signal.SIGALRM, interrupt)
    os.kill(backend.pid, signal.SIGSTOP)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(ControlCError):
            client.close()
    finally:
        os.kill(backend.pid, signal.SIGCONT)
        signal.signal(signal.SIGALRM, handler)
    assert client.closed
    assert descriptors() == before
