"""An aiohttp server, plain and over TLS, and its clients: requests, urllib3, httpx, aiohttp."""

import asyncio
import os
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import httpx
import requests
import urllib3
from aiohttp import web

authority, certificate = sys.argv[1:]
server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
client_context = ssl.create_default_context(cafile=authority)
BLOB = os.urandom(500_000)


async def get(_: web.Request) -> web.Response:
    return web.Response(body=BLOB)


async def post(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), status=201)


async def socket(request: web.Request) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(max_msg_size=0)
    await connection.prepare(request)
    async for message in connection:
        await connection.send_bytes(message.data[::-1])
    return connection


async def serve(started: "asyncio.Future[list[int]]", ended: asyncio.Event) -> None:
    app = web.Application(client_max_size=2**30)
    app.add_routes([web.get("/", get), web.post("/", post), web.get("/socket", socket)])
    runner = web.AppRunner(app)
    await runner.setup()
    for context in (None, server_context):
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context, backlog=200).start()
    started.set_result([address[1] for address in runner.addresses])
    await ended.wait()
    await runner.cleanup()


def synchronous(url: str) -> None:
    with requests.Session() as session:
        session.trust_env = False  # else a variable of the environment names the authorities
        session.verify = authority
        for _ in range(5):
            assert session.get(url, timeout=30).content == BLOB
            answer = session.post(url, data=BLOB, timeout=30)
            assert (answer.status_code, answer.content) == (201, BLOB)
        with session.get(url, stream=True, timeout=30) as response:
            assert b"".join(response.iter_content(10_000)) == BLOB
    with urllib3.PoolManager(ca_certs=authority) as pool:
        for _ in range(3):
            assert pool.request("GET", url, timeout=30).data == BLOB
        # One connection for all: none was taken for dropped.
        (host,) = pool.pools.keys()
        assert pool.pools[host].num_connections == 1
    with httpx.Client(verify=client_context) as client:
        for _ in range(3):
            assert client.get(url, timeout=30).content == BLOB
    if url.startswith("https"):
        try:
            requests.get(url, timeout=30)
        except requests.exceptions.SSLError as error:
            assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        else:
            raise AssertionError("an unknown authority was trusted")


async def asynchronous(url: str) -> None:
    async with httpx.AsyncClient(verify=client_context) as client:
        assert (await client.post(url, content=BLOB, timeout=30)).content == BLOB
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100)) as session:

        async def ask() -> bool:
            async with session.get(url, ssl=client_context) as response:
                return await response.read() == BLOB

        assert all(await asyncio.gather(*(ask() for _ in range(100))))
        socket_url = url.replace("http", "ws", 1) + "socket"
        async with session.ws_connect(socket_url, ssl=client_context, max_msg_size=0) as connection:
            for size in (1, 125, 126, 65536, 300_000):
                await connection.send_bytes(BLOB[:size])
                assert (await connection.receive()).data == BLOB[:size][::-1]


async def main() -> None:
    started = asyncio.get_running_loop().create_future()
    ended = asyncio.Event()
    serving = asyncio.create_task(serve(started, ended))
    plain, secure = await started
    for url in (f"http://localhost:{plain}/", f"https://localhost:{secure}/"):
        with ThreadPoolExecutor(4) as pool:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(pool, synchronous, url) for _ in range(4)))
        await asynchronous(url)
    ended.set()
    await serving


asyncio.run(main())
assert threading.active_count() == 1
print("all well")
