"""TLS over the stack behaves as TLS over the kernel: hands and certificates."""

from __future__ import annotations

import socket as names
import ssl
import struct
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType
from typing import Any

import pytest

from tests.certificates import Certificates
from tests.contract.conftest import PATIENCE_SECONDS, MakePair, Pair

Spawn = Callable[..., Future[Any]]
Closing = Callable[[Any], Any]

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


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
    client_net: ModuleType,
    certificates: Certificates,
    spawn: Spawn,
    closing: Closing,
    listener: Any,
) -> None:
    server_context = certificates.server_context()
    listening = closing(server_context.wrap_socket(listener, server_side=True))
    accepting = spawn(listening.accept)
    raw = client_net.socket()
    client = closing(certificates.client_context().wrap_socket(raw, server_hostname="localhost"))
    client.settimeout(PATIENCE_SECONDS)
    client.connect(listening.getsockname())
    server, address = accepting.result(PATIENCE_SECONDS)
    closing(server)
    assert address == client.getsockname()
    assert type(server) is type(listening)
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
    make_pair: Callable[[], Pair], certificates: Certificates, tells_ragged_ends: bool
) -> None:
    client, server = make_pair()
    server.shutdown(names.SHUT_WR)
    wanted = ssl.SSLEOFError if tells_ragged_ends else ssl.SSLZeroReturnError
    with pytest.raises(wanted) as caught:
        certificates.client_context().wrap_socket(client, server_hostname="localhost")
    code = ssl.SSL_ERROR_EOF if tells_ragged_ends else ssl.SSL_ERROR_ZERO_RETURN
    assert caught.value.args[0] == code


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
