"""Many connections at once, each echoes its own bytes: `many.py asyncio|threads serve HOST` until
its standard input ends, and `many.py asyncio|threads connect HOST PORT COUNT`."""

import asyncio
import hashlib
import socket
import sys
import threading

SIZES = (1, 100, 20_000)
SECONDS = 60
BACKLOG = 1024


def pattern(number: int, size: int) -> bytes:
    """Bytes that no other connection sends."""
    return hashlib.shake_128(f"{number} {size}".encode()).digest(size)


# ---- asyncio ----


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve_asyncio(host: str) -> None:
    async with await asyncio.start_server(answer, host, 0, backlog=BACKLOG) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def connect_asyncio(host: str, port: int, count: int) -> None:
    connections = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(count)))

    async def talk(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for size in SIZES:
            writer.write(pattern(number, size))
            assert await reader.readexactly(size) == pattern(number, size)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(talk(n, *pair) for n, pair in enumerate(connections)))


# ---- threads ----


def echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def serve_threads(host: str) -> None:
    def accept() -> None:
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()

    listener = socket.create_server((host, 0), backlog=BACKLOG)
    threading.Thread(target=accept, daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


def connect_threads(host: str, port: int, count: int) -> None:
    together = threading.Barrier(count)
    good: list[int] = []

    def talk(number: int) -> None:
        with socket.create_connection((host, port), SECONDS) as connection:
            together.wait(SECONDS)
            for size in SIZES:
                connection.sendall(pattern(number, size))
                found = b""
                while len(found) < size:
                    part = connection.recv(size - len(found))
                    assert part
                    found += part
                assert found == pattern(number, size)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        good.append(number)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(good) == list(range(count))


kind, role, host, *rest = sys.argv[1:]
if role == "serve":
    if kind == "asyncio":
        asyncio.run(serve_asyncio(host))
    else:
        serve_threads(host)
else:
    port, count = map(int, rest)
    if kind == "asyncio":
        asyncio.run(connect_asyncio(host, port, count))
    else:
        connect_threads(host, port, count)
    print("all well")
