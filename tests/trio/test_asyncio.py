"""pifus.aio: streams, servers, datagrams and completions awaited on a loop of asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Awaitable, Callable

import pytest
import uvloop

import pifus
import pifus.aio
from pifus.aio import Server, Stream, UdpSocket
from tests.conftest import descriptors

SECONDS = 20.0


def run(main: Callable[[], Awaitable[None]], factory: object = None) -> None:
    """Runs a test; one that hangs fails."""

    async def limited() -> None:
        async with asyncio.timeout(SECONDS):
            await main()

    with asyncio.Runner(loop_factory=factory) as runner:  # type: ignore[arg-type]
        runner.run(limited())


def port_of(server: Server) -> int:
    address = server.addresses[0]
    assert address is not None
    return address[1]


async def until(condition: Callable[[], object]) -> None:
    """Gives others their turn until it is true."""
    while not condition():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)


async def parked(resource: Stream | UdpSocket) -> None:
    """Until a task waits in it for something to receive."""
    await until(lambda: resource._endpoint._reading.signal.wake is not None)


async def pair(client: pifus.Client) -> tuple[Stream, Stream]:
    """A connection; the accepted end lives until the test ends."""
    accepted: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()

    async def handle(stream: Stream) -> None:
        accepted.set_result(stream)
        await asyncio.Event().wait()

    async with await pifus.aio.start_server(handle, "127.0.0.1", 0, client=client) as server:
        left = await pifus.aio.open_connection("127.0.0.1", port_of(server), client=client)
        return left, await accepted


@pytest.mark.parametrize("factory", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_many_connections_share_one_descriptor(client: pifus.Client, factory: object) -> None:
    async def main() -> None:
        async def handle(stream: Stream) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    await stream.write((await stream.readuntil()).upper())

        open_now: list[int] = []

        async def talk(number: int) -> None:
            async with await pifus.aio.open_connection(
                "127.0.0.1", port, priority=pifus.Priority(number % 3), client=client
            ) as stream:
                for turn in range(5):
                    await stream.write(b"line %d %d\n" % (number, turn))
                    assert await stream.readuntil() == b"LINE %d %d\n" % (number, turn)
                open_now.append(descriptors())

        server = await pifus.aio.start_server(handle, "127.0.0.1", 0, client=client)
        port = port_of(server)
        before = descriptors()
        await asyncio.gather(*(talk(number) for number in range(200)))
        assert max(open_now) <= before  # what earlier tests left may go meanwhile
        server.close()
        await server.wait_closed()

    run(main, factory)


def test_reading_and_writing(client: pifus.Client) -> None:
    async def main() -> None:
        left, right = await pair(client)
        await left.write(b"one\ntwo\nthree")
        assert await right.readuntil() == b"one\n"
        assert await right.readexactly(2) == b"tw"
        assert await right.read() == b"o\nthree"
        await left.write(b"x" * 100)
        with pytest.raises(asyncio.LimitOverrunError):
            await right.readuntil(limit=50)
        assert await right.readexactly(100) == b"x" * 100
        data = os.urandom(3_000_000)
        task = asyncio.create_task(left.write(data))
        assert await right.readexactly(len(data)) == data
        await task
        await left.flush()
        await left.write(b"rest")
        await left.write_eof()
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await right.readexactly(5)
        assert caught.value.partial == b"rest"
        assert await right.read() == b""
        with pytest.raises(OSError, match="Broken pipe"):
            await left.write(b"after the end")
        with pytest.raises(ConnectionRefusedError):
            await pifus.aio.open_connection("127.0.0.1", 9, client=client)

    run(main)


def test_busy_and_closed(client: pifus.Client) -> None:
    async def main() -> None:
        left, right = await pair(client)
        reading = asyncio.create_task(left.read())
        await parked(left)
        with pytest.raises(RuntimeError, match="another task"):
            await left.read()
        left.close()
        left.close()
        with pytest.raises(ConnectionAbortedError):
            await reading
        with pytest.raises(ConnectionAbortedError):
            await left.write(b"x")
        assert await right.read() == b""

    run(main)


def test_udp(client: pifus.Client) -> None:
    async def main() -> None:
        async with (
            await pifus.aio.open_udp_socket(("127.0.0.1", 0), client=client) as server,
            await pifus.aio.open_udp_socket(
                remote_address=server.local_address, client=client
            ) as one,
        ):
            waiting = asyncio.create_task(server.recvfrom())
            await parked(server)
            waiting.cancel()
            await one.sendto(b"ping")
            data, sender = await server.recvfrom()
            assert (data, sender) == (b"ping", one.local_address)
            await server.sendto(b"pong", sender)
            assert (await one.recvfrom())[0] == b"pong"

    run(main)


def test_completed(client: pifus.Client) -> None:
    async def main() -> None:
        sock = client.socket()
        ops = [sock.nop() for _ in range(50)]
        for op in reversed(ops):
            assert (await pifus.aio.completed(sock, op)).op == op
        wait = asyncio.create_task(pifus.aio.completed(sock, sock.bind(("127.0.0.1", 0))))
        (await wait).check()
        (await pifus.aio.completed(sock, sock.listen())).check()
        accept = sock.accept(multishot=True)
        address = sock.local_address
        assert address is not None
        others = [client.socket() for _ in range(5)]
        peers = set()
        for _ in others:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await pifus.aio.completed(sock, accept)
        for other in others:
            (await pifus.aio.completed(other, other.connect(address))).check()
            peers.add(other.local_address)
        seen = set()
        for _ in others:
            done = await pifus.aio.completed(sock, accept)
            assert done.more
            assert done.accepted is not None
            seen.add(done.peer)
        assert seen == peers
        done = await pifus.aio.completed(sock, sock.close())
        assert done.opcode is pifus.Opcode.CLOSE

    run(main)


def test_one_client_in_one_loop_after_the_other(client: pifus.Client) -> None:
    for _ in range(3):
        run(lambda: once(client))


async def once(client: pifus.Client) -> None:
    left, right = await pair(client)
    await left.write(b"again")
    assert await right.readexactly(5) == b"again"
    left.close()


def test_backend_killed(start_backend: Callable[..., object]) -> None:
    backend = start_backend("aio-killed")

    async def main() -> None:
        with pifus.Client(backend.path) as client:  # type: ignore[attr-defined]
            left, right = await pair(client)
            reading = asyncio.create_task(left.read())
            await parked(left)
            loop = asyncio.get_running_loop()
            before = loop.time()
            backend.kill()  # type: ignore[attr-defined]
            with pytest.raises(pifus.BackendGone):
                await reading
            assert loop.time() - before < 1.0
            with pytest.raises(pifus.BackendGone):
                await right.write(b"x")

    run(main)


def test_a_connection_outlives_a_server_that_is_forgotten(client: pifus.Client) -> None:
    async def main() -> None:
        left, right = await pair(client)
        for data in (b"there", b"still there"):  # the server's own tasks end meanwhile
            await left.write(data)
            assert await right.read() == data
            gc.collect()

    run(main)
