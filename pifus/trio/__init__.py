"""TCP and UDP of the user-space stack for trio, on completion queues.

async with await pifus.trio.open_tcp_stream("192.168.77.1", 5000, priority=HIGH) as stream:
    await stream.send_all(b"…")
    answer = await stream.receive_some()

All sockets of a client share one descriptor, by which trio waits. A program that uses trio's own
functions, anyio or hypercorn runs over the stack with one line at the start of its run:

    pifus.trio.install()
"""

from pifus.trio._install import install
from pifus.trio._open import (
    completed,
    open_tcp_listeners,
    open_tcp_stream,
    open_udp_socket,
    serve_tcp,
)
from pifus.trio._socket import HostnameResolver, SocketFactory, StackSocket
from pifus.trio._stream import Listener, Stream, UdpSocket

__all__ = [
    "HostnameResolver",
    "Listener",
    "SocketFactory",
    "StackSocket",
    "Stream",
    "UdpSocket",
    "completed",
    "install",
    "open_tcp_listeners",
    "open_tcp_stream",
    "open_udp_socket",
    "serve_tcp",
]
