"""Operations that are submitted together, completions that are taken together, and their times."""

from __future__ import annotations

import contextlib
import errno
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import pifus
from pifus import Opcode
from tests.conftest import BackendProcess, Pair, connect_pair

SECONDS = 10.0


class WrongError(Exception):
    """Raised in a batch."""


def finals(sock: pifus.Socket, count: int) -> dict[int, pifus.Completion]:
    return {done.op: done for done in (sock.wait(SECONDS) for _ in range(count))}


@pytest.fixture
def stamping(backend: BackendProcess) -> Iterator[pifus.Client]:
    with pifus.Client(backend.path, stamp_reaped=True) as client:
        yield client


# ---- times ----


def in_order(done: pifus.Completion) -> bool:
    stamps = [done.submitted_ns, done.picked_ns, done.completed_ns, done.reaped_ns]
    if done.handed_ns:
        stamps.insert(2, done.handed_ns)
    return stamps == sorted(stamps) and stamps[0] > 0


def test_each_stage_has_its_time(stamping: pifus.Client) -> None:
    ours, theirs = connect_pair(stamping)
    before = time.monotonic_ns()
    ours.write(b"bytes")
    theirs.recv(100)
    written, received = ours.wait(SECONDS).check(), theirs.wait(SECONDS).check()
    after = time.monotonic_ns()
    for done in (written, received):
        assert before <= done.submitted_ns
        assert in_order(done)
        assert done.reaped_ns <= after
    assert written.picked_ns <= written.handed_ns <= written.completed_ns
    assert received.handed_ns == 0
    datagrams = stamping.socket(pifus.UDP)
    datagrams.bind(("127.0.0.1", 0))
    datagrams.wait(SECONDS).check()
    datagrams.sendto(b"x", datagrams.local_address)
    sent = datagrams.wait(SECONDS).check()
    assert in_order(sent)
    assert sent.handed_ns > 0
    datagrams.sendto(bytes(20), ("203.0.113.9", 0))
    refused = datagrams.wait(SECONDS)
    assert refused.errno
    assert refused.handed_ns == 0


def test_when_it_was_taken_and_not_when_it_was_there(stamping: pifus.Client) -> None:
    sock, behind = stamping.socket(), stamping.socket(priority=pifus.Priority.LOW)
    takes = (
        sock.poll,
        lambda: sock.wait(SECONDS),
        stamping.poll_any,
        lambda: stamping.wait_any(SECONDS),
        lambda: sock.poll_many()[0],
        lambda: stamping.poll_many()[0],
        lambda: stamping.wait_many()[0],
    )
    for take in takes:
        sock.nop()
        behind.nop()
        behind.wait(SECONDS).check()  # LOW, so the other one was served before
        before = time.monotonic_ns()
        done = take()
        assert done is not None
        assert before <= done.reaped_ns <= time.monotonic_ns()


def test_the_time_of_taking_is_on_demand(client: pifus.Client) -> None:
    sock = client.socket()
    sock.nop()
    assert sock.wait(SECONDS).reaped_ns == 0


# ---- submitting together ----


