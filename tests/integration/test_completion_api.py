"""The completion API over a real backend: data, ends, errors, limits."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
import threading
import time

import pytest

import pifus
from pifus import Opcode
from tests.conftest import BackendProcess, Pair, connect_pair

SECONDS = 10.0


def free_port(client: pifus.Client) -> int:
    """A port of the stack's loopback on which nobody listens."""
    with client.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.wait(SECONDS).check()
        address = sock.local_address
        assert address is not None
        return address[1]


def test_nop_is_timed(client: pifus.Client) -> None:
    sock = client.socket(priority=pifus.Priority.HIGH)
    before = time.monotonic_ns()
    op = sock.nop()
    done = sock.wait(SECONDS).check()
    assert (done.op, done.opcode, done.result, done.errno) == (op, Opcode.NOP, 0, 0)
    assert before <= done.submitted_ns <= done.picked_ns <= done.completed_ns
    assert done.completed_ns <= time.monotonic_ns()
    assert done.sock is sock
    assert not done.more
    assert sock.priority is pifus.Priority.HIGH


def test_operation_numbers_differ_and_complete_in_order(client: pifus.Client) -> None:
    sock = client.socket()
    for _ in range(100):
        ops = [sock.nop() for _ in range(client.queue_depth)]
        assert len(set(ops)) == len(ops)
        assert [sock.wait(SECONDS).op for _ in ops] == ops
    assert sock.poll() is None


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_connect_accept_names(client: pifus.Client, family: socket.AddressFamily) -> None:
    ours, theirs = connect_pair(client, family)
    assert ours.local_address == theirs.peer_address
    assert ours.peer_address == theirs.local_address
    assert theirs.family == family
    assert pifus.SocketState.CONNECTED in ours.state
    assert ours.error == 0


def echo_thread(sock: pifus.Socket) -> threading.Thread:
    """Sends back what comes, until the end of the stream, and closes."""

    def run() -> None:
        while True:
            sock.recv(65536)
            data = sock.wait(SECONDS).check().data
            if not data:
                break
            sock.write(data)
            done = sock.wait(SECONDS).check()
            assert done.opcode is Opcode.WRITE
            assert done.result == len(data)
        sock.close()
        sock.wait(SECONDS).check()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_echo_of_megabytes(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    echo = echo_thread(theirs)
    rng = random.Random(1)
    sent, got = hashlib.sha256(), hashlib.sha256()
    to_send, to_get, flying = 8 << 20, 8 << 20, 0
    ours.recv(100_000)
    while to_get:
        while to_send and flying < 4:
            chunk = rng.randbytes(min(to_send, rng.randrange(1, 65537)))
            sent.update(chunk)
            # Any buffer will do, and it may be changed at once.
            buffer = bytearray(chunk)
            ours.write(memoryview(buffer) if flying % 2 else buffer)
            buffer[:] = bytes(len(buffer))
            to_send -= len(chunk)
            flying += 1
        done = ours.wait(SECONDS).check()
        if done.opcode is Opcode.WRITE:
            flying -= 1
        else:
            assert done.data
            got.update(done.data)
            to_get -= len(done.data)
            if to_get:
                ours.recv(100_000)
    assert sent.digest() == got.digest()
    ours.shutdown(socket.SHUT_WR)
    ours.recv(1)
    datas = [ours.wait(SECONDS).check().data for _ in range(2 + flying)]
    assert datas[-1] == b""
    echo.join(SECONDS)
    assert not echo.is_alive()
    assert theirs.closed


def test_partial_reads_and_end(pair: Pair) -> None:
    ours, theirs = pair
    ours.write(b"abcdefgh")
    ours.wait(SECONDS).check()
    ours.close()
    for expected in (b"abc", b"def", b"gh", b"", b""):
        theirs.recv(3)
        assert theirs.wait(SECONDS).check().data == expected
    theirs.close()
    theirs.wait(SECONDS).check()
    ours.wait(SECONDS).check()
    assert ours.closed
    with pytest.raises(OSError, match="closed") as caught:
        ours.nop()
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match="closed"):
        ours.wait(0)


def test_a_few_bytes_ask_for_no_hint(backend: BackendProcess) -> None:
    with pifus.Client(backend.path) as client:  # of its own: no slot has been used before
        ours, theirs = connect_pair(client, socket.AF_INET)
        for _ in range(3):
            for one, other in ((ours, theirs), (theirs, ours)):
                other.recv(1)
                one.write(b"x")
                assert other.wait(SECONDS).check().result == 1
                one.nop()  # what the backend does behind the acknowledgement is done
                while one.wait(SECONDS).check().opcode is not Opcode.NOP:
                    pass
        for sock in (ours, theirs):
            assert pifus.SocketState.WANTS_HINT not in sock.state


