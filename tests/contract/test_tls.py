"""TLS over the stack behaves as TLS over the kernel: hands, bytes, ends, errors."""

from __future__ import annotations

import errno
import hashlib
import os
import socket as names
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.certificates import Certificates
from tests.contract.conftest import PATIENCE_SECONDS, MakePair, Pair, errno_of, receive_exactly

Spawn = Callable[..., Future[Any]]
Closing = Callable[[Any], Any]

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
# Some interpreters take a reset for an end of the stream; those after them, and we, tell of it.
SWALLOWS_RESETS = sys.version_info < (3, 11, 9) or (3, 12) <= sys.version_info < (3, 12, 3)


@pytest.fixture(params=VERSIONS, ids=[version.name for version in VERSIONS])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    """The version of TLS to speak."""
    return ssl.TLSVersion(request.param)


# ---- hands ----


def test_what_was_agreed(
    make_tls_pair: MakePair, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    context = certificates.client_context(maximum_version=version)
    client, server = make_tls_pair(context)
    assert client.version() == server.version() == version.name.replace("_", ".")
    assert client.cipher() == server.cipher()
    assert server.shared_ciphers()
    assert client.compression() is None
    assert client.context is context
    assert client.server_hostname == "localhost"
    assert server.server_side
    assert not client.server_side
    assert ("DNS", "localhost") in client.getpeercert()["subjectAltName"]
    assert client.getpeercert(binary_form=True)
    assert server.getpeercert() is None
    assert client.selected_alpn_protocol() is None
    if version == ssl.TLSVersion.TLSv1_2:
        binding = client.get_channel_binding("tls-unique")
        assert binding
        assert binding == server.get_channel_binding("tls-unique")


def test_alpn_and_server_name(
    make_tls_pair: MakePair, certificates: Certificates, tls: ModuleType
) -> None:
    asked = []
    special = certificates.server_context()
    special.set_alpn_protocols(["special"])
    special.sni_callback = None

    def on_name(sock: Any, name: str, context: ssl.SSLContext) -> None:
        asked.append((isinstance(sock, tls.SSLSocket), name, context))
        sock.context = special

    server_context = certificates.server_context(sni_callback=on_name)
    server_context.set_alpn_protocols(["ordinary"])
    client_context = certificates.client_context()
    client_context.set_alpn_protocols(["special", "ordinary"])
    client, server = make_tls_pair(client_context, server_context)
    assert asked == [(True, "localhost", server_context)]
    assert server.context is special
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == "special"


def test_a_refused_name_is_an_alert(
    make_pair: Callable[[], Pair], certificates: Certificates, spawn: Spawn
) -> None:
    def refuse(*_: object) -> int:
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    client, server = make_pair()
    context = certificates.server_context(sni_callback=refuse)
    serving = spawn(context.wrap_socket, server, server_side=True)
    with pytest.raises(ssl.SSLError) as caught:
        certificates.client_context().wrap_socket(client, server_hostname="localhost")
    assert caught.value.reason == "TLSV1_UNRECOGNIZED_NAME"
    with pytest.raises(ssl.SSLError):
        serving.result(PATIENCE_SECONDS)


def test_a_client_certificate(
    make_tls_pair: MakePair, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    server_context = certificates.server_context(verify_mode=ssl.CERT_REQUIRED)
    server_context.load_verify_locations(certificates.authority)
    client_context = certificates.client_context(maximum_version=version)
    client_context.load_cert_chain(certificates.client)
    client, server = make_tls_pair(client_context, server_context)
    assert ("email", "client@example.org") in server.getpeercert()["subjectAltName"]
    client.sendall(b"mine")
    assert server.recv(10) == b"mine"


def test_a_missing_client_certificate(
    make_pair: Callable[[], Pair],
    certificates: Certificates,
    spawn: Spawn,
    closing: Closing,
    version: ssl.TLSVersion,
) -> None:
    server_context = certificates.server_context(
        verify_mode=ssl.CERT_REQUIRED, maximum_version=version
    )
    server_context.load_verify_locations(certificates.authority)
    client, server = make_pair()
    serving = spawn(server_context.wrap_socket, server, server_side=True)
    context = certificates.client_context()
    client = closing(
        context.wrap_socket(client, server_hostname="localhost", do_handshake_on_connect=False)
    )
    with pytest.raises(ssl.SSLError) as caught:
        client.recv(1)  # with TLS 1.3 the client has shaken hands when the server finds out
    assert caught.value.reason in (
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "SSLV3_ALERT_HANDSHAKE_FAILURE",
    )
    with pytest.raises(ssl.SSLError) as there:
        serving.result(PATIENCE_SECONDS)
    assert there.value.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


def test_a_certificate_asked_for_later(
    make_tls_pair: MakePair, certificates: Certificates, spawn: Spawn
) -> None:
    server_context = certificates.server_context(post_handshake_auth=True)
    server_context.load_verify_locations(certificates.authority)
    server_context.verify_mode = ssl.CERT_OPTIONAL
    client_context = certificates.client_context(post_handshake_auth=True)
    client_context.load_cert_chain(certificates.client)
    # Not by the handshake: that is what CERT_OPTIONAL does for a client that offers to wait.
    client, server = make_tls_pair(client_context, server_context)
    assert not server.getpeercert()
    server.verify_client_post_handshake()
    server.sendall(b"who?")
    assert client.recv(10) == b"who?"
    client.sendall(b"me")
    assert server.recv(10) == b"me"
    assert ("email", "client@example.org") in server.getpeercert()["subjectAltName"]


def test_an_untrusted_server(
    make_pair: Callable[[], Pair], certificates: Certificates, spawn: Spawn
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.stranger)
    client, server = make_pair()
    serving = spawn(context.wrap_socket, server, server_side=True)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        certificates.client_context().wrap_socket(client, server_hostname="localhost")
    error = caught.value
    assert (error.verify_code, error.reason, error.library) == (
        20,
        "CERTIFICATE_VERIFY_FAILED",
        "SSL",
    )
    assert "unable to get local issuer" in error.verify_message
    with pytest.raises(ssl.SSLError) as there:
        serving.result(PATIENCE_SECONDS)
    assert there.value.reason == "TLSV1_ALERT_UNKNOWN_CA"
    # A failed handshake closes the socket.
    assert client.fileno() == server.fileno() == -1


def test_a_wrong_name(
    make_pair: Callable[[], Pair], certificates: Certificates, spawn: Spawn
) -> None:
    client, server = make_pair()
    serving = spawn(certificates.server_context().wrap_socket, server, server_side=True)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        certificates.client_context().wrap_socket(client, server_hostname="elsewhere.example")
    assert caught.value.verify_code == 62
    with pytest.raises(ssl.SSLError):
        serving.result(PATIENCE_SECONDS)


def test_something_else_than_tls(
    make_pair: Callable[[], Pair], certificates: Certificates, spawn: Spawn
) -> None:
    client, server = make_pair()
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        certificates.server_context().wrap_socket(server, server_side=True)
    assert caught.value.reason == "HTTP_REQUEST"
    client, server = make_pair()
    server.sendall(b"220 ready\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        certificates.client_context().wrap_socket(client, server_hostname="localhost")
    assert caught.value.reason == "WRONG_VERSION_NUMBER"


def test_no_common_version(
    make_pair: Callable[[], Pair], certificates: Certificates, spawn: Spawn
) -> None:
    client, server = make_pair()
    context = certificates.server_context(minimum_version=ssl.TLSVersion.TLSv1_3)
    serving = spawn(context.wrap_socket, server, server_side=True)
    old = certificates.client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ssl.SSLError) as caught:
        old.wrap_socket(client, server_hostname="localhost")
    assert caught.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"
    with pytest.raises(ssl.SSLError) as there:
        serving.result(PATIENCE_SECONDS)
    assert there.value.reason == "UNSUPPORTED_PROTOCOL"


def test_a_session_is_used_again(
    make_tls_pair: MakePair, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    server_context = certificates.server_context()
    client_context = certificates.client_context(maximum_version=version)
    client, server = make_tls_pair(client_context, server_context)
    server.sendall(b"tickets came before this")
    assert client.recv(100)
    session = client.session
    assert session.has_ticket
    assert not client.session_reused
    client, server = make_tls_pair(client_context, server_context, session=session)
    assert client.session_reused
    assert server.session_reused
    client.sendall(b"early")
    assert server.recv(10) == b"early"
    with pytest.raises(ValueError, match="different SSLContext"):
        make_tls_pair(certificates.client_context(), server_context, session=session)


def test_connect_shakes_hands(
    net: ModuleType, certificates: Certificates, spawn: Spawn, closing: Closing, listener: Any
) -> None:
    server_context = certificates.server_context()
    listening = closing(server_context.wrap_socket(listener, server_side=True))
    accepting = spawn(listening.accept)
    raw = net.socket()
    client = closing(certificates.client_context().wrap_socket(raw, server_hostname="localhost"))
    client.settimeout(PATIENCE_SECONDS)
    client.connect(listening.getsockname())
    server, address = accepting.result(PATIENCE_SECONDS)
    closing(server)
    assert address == client.getsockname()
    assert type(server) is type(client)
    client.sendall(b"hello")
    assert server.recv(10) == b"hello"
    with pytest.raises(ValueError, match="already-connected"):
        client.connect(listening.getsockname())


def test_hands_are_shaken_later(make_tls_pair: MakePair, spawn: Spawn) -> None:
    client, server = make_tls_pair(do_handshake_on_connect=False)
    assert client.cipher() is None
    with pytest.raises(ValueError, match="handshake not done"):
        client.getpeercert()
    shaking = spawn(server.do_handshake)
    client.do_handshake()
    shaking.result(PATIENCE_SECONDS)
    assert client.getpeercert()
    # A write or a read does it as well, and once more is no error.
    client.do_handshake()
    client, server = make_tls_pair(do_handshake_on_connect=False)
    reading = spawn(server.recv, 10)
    client.sendall(b"hands first")
    assert reading.result(PATIENCE_SECONDS) == b"hands firs"


def test_a_closed_peer_during_the_handshake(
    make_pair: Callable[[], Pair], certificates: Certificates
) -> None:
    client, server = make_pair()
    server.shutdown(names.SHUT_WR)
    with pytest.raises(ssl.SSLEOFError) as caught:
        certificates.client_context().wrap_socket(client, server_hostname="localhost")
    assert caught.value.args[0] == ssl.SSL_ERROR_EOF


def test_a_reset_during_the_handshake(
    make_pair: Callable[[], Pair], certificates: Certificates, spawn: Spawn
) -> None:
    client, server = make_pair()
    shaking = spawn(certificates.client_context().wrap_socket, client, server_hostname="localhost")
    assert server.recv(1)
    server.setsockopt(names.SOL_SOCKET, names.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    with pytest.raises(ConnectionResetError):
        shaking.result(PATIENCE_SECONDS)


# ---- bytes ----


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


def test_ping_pong_of_odd_sizes(tls_pair: Pair, spawn: Spawn, version: ssl.TLSVersion) -> None:
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
    assert client.recv(100) == b"one way"
    with pytest.raises(ssl.SSLError) as caught:
        client.send(b"after the end")
    assert caught.value.reason == "PROTOCOL_IS_SHUTDOWN"
    unwrapping = spawn(server.unwrap)
    client.settimeout(PATIENCE_SECONDS)
    assert client.unwrap() is client
    assert unwrapping.result(PATIENCE_SECONDS) is server


def test_a_ragged_end(make_tls_pair: MakePair) -> None:
    client, server = make_tls_pair()
    client.sendall(b"cut")
    client.shutdown(names.SHUT_WR)
    assert server.recv(100) == b"cut"
    assert server.recv(100) == b""
    assert server.recv_into(bytearray(10)) == 0
    client, server = make_tls_pair(suppress_ragged_eofs=False)
    client.shutdown(names.SHUT_WR)
    with pytest.raises(ssl.SSLEOFError) as caught:
        server.recv(100)
    assert caught.value.args[0] == ssl.SSL_ERROR_EOF
    with pytest.raises(OSError):  # noqa: PT011 - which one differs between OpenSSL's versions
        server.unwrap()


def test_a_reset(net: ModuleType, tls_pair: Pair) -> None:
    client, server = tls_pair
    client.setsockopt(names.SOL_SOCKET, names.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    if SWALLOWS_RESETS and net is names:
        assert server.recv(100) == b""
    else:
        with pytest.raises(ConnectionResetError):
            server.recv(100)
    with pytest.raises(ssl.SSLError if SWALLOWS_RESETS and net is names else BrokenPipeError):
        server.sendall(b"x" * 1_000_000)


def test_closed_and_detached(make_tls_pair: MakePair, net: ModuleType, closing: Closing) -> None:
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
    raw = closing(net.socket(fileno=fd))
    assert raw.getsockname()
    assert raw.recv(100) == b""  # an SSLSocket's close sends no close_notify


def test_shutdown_ends_tls_too(tls_pair: Pair) -> None:
    client, server = tls_pair
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


def test_a_reader_and_a_writer_at_once(tls_pair: Pair, spawn: Spawn) -> None:
    client, server = tls_pair
    reading = spawn(client.recv, 10)
    for _ in range(100):
        client.sendall(b"x" * 1000)
        assert receive_exactly(server, 1000)
    assert not reading.done()
    server.sendall(b"at last")
    assert reading.result(PATIENCE_SECONDS) == b"at last"


def test_a_blocked_writer_does_not_hold_up_the_reader(tls_pair: Pair, spawn: Spawn) -> None:
    client, server = tls_pair
    writing = spawn(client.sendall, b"x" * 8_000_000)
    server.sendall(b"for the reader")
    assert client.recv(100) == b"for the reader"
    assert len(receive_exactly(server, 8_000_000)) == 8_000_000
    writing.result(PATIENCE_SECONDS)
