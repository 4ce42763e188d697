"""Guests of the chat: `guests.py PORT COUNT`; each says a few lines and reads what all others say.

Knows nothing of pifus.
"""

import asyncio
import json
import sys
import time

LINES = 10


async def guest(port: int, number: int, here: asyncio.Barrier) -> tuple[int, list[float]]:
    """Comes, talks, listens; returns how many lines came, and how long each was under way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"guest{number}\n".encode())
    await reader.readline()  # "* guest is here"
    await here.wait()
    for _ in range(LINES):
        writer.write(f"{time.monotonic_ns()}\n".encode())
        await writer.drain()
    came: list[float] = []
    while len(came) < LINES * (here.parties - 1):
        line = (await reader.readline()).decode()
        if not line.startswith("*"):
            came.append((time.monotonic_ns() - int(line.split()[1])) / 1e6)
    await here.wait()
    writer.write(b"/quit\n")
    await reader.read()
    writer.close()
    return len(came), came


async def main() -> None:
    port, count = map(int, sys.argv[1:])
    here = asyncio.Barrier(count)
    start = time.monotonic()
    found = await asyncio.gather(*(guest(port, number, here) for number in range(count)))
    times = sorted(time for _, came in found for time in came)
    seconds = time.monotonic() - start
    figures = {"lines": len(times), "p50_ms": times[len(times) // 2], "seconds": seconds}
    print(json.dumps(figures))


asyncio.run(main())
