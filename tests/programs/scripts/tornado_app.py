"""A tornado server, plain and over TLS (by SSLSockets without blocking), and its client."""

import asyncio
import os
import ssl
import sys

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.tcpclient import TCPClient
from tornado.tcpserver import TCPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

authority, certificate = sys.argv[1:]
server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
client_context = ssl.create_default_context(cafile=authority)
BLOB = os.urandom(400_000)


class Handler(RequestHandler):
    def get(self) -> None:
        self.write(BLOB)

    def post(self) -> None:
        self.write(self.request.body)


class Echo(TCPServer):
    async def handle_stream(self, stream: object, address: object) -> None:
        try:
            while True:
                await stream.write(await stream.read_bytes(65536, partial=True))
        except StreamClosedError:
            pass


async def web(secure: bool) -> None:
    listener, port = bind_unused_port()
    server = HTTPServer(
        Application([("/", Handler)]), ssl_options=server_context if secure else None
    )
    server.add_socket(listener)
    client = AsyncHTTPClient(force_instance=True)
    url = f"{'https' if secure else 'http'}://localhost:{port}/"

    async def ask(body: bytes | None) -> bytes:
        request = HTTPRequest(
            url,
            "POST" if body else "GET",
            {"Content-Type": "application/octet-stream"},
            body,
            ssl_options=client_context if secure else None,
        )
        return (await client.fetch(request)).body

    assert await ask(None) == BLOB
    assert await ask(BLOB) == BLOB
    assert all(answer == BLOB for answer in await asyncio.gather(*(ask(None) for _ in range(50))))
    client.close()
    server.stop()
    await server.close_all_connections()


async def streams(secure: bool) -> None:
    listener, port = bind_unused_port()
    server = Echo(ssl_options=server_context if secure else None)
    server.add_socket(listener)
    stream = await TCPClient().connect(
        "localhost", port, ssl_options=client_context if secure else None
    )
    for size in (1, 1000, 16384, 300_000):
        writing = asyncio.ensure_future(stream.write(BLOB[:size]))
        assert await stream.read_bytes(size) == BLOB[:size]
        await writing
    stream.close()
    server.stop()


async def main() -> None:
    for secure in (False, True):
        await web(secure)
        await streams(secure)


asyncio.run(main())
print("all well")
