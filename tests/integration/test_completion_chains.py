"""Links, time-outs, cancelling and draining in the completion API."""

from __future__ import annotations

import errno
import socket
import time

import pytest

import pifus
from pifus import Opcode
from tests.conftest import Pair, connect_pair

SECONDS = 10.0


def finish(sock: pifus.Socket, *ops: int) -> dict[int, pifus.Completion]:
    """The completions of exactly these operations."""
    done = [sock.wait(SECONDS) for _ in ops]
    assert {completion.op for completion in done} == set(ops)
    return {completion.op: completion for completion in done}


def test_a_request_is_answered_by_a_chain(pair: Pair) -> None:
    ours, theirs = pair
    asked = theirs.recv(100, link=True)
    answered = theirs.write(b"answer", link=True)
    ended = theirs.shutdown(socket.SHUT_WR)
    assert theirs.poll() is None
    ours.write(b"question")
    done = finish(theirs, asked, answered, ended)
    assert done[asked].data == b"question"
    assert done[answered].result == 6
    got = b""
    for _ in range(4):
        ours.recv(100)
        completion = ours.wait(SECONDS).check()
        while completion.opcode is Opcode.WRITE:
            completion = ours.wait(SECONDS).check()
        if not completion.data:
            break
        got += completion.data
    assert got == b"answer"


def test_connect_and_write_at_once(client: pifus.Client) -> None:
    listener = client.socket()
    first = listener.bind(("127.0.0.1", 0), link=True)
    second = listener.listen(link=True)
    third = listener.accept()
    for _ in range(2):
        assert listener.wait(SECONDS).check().op in (first, second)
    address = listener.local_address
    assert address is not None
    ours = client.socket()
    ops = [ours.connect(address, link=True), ours.write(b"hello", link=True), ours.recv(9)]
    theirs = listener.wait(SECONDS).check()
    assert theirs.op == third
    assert theirs.accepted is not None
    theirs.accepted.recv(9)
    assert theirs.accepted.wait(SECONDS).check().data == b"hello"
    theirs.accepted.write(b"bye")
    done = finish(ours, *ops)
    assert [done[op].result for op in ops] == [0, 5, 3]


def test_a_failed_link_cancels_the_rest(client: pifus.Client) -> None:
    sock = client.socket()
    sock.bind(("127.0.0.1", 0))
    sock.wait(SECONDS).check()
    address = sock.local_address
    assert address is not None
    ours = client.socket()
    ops = [ours.connect(address, link=True), ours.write(b"x", link=True), ours.recv(1), ours.nop()]
    done = finish(ours, *ops)
    codes = [done[op].errno for op in ops]
    assert codes == [errno.ECONNREFUSED, errno.ECANCELED, errno.ECANCELED, 0]


def test_a_chain_holds_up_nobody_else(client: pifus.Client, pair: Pair) -> None:
    ours, _ = pair
    waiting = [ours.recv(1, link=True), *(ours.nop() for _ in range(20))]
    others = connect_pair(client)
    for _ in range(200):
        others[0].nop()
        others[0].wait(SECONDS).check()
    assert ours.poll() is None
    ours.cancel_all()
    results = [ours.wait(SECONDS) for _ in range(22)]
    assert {done.op for done in results} >= set(waiting)
    assert [d.result for d in results if d.opcode is Opcode.CANCEL] == [21]


def test_timeouts_and_deadlines(pair: Pair) -> None:
    ours, theirs = pair
    before = time.monotonic()
    op = ours.recv(1, timeout=0.03)
    done = ours.wait(SECONDS)
    assert (done.op, done.errno, done.late) == (op, errno.ETIMEDOUT, True)
    assert time.monotonic() - before >= 0.03
    with pytest.raises(pifus.DeadlineMissed, match="deadline"):
        done.check()
    with pytest.raises(TimeoutError):
        done.check()
    ours.recv(1, deadline=time.monotonic() - 1)
    assert ours.wait(SECONDS).late
    ours.write(b"never", deadline=0.0)
    assert ours.wait(SECONDS).late
    # In time: the same operation is an ordinary one.
    ours.recv(3, timeout=5)
    theirs.write(b"abc", timeout=5)
    done = ours.wait(SECONDS).check()
    assert (done.data, done.late) == (b"abc", False)
    with pytest.raises(ValueError, match="not both"):
        ours.recv(1, timeout=1, deadline=1)
    with pytest.raises(ValueError, match="timeout"):
        ours.recv(1, timeout=-1)
    with pytest.raises(ValueError, match="deadline"):
        ours.recv(1, deadline=float("nan"))


