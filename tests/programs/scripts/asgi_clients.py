"""What is asked of an ASGI server by its clients: httpx and websockets."""

import asyncio
import hashlib
import os
import ssl

import httpx
import websockets
from asgi_app import STREAM

BLOB = os.urandom(1_000_000)
AT_ONCE = 100


async def requests(url: str, context: ssl.SSLContext | None, http2: bool = False) -> set[str]:
    """Many at once, a large upload, a stream; the processes that answered."""
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with httpx.AsyncClient(
        verify=context or True, http2=http2, limits=limits, timeout=60, trust_env=False
    ) as client:

        async def post(number: int) -> str:
            body = BLOB[: number * 100]
            answer = await client.post(f"{url}/{number}", content=body)
            assert answer.content == b"%d" % len(body)
            assert answer.headers["x-digest"] == hashlib.sha256(body).hexdigest()
            assert answer.headers["x-version"] == ("2" if http2 else "1.1")
            return answer.headers["x-process"]

        processes = set(await asyncio.gather(*(post(number) for number in range(AT_ONCE))))
        answer = await client.post(url, content=BLOB)
        assert answer.headers["x-digest"] == hashlib.sha256(BLOB).hexdigest()
        assert (await client.get(f"{url}/stream")).content == STREAM
    return processes


async def sockets(url: str, context: ssl.SSLContext | None) -> None:
    """Messages of all lengths, text and bytes, on several websockets at once."""

    async def talk() -> None:
        async with websockets.connect(url, ssl=context, max_size=None) as connection:
            for size in (0, 1, 125, 126, 65_536, 500_000):
                await connection.send(BLOB[:size])
                assert await connection.recv() == BLOB[:size][::-1]
            await connection.send("grüße")
            assert await connection.recv() == "eßürg"
            await asyncio.wait_for(await connection.ping(), 30)

    await asyncio.gather(*(talk() for _ in range(10)))
