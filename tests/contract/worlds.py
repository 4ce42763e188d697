"""What the state machine has twice: the sockets of a stack, and how they are called."""

from __future__ import annotations

import errno
import select
from types import ModuleType
from typing import Any

WATCHED = select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLHUP | select.POLLERR

Outcome = tuple[str, Any]


class World:
    """The sockets of one of the two stacks."""

    def __init__(self, net: ModuleType, host: str) -> None:
        self.net = net
        self.host = host
        self.family = net.AF_INET6 if ":" in host else net.AF_INET
        self.listener: Any = net.create_server((host, 0), family=self.family, backlog=20)
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()
        with net.create_server((host, 0), family=self.family) as dead:
            self.dead_address = dead.getsockname()
        self.socks: list[Any] = []

    def add(self, sock: Any) -> None:
        sock.setblocking(False)
        self.socks.append(sock)

    def events(self, sock: Any) -> int:
        if sock.fileno() < 0:
            return -1
        poller = select.poll()
        poller.register(sock, WATCHED)
        found = poller.poll(0)
        return found[0][1] & WATCHED if found else 0

    def close(self) -> None:
        for sock in (*self.socks, self.listener):
            sock.close()


def attempt(call: Any, *arguments: Any) -> Outcome:
    """What a call returns, or its errno."""
    try:
        return "returned", call(*arguments)
    except OSError as error:
        return "raised", errno.errorcode[error.errno] if error.errno else str(error)


def names_of(events: int) -> str:
    names = ("POLLIN", "POLLOUT", "POLLRDHUP", "POLLHUP", "POLLERR")
    return "|".join(name for name in names if events & getattr(select, name)) or str(events)


def take(sock: Any, size: int, way: str, flags: int) -> bytes:
    """Receives by one of the methods."""
    if way == "recv":
        return bytes(sock.recv(size, flags))
    if way == "recvfrom":
        data, address = sock.recvfrom(size, flags)
        assert address is None  # of a stream it is nobody's news
        return bytes(data)
    if way == "recvmsg":
        return bytes(sock.recvmsg(size, 0, flags)[0])
    buffer = bytearray(size)
    if way == "recv_into":
        # A size of 0 would mean the whole buffer, which has none.
        return bytes(buffer[: sock.recv_into(buffer, size, flags)])
    half = size // 2
    parts = [memoryview(buffer)[:half], memoryview(buffer)[half:]]
    return bytes(buffer[: sock.recvmsg_into(parts, 0, flags)[0]])
