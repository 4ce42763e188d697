"""The proxy with trio: `trio_streams.py TARGET_PORT [--native]`; prints its port.

An unmodified program: it runs over the kernel's sockets as well. With `--native` the functions of
`pifus.trio` take the place of trio's own: streams over completions.
"""

import importlib
import sys
from typing import Any

import trio

CHUNK = 65536
TARGET_PORT = int(sys.argv[1])
NATIVE = "--native" in sys.argv
tcp: Any = importlib.import_module("pifus.trio" if NATIVE else "trio")


async def pipe(source: trio.abc.HalfCloseableStream, sink: trio.abc.HalfCloseableStream) -> None:
    """One direction, to its end."""
    while data := await source.receive_some(CHUNK):
        await sink.send_all(data)
    await sink.send_eof()


async def serve(near: trio.abc.HalfCloseableStream) -> None:
    """One connection."""
    try:
        far = await tcp.open_tcp_stream("127.0.0.1", TARGET_PORT)
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(pipe, near, far)
            nursery.start_soon(pipe, far, near)
    except* (OSError, trio.BrokenResourceError):
        pass  # either side has gone: so does the other


async def main() -> None:
    (listener,) = await tcp.open_tcp_listeners(0, host="127.0.0.1")
    address = listener.local_address if NATIVE else listener.socket.getsockname()
    print(address[1], flush=True)
    await trio.serve_listeners(serve, [listener])


trio.run(main)
