"""python-socketio: rooms, answers and bytes, by polling and websocket; asyncio and threads."""

import asyncio
import threading

import socketio
from aiohttp import web

SECONDS = 30
TEXT = "x" * 10_000


def serve(application: web.Application) -> None:
    server = socketio.AsyncServer(async_mode="aiohttp")
    server.attach(application)

    @server.event
    async def connect(sid: str, environ: dict[str, str]) -> None:
        await server.enter_room(sid, "all")

    @server.event
    async def echo(sid: str, data: object) -> object:
        await server.emit("back", data, room=sid)
        return ["got", len(data)]

    @server.event
    async def everybody(sid: str, data: object) -> None:
        await server.emit("news", data, room="all")


async def asynchronous(url: str, transports: list[str], ready: asyncio.Barrier) -> None:
    client = socketio.AsyncClient()
    back: asyncio.Queue = asyncio.Queue()
    news: asyncio.Queue = asyncio.Queue()
    client.on("back", back.put)
    client.on("news", news.put)
    await client.connect(url, transports=transports)
    for data in (TEXT, bytes(5000)):
        assert await client.call("echo", data) == ["got", len(data)]
        assert await asyncio.wait_for(back.get(), SECONDS) == data
    await ready.wait()
    await client.emit("everybody", "hello")
    for _ in range(ready.parties):
        assert await asyncio.wait_for(news.get(), SECONDS) == "hello"
    await ready.wait()
    await client.disconnect()


def synchronous(url: str) -> None:
    client = socketio.Client()
    heard = threading.Event()
    client.on("back", lambda _data: heard.set())
    client.connect(url)
    client.emit("echo", "in a thread")
    assert heard.wait(SECONDS)
    client.disconnect()


async def main() -> None:
    application = web.Application()
    serve(application)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    ways = [["websocket"], ["polling"], ["polling", "websocket"]] * 3
    ready = asyncio.Barrier(len(ways))
    await asyncio.gather(*(asynchronous(url, way, ready) for way in ways))
    await asyncio.gather(*(asyncio.to_thread(synchronous, url) for _ in range(4)))
    await runner.cleanup()


asyncio.run(main())
print("all well")
