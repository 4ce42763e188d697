"""What poll, epoll and select say of a socket, bit by bit, in every state it can be in."""

from __future__ import annotations

import errno
import select
import socket as names
import struct
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, Pair, fill
from tests.contract.legs import Side

IN, OUT, ERR, HUP, RDHUP = (
    select.POLLIN,
    select.POLLOUT,
    select.POLLERR,
    select.POLLHUP,
    select.POLLRDHUP,
)
ALL = IN | OUT | RDHUP | select.POLLPRI
ABORT = struct.pack("ii", 1, 0)
NAMES = {IN: "IN", OUT: "OUT", ERR: "ERR", HUP: "HUP", RDHUP: "RDHUP"}

Closing = Callable[[Any], Any]


def polled(sock: Any) -> int:
    poller = select.poll()
    poller.register(sock, ALL)
    return dict(poller.poll(0)).get(sock.fileno(), 0)


def epolled(sock: Any) -> int:
    with select.epoll() as poller:
        poller.register(sock, ALL)
        return dict(poller.poll(0)).get(sock.fileno(), 0)


def text(mask: int) -> str:
    return "|".join(name for bit, name in NAMES.items() if mask & bit) or "nothing"


def without_hup(sock: Any, expected: int) -> int:
    """Both ways shut, no error: the stack's descriptor does not hang up, as others may hold it."""
    return expected if type(sock) is names.socket else expected & ~HUP


