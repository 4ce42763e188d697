"""pifus.aio with several tasks: at one socket, in a server, and who of them is told what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import pifus
import pifus.aio
from pifus.aio import Stream
from pifus.aio._loop import _CALLS as TURN
from tests.trio.test_asyncio import pair, parked, port_of, run, until

CALLS: dict[str, Any] = {
    "flush": Stream.flush,
    "write": lambda stream: stream.write(b"x"),
    "write_eof": Stream.write_eof,
    "read": Stream.read,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("unread", [True, False])
def test_a_close_in_the_turn_that_a_call_gives_to_others(
    client: pifus.Client, call: str, unread: bool
) -> None:
    async def main() -> None:
        left, _ = await pair(client)
        if unread:  # there is no room for more, and something to wait for
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await left.write(bytes(4_000_000))
        loop: Any = left._endpoint.loop
        loop._calls = TURN - 1
        task = asyncio.create_task(CALLS[call](left))
        asyncio.get_running_loop().call_soon(left.close)
        with pytest.raises(ConnectionAbortedError):
            await task

    run(main)


READS: list[Any] = [
    lambda stream: stream.read(),
    lambda stream: stream.readexactly(1),
    lambda stream: stream.readuntil(),
]


@pytest.mark.parametrize("second", range(3))
def test_a_second_reader_does_not_take_what_the_first_has_begun_with(
    client: pifus.Client, second: int
) -> None:
    async def main() -> None:
        left, right = await pair(client)
        await right.write(b"12")
        reading = asyncio.create_task(left.readexactly(4))
        await until(lambda: left._buffer)
        await parked(left)
        with pytest.raises(RuntimeError, match="another task"):
            await READS[second](left)
        await right.write(b"34\n")
        assert await reading == b"1234"
        assert await READS[second](left) == b"\n"

    run(main)


@pytest.mark.parametrize("together", [True, False])
def test_the_limit_of_readuntil_does_not_depend_on_how_the_bytes_come(
    client: pifus.Client, together: bool
) -> None:
    async def main() -> None:
        left, right = await pair(client)
        data = b"x" * 9 + b"\r\n" + b"y\r\n"
        if together:
            await right.write(data)
            await right.flush()
        else:

            async def slowly() -> None:
                for at in range(len(data)):
                    await right.write(data[at : at + 1])
                    await right.flush()

            task = asyncio.create_task(slowly())
        with pytest.raises(asyncio.LimitOverrunError) as caught:
            await left.readuntil(b"\r\n", limit=10)
        # As of asyncio's own: so many bytes are no part of the separator.
        assert caught.value.consumed == 9
        assert await left.readexactly(caught.value.consumed) == b"x" * 9
        assert await left.readuntil(b"\r\n", limit=2) == b"\r\n"
        assert await left.readuntil(b"\r\n", limit=3) == b"y\r\n"
        if not together:
            await task

    run(main)


def test_two_tasks_that_await_one_operation(client: pifus.Client) -> None:
    async def main() -> None:
        sock = client.socket()
        (await pifus.aio.completed(sock, sock.bind(("127.0.0.1", 0)))).check()
        (await pifus.aio.completed(sock, sock.listen())).check()
        op = sock.accept()
        first = asyncio.create_task(pifus.aio.completed(sock, op))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await pifus.aio.completed(sock, op)
        other = client.socket()
        address = sock.local_address
        assert address is not None
        (await pifus.aio.completed(other, other.connect(address))).check()
        assert (await first).accepted is not None

    run(main)


# ---- servers ----


def test_waiting_for_a_servers_end_can_be_given_up(client: pifus.Client) -> None:
    async def main() -> None:
        async def handle(stream: Stream) -> None:
            await stream.write(await stream.readexactly(3))

        server = await pifus.aio.start_server(handle, "127.0.0.1", 0, client=client)
        one = await pifus.aio.open_connection("127.0.0.1", port_of(server), client=client)
        await until(lambda: server._handling)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await server.wait_closed()
        await one.write(b"yes")
        assert await one.readexactly(3) == b"yes"
        two = await pifus.aio.open_connection("127.0.0.1", port_of(server), client=client)
        await two.write(b"too")
        assert await two.readexactly(3) == b"too"
        server.close()
        await server.wait_closed()

    run(main)


def test_a_servers_end_is_that_of_its_last_connection(client: pifus.Client) -> None:
    """Also of one that came after the wait began, and if another one's handler fails."""

    async def main() -> None:
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        ends = {b"a": asyncio.Event(), b"b": asyncio.Event()}
        begun: list[bytes] = []

        async def handle(stream: Stream) -> None:
            name = await stream.readexactly(1)
            begun.append(name)
            await ends[name].wait()
            if name == b"a":
                raise LookupError(name)

        server = await pifus.aio.start_server(handle, "127.0.0.1", 0, client=client)
        streams = [await pifus.aio.open_connection("127.0.0.1", port_of(server), client=client)]
        await streams[0].write(b"a")
        await until(lambda: begun == [b"a"])
        waiting = asyncio.create_task(server.wait_closed())
        await asyncio.sleep(0)
        streams.append(await pifus.aio.open_connection("127.0.0.1", port_of(server), client=client))
        await streams[1].write(b"b")
        await until(lambda: begun == [b"a", b"b"])
        server.close()
        ends[b"a"].set()
        assert await streams[0].read() == b""  # its handler has ended
        await asyncio.sleep(0.01)
        assert not waiting.done()
        ends[b"b"].set()
        await waiting
        assert [type(one["exception"]) for one in told] == [LookupError]

    run(main)
