"""Sockets for tasks, as the libraries' functions need them: listening, connected, bound."""

from __future__ import annotations

import socket as _socket
from collections.abc import Iterable

from pifus._async._endpoint import Endpoint
from pifus._async._loop import Loop
from pifus._core._address import Address
from pifus._core._ops import Option, Priority, Protocol


def endpoint(
    loop: Loop, family: int, priority: Priority, protocol: Protocol = Protocol.TCP
) -> Endpoint:
    """A socket that was only made."""
    return Endpoint(loop, loop.hub.client.socket(protocol, family=family, priority=priority))


def families(found: Iterable[tuple[object, ...]]) -> list[tuple[int, Address]]:
    """Family and address of each answer of a getaddrinfo()."""
    # Typed as if Python could have been built without IPv6.
    return [(int(one[0]), one[4]) for one in found]  # type: ignore[call-overload, misc]


async def listening(
    loop: Loop, addresses: Iterable[tuple[int, Address]], backlog: int, priority: Priority
) -> list[Endpoint]:
    """A listener on each of the addresses, or an error and none."""
    endpoints: list[Endpoint] = []
    try:
        for family, address in addresses:
            one = endpoint(loop, family, priority)
            endpoints.append(one)
            one.setopt(Option.REUSEADDR, 1)
            if family == _socket.AF_INET6:
                one.setopt(Option.V6ONLY, 1)
            await one.bind(address)
            one.listen(backlog)
    except BaseException:
        for one in endpoints:
            one.close()
        raise
    return endpoints


async def datagrams(
    loop: Loop, local: Address | None, remote: Address | None, family: int, priority: Priority
) -> Endpoint:
    """A UDP socket, bound and connected as far as there are addresses."""
    made = endpoint(loop, family, priority, Protocol.UDP)
    try:
        if local is not None:
            await made.bind(local)
        if remote is not None:
            await made.reconnect(remote)
    except BaseException:
        made.close()
        raise
    return made
