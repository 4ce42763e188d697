"""Bytes: they arrive, whole, in order, however they are sent and taken."""

from __future__ import annotations

import array
import errno
import hashlib
import random
import select
import socket as names
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType
from typing import Any

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, await_events, errno_of, receive_exactly

Pair = tuple[Any, Any]
Spawn = Callable[..., Future[Any]]

BULK_BYTES = 50_000_000


def test_echo(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"ping")
    assert server.recv(100) == b"ping"
    server.sendall(b"pong")
    assert client.recv(100) == b"pong"


def test_a_partial_read_leaves_the_rest(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"abcdefgh")
    assert receive_exactly(server, 3) == b"abc"
    assert receive_exactly(server, 1) == b"d"
    assert receive_exactly(server, 4) == b"efgh"


def test_peek_does_not_take(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"abc")
    assert server.recv(2, names.MSG_PEEK) == b"ab"
    assert server.recv(100, names.MSG_PEEK) == b"abc"
    assert server.recv(100) == b"abc"
    server.settimeout(None)
    with pytest.raises(BlockingIOError):
        server.recv(100, names.MSG_PEEK | names.MSG_DONTWAIT)


def test_waitall_waits_for_all(pair: Pair, spawn: Spawn) -> None:
    client, server = pair
    server.settimeout(None)
    whole = spawn(server.recv, 300_000, names.MSG_WAITALL)
    data = random.Random(1).randbytes(300_000)
    for start in range(0, len(data), 50_000):
        client.sendall(data[start : start + 50_000])
    assert whole.result(PATIENCE_SECONDS) == data


def test_waitall_gives_what_came_before_the_end(pair: Pair) -> None:
    client, server = pair
    server.settimeout(None)
    client.sendall(b"abc")
    client.shutdown(names.SHUT_WR)
    assert server.recv(10, names.MSG_WAITALL) == b"abc"
    assert server.recv(10, names.MSG_WAITALL) == b""


@pytest.mark.parametrize(
    "make", [bytes, bytearray, memoryview, lambda data: array.array("H", data)]
)
def test_sends_any_buffer(pair: Pair, make: Callable[[bytes], Any]) -> None:
    client, server = pair
    data = make(b"12345678")
    assert client.send(data) == 8
    client.sendall(data)
    assert receive_exactly(server, 16) == b"1234567812345678"


def test_receives_into_buffers(pair: Pair) -> None:
    client, server = pair
    buffer = bytearray(b"........")
    client.sendall(b"abcdef")
    assert server.recv_into(memoryview(buffer)[2:4]) == 2
    assert server.recv_into(buffer, 1) == 1
    count, source = server.recvfrom_into(buffer, nbytes=3, flags=0)
    assert (count, source) == (3, None)
    assert buffer == b"defb...."


def test_receives_from_and_with_messages(pair: Pair) -> None:
    client, server = pair
    assert client.sendmsg([b"ab", bytearray(b"cd"), b""]) == 4
    assert server.recvfrom(2) == (b"ab", None)
    data, ancillary, flags, source = server.recvmsg(100, 100)
    assert (data, ancillary, source) == (b"cd", [], None)
    assert not flags & names.MSG_TRUNC
    client.sendall(b"vwxyz")
    first, second = bytearray(2), bytearray(10)
    got = server.recvmsg_into([first, second])[0]
    assert got == 5
    assert (bytes(first), bytes(second[:3])) == (b"vw", b"xyz")


def test_for_no_byte_at_all_some_calls_wait(pair: Pair) -> None:
    client, server = pair
    server.setblocking(False)
    assert server.recv(0) == b""
    assert server.recv_into(bytearray()) == 0
    waiting: tuple[tuple[Any, Any], ...] = (
        (server.recvfrom, 0),
        (server.recvfrom_into, bytearray()),
        (server.recvmsg, 0),
        (server.recvmsg_into, []),
    )
    for call in waiting:
        assert errno_of(*call) == errno.EAGAIN
    client.sendall(b"ab")
    await_events(server, select.POLLIN, select.POLLIN)
    assert server.recvfrom(0) == (b"", None)
    assert server.recvfrom_into(bytearray()) == (0, None)
    assert server.recv(2) == b"ab"


def test_throws_bytes_away(pair: Pair) -> None:
    client, server = pair
    room = bytearray(b"......")
    client.sendall(b"abcdefgh")
    assert server.recv_into(room, 4, names.MSG_TRUNC | names.MSG_WAITALL) == 4
    assert server.recvmsg_into([room], 0, names.MSG_TRUNC | names.MSG_PEEK)[0] == 4
    assert room == b"......"
    assert server.recv(100) == b"efgh"


def test_sends_an_empty_message(pair: Pair) -> None:
    client, server = pair
    assert client.send(b"") == 0
    client.sendall(b"")
    client.sendall(b"x")
    assert server.recv(10) == b"x"


def test_sendto_on_a_stream_ignores_the_address(pair: Pair) -> None:
    client, server = pair
    assert client.sendto(b"abc", ("127.0.0.1", 1)) == 3
    assert client.sendto(b"def", 0, ("127.0.0.1", 1)) == 3
    assert receive_exactly(server, 6) == b"abcdef"


