"""Connects that fail, are asked after, and are tried again; and what shutdown leaves."""

from __future__ import annotations

import errno
import select
import socket as names
import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.contract.conftest import await_events as await_among
from tests.contract.conftest import errno_of

Pair = tuple[Any, Any]
Closing = Callable[[Any], Any]
HUNG_UP = select.POLLIN | select.POLLOUT | select.POLLHUP | select.POLLRDHUP
# Of a connection that both sides have shut in good order, the stack's descriptor shows no HUP.
SHUT = select.POLLIN | select.POLLOUT | select.POLLRDHUP


def await_events(sock: Any, wanted: int, among: int = HUNG_UP) -> None:
    await_among(sock, wanted, among)


@pytest.fixture
def refused(net: ModuleType, listener: Any, closing: Closing) -> Any:
    """A non-blocking socket whose connect was refused; the program has not been told."""
    address = listener.getsockname()
    listener.close()
    sock = closing(net.socket())
    sock.setblocking(False)
    assert sock.connect_ex(address) == errno.EINPROGRESS
    # Over the kernel it hangs up, too; in the stack it may be connected yet.
    await_events(sock, select.POLLIN | select.POLLOUT, select.POLLIN | select.POLLOUT)
    return sock


def so_error(sock: Any) -> int:
    return int(sock.getsockopt(names.SOL_SOCKET, names.SO_ERROR))


def test_a_refusal_is_told_by_so_error(refused: Any) -> None:
    assert so_error(refused) == errno.ECONNREFUSED
    assert so_error(refused) == 0
    assert refused.recv(10) == b""
    assert errno_of(refused.send, b"x") == errno.EPIPE
    assert errno_of(refused.getpeername) == errno.ENOTCONN


def test_a_refusal_is_told_to_a_reader(refused: Any) -> None:
    assert errno_of(refused.recv, 10) == errno.ECONNREFUSED
    assert refused.recv(10) == b""


def test_a_refusal_is_told_to_a_writer(refused: Any) -> None:
    assert errno_of(refused.send, b"x") == errno.ECONNREFUSED
    assert errno_of(refused.send, b"x") == errno.EPIPE


def test_a_refusal_is_told_by_the_next_connect(refused: Any, net: ModuleType) -> None:
    with net.create_server(("127.0.0.1", 0)) as other:
        assert refused.connect_ex(other.getsockname()) == errno.ECONNREFUSED
        assert errno_of(refused.recv, 10) == errno.ENOTCONN
        assert refused.connect_ex(other.getsockname()) == errno.EINPROGRESS
        await_events(refused, select.POLLOUT)
        assert refused.connect_ex(other.getsockname()) == 0
        assert refused.connect_ex(other.getsockname()) == errno.EISCONN
        server, _ = other.accept()
        server.close()
        await_events(refused, select.POLLIN | select.POLLOUT | select.POLLRDHUP)


def test_a_refusal_told_already_makes_the_next_connect_abort(refused: Any, net: ModuleType) -> None:
    with net.create_server(("127.0.0.1", 0)) as other:
        assert so_error(refused) == errno.ECONNREFUSED
        assert refused.connect_ex(other.getsockname()) == errno.ECONNABORTED
        assert refused.connect_ex(other.getsockname()) == errno.EINPROGRESS