def test_pipelined_receives(pair: Pair) -> None:
    ours, theirs = pair
    ops = [theirs.recv(4) for _ in range(3)]
    ours.write(b"aaaabbbbcccc")
    done = [theirs.wait(SECONDS).check() for _ in ops]
    assert [completion.op for completion in done] == ops
    assert [completion.data for completion in done] == [b"aaaa", b"bbbb", b"cccc"]


def test_multishot_accept(client: pifus.Client) -> None:
    listener = client.socket()
    listener.bind(("127.0.0.1", 0))
    listener.wait(SECONDS).check()
    listener.listen(16)
    listener.wait(SECONDS).check()
    op = listener.accept(multishot=True)
    address = listener.local_address
    assert address is not None
    for _ in range(20):
        ours = client.socket()
        ours.connect(address)
        ours.wait(SECONDS).check()
        done = listener.wait(SECONDS).check()
        assert done.op == op
        assert done.more
        assert done.peer == ours.local_address
        assert done.accepted is not None
        done.accepted.release()
        ours.release()
    cancel = listener.cancel(op)
    results = {done.op: done for done in (listener.wait(SECONDS), listener.wait(SECONDS))}
    assert results[cancel].result == 0
    assert results[op].errno == errno.ECANCELED
    assert not results[op].more


def test_refused(client: pifus.Client) -> None:
    sock = client.socket()
    sock.connect(("127.0.0.1", free_port(client)))
    done = sock.wait(SECONDS)
    assert done.errno == errno.ECONNREFUSED
    with pytest.raises(ConnectionRefusedError):
        done.check()


def test_reset(pair: Pair) -> None:
    ours, theirs = pair
    theirs.recv(10)
    ours.close(abort=True)
    with pytest.raises(ConnectionResetError):
        theirs.wait(SECONDS).check()
    assert theirs.error == errno.ECONNRESET
    theirs.write(b"x")
    assert theirs.wait(SECONDS).errno in (errno.ECONNRESET, errno.EPIPE)


def test_not_connected_and_in_use(client: pifus.Client) -> None:
    sock = client.socket()
    sock.recv(1)
    assert sock.wait(SECONDS).errno == errno.ENOTCONN
    sock.write(b"x")
    assert sock.wait(SECONDS).errno == errno.EPIPE
    sock.bind(("127.0.0.1", 0))
    sock.wait(SECONDS).check()
    sock.listen()
    sock.wait(SECONDS).check()
    address = sock.local_address
    assert address is not None
    other = client.socket()
    other.bind(address)
    assert other.wait(SECONDS).errno == errno.EADDRINUSE
    other.bind(("203.0.113.1", 0))
    assert other.wait(SECONDS).errno == errno.EADDRNOTAVAIL


def test_shutdown_of_one_direction(pair: Pair) -> None:
    ours, theirs = pair
    ours.shutdown(socket.SHUT_WR)
    ours.wait(SECONDS).check()
    theirs.recv(10)
    assert theirs.wait(SECONDS).check().data == b""
    theirs.write(b"still")
    ours.recv(10)
    assert ours.wait(SECONDS).check().data == b"still"
    ours.write(b"x")
    with pytest.raises(BrokenPipeError):
        ours.wait(SECONDS).check()
    with pytest.raises(OSError, match="how=3: allowed is"):
        ours.shutdown(3)


def test_options(pair: Pair) -> None:
    ours, _ = pair
    for option, value in (
        (pifus.Option.NODELAY, 0),
        (pifus.Option.KEEPALIVE, 1),
        (pifus.Option.KEEPIDLE, 30),
        (pifus.Option.TTL, 9),
        (pifus.Option.PRIORITY, pifus.Priority.LOW),
    ):
        ours.setopt(option, value)
        ours.wait(SECONDS).check()
    assert ours.priority is pifus.Priority.LOW
    ours.set_priority(pifus.Priority.HIGH)
    ours.wait(SECONDS).check()
    assert ours.priority is pifus.Priority.HIGH
    ours.setopt(pifus.Option.TTL, 0)
    assert ours.wait(SECONDS).errno == errno.EINVAL
    with pytest.raises(ValueError, match="99"):
        ours.setopt(99, 1)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        ours.setopt(pifus.Option.TTL, -1)


def test_timeouts(client: pifus.Client, pair: Pair) -> None:
    ours, _ = pair
    for wait in (ours.wait, client.wait_any):
        for seconds in (0, 0.05, 0.45):
            start = time.monotonic()
            with pytest.raises(TimeoutError):
                wait(seconds)
            assert seconds <= time.monotonic() - start < seconds + 2
        with pytest.raises(ValueError, match="timeout"):
            wait(-1)
    assert ours.poll() is None
    assert client.poll_any() is None


def test_queue_full(pair: Pair, client: pifus.Client) -> None:
    ours, _ = pair
    # Nothing comes, so these stay under way; each holds its entry until it is reaped.
    for _ in range(client.queue_depth):
        ours.recv(1)
    with pytest.raises(pifus.QueueFull) as caught:
        more_receives(ours, client.queue_depth + 1)
    assert caught.value.errno == errno.EAGAIN


