"""Arguments and buffers: what is refused, and in whose words; what an exception may keep."""

from __future__ import annotations

import errno
import select
import socket as names
import struct
from types import ModuleType
from typing import Any

import pytest

from tests.contract.conftest import await_events, errno_of

Pair = tuple[Any, Any]
HUNG_UP = select.POLLIN | select.POLLOUT | select.POLLHUP | select.POLLRDHUP


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
    await_events(server, select.POLLIN | select.POLLOUT, HUNG_UP)
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
    await_events(client, HUNG_UP, HUNG_UP)
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


def test_what_sendto_cannot_send(net: ModuleType, host: str) -> None:
    """The words are those of the interpreter's own socket, over both."""
    with net.socket(type=names.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
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
