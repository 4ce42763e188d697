"""UDP in the completion API: datagrams as operations, with their addresses."""

from __future__ import annotations

import errno
import queue
import socket
import threading
import time

import pytest

import pifus
from tests.conftest import BackendProcess

SECONDS = 20.0
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["4", "6"])


def bound(client: pifus.Client, family: int = socket.AF_INET, **options: int) -> pifus.Socket:
    sock = client.socket(pifus.UDP, family=family, **options)
    sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    sock.wait(SECONDS).check()
    return sock


@FAMILIES
def test_there_and_back(client: pifus.Client, family: int) -> None:
    one, other = bound(client, family), bound(client, family)
    assert one.protocol is pifus.UDP
    op = one.sendto(b"ping", other.local_address)
    done = one.wait(SECONDS).check()
    assert (done.op, done.opcode, done.result) == (op, pifus.Opcode.SENDTO, 4)
    other.recv(100)
    done = other.wait(SECONDS).check()
    assert (done.data, done.peer, done.result) == (b"ping", one.local_address, 4)
    other.recv(100)
    other.sendto(bytearray(b"pong"), done.peer)
    assert other.wait(SECONDS).check().opcode is pifus.Opcode.SENDTO
    one.recv(2)
    assert one.wait(SECONDS).check().data == b"po"  # the rest is gone
    one.sendto(memoryview(b""), other.local_address)
    one.wait(SECONDS).check()
    done = other.wait(SECONDS).check()
    assert (done.data, done.peer) == (b"", one.local_address)


def test_several_receives_under_way(client: pifus.Client) -> None:
    one, other = bound(client), bound(client)
    receives = [other.recv(1000) for _ in range(8)]
    for i in range(8):
        one.sendto(bytes([i]) * i, other.local_address)
    for i in range(8):
        done = other.wait(SECONDS).check()
        assert (done.op, done.data) == (receives[i], bytes([i]) * i)


def test_connect_and_disconnect(client: pifus.Client) -> None:
    one, other = bound(client), bound(client)
    one.connect(other.local_address)
    one.wait(SECONDS).check()
    assert one.peer_address == other.local_address
    one.sendto(b"x")
    one.wait(SECONDS).check()
    one.connect(None)
    one.wait(SECONDS).check()
    assert one.peer_address is None
    one.sendto(b"x")
    assert one.wait(SECONDS).errno == errno.EDESTADDRREQ


def test_refused(client: pifus.Client) -> None:
    one, other = bound(client), bound(client)
    address = other.local_address
    other.close()
    other.wait(SECONDS).check()
    one.connect(address)
    one.wait(SECONDS).check()
    receive = one.recv(10)
    one.sendto(b"x")
    results = {done.op: done.errno for done in (one.wait(SECONDS), one.wait(SECONDS))}
    assert results[receive] == errno.ECONNREFUSED
    assert one.take_error() == 0
    one.sendto(b"x")  # nobody waits now
    one.wait(SECONDS).check()
    deadline = time.monotonic() + SECONDS
    while not (code := one.take_error()):
        assert time.monotonic() < deadline
    assert code == errno.ECONNREFUSED
    assert one.take_error() == 0


def test_what_does_not_fit_is_dropped_and_counted(client: pifus.Client) -> None:
    one, other = bound(client), bound(client, rx_bytes=4096)
    for _ in range(10):
        one.sendto(bytes(1000), other.local_address)
        one.wait(SECONDS).check()
    # The last one is there before this: both go through the same stack, in order.
    marker = bound(client)
    one.sendto(b"x", marker.local_address)
    marker.recv(1)
    marker.wait(SECONDS).check()
    assert other.dropped == 7


