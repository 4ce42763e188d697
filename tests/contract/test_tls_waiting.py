"""TLS without waiting, and what select says of a TLS socket: the same as of the kernel's."""

from __future__ import annotations

import os
import select
import selectors
import socket as names
import ssl
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType
from typing import Any

import pytest

from tests.certificates import Certificates
from tests.contract.conftest import (
    PATIENCE_SECONDS,
    MakePair,
    Pair,
    receive_exactly,
    until_done,
)

Spawn = Callable[..., Future[Any]]
Closing = Callable[[Any], Any]


def is_readable(sock: Any, seconds: float = 0) -> bool:
    return bool(select.select([sock], [], [], seconds)[0])


def test_a_handshake_by_select(
    make_pair: Callable[[], Pair], certificates: Certificates, closing: Closing
) -> None:
    client, server = make_pair()
    client.setblocking(False)
    server.setblocking(False)
    context = certificates.client_context()
    with pytest.raises(ValueError, match="do_handshake_on_connect should not be specified"):
        context.wrap_socket(client.dup(), server_hostname="localhost")
    options = {"do_handshake_on_connect": False}
    client = closing(context.wrap_socket(client, server_hostname="localhost", **options))
    server = closing(certificates.server_context().wrap_socket(server, server_side=True, **options))
    waiting: dict[Any, int] = {client: select.EPOLLOUT, server: select.EPOLLIN}
    steps = 0
    while waiting:
        poller = select.poll()
        for sock, mask in waiting.items():
            poller.register(sock, mask)
        ready = {fd for fd, _ in poller.poll(PATIENCE_SECONDS * 1000)}
        assert ready
        for sock in [sock for sock in waiting if sock.fileno() in ready]:
            steps += 1
            try:
                sock.do_handshake()
            except ssl.SSLWantReadError:
                waiting[sock] = select.EPOLLIN
            except ssl.SSLWantWriteError:
                waiting[sock] = select.EPOLLOUT
            else:
                del waiting[sock]
    assert 3 <= steps <= 12
    assert client.version() == server.version()


def test_nothing_to_read(tls_pair: Pair) -> None:
    client, server = tls_pair
    server.sendall(b"tickets came before this")
    assert client.recv(100)
    client.setblocking(False)
    assert not is_readable(client)
    with pytest.raises(ssl.SSLWantReadError) as caught:
        client.recv(100)
    assert caught.value.errno == ssl.SSL_ERROR_WANT_READ
    with pytest.raises(ssl.SSLWantReadError):
        client.recv_into(bytearray(10))
    assert not is_readable(client)
    server.sendall(b"now")
    assert is_readable(client, PATIENCE_SECONDS)
    assert client.recv(100) == b"now"
    assert not is_readable(client)


@pytest.mark.parametrize("blocking", [False, True], ids=["nonblocking", "blocking"])
def test_whole_records_stay_where_select_sees_them(tls_pair: Pair, blocking: bool) -> None:
    """What is not decrypted is readable; what is decrypted is pending: never neither."""
    client, server = tls_pair
    server.setblocking(blocking)
    for part in (b"first", b"second", b"third"):
        client.sendall(part)
    for part in (b"first", b"second", b"third"):
        assert is_readable(server, PATIENCE_SECONDS)
        if part == b"third":
            break
        assert server.recv(100) == part
        assert server.pending() == 0
    assert server.recv(2) == b"th"
    assert server.pending() == 3
    assert not is_readable(server)
    assert server.recv(100) == b"ird"
    assert server.pending() == 0


