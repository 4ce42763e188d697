"""pifus.trio by trio's own rules: its checks, its errors, TLS over it, many at once."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

import pifus
import pifus.trio
from pifus.trio import Listener, Stream
from tests import certificates
from tests.conftest import descriptors

SECONDS = 30.0  # trio's checks clog fifteen connections
DELAYED_SECONDS = 0.5  # the stack delays an acknowledgement by 0.25 s at most
StreamPair = tuple[Stream, Stream]


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Runs a test; one that hangs fails."""

    async def limited() -> None:
        with trio.fail_after(SECONDS):
            await main()

    trio.run(limited)


async def together(*calls: Callable[[], Awaitable[object]]) -> None:
    """Starts each call when the one before waits."""
    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()


async def listen(client: pifus.Client) -> Listener:
    (listener,) = await pifus.trio.open_tcp_listeners(0, host="127.0.0.1", client=client)
    return listener


def port_of(listener: Listener) -> int:
    address = listener.local_address
    assert address is not None
    return address[1]


async def pair(client: pifus.Client, listener: Listener | None = None) -> StreamPair:
    """A connection: the end that connected and the one that was accepted."""
    ours = listener is None
    listener = listener or await listen(client)
    port = port_of(listener)
    connected: list[Stream] = []

    async def connect() -> None:
        connected.append(await pifus.trio.open_tcp_stream("127.0.0.1", port, client=client))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        accepted = await listener.accept()
    if ours:
        await listener.aclose()
    return connected[0], accepted


async def clog(*streams: trio.abc.HalfCloseableStream) -> None:
    """Sends until there is no room, and none comes by an acknowledgement that was delayed."""

    async def one(stream: trio.abc.HalfCloseableStream) -> None:
        stuck = False
        while not stuck:
            with trio.move_on_after(0.05):
                await stream.send_all(bytes(1 << 20))
            with trio.move_on_after(DELAYED_SECONDS) as scope:
                await stream.wait_send_all_might_not_block()
            stuck = scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(one, stream)


def test_trios_checks(client: pifus.Client) -> None:
    async def main() -> None:
        listener = await listen(client)

        async def make() -> StreamPair:
            return await pair(client, listener)

        async def make_clogged() -> StreamPair:
            left, right = await make()
            await clog(left, right)
            return left, right

        await trio.testing.check_half_closeable_stream(make, make_clogged)

    run(main)


def test_listener(client: pifus.Client) -> None:
    async def main() -> None:
        listener = await listen(client)
        with trio.CancelScope() as scope:
            scope.cancel()
            with trio.testing.assert_checkpoints():
                await listener.accept()
        assert scope.cancelled_caught
        with trio.move_on_after(0.01):
            await listener.accept()
        # The accept that was under way is not lost, nor what it brings.
        left, right = await pair(client, listener)
        assert left.local_address == right.peer_address
        assert right.local_address == listener.local_address
        with pytest.raises(ExceptionGroup) as caught:
            await together(listener.accept, listener.accept)
        assert caught.group_contains(trio.BusyResourceError)
        with pytest.raises(ExceptionGroup) as caught:
            await together(listener.accept, listener.aclose)
        assert caught.group_contains(trio.ClosedResourceError)
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()
        with trio.testing.assert_checkpoints():
            await listener.aclose()
        address = left.peer_address
        assert address is not None
        with pytest.raises(ConnectionRefusedError):
            await pifus.trio.open_tcp_stream("127.0.0.1", address[1], client=client)

    run(main)


def test_a_connection_that_nobody_took_is_reset_with_the_listener(client: pifus.Client) -> None:
    async def main() -> None:
        listener = await listen(client)
        with trio.move_on_after(0.01):
            await listener.accept()  # goes on waiting in the backend
        stream = await pifus.trio.open_tcp_stream("127.0.0.1", port_of(listener), client=client)
        while not listener._endpoint._accepted:  # noqa: ASYNC110 - it came, and nobody asked
            await trio.sleep(0.001)
        await listener.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()

    run(main)


def test_names_errors_and_refusals(client: pifus.Client) -> None:
    async def main() -> None:
        left, right = await pair(client)
        assert left.peer_address == right.local_address
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="max_bytes"):
                await left.receive_some(wrong)
        left.setopt(pifus.Option.KEEPALIVE, 1)
        left.set_priority(pifus.Priority.HIGH)
        await left.send_all(b"x")
        await left.flush()
        assert left.priority is pifus.Priority.HIGH
        await left.send_eof()
        await left.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await left.send_all(b"y")
        assert await right.receive_some() == b"x"
        assert await right.receive_some() == b""
        await right.send_all(b"still")
        assert await left.receive_some() == b"still"
        await left.aclose()
        with pytest.raises(trio.ClosedResourceError):
            left.setopt(pifus.Option.KEEPALIVE, 1)
        with pytest.raises(ConnectionRefusedError):
            await pifus.trio.open_tcp_stream("127.0.0.1", 9, client=client)
        with pytest.raises(TypeError, match="port"):
            await pifus.trio.open_tcp_listeners("80", client=client)  # type: ignore[arg-type]
        taken = await listen(client)
        again = port_of(taken)
        with pytest.raises(OSError, match="in use"):
            await pifus.trio.open_tcp_listeners(again, host="127.0.0.1", client=client)

    run(main)


def test_cancelled_connect_closes_the_socket(client: pifus.Client) -> None:
    async def main() -> None:
        listener = await listen(client)
        port = port_of(listener)
        await listener.aclose()
        for _ in range(50):
            with trio.CancelScope() as scope, contextlib.suppress(ConnectionRefusedError):
                scope.deadline = trio.current_time() + random.random() * 0.0003
                await pifus.trio.open_tcp_stream("127.0.0.1", port, client=client)
        assert all(sock.closed for sock in list(client._sockets.values()))

    run(main)


