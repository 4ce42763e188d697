"""A chat server of asyncio: `server.py [PORT]`. Try it with `nc`, or `telnet`.

The first line of a client is its name; each further line goes to everybody else. `/who` lists who
is there, `/quit` leaves. Knows nothing of pifus.
"""

import asyncio
import sys

MEMBERS: dict[str, asyncio.StreamWriter] = {}


def tell(text: str, but: str = "") -> None:
    """A line for everybody, except one."""
    for name, writer in MEMBERS.items():
        if name != but:
            writer.write(f"{text}\n".encode())


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One client, from its first line to its last."""
    name = (await reader.readline()).decode(errors="replace").strip()
    if not name or name in MEMBERS:
        writer.write(b"* that name is taken, or none\n")
        writer.close()
        return
    MEMBERS[name] = writer
    tell(f"* {name} is here")
    try:
        while line := (await reader.readline()).decode(errors="replace").strip():
            if line == "/quit":
                break
            if line == "/who":
                writer.write(f"* {' '.join(sorted(MEMBERS))}\n".encode())
            else:
                tell(f"{name}: {line}", but=name)
            await writer.drain()
    except ConnectionError:
        pass  # gone without a word
    finally:
        del MEMBERS[name]
        tell(f"* {name} has left")
        writer.close()


async def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = await asyncio.start_server(talk, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
