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
from tests.contract.legs import Side

Pair = tuple[Any, Any]
Closing = Callable[[Any], Any]
HUNG_UP = select.POLLIN | select.POLLOUT | select.POLLHUP | select.POLLRDHUP
# Of a connection that both sides have shut in good order, the stack's descriptor shows no HUP.
SHUT = select.POLLIN | select.POLLOUT | select.POLLRDHUP


def await_events(sock: Any, wanted: int, among: int = HUNG_UP) -> None:
    await_among(sock, wanted, among)


@pytest.fixture
def refused(client_net: ModuleType, listener: Any, closing: Closing) -> Any:
    """A non-blocking socket whose connect was refused; the program has not been told."""
    address = listener.getsockname()
    listener.close()
    sock = closing(client_net.socket())
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


def test_a_refusal_is_told_by_the_next_connect(
    refused: Any, server_net: ModuleType, host: str
) -> None:
    with server_net.create_server((host, 0)) as other:
        assert refused.connect_ex(other.getsockname()) == errno.ECONNREFUSED
        assert errno_of(refused.recv, 10) == errno.ENOTCONN
        assert refused.connect_ex(other.getsockname()) == errno.EINPROGRESS
        await_events(refused, select.POLLOUT)
        assert refused.connect_ex(other.getsockname()) == 0
        assert refused.connect_ex(other.getsockname()) == errno.EISCONN
        server, _ = other.accept()
        server.close()
        await_events(refused, select.POLLIN | select.POLLOUT | select.POLLRDHUP)


def test_a_refusal_told_already_makes_the_next_connect_abort(
    refused: Any, server_net: ModuleType, host: str
) -> None:
    with server_net.create_server((host, 0)) as other:
        assert so_error(refused) == errno.ECONNREFUSED
        assert refused.connect_ex(other.getsockname()) == errno.ECONNABORTED
        assert refused.connect_ex(other.getsockname()) == errno.EINPROGRESS


def test_no_byte_of_the_former_connection_is_left(client_net: ModuleType, listener: Any) -> None:
    with client_net.socket() as sock:
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


def test_a_chosen_port_outlives_a_refusal(
    server_net: ModuleType, client_side: Side, listener: Any
) -> None:
    address = listener.getsockname()
    listener.close()
    net = client_side.net
    with net.socket() as chosen, net.socket() as probe:
        probe.bind((client_side.host, 0))
        source = probe.getsockname()
        probe.close()
        chosen.bind(source)
        assert errno_of(chosen.connect, address) == errno.ECONNREFUSED
        with server_net.create_server(address) as again:
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