def more_receives(sock: pifus.Socket, count: int) -> None:
    for _ in range(count):
        sock.recv(1)


def more_writes(sock: pifus.Socket, count: int) -> None:
    for _ in range(count):
        sock.write(bytes(65536))


def test_arena_full_and_too_long(backend: BackendProcess) -> None:
    with pifus.Client(backend.path, arena_bytes=262144, rx_bytes=65536) as client:
        ours, theirs = connect_pair(client)
        with pytest.raises(OSError, match="at most 262144 at once") as caught:
            ours.write(bytes(262145))
        assert caught.value.errno == errno.EMSGSIZE
        with pytest.raises(ValueError, match="at least one byte"):
            ours.write(b"")
        with pytest.raises(TypeError):
            ours.write("text")  # type: ignore[arg-type]
        with pytest.raises(pifus.ArenaFull) as full:
            more_writes(ours, 100)
        assert full.value.errno == errno.ENOBUFS
        # It goes on as soon as the peer reads.
        theirs.recv(65536)
        assert theirs.wait(SECONDS).check().data
        assert ours.wait(SECONDS).check().opcode is Opcode.WRITE
    with pifus.Client(backend.path) as client:
        ours, _ = connect_pair(client)
        with pytest.raises(OSError, match="at most 1048576 at once"):
            ours.write(bytes(1048577))


def test_all_sockets_in_use(backend: BackendProcess) -> None:
    with pifus.Client(backend.path, max_sockets=3) as client:
        assert client.max_sockets == 3
        socks = [client.socket() for _ in range(3)]
        with pytest.raises(OSError, match="all 3 sockets") as caught:
            client.socket()
        assert caught.value.errno == errno.EMFILE
        socks[0].close()
        socks[0].wait(SECONDS).check()
        client.socket().nop()


def test_wait_any_serves_more_than_128_sockets(client: pifus.Client) -> None:
    socks = [client.socket() for _ in range(300)]
    ops = {(sock, sock.nop()) for sock in socks}
    got = set()
    for _ in socks:
        done = client.wait_any(SECONDS)
        got.add((done.sock, done.op))
    assert got == ops
    assert client.poll_any() is None


def test_wait_any_in_order_of_priority(client: pifus.Client) -> None:
    low = client.socket(priority=pifus.Priority.LOW)
    high = client.socket(priority=pifus.Priority.HIGH)
    last = client.socket(priority=pifus.Priority.LOW)
    low.nop()
    high.nop()
    last.nop()
    # In one priority the backend serves in turn: once the last is done, all are.
    done = last.wait(SECONDS)
    assert done.sock is last
    assert [client.wait_any(SECONDS).sock for _ in range(2)] == [high, low]


def test_arguments(client: pifus.Client) -> None:
    sock = client.socket()
    with pytest.raises(ValueError, match="allowed is 1 to"):
        sock.recv(0)
    with pytest.raises(TypeError, match="backlog"):
        sock.listen("5")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be tuple"):
        sock.connect("host")  # type: ignore[arg-type]
    with pytest.raises(OSError, match="only TCP"):
        client.socket(132)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="family 1"):
        client.socket(family=socket.AF_UNIX)
    with pytest.raises(ValueError, match="7"):
        client.socket(priority=7)  # type: ignore[arg-type]


def test_two_threads_on_one_socket(client: pifus.Client) -> None:
    sock = client.socket()
    ops: list[int] = []
    got: list[int] = []

    def run() -> None:
        for _ in range(2000):
            ops.append(sock.nop())
            got.append(sock.wait(SECONDS).check().op)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ops) == sorted(got)
    assert len(set(got)) == 8000


def test_many_connections_reuse_slots(backend: BackendProcess) -> None:
    with pifus.Client(backend.path, max_sockets=8) as client:
        for number in range(200):
            ours, theirs = connect_pair(client)
            ours.write(str(number).encode())
            theirs.recv(10)
            assert theirs.wait(SECONDS).check().data == str(number).encode()
            ours.wait(SECONDS).check()
            # One waits for its close, the other does not.
            ours.close()
            theirs.release()
            ours.wait(SECONDS).check()
        assert client.arena_free == 16777216


def test_free_threads_are_woken_by_close(backend: BackendProcess) -> None:
    client = pifus.Client(backend.path)
    sock = client.socket()
    errors: list[Exception] = []
    started = threading.Barrier(3)

    def run(wait: object) -> None:
        started.wait()
        try:
            wait()  # type: ignore[operator]
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(wait,)) for wait in (sock.wait, client.wait_any)]
    for thread in threads:
        thread.start()
    started.wait()
    client.close()
    for thread in threads:
        thread.join(SECONDS)
    assert [type(error) for error in errors] == [pifus.ClientClosed] * 2
    for call in (client.socket, client.wait_any, sock.nop, sock.wait, lambda: sock.state):
        with pytest.raises(pifus.ClientClosed):
            call()
    client.close()