def test_limits(client: pifus.Client) -> None:
    sock = bound(client)
    with pytest.raises(OSError, match="65508") as caught:
        sock.sendto(bytes(65508), sock.local_address)
    assert caught.value.errno == errno.EMSGSIZE
    with pytest.raises(TypeError):
        sock.sendto(b"x", "nowhere")  # type: ignore[arg-type]
    sock.write(b"x")
    assert sock.wait(SECONDS).errno == errno.EOPNOTSUPP
    with pytest.raises(OSError, match="only TCP and UDP"):
        client.socket(132)  # type: ignore[arg-type]
    stream = client.socket()
    stream.sendto(b"x", sock.local_address)
    assert stream.wait(SECONDS).errno == errno.EOPNOTSUPP


def test_shutdown_ends_receives(client: pifus.Client) -> None:
    one, other = bound(client), bound(client)
    one.connect(other.local_address)
    one.wait(SECONDS).check()
    one.recv(10)
    one.shutdown(socket.SHUT_RD)
    first, second = one.wait(SECONDS).check(), one.wait(SECONDS).check()
    assert {first.opcode, second.opcode} == {pifus.Opcode.RECV, pifus.Opcode.SHUTDOWN}
    (done,) = (done for done in (first, second) if done.opcode is pifus.Opcode.RECV)
    assert (done.data, done.peer) == (b"", None)


def test_a_group(client: pifus.Client) -> None:
    one, member = bound(client), client.socket(pifus.UDP)
    member.bind(("", 0))
    member.join_group("239.5.5.5", 1)
    member.recv(10)
    for _ in range(2):
        member.wait(SECONDS).check()
    assert member.local_address is not None
    one.sendto(b"all", ("239.5.5.5", member.local_address[1]))
    assert member.wait(SECONDS).check().data == b"all"
    member.leave_group("239.5.5.5", 1)
    member.wait(SECONDS).check()
    member.leave_group("239.5.5.5", 1)
    assert member.wait(SECONDS).errno == errno.EADDRNOTAVAIL


def test_callbacks(backend: BackendProcess) -> None:
    done: queue.Queue[pifus.Completion] = queue.Queue()
    with pifus.Client(backend.path, on_completion=done.put) as client:
        sock = client.socket(pifus.UDP)
        sock.bind(("127.0.0.1", 0))
        done.get(timeout=SECONDS).check()
        sock.recv(100)
        sock.sendto(b"to myself", sock.local_address)
        got = {item.opcode: item for item in (done.get(timeout=SECONDS), done.get(timeout=SECONDS))}
        assert got[pifus.Opcode.RECV].data == b"to myself"
        assert got[pifus.Opcode.RECV].peer == sock.local_address


@FAMILIES
def test_of_a_connected_socket(client: pifus.Client, family: int) -> None:
    one, other, stranger = bound(client, family), bound(client, family), bound(client, family)
    one.connect(other.local_address)
    one.wait(SECONDS).check()
    one.recv(10)
    stranger.sendto(b"not to be heard", one.local_address)
    stranger.wait(SECONDS).check()
    other.sendto(b"answer", one.local_address)
    other.wait(SECONDS).check()
    done = one.wait(SECONDS).check()
    assert (done.data, done.peer, done.truncated) == (b"answer", other.local_address, False)
    one.sendto(b"to the peer")
    one.wait(SECONDS).check()
    other.recv(100)
    assert other.wait(SECONDS).check().peer == one.local_address
    one.sendto(b"elsewhere", stranger.local_address)  # as in the kernel
    one.wait(SECONDS).check()
    stranger.recv(100)
    assert stranger.wait(SECONDS).check().data == b"elsewhere"


@FAMILIES
@pytest.mark.parametrize("multishot", [False, True], ids=["single", "multishot"])
def test_what_is_cut_off_is_told(client: pifus.Client, family: int, multishot: bool) -> None:
    one, other = bound(client, family), bound(client, family)
    if multishot:
        other.recv(4, multishot=True)
    for data in (b"four", b"and more", b"", b"end"):
        if not multishot:
            other.recv(4)
        one.sendto(data, other.local_address)
        one.wait(SECONDS).check()
        done = other.wait(SECONDS).check()
        assert (done.data, done.truncated) == (data[:4], len(data) > 4)
        assert (done.result, done.more) == (len(data[:4]), multishot)
        assert done.peer == one.local_address