def test_a_late_write_is_dropped_whole(client: pifus.Client) -> None:
    with client.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.wait(SECONDS).check()
        listener.listen()
        listener.wait(SECONDS).check()
        listener.accept()
        ours = client.socket(rx_bytes=4096)
        address = listener.local_address
        assert address is not None
        ours.connect(address)
        ours.wait(SECONDS).check()
        theirs = listener.wait(SECONDS).check().accepted
        assert theirs is not None
    chunk = bytes(range(256)) * 1024
    begun: list[int] = []
    # Until the stack takes no more, because nobody reads.
    late = 0
    while not late:
        op = theirs.write(chunk, timeout=0.05)
        done = None
        try:
            done = theirs.wait(0.3)
        except TimeoutError:
            begun.append(op)
            late = theirs.write(b"never seen", timeout=0.02)
            continue
        if done.late:
            late = op
        else:
            begun.append(op)
    if begun:
        while True:
            done = theirs.wait(SECONDS)
            if done.op == late:
                break
    theirs.shutdown(socket.SHUT_WR)
    got = bytearray()
    while True:
        ours.recv(1 << 20)
        data = ours.wait(SECONDS).check().data
        if not data:
            break
        got += data
    assert bytes(got) == chunk * len(begun)


def test_cancel_of_each_kind(client: pifus.Client, pair: Pair) -> None:
    ours, _ = pair
    op = ours.recv(5)
    cancel = ours.cancel(op)
    done = finish(ours, op, cancel)
    assert (done[op].errno, done[cancel].result) == (errno.ECANCELED, 0)
    cancel = ours.cancel(op)
    assert finish(ours, cancel)[cancel].errno == errno.ENOENT
    ops = [ours.recv(5) for _ in range(5)]
    cancel = ours.cancel_all()
    done = finish(ours, *ops, cancel)
    assert done[cancel].result == 5
    assert {done[op].errno for op in ops} == {errno.ECANCELED}
    ours.nop()
    ours.wait(SECONDS).check()


def test_drain(pair: Pair) -> None:
    ours, theirs = pair
    writes = [ours.write(bytes(10000)) for _ in range(5)]
    drain = ours.drain()
    order = [ours.wait(SECONDS).check().op for _ in range(6)]
    assert order == [*writes, drain]
    theirs.recv(1 << 20)
    assert theirs.wait(SECONDS).check().data
    ours.drain()
    assert ours.wait(SECONDS).check().opcode is Opcode.DRAIN


def test_stamps_of_a_write(pair: Pair) -> None:
    ours, _ = pair
    ours.write(b"x")
    done = ours.wait(SECONDS).check()
    assert done.submitted_ns <= done.picked_ns <= done.handed_ns <= done.completed_ns
    ours.nop()
    assert ours.wait(SECONDS).handed_ns == 0


def test_poll_many(client: pifus.Client) -> None:
    sock = client.socket()
    ops = [sock.nop() for _ in range(10)]
    found: list[pifus.Completion] = []
    end = time.monotonic() + SECONDS
    while len(found) < 10 and time.monotonic() < end:
        some = sock.poll_many(3)
        assert len(some) <= 3
        found += some
    assert [done.op for done in found] == ops


def test_multishot_receive(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    op = theirs.recv(5, multishot=True)
    theirs.recv(5)
    assert theirs.wait(SECONDS).errno == errno.EALREADY
    # More than the completion queue may hold for it at once.
    wanted = bytes(i % 251 for i in range(5000))
    ours.write(wanted)
    got = b""
    while len(got) < len(wanted):
        done = theirs.wait(SECONDS).check()
        assert (done.op, done.more) == (op, True)
        assert done.data
        assert len(done.data) <= 5
        got += done.data
    assert got == wanted
    cancel = theirs.cancel(op)
    done = finish(theirs, op, cancel)[op]
    assert (done.errno, done.more) == (errno.ECANCELED, False)
    op = theirs.recv(100, multishot=True, timeout=5)
    ours.write(b"last")
    ours.close()
    found = [theirs.wait(SECONDS).check() for _ in range(2)]
    assert [(done.op, done.data, done.more) for done in found] == [
        (op, b"last", True),
        (op, b"", False),
    ]
    theirs.recv(1, multishot=True, timeout=0)
    assert theirs.wait(SECONDS).late


def test_multishot_receive_comes_before_the_error(pair: Pair) -> None:
    ours, theirs = pair
    theirs.recv(5, multishot=True)
    wanted = bytes(i % 251 for i in range(5000))
    ours.write(wanted)
    ours.wait(SECONDS).check()
    ours.close(abort=True)
    ours.wait(SECONDS).check()
    got = b""
    while (done := theirs.wait(SECONDS)).more:
        assert done.data
        got += done.data
    assert got == wanted
    assert done.errno == errno.ECONNRESET


def test_multishot_receive_of_datagrams(client: pifus.Client) -> None:
    sink = client.socket(pifus.UDP, rx_bytes=262144)
    sink.bind(("127.0.0.1", 0))
    sink.wait(SECONDS).check()
    address = sink.local_address
    assert address is not None
    op = sink.recv(100, multishot=True)
    source = client.socket(pifus.UDP)
    source.connect(address)
    source.wait(SECONDS).check()
    wanted = [bytes([number]) * (number % 7) for number in range(200)]
    for data in wanted:
        source.sendto(data)
        source.wait(SECONDS).check()
    got = []
    for _ in wanted:
        done = sink.wait(SECONDS).check()
        assert (done.op, done.more, done.peer) == (op, True, source.local_address)
        got.append(done.data)
    assert got == wanted
    sink.cancel_all()
    assert {sink.wait(SECONDS).opcode for _ in range(2)} == {Opcode.RECV, Opcode.CANCEL}
