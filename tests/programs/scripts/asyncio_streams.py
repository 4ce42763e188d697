"""asyncio's streams and transports, plain and over TLS: everything a server and its clients do."""

import asyncio
import contextlib
import os
import ssl
import sys

authority, certificate = sys.argv[1:]
server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
client_context = ssl.create_default_context(cafile=authority)
BLOB = os.urandom(3_000_000)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    finally:
        writer.close()
        await writer.wait_closed()


async def talk(port: int, data: bytes, context: ssl.SSLContext | None) -> bytes:
    options = {"ssl": context, "server_hostname": "localhost"} if context else {}
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    assert writer.get_extra_info("peername") == ("127.0.0.1", port)
    assert writer.get_extra_info("socket").fileno() >= 0

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    sending = asyncio.create_task(send())
    answer = await reader.readexactly(len(data))
    await sending
    if context is None:
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    return answer


async def many(context: ssl.SSLContext | None, count: int) -> None:
    options = {"ssl": server_context} if context else {}
    async with await asyncio.start_server(echo, "127.0.0.1", 0, backlog=200, **options) as server:
        port = server.sockets[0].getsockname()[1]
        assert await talk(port, BLOB, context) == BLOB
        for start in range(0, count, 100):
            pieces = [os.urandom(3000) for _ in range(start, min(start + 100, count))]
            answers = await asyncio.gather(*(talk(port, piece, context) for piece in pieces))
            assert list(answers) == pieces


async def at_once(count: int) -> None:
    """So many connections open at the same time, each of them in use."""
    async with await asyncio.start_server(echo, "127.0.0.1", 0, backlog=200) as server:
        port = server.sockets[0].getsockname()[1]
        gate = asyncio.Semaphore(100)

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            async with gate:
                return await asyncio.open_connection("127.0.0.1", port)

        pairs = await asyncio.gather(*(connect() for _ in range(count)))
        for _ in range(3):
            for number, (_, writer) in enumerate(pairs):
                writer.write(b"%06d" % number)
            for number, (reader, _) in enumerate(pairs):
                assert await reader.readexactly(6) == b"%06d" % number
        for _, writer in pairs:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in pairs))


async def starttls() -> None:
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go\n")
        await writer.drain()
        await writer.start_tls(server_context)
        writer.write(b"secret\n")
        await done.wait()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(client_context, server_hostname="localhost")
        assert writer.get_extra_info("cipher")
        assert await reader.readline() == b"secret\n"
        done.set()
        writer.close()
        await writer.wait_closed()


async def cancelled() -> None:
    """Reading and writing that are cancelled, and transports closed under them."""
    release = asyncio.Event()
    seen: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer)
        await release.wait()
        received = len(await reader.read(100))
        assert received
        writer.transport.abort()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        reading = asyncio.create_task(reader.read(10))
        await asyncio.sleep(0)
        reading.cancel()
        assert isinstance(
            (await asyncio.gather(reading, return_exceptions=True))[0], asyncio.CancelledError
        )
        writer.write(bytes(20_000_000))
        draining = asyncio.create_task(writer.drain())
        done, _ = await asyncio.wait([draining], timeout=0.2)
        assert not done
        draining.cancel()
        release.set()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            await writer.wait_closed()


async def main() -> None:
    await many(None, 200)
    await many(client_context, 50)
    await at_once(500)
    await starttls()
    await cancelled()


asyncio.run(main())
print("all well")
