"""TCP and UDP of the user-space stack for asyncio, on completion queues.

async with await pifus.aio.open_connection("192.168.77.1", 5000, priority=HIGH) as stream:
    await stream.write(b"…")
    answer = await stream.readuntil(b"\\n")

All sockets of a client share one descriptor, which the event loop watches. (Programs for asyncio's
own transports and streams run over the stack as they are: see `pifus run`.)
"""

from pifus.aio._stream import (
    Server,
    Stream,
    UdpSocket,
    completed,
    open_connection,
    open_udp_socket,
    start_server,
)

__all__ = [
    "Server",
    "Stream",
    "UdpSocket",
    "completed",
    "open_connection",
    "open_udp_socket",
    "start_server",
]