def test_tls(client: pifus.Client, tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    data = os.urandom(3_000_000)

    async def main() -> None:
        left, right = await pair(client)
        secure = trio.SSLStream(left, made.client_context(), server_hostname="localhost")
        server = trio.SSLStream(right, made.server_context(), server_side=True)

        async def echo() -> None:
            async for chunk in server:
                await server.send_all(chunk)
            await server.aclose()

        async def send() -> None:
            await secure.send_all(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            nursery.start_soon(send)
            got = bytearray()
            while len(got) < len(data):
                got += await secure.receive_some()
            assert got == data
            await secure.aclose()

    run(main)


def test_many_streams_share_one_descriptor(client: pifus.Client) -> None:
    count = 300

    async def main() -> None:
        async def handle(stream: Stream) -> None:
            async for chunk in stream:
                await stream.send_all(chunk)

        async def talk(number: int, port: int) -> None:
            priority = pifus.Priority(number % 3)
            stream = await pifus.trio.open_tcp_stream(
                "127.0.0.1", port, priority=priority, client=client
            )
            async with stream:
                for turn in range(5):
                    message = b"%d %d." % (number, turn)
                    await stream.send_all(message)
                    got = b""
                    while len(got) < len(message):
                        got += await stream.receive_some()
                    assert got == message
                open_now.append(descriptors())

        open_now: list[int] = []
        async with trio.open_nursery() as nursery:
            listeners: list[Listener] = await nursery.start(
                lambda task_status: pifus.trio.serve_tcp(
                    handle, 0, host="127.0.0.1", client=client, task_status=task_status
                )
            )
            before = descriptors()
            async with trio.open_nursery() as talkers:
                for number in range(count):
                    talkers.start_soon(talk, number, port_of(listeners[0]))
            assert max(open_now) <= before  # what earlier tests left may go meanwhile
            nursery.cancel_scope.cancel()

    run(main)


def test_udp(client: pifus.Client) -> None:
    async def main() -> None:
        async with (
            await pifus.trio.open_udp_socket(("127.0.0.1", 0), client=client) as server,
            await pifus.trio.open_udp_socket(
                remote_address=server.local_address, client=client
            ) as one,
        ):
            with trio.move_on_after(0.01):
                await server.receive_from()
            sizes = (0, 1, 1400, 9000, 65507)
            for size in sizes:
                assert await one.send_to(bytes(size)) == size
            for size in sizes:
                data, sender = await server.receive_from()
                assert len(data) == size
                assert sender == one.local_address
            await server.send_to(b"longer than asked for", one.local_address)
            assert (await one.receive_from(6))[0] == b"longer"
            server_address = server.local_address
            await server.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await server.receive_from()
            # The port is closed: the peer hears of it, by the next receive.
            await one.send_to(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                await one.receive_from()
            assert server_address is not None

    run(main)


def test_ipv6_and_names(client: pifus.Client) -> None:
    async def main() -> None:
        listeners = await pifus.trio.open_tcp_listeners(0, client=client)
        families = {one.socket.family for one in listeners}
        assert families == {socket.AF_INET, socket.AF_INET6}
        for listener in listeners:
            host = "::1" if listener.socket.family == socket.AF_INET6 else "127.0.0.1"
            stream = await pifus.trio.open_tcp_stream(host, port_of(listener), client=client)
            accepted = await listener.accept()
            assert accepted.peer_address == stream.local_address

    run(main)


def test_completed(client: pifus.Client) -> None:
    async def main() -> None:
        left, right = await pair(client)
        sock = client.socket()
        op = sock.nop()
        assert (await pifus.trio.completed(sock, op)).op == op
        peer = right.local_address
        assert peer is not None
        await left.aclose()
        listener = await listen(client)
        address = listener.local_address
        assert address is not None
        connect = sock.connect(address)
        accepted = await listener.accept()
        (await pifus.trio.completed(sock, connect)).check()
        receive = sock.recv(100)
        for _ in range(3):
            with trio.move_on_after(0.005) as scope:
                await pifus.trio.completed(sock, receive)
            assert scope.cancelled_caught
        await accepted.send_all(b"kept")
        hub = left._endpoint.loop.hub
        entry = hub._entry(sock._slot, sock._generation)
        while receive not in entry.unclaimed:  # noqa: ASYNC110 - it ends while nobody waits
            await trio.sleep(0.001)
        assert (await pifus.trio.completed(sock, receive)).data == b"kept"

    run(main)


def test_needs_a_client_in_poll_mode(backend: object, client: pifus.Client) -> None:
    with pifus.Client(client.backend, on_completion=lambda _: None) as other:

        async def main() -> None:
            with pytest.raises(RuntimeError, match="on_completion"):
                await pifus.trio.open_tcp_listeners(0, client=other)

        run(main)


@pytest.mark.parametrize("share", [300, 4096, 20_000])
def test_a_small_share_of_the_arena_loses_nothing(client: pifus.Client, share: int) -> None:
    sent = random.Random(3).randbytes(100_000)

    async def main() -> None:
        left, right = await pair(client)
        left.socket.tx_bytes = share
        got = bytearray()

        async def receive() -> None:
            while data := await right.receive_some():
                got.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for start in range(0, len(sent), 16_000):
                await left.send_all(sent[start : start + 16_000])
            await left.send_eof()
        assert bytes(got) == sent
        await left.aclose()
        await right.aclose()

    run(main)
