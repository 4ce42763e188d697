"""curio: TCP and TLS, many at once."""

import os
import ssl
import sys

import curio
import curio.ssl

authority, certificate = sys.argv[1:]
server_context = curio.ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
client_context = curio.ssl.create_default_context(cafile=authority)


async def echo(client: curio.io.Socket, _: object) -> None:
    async with client:
        while data := await client.recv(65536):
            await client.sendall(data)


async def talk(port: int, secure: bool) -> None:
    options = {"ssl": client_context, "server_hostname": "localhost"} if secure else {}
    data = os.urandom(20_000)
    async with await curio.open_connection("127.0.0.1", port, **options) as sock:
        await sock.sendall(data)
        received = b""
        while len(received) < len(data):
            received += await sock.recv(65536)
        assert received == data


async def main() -> None:
    for secure in (False, True):
        listener = curio.tcp_server_socket("127.0.0.1", 0, backlog=100)
        port = listener.getsockname()[1]
        context = server_context if secure else None
        server = await curio.spawn(curio.network.run_server, listener, echo, context)
        async with curio.TaskGroup() as group:
            for _ in range(50):
                await group.spawn(talk, port, secure)
        await server.cancel()


curio.run(main)
print("all well")
