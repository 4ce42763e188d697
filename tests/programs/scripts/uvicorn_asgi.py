"""`uvicorn`: HTTP/1.1 and websockets, plain and TLS, 100 requests at once; 2 worker processes."""

import asyncio
import ssl
import sys

from asgi_clients import requests, sockets
from peers import free_port, python, serving

authority, certificate = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
SCRIPTS = sys.path[0]
READY = "Uvicorn running on"


def command(port: int, *options: str) -> tuple[str, ...]:
    words = ("uvicorn", "--app-dir", SCRIPTS, "--port", str(port), "--ws-max-size", "99999999")
    return python("-m", *words, *options, "asgi_app:app")


async def ask(port: int, secure: bool) -> set[str]:
    used = context if secure else None
    await sockets(f"{'wss' if secure else 'ws'}://localhost:{port}/", used)
    return await requests(f"{'https' if secure else 'http'}://localhost:{port}", used)


for options in ((), ("--loop", "asyncio", "--http", "h11", "--ssl-certfile", certificate)):
    port = free_port()
    with serving(READY, *command(port, *options)) as server:
        assert asyncio.run(ask(port, bool(options))) == {str(server.process.pid)}

port = free_port()
with serving("Application startup complete", *command(port, "--workers", "2"), times=2) as server:
    processes = asyncio.run(ask(port, False))
    assert str(server.process.pid) not in processes
print("all well")
