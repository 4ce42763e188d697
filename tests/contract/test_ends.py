"""How connections and sockets end, and what each side is told."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket as names
import struct
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType
from typing import Any

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, errno_of, receive_exactly
from tests.contract.legs import Side

Pair = tuple[Any, Any]
Spawn = Callable[..., Future[Any]]
ABORT = struct.pack("ii", 1, 0)


def reset(sock: Any, other: Any) -> None:
    """Resets the connection, and returns when the other side knows."""
    sock.setsockopt(names.SOL_SOCKET, names.SO_LINGER, ABORT)
    sock.close()
    poller = select.poll()
    poller.register(other, select.POLLIN)
    assert poller.poll(PATIENCE_SECONDS * 1000)


def test_end_of_stream_comes_after_the_bytes(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"last")
    client.close()
    assert server.recv(2) == b"la"
    assert server.recv(10) == b"st"
    assert server.recv(10) == b""
    assert server.recv(10) == b""


def test_half_close_leaves_the_other_direction(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"question")
    client.shutdown(names.SHUT_WR)
    assert receive_exactly(server, 100) == b"question"
    server.sendall(b"answer" * 20_000)
    server.close()
    assert receive_exactly(client, 200_000) == b"answer" * 20_000
    assert client.recv(1) == b""


def test_sending_after_shutdown_is_a_broken_pipe(pair: Pair) -> None:
    client, _ = pair
    client.shutdown(names.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        client.send(b"x")
    with pytest.raises(BrokenPipeError):
        client.sendall(b"x")


def test_shutdown_of_reading_ends_the_stream(pair: Pair) -> None:
    client, server = pair
    client.shutdown(names.SHUT_RD)
    assert client.recv(10) == b""
    client.sendall(b"still")
    assert server.recv(10) == b"still"


def test_shutdown_wakes_a_blocked_reader(pair: Pair, spawn: Spawn) -> None:
    client, _ = pair
    client.settimeout(None)
    got = spawn(client.recv, 10)
    client.shutdown(names.SHUT_RDWR)
    assert got.result(PATIENCE_SECONDS) == b""


def test_a_reset_is_told_once(pair: Pair) -> None:
    client, server = pair
    reset(client, server)
    with pytest.raises(ConnectionResetError):
        server.recv(10)
    assert server.recv(10) == b""
    with pytest.raises(BrokenPipeError):
        server.send(b"x")


def test_a_reset_is_told_by_so_error(pair: Pair) -> None:
    client, server = pair
    reset(client, server)
    assert server.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == errno.ECONNRESET
    assert server.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == 0
    assert server.recv(10) == b""


def test_a_reset_is_told_to_a_sender(pair: Pair) -> None:
    client, server = pair
    reset(client, server)
    with pytest.raises(ConnectionResetError):
        server.send(b"x")
    with pytest.raises(BrokenPipeError):
        server.send(b"x")


@pytest.mark.legs(
    "kernel", "pifus", "connects", reason="what the kernel sends has a way to go to the stack"
)
def test_a_reset_is_under_way_when_close_returns(make_pair: Callable[[], Pair]) -> None:
    """Who closes tells another thread, which looks at once."""
    for _ in range(100):
        client, server = make_pair()
        server.setblocking(False)
        client.setsockopt(names.SOL_SOCKET, names.SO_LINGER, ABORT)
        client.close()
        with pytest.raises(ConnectionResetError):
            server.recv(1)
        server.close()


def test_a_reset_ends_a_blocked_reader(pair: Pair, spawn: Spawn) -> None:
    client, server = pair
    got = spawn(server.recv, 10)
    client.setsockopt(names.SOL_SOCKET, names.SO_LINGER, ABORT)
    client.close()
    with pytest.raises(ConnectionResetError):
        got.result(PATIENCE_SECONDS)


def test_close_with_unread_bytes_resets(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"never read")
    assert server.recv(1) == b"n"
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(10)


def test_after_a_reset_there_is_no_peer(pair: Pair) -> None:
    client, server = pair
    name = server.getsockname()
    reset(client, server)
    assert errno_of(server.getpeername) == errno.ENOTCONN
    assert server.getsockname() == name


def test_writing_to_a_closed_peer_fails_in_the_end(pair: Pair) -> None:
    client, server = pair
    server.close()
    assert client.recv(1) == b""

    def write() -> None:
        for _ in range(10_000):
            client.send(b"x" * 1000)

    assert errno_of(write) in (errno.EPIPE, errno.ECONNRESET)


def test_shutdown_needs_a_connection(client_net: ModuleType, listener: Any) -> None:
    with client_net.socket() as sock:
        assert errno_of(sock.shutdown, names.SHUT_RDWR) == errno.ENOTCONN
        sock.connect(listener.getsockname())
        assert errno_of(sock.shutdown, 17) == errno.EINVAL
        sock.shutdown(names.SHUT_WR)
        sock.shutdown(names.SHUT_WR)


def test_what_is_not_connected_cannot_talk(client_net: ModuleType, listener: Any) -> None:
    with client_net.socket() as sock:
        assert errno_of(sock.recv, 1) == errno.ENOTCONN
        assert errno_of(sock.send, b"x") == errno.EPIPE
        assert errno_of(sock.getpeername) == errno.ENOTCONN
    assert errno_of(listener.recv, 1) == errno.ENOTCONN
    assert errno_of(listener.getpeername) == errno.ENOTCONN


def test_a_closed_socket_is_a_bad_descriptor(net: ModuleType, host: str) -> None:
    sock = net.socket()
    sock.close()
    sock.close()
    assert sock.fileno() == -1
    calls: list[tuple[Callable[..., Any], Any]] = [
        (sock.recv, 1),
        (sock.send, b"x"),
        (sock.listen, 1),
        (sock.bind, (host, 0)),
        (sock.connect, (host, 1)),
        (sock.shutdown, 2),
    ]
    for call, argument in calls:
        assert errno_of(call, argument) == errno.EBADF
    assert errno_of(sock.getsockname) == errno.EBADF
    assert errno_of(sock.getsockopt, names.SOL_SOCKET, names.SO_ERROR) == errno.EBADF


def test_refused(client_net: ModuleType, listener: Any) -> None:
    address = listener.getsockname()
    listener.close()
    with client_net.socket() as sock:
        with pytest.raises(ConnectionRefusedError):
            sock.connect(address)
        assert errno_of(sock.recv, 1) == errno.ENOTCONN
    with client_net.socket() as sock:
        assert sock.connect_ex(address) == errno.ECONNREFUSED
    with client_net.socket() as sock:
        sock.settimeout(PATIENCE_SECONDS)
        assert sock.connect_ex(address) == errno.ECONNREFUSED


def test_a_refused_connect_may_be_tried_again(
    client_net: ModuleType, server_net: ModuleType, listener: Any, closing: Callable[[Any], Any]
) -> None:
    address = listener.getsockname()
    listener.close()
    sock = closing(client_net.socket())
    with pytest.raises(ConnectionRefusedError):
        sock.connect(address)
    second = closing(server_net.create_server(address))
    sock.connect(second.getsockname())
    peer, _ = second.accept()
    closing(peer)
    sock.sendall(b"at last")
    assert peer.recv(100) == b"at last"


def test_a_lost_socket_closes_with_a_warning(net: ModuleType) -> None:
    held = [net.socket()]
    fd = held[0].fileno()
    with pytest.warns(ResourceWarning, match=f"unclosed .*fd={fd}"):
        held.clear()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_lost_connection_ends_for_the_peer(
    client_net: ModuleType, listener: Any, closing: Callable[[Any], Any]
) -> None:
    lost = client_net.create_connection(listener.getsockname())
    server, _ = listener.accept()
    closing(server)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del lost
        gc.collect()
    assert server.recv(10) == b""


def test_detach_and_take_up_again(pair: Pair, client_net: ModuleType, closing: Any) -> None:
    client, server = pair
    fd = client.detach()
    assert client.fileno() == -1
    again = closing(client_net.socket(fileno=fd))
    assert (again.family, again.type) == (names.AF_INET, names.SOCK_STREAM)
    again.sendall(b"same connection")
    assert server.recv(100) == b"same connection"
    again.close()
    assert server.recv(100) == b""


def test_a_duplicate_is_the_same_connection(pair: Pair) -> None:
    client, server = pair
    second = client.dup()
    assert second.fileno() != client.fileno()
    client.close()
    second.sendall(b"by the other name")
    assert server.recv(100) == b"by the other name"
    server.sendall(b"x")
    assert second.recv(1) == b"x"
    second.close()
    assert server.recv(100) == b""


def test_module_close_closes_a_descriptor(pair: Pair, client_net: ModuleType) -> None:
    client, server = pair
    client_net.close(client.detach())
    assert server.recv(10) == b""


def test_a_detached_descriptor_closed_by_os_is_noticed(pair: Pair, pifus_net: ModuleType) -> None:
    client, server = pair
    os.close(client.detach())
    pifus_net.socket().close()  # the next socket that is made looks
    assert server.recv(10) == b""


def test_close_wakes_a_blocked_reader(pifus_net: ModuleType, spawn: Spawn) -> None:
    check_close_wakes(pifus_net, spawn, lambda sock: sock.recv(10))


def test_close_wakes_a_blocked_sender(pifus_net: ModuleType, spawn: Spawn) -> None:
    check_close_wakes(pifus_net, spawn, lambda sock: sock.sendall(b"x" * 50_000_000))


def check_close_wakes(net: ModuleType, spawn: Spawn, call: Callable[[Any], Any]) -> None:
    """Over the kernel the blocked call would go on: here closing ends it, with EBADF."""
    with net.create_server(("127.0.0.1", 0)) as listener:
        sock = net.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        blocked = spawn(call, sock)
        wait_until_inside(sock)
        sock.close()
        assert errno_of(blocked.result, PATIENCE_SECONDS) == errno.EBADF
        peer.close()


def test_close_wakes_a_blocked_accept(pifus_net: ModuleType, spawn: Spawn) -> None:
    listener = pifus_net.create_server(("127.0.0.1", 0))
    blocked = [spawn(listener.accept) for _ in range(3)]
    wait_until_inside(listener, 3)
    listener.close()
    for accepting in blocked:
        assert errno_of(accepting.result, PATIENCE_SECONDS) == errno.EBADF


def wait_until_inside(sock: Any, threads: int = 1) -> None:
    """Until so many threads are inside a call with this socket."""
    from pifus._compat import _table

    endpoint = _table.endpoints[sock.fileno()]
    beat = threading.Event()
    for _ in range(int(PATIENCE_SECONDS * 1000)):
        if len(endpoint.busy) >= threads:
            return
        beat.wait(0.001)
    raise AssertionError("no thread came into the call")


def test_a_source_port_may_be_used_again(client_side: Side, listener: Any) -> None:
    """Even while the listener's side of the former connection is in TIME_WAIT."""
    source = (client_side.host, 0)
    for _ in range(3):
        with bound(client_side.net, source) as client:
            client.connect(listener.getsockname())
            source = client.getsockname()
            server, _ = listener.accept()
            server.close()
            assert client.recv(1) == b""


def bound(net: ModuleType, source: tuple[str, int]) -> Any:
    """A socket bound to a port that may be in use until the last acknowledgement has come."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        sock = net.socket()
        try:
            sock.bind(source)
            return sock
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                raise


def test_slots_are_used_again(client_net: ModuleType, listener: Any) -> None:
    for number in range(300):
        with client_net.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            with server:
                client.sendall(b"%d" % number)
                assert server.recv(10) == b"%d" % number


def test_what_a_send_has_taken_comes_before_the_end(client_net: ModuleType, listener: Any) -> None:
    """Another thread ends the writing in the middle: what is behind that is refused."""
    for _ in range(20):
        with client_net.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            sent = []

            def write(client: Any = client, sent: list[int] = sent) -> None:
                with contextlib.suppress(BrokenPipeError):
                    while True:
                        sent.append(client.send(b"x" * 1000))

            writer = threading.Thread(target=write)
            writer.start()
            got = 0
            with server:
                while data := server.recv(65536):
                    ends = got <= 100_000 < got + len(data)
                    got += len(data)
                    if ends:
                        client.shutdown(names.SHUT_WR)
            writer.join()
            assert got == sum(sent)