def test_makefile_reads_lines_and_writes(pair: Pair) -> None:
    client, server = pair
    with client.makefile("rw", encoding="utf-8", newline="\n") as text:
        text.write("grüße\nzweite\n")
        text.flush()
        with server.makefile("rb") as lines:
            assert lines.readline() == "grüße\n".encode()
            server.sendall(b"antwort\nrest")
            assert lines.readline() == b"zweite\n"
        server.close()
        assert text.readline() == "antwort\n"
        assert text.read() == "rest"


def test_a_makefile_keeps_the_socket_open(pair: Pair) -> None:
    client, server = pair
    stream = client.makefile("rb")
    client.close()
    server.sendall(b"still there")
    server.close()
    assert stream.read() == b"still there"
    stream.close()
    assert errno_of(client.recv, 1) == errno.EBADF


def test_sendfile_sends_a_file(pair: Pair, spawn: Spawn) -> None:
    client, server = pair
    data = random.Random(2).randbytes(700_000)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        got = spawn(receive_exactly, server, len(data))
        assert client.sendfile(file) == len(data)
    assert got.result(PATIENCE_SECONDS) == data


def test_bulk_both_ways_at_once(pair: Pair, spawn: Spawn) -> None:
    block = random.Random(3).randbytes(1_000_000)
    rounds = BULK_BYTES // len(block)
    expected = hashlib.sha256()
    for _ in range(rounds):
        expected.update(block)

    def send(sock: Any) -> None:
        for _ in range(rounds):
            sock.sendall(block)
        sock.shutdown(names.SHUT_WR)

    def digest(sock: Any) -> tuple[int, str]:
        found = hashlib.sha256()
        total = 0
        buffer = bytearray(65536)
        while count := sock.recv_into(buffer):
            found.update(memoryview(buffer)[:count])
            total += count
        return total, found.hexdigest()

    for sock in pair:
        sock.settimeout(60)
    digests = [spawn(digest, sock) for sock in pair]
    sends = [spawn(send, sock) for sock in pair]
    for sending in sends:
        sending.result(120)
    for receiving in digests:
        assert receiving.result(120) == (BULK_BYTES, expected.hexdigest())


def test_one_send_of_many_megabytes(pair: Pair, spawn: Spawn) -> None:
    client, server = pair
    data = random.Random(4).randbytes(1 << 20) * 20
    client.settimeout(None)
    got = spawn(lambda: hashlib.sha256(receive_exactly(server, len(data))).digest())
    assert client.send(data) == len(data), "a blocking send takes all"
    assert got.result(60) == hashlib.sha256(data).digest()


def test_many_threads_share_one_socket(pair: Pair, spawn: Spawn) -> None:
    client, server = pair
    senders, messages, size = 8, 200, 500

    def send(number: int) -> None:
        for _ in range(messages):
            client.sendall(bytes([number]) * size)

    takers = [
        spawn(lambda: [len(part) for part in iter(lambda: server.recv(700), b"")]) for _ in range(4)
    ]
    sends = [spawn(send, number) for number in range(senders)]
    for sending in sends:
        sending.result(PATIENCE_SECONDS)
    client.shutdown(names.SHUT_WR)
    total = sum(sum(taker.result(PATIENCE_SECONDS)) for taker in takers)
    assert total == senders * messages * size


def test_a_client_may_not_wait_for_an_accept_to_send(
    client_net: ModuleType, listener: Any, closing: Callable[[Any], Any]
) -> None:
    client = closing(client_net.create_connection(listener.getsockname()))
    client.sendall(b"early")
    client.shutdown(names.SHUT_WR)
    server, _ = listener.accept()
    closing(server)
    assert receive_exactly(server, 100) == b"early"


def test_a_failed_call_lets_go_of_the_buffer(pair: Pair) -> None:
    client, server = pair
    client.shutdown(names.SHUT_WR)
    server.setblocking(False)
    buffer = bytearray(10)
    with pytest.raises(BrokenPipeError), memoryview(buffer) as view:
        client.send(view)
    client.setblocking(False)
    with pytest.raises(BlockingIOError) as caught, memoryview(buffer) as view:
        client.recv_into(view)
    # The traceback is still there, and with it the frames of the call.
    assert caught.tb is not None
    buffer.extend(b"resized")


def test_idle_connections_hold_no_memory(
    client_net: ModuleType, listener: Any, closing: Callable[[Any], Any], spawn: Spawn
) -> None:
    """What they sent has arrived; that nobody asks them again must not starve the others."""
    data = bytes(500_000)
    for _ in range(200):
        client = closing(client_net.create_connection(listener.getsockname(), PATIENCE_SECONDS))
        server = closing(listener.accept()[0])
        sending = spawn(client.sendall, data)
        assert receive_exactly(server, len(data)) == data
        sending.result(PATIENCE_SECONDS)


def test_sockets_that_never_show_a_descriptor_cost_the_others_none(
    net: ModuleType, host: str, closing: Callable[[Any], Any]
) -> None:
    """More of them, one after another, than one process may have at once."""
    for _ in range(6000):
        net.socket().close()
    sock = closing(net.create_server((host, 0)))
    poller = select.poll()
    poller.register(sock, select.POLLIN | select.POLLOUT)
    assert poller.poll(0) == []
