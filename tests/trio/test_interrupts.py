"""Ctrl-C at any instruction of a call: no connection, byte or slot is lost by it."""

from __future__ import annotations

import gc
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

import trio

import pifus
import pifus.trio
from tests.trio import test_streams

TIMES = 3000
T = TypeVar("T")


@contextmanager
def alarms(chance: random.Random) -> Iterator[Callable[[], None]]:
    """`arm()` has a SIGINT come within the next microseconds, wherever the program is then."""

    def ring(_: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        assert callable(handler)
        handler(signal.SIGINT, frame)

    def arm() -> None:
        signal.setitimer(signal.ITIMER_REAL, chance.random() * 0.0003 + 1e-6)

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield arm
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@trio.lowlevel.disable_ki_protection
async def unprotected(call: Callable[[], Awaitable[T]]) -> T:
    return await call()


@trio.lowlevel.enable_ki_protection
async def interrupted(call: Callable[[], Awaitable[T]], arm: Callable[[], None]) -> T | None:
    """Calls it with a SIGINT to come; None: that ended it, and what it had was lost or is left."""
    result = None
    try:
        arm()
        result = await unprotected(call)
    except* KeyboardInterrupt:  # of tasks of its own: in a group
        pass
    return result


@trio.lowlevel.enable_ki_protection
async def settle() -> None:
    """Has the alarm that is still to come, or the interrupt that it left, come now."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    with suppress(KeyboardInterrupt):
        await trio.lowlevel.checkpoint()


def test_accepts_lose_no_connection(client: pifus.Client) -> None:
    @trio.lowlevel.enable_ki_protection
    async def main() -> None:
        interrupts = 0
        listener = await test_streams.listen(client)
        port = test_streams.port_of(listener)
        slots = len(client._sockets)
        descriptors = test_streams.descriptors()
        with alarms(random.Random(1)) as arm:
            for _ in range(TIMES // 2):
                stream = await pifus.trio.open_tcp_stream("127.0.0.1", port, client=client)
                accepted = None
                while accepted is None:
                    accepted = await interrupted(listener.accept, arm)
                    interrupts += accepted is None
                    await settle()
                # The one that asked for it, and none that came before and was lost.
                assert accepted.peer_address == stream.local_address
                await accepted.aclose()
                await stream.aclose()
        gc.collect()
        assert interrupts > TIMES // 20
        assert len(client._sockets) == slots
        assert test_streams.descriptors() == descriptors
        await listener.aclose()

    test_streams.run(main)


def test_receives_lose_no_byte(client: pifus.Client) -> None:
    chance = random.Random(2)

    @trio.lowlevel.enable_ki_protection
    async def main() -> None:
        left, right = await test_streams.pair(client)
        interrupts = 0
        sent, got = bytearray(), bytearray()
        with alarms(chance) as arm:
            while interrupts < TIMES:
                if len(sent) == len(got) or chance.random() < 0.2:
                    data = chance.randbytes(chance.choice((1, 100, 20_000)))
                    sent += data
                    await left.send_all(data)
                limit = chance.choice((1, 1000, 65536))
                data_or_none = await interrupted(lambda: right.receive_some(limit), arm)  # noqa: B023
                await settle()
                if data_or_none is None:
                    interrupts += 1
                else:
                    got += data_or_none
            await left.send_eof()
            async for rest in right:
                got += rest
        assert got == sent
        await left.aclose()
        await right.aclose()

    test_streams.run(main)


def test_sends_are_counted_to_the_end(client: pifus.Client) -> None:
    """What a send had begun is acknowledged, and its room given back: flush comes to its end."""
    chance = random.Random(3)

    @trio.lowlevel.enable_ki_protection
    async def main() -> None:
        left, right = await test_streams.pair(client)

        @trio.lowlevel.enable_ki_protection
        async def drain() -> None:
            async for _ in right:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            interrupts = 0
            with alarms(chance) as arm:
                while interrupts < TIMES:
                    data = bytes(chance.choice((1, 10_000, 200_000)))
                    call = (lambda: left.send_all(data)) if chance.random() < 0.7 else left.flush  # noqa: B023
                    await interrupted(call, arm)
                    await settle()
                    interrupts += 1
            await left.flush()
            assert left._endpoint._unacked == 0
            assert left._endpoint._writes == 0
            await left.send_eof()
        await left.aclose()
        await right.aclose()

    test_streams.run(main)


def test_connects_leak_nothing(client: pifus.Client) -> None:
    @trio.lowlevel.enable_ki_protection
    async def main() -> None:
        listener = await test_streams.listen(client)
        port = test_streams.port_of(listener)
        slots = len(client._sockets)

        @trio.lowlevel.enable_ki_protection
        async def serve() -> None:
            while True:
                await (await listener.accept()).aclose()

        async def connect() -> pifus.trio.Stream:
            return await pifus.trio.open_tcp_stream("127.0.0.1", port, client=client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with alarms(random.Random(4)) as arm:
                for _ in range(TIMES // 3):
                    stream = await interrupted(connect, arm)
                    await settle()
                    if stream is not None:
                        await stream.aclose()
            nursery.cancel_scope.cancel()
        gc.collect()
        assert len(client._sockets) == slots
        await listener.aclose()

    test_streams.run(main)


def test_what_is_forgotten_is_closed(client: pifus.Client) -> None:
    async def main() -> None:
        left, right = await test_streams.pair(client)
        slots = len(client._sockets)
        del right
        gc.collect()
        assert len(client._sockets) == slots - 1
        assert await left.receive_some() == b""
        await left.aclose()

    test_streams.run(main)
