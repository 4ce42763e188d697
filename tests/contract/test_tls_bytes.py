"""TLS over the stack as over the kernel: bytes, ends, time-outs, threads."""

from __future__ import annotations

import errno
import hashlib
import os
import socket as names
import ssl
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.certificates import Certificates
from tests.contract.conftest import (
    PATIENCE_SECONDS,
    MakePair,
    Pair,
    errno_of,
    receive_exactly,
    until_done,
)

Spawn = Callable[..., Future[Any]]
Closing = Callable[[Any], Any]

# On a descriptor the engine of some interpreters may not be read and written at once.
PIFUS_ONLY = pytest.mark.legs(
    "pifus", "tap", reason="OpenSSL on a descriptor is not for two threads"
)


# ---- bytes ----


@PIFUS_ONLY
def test_many_bytes_both_ways_at_once(tls_pair: Pair, spawn: Spawn) -> None:
    client, server = tls_pair
    sent = {sock: os.urandom(5_000_000) for sock in tls_pair}
    senders = [spawn(sock.sendall, sent[sock]) for sock in tls_pair]
    readers = [spawn(receive_exactly, sock, 5_000_000) for sock in tls_pair]
    there, here = (reader.result(PATIENCE_SECONDS) for reader in readers)
    for sender in senders:
        sender.result(PATIENCE_SECONDS)
    assert hashlib.sha256(there).digest() == hashlib.sha256(sent[server]).digest()
    assert hashlib.sha256(here).digest() == hashlib.sha256(sent[client]).digest()


def test_ping_pong_of_odd_sizes(tls_pair: Pair, spawn: Spawn) -> None:
    client, server = tls_pair
    sizes = [1, 2, 1000, 16383, 16384, 16385, 40000, 1, 70000]

    def echo() -> None:
        for size in sizes:
            server.sendall(receive_exactly(server, size))

    echoing = spawn(echo)
    for size in sizes:
        data = os.urandom(size)
        client.sendall(data)
        assert receive_exactly(client, size) == data
    echoing.result(PATIENCE_SECONDS)


def test_the_rest_of_a_record_is_pending(tls_pair: Pair) -> None:
    client, server = tls_pair
    assert server.pending() == 0
    assert client.send(b"x" * 100_000) == 100_000
    assert server.recv(1000) == b"x" * 1000
    assert server.pending() == 16384 - 1000
    # No call hands out more than one record.
    assert len(server.recv(100_000)) == 16384 - 1000
    assert server.pending() == 0
    assert len(server.recv(100_000)) == 16384


def test_into_buffers(tls_pair: Pair) -> None:
    client, server = tls_pair
    client.sendall(b"0123456789")
    buffer = bytearray(4)
    assert server.recv_into(buffer) == 4
    assert buffer == b"0123"
    assert server.recv_into(buffer, 2) == 2
    assert buffer == b"4523"
    assert server.read(2) == b"67"
    view = memoryview(bytearray(6))
    assert server.read(100, view) == 2
    assert view.tobytes() == b"89\0\0\0\0"
    assert server.recv(0) == b""
    with pytest.raises(TypeError):
        server.recv_into(b"readonly")
    with pytest.raises(ValueError, match="negative"):
        server.recv(-1)
    assert client.write(memoryview(b"abc")[::1]) == 3
    assert server.read() == b"abc"
    assert client.send(b"") == 0
    client.sendall(bytearray(b"more"))
    assert server.recv(10) == b"more"


