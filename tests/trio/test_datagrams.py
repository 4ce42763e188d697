"""UDP sockets for tasks: peers, groups, errors; the same for trio and asyncio."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import pifus
import pifus.aio
import pifus.trio

SECONDS = 10.0
GROUP = "239.5.5.6"

Check = Callable[[Any, Any, Any], Awaitable[None]]
Run = Callable[[Check, pifus.Client], None]


def over_trio(check: Check, client: pifus.Client) -> None:
    async def main() -> None:
        with trio.fail_after(SECONDS):
            one = await pifus.trio.open_udp_socket(("127.0.0.1", 0), client=client)
            other = await pifus.trio.open_udp_socket(("", 0), client=client)
            async with one, other:
                await check(one, one.send_to, other)

    trio.run(main)


def over_asyncio(check: Check, client: pifus.Client) -> None:
    async def main() -> None:
        async with asyncio.timeout(SECONDS):
            one = await pifus.aio.open_udp_socket(("127.0.0.1", 0), client=client)
            other = await pifus.aio.open_udp_socket(("", 0), client=client)
            async with one, other:
                await check(one, one.sendto, other)

    asyncio.run(main())


@pytest.fixture(params=[over_trio, over_asyncio], ids=["trio", "asyncio"])
def over(request: pytest.FixtureRequest) -> Run:
    run: Run = request.param
    return run


async def received(sock: Any) -> tuple[bytes, Any]:
    receive = sock.receive_from if isinstance(sock, pifus.trio.UdpSocket) else sock.recvfrom
    got: tuple[bytes, Any] = await receive()
    return got


def test_peers(over: Run, client: pifus.Client) -> None:
    async def check(one: Any, send: Any, other: Any) -> None:
        port = other.local_address[1]
        assert one.peer_address is None
        with pytest.raises(OSError, match="Destination address") as caught:
            await send(b"whereto?")
        assert caught.value.errno == errno.EDESTADDRREQ
        await one.connect(("127.0.0.1", port))
        assert one.peer_address == ("127.0.0.1", port)
        assert await send(b"there") == 5
        assert await received(other) == (b"there", one.local_address)
        await one.connect(None)
        assert one.peer_address is None

    over(check, client)


def test_a_port_that_nobody_has(over: Run, client: pifus.Client) -> None:
    async def check(one: Any, send: Any, other: Any) -> None:
        port = other.local_address[1]
        await one.connect(("127.0.0.1", port))
        other._endpoint.close()
        await send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            await received(one)  # it may wait already when the answer comes, or not yet

    over(check, client)


def test_groups(over: Run, client: pifus.Client) -> None:
    async def check(one: Any, send: Any, other: Any) -> None:
        await other.join_group(GROUP, 1)
        await send(b"all", (GROUP, other.local_address[1]))
        assert (await received(other))[0] == b"all"
        await other.leave_group(GROUP, 1)
        with pytest.raises(OSError, match="Cannot assign") as caught:
            await other.leave_group(GROUP, 1)
        assert caught.value.errno == errno.EADDRNOTAVAIL
        # It is not a member any more: what is sent next comes alone.
        await send(b"no more", (GROUP, other.local_address[1]))
        await send(b"alone", ("127.0.0.1", other.local_address[1]))
        assert (await received(other))[0] == b"alone"
        assert one.priority is pifus.Priority.MEDIUM

    over(check, client)
