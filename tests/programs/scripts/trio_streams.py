"""trio's TCP and TLS streams: many at once, half-closed, cancelled. And anyio, on both loops."""

import os
import ssl
import sys
from functools import partial

import anyio
import anyio.abc
import anyio.streams.tls
import trio

authority, certificate = sys.argv[1:]
server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
client_context = ssl.create_default_context(cafile=authority)
BLOB = os.urandom(1_000_000)


async def trio_echo(stream: trio.abc.Stream) -> None:
    async with stream:
        async for data in stream:
            await stream.send_all(data)
        if isinstance(stream, trio.SocketStream):
            await stream.send_eof()


async def trio_talk(port: int, data: bytes, secure: bool) -> None:
    stream: trio.abc.Stream
    if secure:
        stream = await trio.open_ssl_over_tcp_stream("localhost", port, ssl_context=client_context)
    else:
        stream = await trio.open_tcp_stream("localhost", port)
    async with stream, trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send_all(data)
            if isinstance(stream, trio.SocketStream):
                await stream.send_eof()

        nursery.start_soon(send)
        received = bytearray()
        while len(received) < len(data):
            received += await stream.receive_some()
        assert received == data
        if not secure:
            assert await stream.receive_some() == b""


async def trio_main() -> None:
    for secure in (False, True):
        async with trio.open_nursery() as nursery:
            if secure:
                serve = partial(trio.serve_ssl_over_tcp, ssl_context=server_context)
            else:
                serve = partial(trio.serve_tcp)
            serve = partial(serve, trio_echo, 0, host="127.0.0.1")
            listeners = await nursery.start(serve)
            listener = listeners[0].transport_listener if secure else listeners[0]
            port = listener.socket.getsockname()[1]
            await trio_talk(port, BLOB, secure)
            async with trio.open_nursery() as clients:
                for _ in range(100):
                    clients.start_soon(trio_talk, port, os.urandom(2000), secure)
            stream = await trio.open_tcp_stream("localhost", port)
            with trio.move_on_after(0.05) as scope:
                await stream.receive_some()
            assert scope.cancelled_caught
            if not secure:
                await stream.send_all(b"still there")
                assert await stream.receive_some() == b"still there"
            await stream.aclose()
            nursery.cancel_scope.cancel()


async def anyio_main() -> None:
    async def echo(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data)

    plain = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = plain.extra(anyio.abc.SocketAttribute.local_port)
    listener = anyio.streams.tls.TLSListener(plain, server_context)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)

        async def talk() -> None:
            stream = await anyio.connect_tcp(
                "127.0.0.1", port, ssl_context=client_context, tls_hostname="localhost"
            )
            async with stream:
                data = os.urandom(10_000)
                await stream.send(data)
                received = b""
                while len(received) < len(data):
                    received += await stream.receive()
                assert received == data

        async with anyio.create_task_group() as clients:
            for _ in range(50):
                clients.start_soon(talk)
        group.cancel_scope.cancel()


trio.run(trio_main)
anyio.run(anyio_main, backend="trio")
anyio.run(anyio_main, backend="asyncio")
print("all well")
