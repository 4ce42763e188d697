"""The proxy with trio: `trio_streams.py TARGET_PORT`; prints its port.

An unmodified program: it runs over the kernel's sockets as well.
"""

import sys

import trio

CHUNK = 65536
TARGET_PORT = int(sys.argv[1])


async def pipe(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    """One direction, to its end."""
    while data := await source.receive_some(CHUNK):
        await sink.send_all(data)
    await sink.send_eof()


async def serve(near: trio.SocketStream) -> None:
    """One connection."""
    try:
        far = await trio.open_tcp_stream("127.0.0.1", TARGET_PORT)
        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(pipe, near, far)
            nursery.start_soon(pipe, far, near)
    except* (OSError, trio.BrokenResourceError):
        pass  # either side has gone: so does the other


async def main() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listener.socket.getsockname()[1], flush=True)
    await trio.serve_listeners(serve, [listener])


trio.run(main)
