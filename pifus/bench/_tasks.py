"""The scripts of `pifus bench tasks`: one byte there and back, for trio and for asyncio.

They run in workers: over the library's own sockets (which are the stack's once `over_stack` was
called), or over those of pifus.trio and pifus.aio.
"""

from __future__ import annotations

import asyncio
import threading
import time
from array import array
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from pifus.bench._stats import Samples
from pifus.bench._worker import State

HOST = "127.0.0.1"
# A connection's first round trips are others than its later ones.
_WARM = 50
_START_SECONDS = 10.0

Port = Callable[[int], None]


def _in_thread(run: Callable[[Port], object]) -> int:
    """Runs a server in a thread of its own; the port that it tells."""
    told = threading.Event()
    port: list[int] = []

    def listening(number: int) -> None:
        port.append(number)
        told.set()

    def serve() -> None:
        try:
            run(listening)
        except* OSError:
            pass  # the process ends, and the client of the stack with it

    threading.Thread(target=serve, daemon=True).start()
    if not told.wait(_START_SECONDS):
        raise TimeoutError("the server has not started")
    return port[0]


async def _time(once: Callable[[], Awaitable[object]], seconds: float) -> Samples:
    clock = time.perf_counter_ns
    times = array("I")
    for _ in range(_WARM):
        await once()
    start = clock()
    end = start + int(seconds * 1e9)
    while start < end:
        await once()
        now = clock()
        times.append(now - start)
        start = now
    return Samples.of(times)


# ---- trio ----


def _two_lines() -> None:
    import pifus.trio

    trio.socket.set_custom_socket_factory(pifus.trio.SocketFactory())
    trio.socket.set_custom_hostname_resolver(pifus.trio.HostnameResolver())


def serve_trio(_state: State, kind: str) -> int:
    """Starts an echo server over trio; returns the port."""

    async def echo(stream: trio.abc.Stream) -> None:
        async with stream:
            while data := await stream.receive_some():
                await stream.send_all(data)

    async def main(listening: Port) -> None:
        listeners: Any
        if kind == "native":
            import pifus.trio

            listeners = await pifus.trio.open_tcp_listeners(0, host=HOST)
            port = listeners[0].local_address[1]
        else:
            if kind == "factory":
                _two_lines()
            listeners = await trio.open_tcp_listeners(0, host=HOST)
            port = listeners[0].socket.getsockname()[1]
        listening(port)
        await trio.serve_listeners(echo, listeners)

    return _in_thread(lambda listening: trio.run(main, listening))


def trio_round_trips(_state: State, kind: str, port: int, seconds: float) -> Samples:
    """One byte there and back over trio, on a connection of its own."""

    async def main() -> Samples:
        stream: Any
        if kind == "native":
            import pifus.trio

            stream = await pifus.trio.open_tcp_stream(HOST, port)
        else:
            if kind == "factory":
                _two_lines()
            stream = await trio.open_tcp_stream(HOST, port)

        async def once() -> None:
            await stream.send_all(b"x")
            await stream.receive_some()

        async with stream:
            return await _time(once, seconds)

    return trio.run(main)


# ---- asyncio ----


def serve_asyncio(_state: State, kind: str) -> int:
    """Starts an echo server over asyncio; returns the port."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def native_echo(stream: Any) -> None:
        while data := await stream.read():
            await stream.write(data)

    async def main(listening: Port) -> None:
        if kind == "native":
            import pifus.aio

            native = await pifus.aio.start_server(native_echo, HOST, 0)
            address = native.addresses[0]
            assert address is not None
            listening(address[1])
            await native.wait_closed()
        else:
            server = await asyncio.start_server(echo, HOST, 0)
            listening(server.sockets[0].getsockname()[1])
            await server.serve_forever()

    return _in_thread(lambda listening: asyncio.run(main(listening)))


def asyncio_round_trips(_state: State, kind: str, port: int, seconds: float) -> Samples:
    """One byte there and back over asyncio, on a connection of its own."""

    async def native() -> Samples:
        import pifus.aio

        async with await pifus.aio.open_connection(HOST, port) as stream:

            async def once() -> None:
                await stream.write(b"x")
                await stream.read()

            return await _time(once, seconds)

    async def main() -> Samples:
        reader, writer = await asyncio.open_connection(HOST, port)

        async def once() -> None:
            writer.write(b"x")
            await writer.drain()
            await reader.read(65536)

        found = await _time(once, seconds)
        writer.close()
        await writer.wait_closed()
        return found

    return asyncio.run(native() if kind == "native" else main())
