"""pyOpenSSL, which gives its sockets' descriptors to OpenSSL: kernel and pifus alike."""

from __future__ import annotations

import pytest

from tests.certificates import Certificates
from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture

pytest.importorskip("OpenSSL", reason="in the dev group, by twisted[tls]: ./dev installs it")

CONNECTIONS = (
    HEAD
    + """
from concurrent.futures import ThreadPoolExecutor
from OpenSSL import SSL
authority, certificate = sys.argv[1:]
BLOB = os.urandom(1_000_000) * 3
server_context = SSL.Context(SSL.TLS_SERVER_METHOD)
server_context.use_certificate_chain_file(certificate)
server_context.use_privatekey_file(certificate)
client_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
client_context.load_verify_locations(authority)
client_context.set_verify(SSL.VERIFY_PEER)
def connections():
    near, far = pair()
    server = SSL.Connection(server_context, far)
    server.set_accept_state()
    client = SSL.Connection(client_context, near)
    client.set_tlsext_host_name(b"localhost")
    client.set_connect_state()
    return server, client
def receive(connection, count):
    parts = []
    while count:
        parts.append(connection.recv(min(count, 10_000)))
        count -= len(parts[-1])
    return b"".join(parts)
def patiently(connection, call, *arguments):
    # Calls until it has done what it is to do, waiting by select alone.
    while True:
        try:
            return call(*arguments)
        except SSL.WantReadError:
            assert select.select([connection], [], [], 20)[0]
        except SSL.WantWriteError:
            assert select.select([], [connection], [], 20)[1]
"""
)


def check(run: Run, certificates: Certificates, code: str) -> None:  # noqa: F811
    authority, server = str(certificates.authority), str(certificates.server)
    assert run(CONNECTIONS + code + "print('ok')", authority, server) == "ok\n"


def test_blocking(run: Run, certificates: Certificates) -> None:  # noqa: F811
    code = """
server, client = connections()
def serve():
    server.do_handshake()
    server.sendall(receive(server, len(BLOB)))
    while True:
        try:
            server.recv(1)
        except SSL.ZeroReturnError:
            break
    server.shutdown()
    server.close()
with ThreadPoolExecutor() as pool:
    serving = pool.submit(serve)
    client.do_handshake()
    client.sendall(BLOB)
    assert receive(client, len(BLOB)) == BLOB
    assert not client.shutdown()
    assert client.shutdown()
    serving.result()
client.close()
"""
    check(run, certificates, code)


def test_without_blocking(run: Run, certificates: Certificates) -> None:  # noqa: F811
    code = """
server, client = connections()
for connection in (server, client):
    connection.setblocking(False)
try:
    server.do_handshake()
except SSL.WantReadError:
    pass
def send(connection):
    patiently(connection, connection.do_handshake)
    sent = 0
    while sent < len(BLOB):
        part = BLOB[sent:sent + 50_000]
        sent += patiently(connection, connection.send, part)
def take(connection):
    patiently(connection, connection.do_handshake)
    got = bytearray()
    part = bytearray(20_000)
    while len(got) < len(BLOB):
        got += part[:patiently(connection, connection.recv_into, part)]
    return bytes(got)
for sender, receiver in ((client, server), (server, client)):
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(send, sender)
        assert take(receiver) == BLOB
        sending.result()
assert not select.select([server], [], [], 0)[0]
client.send(b"x" * 10)
client.send(b"y" * 10)
assert select.select([server], [], [], 20)[0]
assert patiently(server, server.recv, 100) == b"x" * 10
# A record is as a whole in the socket, or decrypted.
assert server.pending() or select.select([server], [], [], 20)[0]
assert patiently(server, server.recv, 4) == b"yyyy"
assert server.pending() == 6
"""
    check(run, certificates, code)


def test_what_was_tried_in_vain_goes_once(run: Run, certificates: Certificates) -> None:  # noqa: F811
    code = """
server, client = connections()
with ThreadPoolExecutor() as pool:
    shaking = pool.submit(server.do_handshake)
    client.do_handshake()
    shaking.result()
for connection in (server, client):
    connection.setblocking(False)
BLOB *= 5  # more than the kernel keeps on its loopback
parts = [BLOB[at:at + 50_000] for at in range(0, len(BLOB), 50_000)]
in_vain = 0
while in_vain < 5:  # the same bytes each time, as OpenSSL wants it
    try:
        parts[0] = parts[0][client.send(parts[0]):]
        if not parts[0]:
            del parts[0]
    except SSL.WantWriteError:
        in_vain += 1
        try:
            client.recv(1)
        except (SSL.WantReadError, SSL.WantWriteError):
            pass
def rest():
    for part in parts:
        while part:
            part = part[patiently(client, client.send, part):]
got = bytearray()
room = bytearray(20_000)
with ThreadPoolExecutor() as pool:
    sending = pool.submit(rest)
    while len(got) < len(BLOB):
        got += room[:patiently(server, server.recv_into, room)]
    sending.result()
assert got == BLOB
"""
    check(run, certificates, code)


def test_ends(run: Run, certificates: Certificates) -> None:  # noqa: F811
    code = """
server, client = connections()
with ThreadPoolExecutor() as pool:
    shaking = pool.submit(server.do_handshake)
    client.do_handshake()
    shaking.result()
client.sock_shutdown(socket.SHUT_WR)
try:
    server.recv(1)
except SSL.SysCallError as error:
    assert error.args == (-1, "Unexpected EOF"), error.args
client.close()
server.close()
try:
    connection = SSL.Connection(client_context, socket.socket())
    connection.set_connect_state()
    connection.do_handshake()
except SSL.SysCallError as error:
    assert error.args[1] in ("EPIPE", "ENOTCONN"), error.args
connection.close()
"""
    check(run, certificates, code)