def test_part_of_a_record(make_tls_pair: MakePair, make_pair: Any, certificates: Any) -> None:
    """A record that comes in pieces: consumed as it comes, so select waits for the next piece."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    raw, server = make_pair()
    engine = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    server.setblocking(False)
    server = certificates.server_context().wrap_socket(
        server, server_side=True, do_handshake_on_connect=False
    )
    done = False
    while not done:
        try:
            engine.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        raw.sendall(outgoing.read())
        if not done:
            with pytest.raises(ssl.SSLWantReadError):
                until_readable_once(server, server.do_handshake)
            incoming.write(raw.recv(65536))
    until_done(server, server.do_handshake)
    engine.write(b"in pieces")
    record = outgoing.read()
    for octet in record[:-1]:
        raw.sendall(bytes([octet]))
        assert is_readable(server, PATIENCE_SECONDS)
        with pytest.raises(ssl.SSLWantReadError):
            server.recv(100)
        assert server.pending() == 0
        assert not is_readable(server)
    raw.sendall(record[-1:])
    assert is_readable(server, PATIENCE_SECONDS)
    assert server.recv(2) == b"in"
    assert server.pending() == len(b" pieces")
    server.close()


def until_readable_once(sock: Any, call: Callable[[], Any]) -> None:
    assert is_readable(sock, PATIENCE_SECONDS)
    while True:
        call()


def test_edge_triggered(tls_pair: Pair) -> None:
    client, server = tls_pair
    server.setblocking(False)
    with select.epoll() as poller:
        poller.register(server, select.EPOLLIN | select.EPOLLET)
        client.sendall(b"a" * 40_000)
        total = 0
        while total < 40_000:
            assert poller.poll(PATIENCE_SECONDS), total
            while True:
                try:
                    total += len(server.recv(65536))
                except ssl.SSLWantReadError:
                    break
        assert poller.poll(0) == []
        client.sendall(b"again")
        assert poller.poll(PATIENCE_SECONDS)
        assert server.recv(100) == b"again"


def fill(sock: Any, data: bytes) -> int:
    """Sends the same block until nothing moves any more; how many went whole."""
    for count in range(100_000):
        while True:
            try:
                assert sock.send(data) == len(data)
                break
            except ssl.SSLWantWriteError:
                # What is under way to the peer may still make room.
                if not select.select([], [sock], [], 0.1)[1]:
                    return count
    return pytest.fail("the peer's window has no end")


def test_a_full_buffer(tls_pair: Pair, spawn: Spawn) -> None:
    client, server = tls_pair
    client.setblocking(False)
    data = os.urandom(50_000)
    whole = fill(client, data)
    assert not select.select([], [client], [], 0)[1]
    # Reading is not held up by what could not be written.
    server.sendall(b"other way")
    assert is_readable(client, PATIENCE_SECONDS)
    assert until_done(client, lambda: client.recv(100)) == b"other way"
    reading = spawn(receive_exactly, server, (whole + 2) * len(data))
    # The same again, as OpenSSL wants it; and it is sent once.
    assert until_done(client, lambda: client.send(data)) == len(data)
    assert until_done(client, lambda: client.send(data)) == len(data)
    assert reading.result(PATIENCE_SECONDS) == data * (whole + 2)


def test_a_write_cannot_shrink(tls_pair: Pair) -> None:
    client, _ = tls_pair
    client.setblocking(False)
    fill(client, b"x" * 200_000)
    with pytest.raises(ssl.SSLError) as caught:
        client.send(b"short")
    assert caught.value.reason in ("BAD_LENGTH", "BAD_WRITE_RETRY")
    assert caught.value.library == "SSL"


def test_a_server_on_a_selector(
    client_net: ModuleType,
    server_net: ModuleType,
    host: str,
    certificates: Certificates,
    spawn: Spawn,
    closing: Closing,
) -> None:
    """A whole server in one thread, as asyncore and the like do it; thirty clients at once."""
    context = certificates.server_context()
    listener = closing(server_net.create_server((host, 0), backlog=50))
    listener.setblocking(False)
    blob = os.urandom(100_000)

    def serve(count: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while count:
                ready = selector.select(PATIENCE_SECONDS)
                assert ready
                for key, _ in ready:
                    sock: Any = key.fileobj
                    if sock is listener:
                        raw, _ = sock.accept()
                        raw.setblocking(False)
                        raw = context.wrap_socket(
                            raw, server_side=True, do_handshake_on_connect=False
                        )
                        selector.register(raw, selectors.EVENT_READ, bytearray())
                        continue
                    count -= step(selector, sock, key.data)

    def step(selector: selectors.BaseSelector, sock: Any, store: bytearray) -> int:
        try:
            sock.do_handshake()
            while len(store) < len(blob) or sock.pending():
                store += sock.recv(65536)
            sock.send(bytes(store))
        except ssl.SSLWantReadError:
            selector.modify(sock, selectors.EVENT_READ, store)
            return 0
        except ssl.SSLWantWriteError:
            selector.modify(sock, selectors.EVENT_WRITE, store)
            return 0
        selector.unregister(sock)
        sock.close()
        return 1

    def ask() -> bytes:
        with client_net.create_connection(listener.getsockname(), PATIENCE_SECONDS) as raw:
            client_context = certificates.client_context()
            with client_context.wrap_socket(raw, server_hostname="localhost") as sock:
                sock.sendall(blob)
                return receive_exactly(sock, len(blob))

    serving = spawn(serve, 30)
    answers = [spawn(ask) for _ in range(30)]
    for answer in answers:
        assert answer.result(PATIENCE_SECONDS) == blob
    serving.result(PATIENCE_SECONDS)


def test_a_connect_without_waiting(
    client_net: ModuleType,
    certificates: Certificates,
    spawn: Spawn,
    closing: Closing,
    listener: Any,
) -> None:
    context = certificates.client_context()
    raw = client_net.socket()
    raw.setblocking(False)
    sock = closing(
        context.wrap_socket(raw, server_hostname="localhost", do_handshake_on_connect=False)
    )

    def serve() -> None:
        server, _ = listener.accept()
        server.settimeout(PATIENCE_SECONDS)
        with certificates.server_context().wrap_socket(server, server_side=True) as there:
            there.sendall(b"welcome")
            assert there.recv(100) == b""

    serving = spawn(serve)
    sock.connect_ex(listener.getsockname())
    assert select.select([], [sock], [], PATIENCE_SECONDS)[1]
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == 0
    until_done(sock, sock.do_handshake)
    assert until_done(sock, lambda: sock.recv(100)) == b"welcome"
    sock.close()
    serving.result(PATIENCE_SECONDS)
