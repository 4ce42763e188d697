"""What the state machine has twice: the sockets of a leg, and how they are called."""

from __future__ import annotations

import errno
import select
from typing import Any

from tests.contract.legs import Leg

WATCHED = select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLHUP | select.POLLERR

Outcome = tuple[str, Any]


class World:
    """The sockets of one leg."""

    def __init__(self, leg: Leg, family: int) -> None:
        self.leg = leg
        self.family = family
        net, host = leg.server.net, leg.server.address(family)
        self.listener: Any = net.create_server((host, 0), family=self.family, backlog=20)
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()
        with net.create_server((host, 0), family=self.family) as dead:
            self.dead_address = dead.getsockname()
        self.socks: list[Any] = []

    def side_of(self, address: str) -> str:
        """What an address is, whatever it is called in this world."""
        hosts = [side.address(self.family) for side in (self.leg.client, self.leg.server)]
        return "host" if address in hosts else address

    def host_of(self, sock: Any) -> str:
        """The address of the side that a socket is of."""
        side = self.leg.client if type(sock) is self.leg.client.net.socket else self.leg.server
        return side.address(self.family)

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