@FAMILIES
def test_the_largest_datagram(client: pifus.Client, family: int) -> None:
    one, other = bound(client, family), bound(client, family)
    largest = 65507 if family == socket.AF_INET else 65487
    data = bytes(range(256)) * 256
    other.recv(70000)
    one.sendto(data[:largest], other.local_address)
    assert one.wait(SECONDS).check().result == largest
    done = other.wait(SECONDS).check()
    assert (done.data, done.truncated) == (data[:largest], False)
    if family == socket.AF_INET6:
        one.sendto(data[: largest + 1], other.local_address)
        assert one.wait(SECONDS).errno == errno.EMSGSIZE


def test_datagrams_in_a_chain(client: pifus.Client) -> None:
    one, other = bound(client), bound(client)
    with client.batch():
        asked = one.recv(10, link=True)  # an answer that is sent when the question comes
        answered = one.sendto(b"first", other.local_address, link=True)
        late = one.recv(10, link=True, timeout=0.01)
        never = one.sendto(b"never", other.local_address)
    other.sendto(b"question", one.local_address)
    other.wait(SECONDS).check()
    ends = {done.op: done.errno for done in (one.wait(SECONDS) for _ in range(4))}
    # The time of a receive runs while it waits for its turn, too: it may end first.
    assert ends == {asked: 0, answered: 0, late: errno.ETIMEDOUT, never: errno.ECANCELED}
    expired = one.sendto(b"too late", other.local_address, deadline=0.000001)
    done = one.wait(SECONDS)
    assert (done.op, done.late) == (expired, True)
    one.sendto(b"last", other.local_address)
    one.wait(SECONDS).check()
    other.recv(10)
    other.recv(10)
    assert [other.wait(SECONDS).check().data for _ in range(2)] == [b"first", b"last"]


def test_why_a_multishot_receive_ends(client: pifus.Client) -> None:
    one, gone = bound(client), bound(client)
    address = gone.local_address
    gone.close()
    gone.wait(SECONDS).check()
    one.connect(address)
    one.wait(SECONDS).check()
    op = one.recv(10, multishot=True)
    one.sendto(b"to nobody")
    ends = {done.op: done for done in (one.wait(SECONDS), one.wait(SECONDS))}
    assert (ends[op].errno, ends[op].more) == (errno.ECONNREFUSED, False)
    op = one.recv(10, multishot=True)
    one.shutdown(socket.SHUT_RD)
    ends = {done.op: done for done in (one.wait(SECONDS), one.wait(SECONDS))}
    assert (ends[op].result, ends[op].more, ends[op].data, ends[op].peer) == (0, False, b"", None)


def test_bytes_and_sender_stay_together(client: pifus.Client) -> None:
    """Two threads take the completions of one socket."""
    sink = bound(client)
    count = 2000
    senders = [bound(client) for _ in range(4)]
    names = {sender.local_address: b"%d" % index for index, sender in enumerate(senders)}
    wrong: list[pifus.Completion] = []
    taken = [0, 0]
    end = time.monotonic() + SECONDS

    def take(index: int) -> None:
        while sum(taken) < count and time.monotonic() < end:
            try:
                done = sink.wait(0.2)
            except TimeoutError:
                continue
            taken[index] += 1
            if done.data != names[done.peer]:
                wrong.append(done)

    sink.recv(10, multishot=True)
    threads = [threading.Thread(target=take, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for number in range(count):
        sender = senders[number % 4]
        sender.sendto(names[sender.local_address], sink.local_address)
        sender.wait(SECONDS).check()
    for thread in threads:
        thread.join()
    assert sum(taken) == count
    assert not wrong
