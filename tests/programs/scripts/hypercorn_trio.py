"""`hypercorn`: HTTP/1.1, HTTP/2 over TLS and websockets; workers of trio and of asyncio."""

import asyncio
import ssl
import subprocess
import sys

from asgi_clients import requests, sockets
from peers import free_port, python, serving

authority, certificate = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)


async def ask(port: int, secure: bool) -> None:
    if secure:
        await requests(f"https://localhost:{port}", context, http2=True)
    await requests(f"http{'s' if secure else ''}://localhost:{port}", context)
    await sockets(f"ws{'s' if secure else ''}://localhost:{port}/", context if secure else None)


for worker, secure in (("trio", False), ("trio", True), ("asyncio", True)):
    port = free_port()
    options = ["--worker-class", worker, "--bind", f"127.0.0.1:{port}"]
    if secure:
        options += ["--certfile", certificate, "--keyfile", certificate]
    command = python("-m", "hypercorn", *options, f"{sys.path[0]}/asgi_app.py:app")
    with serving("Running on", *command) as server:
        asyncio.run(ask(port, secure))

# A worker that fails says why, and nothing else: its sockets die with the interpreter.
words = ("-m", "hypercorn", "-k", "trio", "--bind", f"127.0.0.1:{free_port()}", "no:such:app")
failed = subprocess.run(python(*words), capture_output=True, text=True, timeout=60, check=False)
assert "Invalid mode" in failed.stderr
assert "Exception ignored" not in failed.stderr, failed.stderr
print("all well")