def test_files(tls_pair: Pair, tmp_path: Path, spawn: Spawn) -> None:
    client, server = tls_pair
    with client.makefile("rwb") as here, server.makefile("rwb") as there:
        here.write(b"a line\nanother")
        here.flush()
        assert there.readline() == b"a line\n"
        assert there.read(7) == b"another"
    content = os.urandom(300_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        sending = spawn(client.sendfile, file, 1000)
        assert receive_exactly(server, 299_000) == content[1000:]
        assert sending.result(PATIENCE_SECONDS) == 299_000


def test_what_tls_does_not_have(tls_pair: Pair) -> None:
    client, _ = tls_pair
    for call in (client.dup, lambda: client.sendmsg([b"x"]), lambda: client.recvmsg(1)):
        with pytest.raises(NotImplementedError):
            call()
    with pytest.raises(ValueError, match="recvfrom not allowed"):
        client.recvfrom(10)
    with pytest.raises(ValueError, match="sendto not allowed"):
        client.sendto(b"x", ("127.0.0.1", 1))
    for call in (
        lambda: client.recv(1, names.MSG_PEEK),
        lambda: client.send(b"x", names.MSG_DONTWAIT),
        lambda: client.sendall(b"x", names.MSG_DONTWAIT),
    ):
        with pytest.raises(ValueError, match="non-zero flags"):
            call()


# ---- ends ----


def test_unwrap_goes_on_in_the_clear(tls_pair: Pair, spawn: Spawn) -> None:
    client, server = tls_pair

    def leave() -> Any:
        assert server.recv(100) == b""  # the peer's close_notify
        plain = server.unwrap()
        # Right behind the record: not a byte of this may end in the other side's engine.
        plain.sendall(b"clear text")
        return plain

    leaving = spawn(leave)
    plain = client.unwrap()
    assert plain is client
    assert plain.recv(100) == b"clear text"
    there = leaving.result(PATIENCE_SECONDS)
    plain.sendall(b"and back")
    assert there.recv(100) == b"and back"
    assert plain.version() is None
    with pytest.raises(ValueError, match="No SSL wrapper"):
        plain.unwrap()
    with pytest.raises(ValueError, match="Read on closed or unwrapped"):
        plain.read()


def test_a_clean_end(tls_pair: Pair, spawn: Spawn) -> None:
    client, server = tls_pair
    client.sendall(b"last")
    client.settimeout(0)
    with pytest.raises(ssl.SSLWantReadError):
        client.unwrap()
    assert server.recv(100) == b"last"
    assert server.recv(100) == b""
    assert server.recv(100) == b""
    server.sendall(b"one way")
    assert until_done(client, lambda: client.recv(100)) == b"one way"
    with pytest.raises(ssl.SSLError) as caught:
        client.send(b"after the end")
    assert caught.value.reason == "PROTOCOL_IS_SHUTDOWN"
    unwrapping = spawn(server.unwrap)
    client.settimeout(PATIENCE_SECONDS)
    assert client.unwrap() is client
    assert unwrapping.result(PATIENCE_SECONDS) is server


def test_a_ragged_end(make_tls_pair: MakePair, tells_ragged_ends: bool) -> None:
    client, server = make_tls_pair()
    client.sendall(b"cut")
    client.shutdown(names.SHUT_WR)
    assert server.recv(100) == b"cut"
    assert server.recv(100) == b""
    assert server.recv_into(bytearray(10)) == 0
    client, server = make_tls_pair(suppress_ragged_eofs=False)
    client.shutdown(names.SHUT_WR)
    if not tells_ragged_ends:
        assert server.recv(100) == b""
        return
    with pytest.raises(ssl.SSLEOFError) as caught:
        server.recv(100)
    assert caught.value.args[0] == ssl.SSL_ERROR_EOF
    with pytest.raises(OSError):  # noqa: PT011 - which one differs between OpenSSL's versions
        server.unwrap()


@pytest.fixture
def takes_resets_for_ends(certificates: Certificates, closing: Closing) -> bool:
    """True where this interpreter does: those before 3.12.3."""
    ours, theirs = names.socketpair()
    ours.send(b"unread")
    theirs.close()
    context = certificates.server_context()
    ours = closing(context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False))
    try:
        ours.recv(1)
    except ConnectionResetError:
        return False
    return True