def shows(sock: Any, expected: int) -> None:
    """Waits until poll shows exactly this; then epoll and select agree, and it stays."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (mask := polled(sock)) != expected:
        assert time.monotonic() < deadline, f"{text(mask)} instead of {text(expected)}"
    for _ in range(20):
        assert text(polled(sock)) == text(expected)
        assert text(epolled(sock)) == text(expected)
        readable, writable, _ = select.select([sock], [sock], [], 0)
        assert bool(readable) == bool(expected & (IN | ERR | HUP))
        assert bool(writable) == bool(expected & (OUT | ERR))


@pytest.fixture(params=["blocking", "nonblocking"])
def ends(request: pytest.FixtureRequest, pair: Pair) -> Pair:
    """Two connected sockets."""
    for sock in pair:
        sock.setblocking(request.param == "blocking")
    return pair


def test_listener(client_net: ModuleType, listener: Any, closing: Closing) -> None:
    shows(listener, 0)
    clients = [closing(client_net.create_connection(listener.getsockname())) for _ in range(2)]
    shows(listener, IN)
    closing(listener.accept()[0])
    shows(listener, IN)
    server = closing(listener.accept()[0])
    shows(listener, 0)
    shows(clients[0], OUT)
    shows(server, OUT)


def test_listener_without_blocking(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    listener = closing(server_net.socket())
    listener.setblocking(False)
    listener.bind((host, 0))
    listener.listen()
    shows(listener, 0)
    with pytest.raises(BlockingIOError):
        listener.accept()
    shows(listener, 0)
    closing(client_net.create_connection(listener.getsockname()))
    shows(listener, IN)


def test_a_listener_that_is_shut_wakes_its_pollers(listener: Any) -> None:
    with select.epoll() as poller:
        poller.register(listener, IN)
        assert poller.poll(0) == []
        listener.shutdown(names.SHUT_RDWR)
        ((_, mask),) = poller.poll(PATIENCE_SECONDS)
        assert mask & HUP


def test_bytes(ends: Pair) -> None:
    client, server = ends
    shows(client, OUT)
    shows(server, OUT)
    server.send(b"abc")
    shows(client, IN | OUT)
    client.recv(1)
    shows(client, IN | OUT)
    client.recv(1, names.MSG_PEEK)
    shows(client, IN | OUT)
    client.recv(100)
    shows(client, OUT)
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    shows(client, OUT)
    server.send(b"d")
    shows(client, IN | OUT)


def test_reading_without_being_told_leaves_nothing_behind(pair: Pair) -> None:
    """Request and answer in turn, by blocking reads on sockets that were polled once."""
    client, server = pair
    for sock in pair:
        shows(sock, OUT)
    for _ in range(200):
        client.sendall(b"ping")
        assert server.recv(100) == b"ping"
        server.sendall(b"pong")
        assert client.recv(100) == b"pong"
        assert polled(client) == polled(server) == OUT


def test_half_closed_by_the_peer(ends: Pair) -> None:
    client, server = ends
    server.send(b"x")
    server.shutdown(names.SHUT_WR)
    shows(client, IN | OUT | RDHUP)
    assert client.recv(100) == b"x"
    shows(client, IN | OUT | RDHUP)
    assert client.recv(100) == b""
    shows(client, IN | OUT | RDHUP)
    # The side that did it has not ended for reading.
    shows(server, OUT)
    client.send(b"y")
    shows(server, IN | OUT)


def test_both_half_closed(ends: Pair) -> None:
    client, server = ends
    server.shutdown(names.SHUT_WR)
    shows(client, IN | OUT | RDHUP)
    client.shutdown(names.SHUT_WR)
    shows(client, without_hup(client, IN | OUT | RDHUP | HUP))
    shows(server, without_hup(server, IN | OUT | RDHUP | HUP))


def test_shut_for_reading(ends: Pair) -> None:
    client, server = ends
    client.shutdown(names.SHUT_RD)
    shows(client, IN | OUT | RDHUP)
    server.send(b"x")
    shows(client, IN | OUT | RDHUP)
    shows(server, OUT)


def test_shut_for_both(ends: Pair) -> None:
    client, server = ends
    client.shutdown(names.SHUT_RDWR)
    shows(client, without_hup(client, IN | OUT | RDHUP | HUP))
    shows(server, IN | OUT | RDHUP)
    server.close()
    shows(client, without_hup(client, IN | OUT | RDHUP | HUP))


def test_closed_by_the_peer(ends: Pair) -> None:
    client, server = ends
    server.close()
    shows(client, IN | OUT | RDHUP)
    client.send(b"answered by a reset")
    shows(client, IN | OUT | RDHUP | HUP | ERR)
    # The end of the stream came before the reset: that is what reads are told.
    assert client.recv(1) == b""
    shows(client, IN | OUT | RDHUP | HUP | ERR)
    with pytest.raises(BrokenPipeError):
        client.send(b"x")
    shows(client, IN | OUT | RDHUP | HUP)
    with pytest.raises(BrokenPipeError):
        client.send(b"x")


def test_the_errno_of_a_reset_after_the_end(ends: Pair) -> None:
    client, server = ends
    server.close()
    shows(client, IN | OUT | RDHUP)
    client.send(b"answered by a reset")
    shows(client, IN | OUT | RDHUP | HUP | ERR)
    assert client.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == errno.EPIPE
    shows(client, IN | OUT | RDHUP | HUP)


@pytest.mark.parametrize("told_by", ["recv", "so_error"])
def test_reset_by_the_peer(ends: Pair, told_by: str) -> None:
    client, server = ends
    server.send(b"q")
    shows(client, IN | OUT)
    server.setsockopt(names.SOL_SOCKET, names.SO_LINGER, ABORT)
    server.close()
    shows(client, IN | OUT | RDHUP | HUP | ERR)
    assert client.recv(1) == b"q"
    shows(client, IN | OUT | RDHUP | HUP | ERR)
    if told_by == "recv":
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    else:
        code = client.getsockopt(names.SOL_SOCKET, names.SO_ERROR)
        assert code == errno.ECONNRESET
    shows(client, IN | OUT | RDHUP | HUP)
    assert client.recv(1) == b""
    shows(client, IN | OUT | RDHUP | HUP)


def test_a_full_buffer(pair: Pair) -> None:
    client, server = pair
    fill(client)
    shows(client, 0)
    server.send(b"other way")
    shows(client, IN)
    assert client.recv(100) == b"other way"
    shows(client, 0)
    server.setblocking(False)
    while not polled(client) & OUT:
        if polled(server) & IN:
            server.recv(65536)
    shows(client, OUT)
    assert client.send(b"x") == 1


def test_a_full_buffer_and_an_end(pair: Pair) -> None:
    client, server = pair
    fill(client)
    server.shutdown(names.SHUT_WR)
    shows(client, IN | RDHUP)
    client.shutdown(names.SHUT_WR)
    # Writes fail at once now.
    shows(client, without_hup(client, IN | OUT | RDHUP | HUP))


def test_a_full_buffer_and_a_reset(pair: Pair) -> None:
    client, server = pair
    fill(client)
    server.close()  # with bytes unread
    shows(client, IN | OUT | RDHUP | HUP | ERR)
    with pytest.raises(ConnectionResetError):
        client.send(b"x")
    shows(client, IN | OUT | RDHUP | HUP)


def unused_port(side: Side) -> tuple[str, int]:
    with side.net.create_server((side.host, 0)) as listener:
        address: tuple[str, int] = listener.getsockname()
        return address


@pytest.mark.parametrize("told_by", ["so_error", "connect"])
def test_a_refused_connect(
    client_net: ModuleType, server_side: Side, closing: Closing, told_by: str
) -> None:
    sock = closing(client_net.socket())
    sock.setblocking(False)
    address = unused_port(server_side)
    assert sock.connect_ex(address) == errno.EINPROGRESS
    shows(sock, IN | OUT | RDHUP | HUP | ERR)
    if told_by == "so_error":
        assert sock.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == errno.ECONNREFUSED
    else:
        assert sock.connect_ex(address) == errno.ECONNREFUSED
    assert polled(sock) & (OUT | HUP | ERR) == OUT | HUP


def test_connected_after_a_refusal(
    client_net: ModuleType, server_side: Side, closing: Closing, listener: Any
) -> None:
    sock = closing(client_net.socket())
    sock.setblocking(False)
    fd = sock.fileno()
    unused = unused_port(server_side)
    assert sock.connect_ex(unused) == errno.EINPROGRESS
    shows(sock, IN | OUT | RDHUP | HUP | ERR)
    assert sock.connect_ex(unused) == errno.ECONNREFUSED
    with select.epoll() as poller:
        poller.register(sock, OUT)
        assert sock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        # It is registered still.
        assert poller.poll(PATIENCE_SECONDS) == [(fd, OUT)]
    assert sock.fileno() == fd
    shows(sock, OUT)
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == 0
    server = closing(listener.accept()[0])
    server.sendall(b"hello")
    shows(sock, IN | OUT)
    assert sock.recv(100) == b"hello"
    shows(sock, OUT)


def test_a_connect_under_way(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    """A listener whose queue is full answers nobody."""
    listener = closing(server_net.create_server((host, 0), backlog=1))
    waiting = []
    for _ in range(200):
        sock = closing(client_net.socket())
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        if not select.select([], [sock], [], 0.3)[1]:
            waiting.append(sock)
            break
    (sock,) = waiting
    shows(sock, 0)
    assert sock.connect_ex(listener.getsockname()) == errno.EALREADY
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == 0
    shows(sock, 0)