def test_nothing_starts_before_the_end_of_the_block(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    received = theirs.recv(100)
    behind = client.socket()
    with client.batch():
        first, second = ours.write(b"one"), ours.write(b"two")
        behind.nop()
        state = theirs.state  # asks the backend: what was submitted before it has been taken up
        assert pifus.SocketState.CONNECTED in state
        with pytest.raises(TimeoutError):
            client_wait(theirs)
        inside = time.monotonic_ns()
    done = finals(ours, 2)
    assert list(done) == [first, second]
    assert {done[first].result, done[second].result} == {3}
    assert all(completion.submitted_ns >= inside for completion in done.values())
    assert theirs.wait(SECONDS).check().op == received
    behind.wait(SECONDS).check()


def client_wait(sock: pifus.Socket) -> None:
    """Waits in another thread, which is in no batch."""
    found: list[BaseException] = []

    def run() -> None:
        try:
            sock.wait(0.05)
        except TimeoutError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(SECONDS)
    if found:
        raise found[0]


def test_a_chain_over_a_batch(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    with client.batch():
        failing = ours.setopt(pifus.Option.TTL, 0, link=True)
        write = ours.write(b"never", link=True)
        nop = ours.nop()
        late = theirs.recv(10, timeout=0.01)
    done = finals(ours, 3)
    assert done[failing].errno == errno.EINVAL
    assert done[write].errno == errno.ECANCELED
    assert done[nop].errno == errno.ECANCELED
    assert theirs.wait(SECONDS).op == late


def test_all_or_nothing(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    arena = client.arena_free
    block = client.register(100)
    taken = arena - client.arena_free
    dropped: list[int] = []

    def fill() -> None:
        with client.batch():
            dropped.append(theirs.nop())
            dropped.append(ours.write_block(block))
            while True:
                dropped.append(ours.write(b"never sent"))

    with pytest.raises(pifus.QueueFull):
        fill()
    assert len(dropped) == 1 + client.queue_depth
    assert not block.busy
    assert arena - client.arena_free == taken
    # As if nothing had been: the whole queue is free, and these are the first bytes to arrive.
    fresh = [ours.write(b"x") for _ in range(client.queue_depth)]
    assert not set(fresh) & set(dropped)
    assert set(finals(ours, len(fresh))) == set(fresh)
    theirs.recv(len(fresh), link=True)
    marker = theirs.nop()
    assert theirs.wait(SECONDS).check().data == b"x" * len(fresh)
    assert theirs.wait(SECONDS).op == marker
    assert client.poll_many() == []


def drop(client: pifus.Client, *submits: object) -> None:
    with client.batch():
        for submit in submits:
            submit()  # type: ignore[operator]
        raise WrongError


def test_what_is_dropped_leaves_no_trace(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    with pytest.raises(WrongError):
        drop(
            client,
            lambda: ours.set_priority(pifus.Priority.LOW),
            ours.nop,
            ours.close,
        )
    assert not ours.closed
    assert ours.priority is pifus.Priority.MEDIUM
    ours.write(b"still")
    ours.wait(SECONDS).check()
    theirs.recv(10)
    assert theirs.wait(SECONDS).check().data == b"still"
    with pytest.raises(WrongError):  # released while its close is kept back
        drop(client, theirs.close, theirs.release)
    ours.recv(1)
    assert ours.wait(SECONDS).check().data == b""


def test_what_is_dropped_is_no_part_of_a_chain(pair: Pair) -> None:
    ours, _ = pair
    first = ours.recv(10, link=True)
    with contextlib.suppress(WrongError), ours.client.batch():
        ours.nop()
        raise WrongError
    second = ours.nop()
    ours.cancel(first)
    ends = finals(ours, 3)
    assert ends[first].errno == errno.ECANCELED
    assert ends[second].errno == errno.ECANCELED  # and not what the batch left behind


def test_release_and_close_submit_what_is_kept_back(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    with client.batch():
        ours.write(b"goodbye")
        ours.release()
        client.socket().nop()  # in a slot of its own, or of one that was just released
    theirs.recv(10)
    assert theirs.wait(SECONDS).check().data == b"goodbye"
    with client.batch():
        theirs.write(b"nobody")
        close = threading.Thread(target=theirs.close)
        close.start()
        close.join(SECONDS)
    opcodes = [theirs.wait(SECONDS).opcode for _ in range(2)]
    assert opcodes == [Opcode.WRITE, Opcode.CLOSE]


def test_a_batch_may_close(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    theirs.recv(10)
    with client.batch():
        ours.write(b"last")
        close = ours.close()
        with pytest.raises(OSError, match="closed"):
            ours.nop()
    assert theirs.wait(SECONDS).check().data == b"last"
    theirs.close()
    assert list(finals(ours, 2))[-1] == close
    assert ours.closed


def test_waiting_in_a_batch_is_refused(client: pifus.Client) -> None:
    sock = client.socket()
    with client.batch():
        sock.nop()
        for wait in (sock.wait, client.wait_any, client.wait_many):
            with pytest.raises(RuntimeError, match="wait behind the block"):
                wait()
        with pytest.raises(RuntimeError, match="already"), client.batch():
            pass
        assert sock.poll() is None
    sock.wait(SECONDS).check()


def test_one_thread_at_a_time(client: pifus.Client) -> None:
    socks = [client.socket() for _ in range(4)]

    def run(sock: pifus.Socket) -> None:
        for _ in range(200):
            with client.batch():
                ops = [sock.nop() for _ in range(8)]
            assert list(finals(sock, 8)) == ops

    threads = [threading.Thread(target=run, args=(sock,)) for sock in socks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert client.poll_many() == []


def test_a_batch_that_is_forgotten_submits_nothing(client: pifus.Client) -> None:
    sock = client.socket()
    for _ in range(3):
        block = client.batch()
        block.__enter__()
        sock.nop()
        with pytest.raises(RuntimeError, match="already"), client.batch():
            pass
        del block
        assert sock.poll() is None
    with client.batch():
        op = sock.nop()
    assert sock.wait(SECONDS).op == op
    left = client.batch()
    with left:
        pass
    left.__exit__(None, None, None)  # which it has left already


def test_the_limit_of_a_batch(backend: BackendProcess) -> None:
    with pifus.Client(backend.path, max_sockets=4, queue_depth=1024) as client:
        socks = [client.socket() for _ in range(2)]

        def fill() -> None:
            with client.batch():
                for sock in socks:
                    for _ in range(513):
                        sock.nop()

        with pytest.raises(pifus.QueueFull, match="at most 1024 operations"):
            fill()
        with client.batch():
            for sock in socks:
                for _ in range(512):
                    sock.nop()
        assert all(len(finals(sock, 512)) == 512 for sock in socks)


def test_the_end_of_the_client_in_a_batch(backend: BackendProcess) -> None:
    client = pifus.Client(backend.path)

    def end() -> None:
        with client.batch():
            client.socket().nop()
            client.close()

    with pytest.raises(pifus.ClientClosed):
        end()
    with pytest.raises(pifus.ClientClosed), client.batch():
        pass


# ---- taking together ----


def test_completions_of_all_sockets_at_once(client: pifus.Client) -> None:
    low = [client.socket(priority=pifus.Priority.LOW) for _ in range(100)]
    high = client.socket(priority=pifus.Priority.HIGH)
    with client.batch():
        ops = {sock.nop() + (index << 80) for index, sock in enumerate(low)}
        urgent = [high.nop(), high.nop()]
    got = [client.wait_any(SECONDS)]
    while len(got) < len(low) + 2:
        got += client.wait_many(limit=1000, timeout=SECONDS)
    assert [done.op for done in got if done.sock is high] == urgent
    index_of = {sock: index for index, sock in enumerate(low)}
    assert {d.op + (index_of[d.sock] << 80) for d in got if d.sock is not high} == ops
    assert client.poll_many() == []


def test_limits_of_taking(client: pifus.Client) -> None:
    sock, behind = client.socket(), client.socket(priority=pifus.Priority.LOW)
    for _ in range(5):
        ops = [sock.nop() for _ in range(60)]
        behind.nop()
        behind.wait(SECONDS).check()  # LOW, so all the others were served before
        while sock.poll_many(1)[0].op != ops[3]:
            pass
        assert [done.op for done in sock.poll_many(7)] == ops[4:11]
        assert [done.op for done in client.poll_many(9)] == ops[11:20]
        assert [done.op for done in client.wait_many(1)] == ops[20:21]
        while (taken := sock.poll_many()) and taken[-1].op != ops[-1]:
            pass
    for take in (sock.poll_many, client.poll_many, client.wait_many):
        with pytest.raises(ValueError, match="limit=0: allowed is 1 or more"):
            take(0)
    with pytest.raises(TimeoutError):
        client.wait_many(timeout=0)
    behind.release()
    with pytest.raises(OSError, match="closed"):
        behind.poll_many()


def test_a_callback_gets_them_all(backend: BackendProcess) -> None:
    with pifus.Client(backend.path, on_completion=lambda _: None) as client:
        sock = client.socket()
        for take in (sock.poll_many, client.poll_many, client.wait_many):
            with pytest.raises(RuntimeError, match="on_completion"):
                take()


class Alarm(BaseException):
    """Raised by a signal handler, as KeyboardInterrupt is."""


def test_a_signal_handler_that_raises_ends_the_batch(client: pifus.Client) -> None:
    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(300):
            with contextlib.suppress(Alarm):
                signal.setitimer(signal.ITIMER_REAL, 0.0005)
                while True:
                    with client.batch():
                        pass
    finally:
        signal.signal(signal.SIGALRM, before)
    sock = client.socket()
    sock.nop()  # is not kept back
    sock.wait(SECONDS).check()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: client.batch().__enter__()).result(SECONDS) is None