def test_a_reset(tls_pair: Pair, takes_resets_for_ends: bool) -> None:
    client, server = tls_pair
    client.setsockopt(names.SOL_SOCKET, names.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    if takes_resets_for_ends:
        assert server.recv(100) == b""
        with pytest.raises(ssl.SSLEOFError):
            server.sendall(b"x" * 1_000_000)
        return
    with pytest.raises(ConnectionResetError):
        server.recv(100)
    with pytest.raises(BrokenPipeError):
        server.sendall(b"x" * 1_000_000)


def test_closed_and_detached(
    make_tls_pair: MakePair, server_net: ModuleType, closing: Closing
) -> None:
    client, server = make_tls_pair()
    server.sendall(b"tickets came before this")  # else the close resets the connection
    assert client.recv(100)
    client.close()
    assert client.fileno() == -1
    with pytest.raises(ValueError, match="closed or unwrapped"):
        client.read()
    assert errno_of(client.recv, 1) == errno.EBADF
    assert client.pending() == 0
    fd = server.detach()
    raw = closing(server_net.socket(fileno=fd))
    assert raw.getsockname()
    raw.settimeout(PATIENCE_SECONDS)
    assert raw.recv(100) == b""  # an SSLSocket's close sends no close_notify


def test_shutdown_ends_tls_too(tls_pair: Pair) -> None:
    client, server = tls_pair
    # With what comes before it, the session tickets: one that came after the end would be refused.
    server.sendall(b"x")
    assert client.recv(1) == b"x"
    client.shutdown(names.SHUT_RDWR)
    assert client.version() is None
    assert server.recv(10) == b""


# ---- time ----


def test_time_outs(tls_pair: Pair) -> None:
    client, server = tls_pair
    client.settimeout(0.05)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="The read operation timed out"):
        client.recv(10)
    assert 0.04 < time.monotonic() - start < 5
    with pytest.raises(TimeoutError, match="The write operation timed out"):
        client.sendall(b"x" * 50_000_000)
    server.sendall(b"late")
    client.settimeout(PATIENCE_SECONDS)
    assert client.recv(10) == b"late"


def test_the_time_of_a_call_is_its_whole_time(tls_pair: Pair, spawn: Spawn) -> None:
    """Bytes that trickle in do not make a handshake, or a read, last longer."""
    client, server = tls_pair
    stop = threading.Event()

    def trickle() -> None:
        server._sslobj = None  # from here on in the clear
        server.sendall(b"\x17\x03\x03\x40\x00")
        while not stop.wait(0.02):
            server.sendall(b"x")

    trickling = spawn(trickle)
    client.settimeout(0.3)
    start = time.monotonic()
    try:
        with pytest.raises(TimeoutError):
            client.recv(10)
    finally:
        stop.set()
    assert time.monotonic() - start < 5
    trickling.result(PATIENCE_SECONDS)


def test_a_handshake_that_stalls(make_pair: Callable[[], Pair], certificates: Certificates) -> None:
    client, _ = make_pair()
    client.settimeout(0.05)
    with pytest.raises(TimeoutError, match="The handshake operation timed out"):
        certificates.client_context().wrap_socket(client, server_hostname="localhost")


# ---- threads ----


@PIFUS_ONLY
def test_a_reader_and_a_writer_at_once(tls_pair: Pair, spawn: Spawn) -> None:
    client, server = tls_pair
    reading = spawn(client.recv, 10)
    for _ in range(100):
        client.sendall(b"x" * 1000)
        assert receive_exactly(server, 1000)
    assert not reading.done()
    server.sendall(b"at last")
    assert reading.result(PATIENCE_SECONDS) == b"at last"


@PIFUS_ONLY
def test_a_blocked_writer_does_not_hold_up_the_reader(tls_pair: Pair, spawn: Spawn) -> None:
    client, server = tls_pair
    writing = spawn(client.sendall, b"x" * 8_000_000)
    server.sendall(b"for the reader")
    assert client.recv(100) == b"for the reader"
    assert len(receive_exactly(server, 8_000_000)) == 8_000_000
    writing.result(PATIENCE_SECONDS)
