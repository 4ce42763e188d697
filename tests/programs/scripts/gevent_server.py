"""gevent, everything patched: its server, sockets, TLS and urllib on top."""

from gevent import monkey

monkey.patch_all()

import os
import socket
import ssl
import sys
import urllib.request

import gevent
from gevent.pywsgi import WSGIServer
from gevent.server import StreamServer

authority, certificate = sys.argv[1:]
server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
client_context = ssl.create_default_context(cafile=authority)
BLOB = os.urandom(200_000)


def echo(sock: socket.socket, _: object) -> None:
    with sock:
        while data := sock.recv(65536):
            sock.sendall(data)


def talk(port: int, context: ssl.SSLContext | None, size: int) -> bool:
    raw = socket.create_connection(("127.0.0.1", port), timeout=30)
    with context.wrap_socket(raw, server_hostname="localhost") if context else raw as sock:
        sending = gevent.spawn(sock.sendall, BLOB[:size])
        received = b""
        while len(received) < size:
            received += sock.recv(65536)
        sending.get()
        return received == BLOB[:size]


for context in (None, client_context):
    options = {"ssl_context": server_context} if context else {}
    server = StreamServer(("127.0.0.1", 0), echo, backlog=200, **options)
    server.start()
    if "pifus" in sys.modules:
        from pifus._compat import _table

        assert server.socket.fileno() in _table.endpoints
    jobs = [gevent.spawn(talk, server.server_port, context, 1000 + number) for number in range(50)]
    jobs.append(gevent.spawn(talk, server.server_port, context, len(BLOB)))
    gevent.joinall(jobs, raise_error=True)
    assert all(job.value for job in jobs)
    server.stop()


def app(environ: object, start_response: object) -> list[bytes]:
    start_response("200 OK", [("Content-Length", str(len(BLOB)))])  # type: ignore[operator]
    return [BLOB]


web = WSGIServer(("127.0.0.1", 0), app, log=None, ssl_context=server_context)
web.start()
url = f"https://localhost:{web.server_port}/"
for _ in range(3):
    with urllib.request.urlopen(url, context=client_context, timeout=30) as response:
        assert response.read() == BLOB
web.stop()
print("all well")