def test_no_byte_of_the_former_connection_is_left(net: ModuleType, listener: Any) -> None:
    with net.socket() as sock:
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        await_events(sock, select.POLLOUT)
        server, _ = listener.accept()
        server.sendall(b"the first connection's")
        await_events(sock, select.POLLIN | select.POLLOUT)
        server.setsockopt(names.SOL_SOCKET, names.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
        await_events(sock, HUNG_UP)
        assert sock.connect_ex(listener.getsockname()) == errno.ECONNRESET
        assert sock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        await_events(sock, select.POLLOUT)
        assert errno_of(sock.recv, 100) == errno.EAGAIN
        server, _ = listener.accept()
        server.sendall(b"new")
        await_events(sock, select.POLLIN | select.POLLOUT)
        assert sock.recv(100) == b"new"
        server.close()


def test_a_chosen_port_outlives_a_refusal(net: ModuleType, listener: Any) -> None:
    address = listener.getsockname()
    listener.close()
    with net.socket() as chosen, net.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        source = probe.getsockname()
        probe.close()
        chosen.bind(source)
        assert errno_of(chosen.connect, address) == errno.ECONNREFUSED
        with net.create_server(address) as again:
            chosen.connect(address)
            server, peer = again.accept()
            server.close()
            assert peer == source


def test_both_closed_is_not_connected(pair: Pair) -> None:
    client, server = pair
    client.shutdown(names.SHUT_WR)
    assert server.recv(1) == b""
    server.shutdown(names.SHUT_WR)
    for sock in pair:
        await_events(sock, SHUT, SHUT)
        assert sock.recv(1) == b""
        assert errno_of(sock.send, b"x") == errno.EPIPE
    assert errno_of(client.getpeername) == errno.ENOTCONN
    assert errno_of(client.shutdown, names.SHUT_WR) == errno.ENOTCONN


def test_half_closed_shows_by_the_descriptor(pair: Pair) -> None:
    client, server = pair
    client.shutdown(names.SHUT_RD)
    await_events(client, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    client.shutdown(names.SHUT_WR)
    await_events(client, SHUT, SHUT)
    await_events(server, select.POLLIN | select.POLLOUT | select.POLLRDHUP)


def test_what_comes_after_shutdown_of_reading_can_be_read(pair: Pair) -> None:
    client, server = pair
    client.shutdown(names.SHUT_RD)
    assert client.recv(10) == b""
    server.sendall(b"late")
    got = b""
    while not got:
        got = client.recv(10)
    assert got == b"late"
    assert client.recv(10) == b""


def test_who_sends_to_a_deaf_and_dumb_peer_is_reset(pair: Pair) -> None:
    client, server = pair
    client.shutdown(names.SHUT_RDWR)
    assert server.recv(1) == b""
    server.send(b"x")
    await_events(server, HUNG_UP)
    assert so_error(server) == errno.EPIPE
    assert errno_of(server.send, b"x") == errno.EPIPE
    assert server.recv(1) == b""


def test_the_end_comes_before_the_reset(pair: Pair) -> None:
    client, server = pair
    client.shutdown(names.SHUT_WR)
    assert server.recv(1) == b""
    client.setsockopt(names.SOL_SOCKET, names.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    await_events(server, HUNG_UP)
    assert server.recv(1) == b""
    assert errno_of(server.send, b"x") == errno.EPIPE
    assert so_error(server) == 0


def test_a_socket_may_be_made_nonblocking(net: ModuleType) -> None:
    with net.socket(type=names.SOCK_STREAM | names.SOCK_NONBLOCK) as sock:
        import os

        assert sock.gettimeout() == 0
        assert not os.get_blocking(sock.fileno())
        assert sock.type == names.SOCK_STREAM


def test_a_number_too_large(pair: Pair, listener: Any) -> None:
    client, _ = pair
    for call, value in [
        (listener.listen, 2**31),
        (client.shutdown, 2**31),
        (client.shutdown, -(2**31) - 1),
        (client.recv, 2**63),
    ]:
        with pytest.raises(OverflowError):
            call(value)


class Number:
    """Like the integers of other libraries: an index, and nothing else."""

    def __index__(self) -> int:
        return 5


def test_any_index_is_a_size(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"1234567890")
    assert server.recv(Number()) == b"12345"
    assert server.recvmsg(Number())[0] == b"67890"


def test_a_message_of_no_size_waits_for_bytes(pair: Pair) -> None:
    client, server = pair
    server.setblocking(False)
    assert server.recv(0) == b""
    assert errno_of(server.recvmsg, 0) == errno.EAGAIN
    client.sendall(b"x")
    await_events(server, select.POLLIN | select.POLLOUT)
    assert server.recvmsg(0)[0] == b""
    assert server.recv(1) == b"x"


def test_ancillary_data_have_to_be_well_formed(pair: Pair) -> None:
    client, _ = pair
    for wrong in (7, [7], [(1, 2)], [(1, 2, 3)], [("a", 2, b"x")]):
        with pytest.raises(TypeError):
            client.sendmsg([b"x"], wrong)
    with pytest.raises(TypeError):
        client.sendmsg([b"x"], [], 0, "no address")
    for call in (lambda: client.recvmsg(5, -1), lambda: client.recvmsg_into([bytearray(5)], -1)):
        with pytest.raises(ValueError, match="ancillary"):
            call()


def test_more_buffers_than_a_message_has(pair: Pair) -> None:
    client, _ = pair
    assert errno_of(client.sendmsg, [b"x"] * 1025) == errno.EMSGSIZE
    assert client.sendmsg([b"x"] * 1024) == 1024
    with pytest.raises(TypeError):
        client.recvmsg_into([b"read only"])


def test_an_exception_does_not_keep_the_buffer(pair: Pair) -> None:
    """A program may resize its buffer while it handles the exception."""
    client, server = pair
    server.setsockopt(names.SOL_SOCKET, names.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    client.setblocking(False)
    await_events(client, HUNG_UP)
    buffer = bytearray(100)
    for call in (
        lambda: client.send(buffer),
        lambda: client.sendall(buffer),
        lambda: client.sendmsg([buffer, buffer]),
    ):
        try:
            call()
        except OSError:
            buffer.append(1)
    assert len(buffer) == 103


def test_an_exception_does_not_keep_the_buffer_to_read_into(pair: Pair) -> None:
    client, _ = pair
    client.setblocking(False)
    buffer = bytearray(100)
    for call in (lambda: client.recv_into(buffer), lambda: client.recvmsg_into([buffer, buffer])):
        try:
            call()
        except BlockingIOError:
            buffer.append(1)
    assert len(buffer) == 102


def test_what_sendto_cannot_send(net: ModuleType) -> None:
    """The words are those of the interpreter's own socket, over both."""
    with net.socket(type=names.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
        for arguments, words in [
            (("text", address), "a bytes-like object is required, not 'str'"),
            ((5j, address), "a bytes-like object is required, not 'complex'"),
            ((b"x", None), "address must be tuple, not NoneType"),
            ((b"x", 0, None), "address must be tuple, not NoneType"),
            ((b"x", "flags", address), "str"),
        ]:
            with pytest.raises(TypeError, match=words):
                sock.sendto(*arguments)
