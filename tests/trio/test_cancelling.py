"""Exact cancellation: a thousand receives and sends cut short, and not a byte lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct

import pytest
import trio

import pifus
import pifus.aio
import pifus.trio
from tests.trio import test_asyncio, test_streams

TIMES = 1000
RECORD_BYTES = 1024
PLACE = struct.Struct("<II")  # number of the message, place in it
FILLER = random.Random(0).randbytes(RECORD_BYTES - PLACE.size)


def message(number: int, records: int) -> bytes:
    return b"".join(PLACE.pack(number, place) + FILLER for place in range(records))


def check_prefixes(data: bytes, records: list[int], cut: set[int]) -> None:
    """Every message is there in order: those in `cut` as a first part, the others as a whole.

    Args:
        data: what came.
        records: how many each message has.
        cut: the messages whose sending was cancelled.
    """
    seen: dict[int, int] = {}
    last = -1
    for at in range(0, len(data), RECORD_BYTES):
        record = data[at : at + RECORD_BYTES]
        number, place = PLACE.unpack_from(record)
        assert record[PLACE.size :] == FILLER
        assert number >= last
        assert place == seen.get(number, 0)
        seen[number] = place + 1
        last = number
    for number, count in enumerate(records):
        assert seen.get(number, 0) <= count if number in cut else seen[number] == count
    # Some were cut in the middle: otherwise this shows little.
    assert any(0 < seen.get(number, 0) < records[number] for number in cut)


@pytest.mark.parametrize("seed", [1, 2])
def test_cancelled_receives_lose_nothing(client: pifus.Client, seed: int) -> None:
    chance = random.Random(seed)

    async def main() -> None:
        left, right = await test_streams.pair(client)
        sent = bytearray()
        done = False

        async def send() -> None:
            while not done:
                data = chance.randbytes(chance.choice((1, 10, 1000, 100_000)))
                sent.extend(data)
                await left.send_all(data)
                await trio.sleep(chance.choice((0, 0, 0.0002, 0.001)))
            await left.send_eof()

        got = bytearray()
        cancelled = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while cancelled < TIMES:
                with trio.CancelScope() as scope:
                    if chance.random() < 0.3:
                        scope.cancel()
                    else:
                        scope.deadline = trio.current_time() + chance.random() * 0.0006
                    got += await right.receive_some(chance.choice((1, 100, 65536)))
                cancelled += scope.cancelled_caught
            done = True
            async for data in right:
                got += data
        assert got == sent

    test_streams.run(main)


def test_cancelled_sends_send_first_parts(client: pifus.Client) -> None:
    chance = random.Random(3)

    async def main() -> None:
        left, right = await test_streams.pair(client)
        got = bytearray()

        async def receive() -> None:
            async for data in right:
                got.extend(data)
                await trio.sleep(chance.choice((0, 0, 0.0005)))

        records: list[int] = []
        cut: set[int] = set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            while len(cut) < TIMES:
                number = len(records)
                records.append(chance.choice((1, 10, 100, 500)))
                data = message(number, records[-1])
                with trio.CancelScope() as scope:
                    if chance.random() < 0.2:
                        scope.cancel()
                    else:
                        scope.deadline = trio.current_time() + chance.random() * 0.001
                    await left.send_all(data)
                if scope.cancelled_caught:
                    cut.add(number)
            await left.send_eof()
        check_prefixes(bytes(got), records, cut)

    test_streams.run(main)


def test_cancelled_datagrams_and_accepts_are_not_lost(client: pifus.Client) -> None:
    chance = random.Random(4)

    async def main() -> None:
        server = await pifus.trio.open_udp_socket(("127.0.0.1", 0), client=client)
        one = await pifus.trio.open_udp_socket(remote_address=server.local_address, client=client)
        listener = await test_streams.listen(client)
        port = test_streams.port_of(listener)
        for turn in range(100):
            with trio.move_on_after(chance.random() * 0.0005):
                await server.receive_from()
                raise AssertionError("nothing was sent")
            await one.send_to(b"%d" % turn)
            got = None
            while got is None:
                with trio.move_on_after(chance.random() * 0.0003):
                    got = await server.receive_from()
            assert got[0] == b"%d" % turn
            stream = await pifus.trio.open_tcp_stream("127.0.0.1", port, client=client)
            accepted = None
            while accepted is None:
                with trio.move_on_after(chance.random() * 0.0003):
                    accepted = await listener.accept()
            assert accepted.peer_address == stream.local_address
            await accepted.aclose()
            await stream.aclose()

    test_streams.run(main)


def test_asyncio_cancelled_reads_lose_nothing(client: pifus.Client) -> None:
    chance = random.Random(5)

    async def main() -> None:
        left, right = await test_asyncio.pair(client)
        sent = bytearray()
        done = False

        async def send() -> None:
            while not done:
                data = chance.randbytes(chance.choice((1, 10, 1000, 100_000)))
                sent.extend(data)
                await left.write(data)
                await asyncio.sleep(chance.choice((0, 0, 0.0002, 0.001)))
            await left.write_eof()

        got = bytearray()
        cancelled = 0
        sender = asyncio.create_task(send())
        while cancelled < TIMES:
            call = right.read if chance.random() < 0.7 else right.readexactly
            task = asyncio.create_task(call(chance.choice((1, 100, 65536))))
            if chance.random() < 0.3:
                await asyncio.sleep(0)
            else:
                await asyncio.wait([task], timeout=chance.random() * 0.0006)
            task.cancel()
            try:
                got += await task
            except asyncio.CancelledError:
                cancelled += 1
        done = True
        while data := await right.read():
            got += data
        await sender
        assert got == sent

    test_asyncio.run(main)


def test_asyncio_cancelled_writes_send_first_parts(client: pifus.Client) -> None:
    chance = random.Random(6)

    async def main() -> None:
        left, right = await test_asyncio.pair(client)
        got = bytearray()

        async def receive() -> None:
            while data := await right.read():
                got.extend(data)
                await asyncio.sleep(chance.choice((0, 0, 0.0005)))

        receiver = asyncio.create_task(receive())
        records: list[int] = []
        cut: set[int] = set()
        while len(cut) < TIMES:
            number = len(records)
            records.append(chance.choice((1, 10, 100, 500)))
            task = asyncio.create_task(left.write(message(number, records[-1])))
            await asyncio.wait([task], timeout=chance.choice((0, chance.random() * 0.001)))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if task.cancelled():
                cut.add(number)
        await left.write_eof()
        await receiver
        check_prefixes(bytes(got), records, cut)

    test_asyncio.run(main)
