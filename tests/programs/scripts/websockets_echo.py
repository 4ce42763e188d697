"""`websockets`: its asyncio and its threading server and client, TLS, compression, broadcasts."""

import asyncio
import os
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import broadcast, serve
from websockets.sync.client import connect as sync_connect
from websockets.sync.server import serve as sync_serve

authority, certificate = sys.argv[1:]
server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
client_context = ssl.create_default_context(cafile=authority)
SIZES = (0, 1, 125, 126, 65_535, 65_536, 1_000_000)
BLOB = os.urandom(max(SIZES) // 2) + bytes(max(SIZES) // 2)


async def asynchronous(secure: bool) -> None:
    async def echo(connection: websockets.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(
        echo, "127.0.0.1", 0, max_size=None, ssl=server_context if secure else None
    ) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"{'wss' if secure else 'ws'}://localhost:{port}"
        options = {"max_size": None, "ssl": client_context if secure else None, "proxy": None}

        async def talk() -> None:
            async with connect(url, **options) as client:
                for size in SIZES:
                    await client.send(BLOB[:size])
                    assert await client.recv() == BLOB[:size]
                await client.send(BLOB[number : number + 1000] for number in range(0, 5000, 1000))
                assert await client.recv() == BLOB[:5000]

        await asyncio.gather(*(talk() for _ in range(20)))
        listeners = [await connect(url, **options) for _ in range(20)]
        for each in listeners:  # whoever has answered is connected
            await each.send("there?")
            assert await each.recv() == "there?"
        broadcast(server.connections, "to all")
        assert await asyncio.gather(*(each.recv() for each in listeners)) == ["to all"] * 20
        await asyncio.gather(*(each.close() for each in listeners))


def threaded(secure: bool) -> None:
    def echo(connection: websockets.sync.server.ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    options = {"max_size": None, "ssl": client_context if secure else None, "proxy": None}

    def talk(port: int) -> None:
        url = f"{'wss' if secure else 'ws'}://localhost:{port}"
        with sync_connect(url, **options) as client:
            for size in SIZES:
                client.send(BLOB[:size])
                assert client.recv() == BLOB[:size]
            assert client.ping().wait(30)

    context = server_context if secure else None
    with sync_serve(echo, "127.0.0.1", 0, max_size=None, ssl=context) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(talk, [server.socket.getsockname()[1]] * 20))
        server.shutdown()
        thread.join()


for secure in (False, True):
    asyncio.run(asynchronous(secure))
    threaded(secure)
print("all well")
