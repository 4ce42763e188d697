"""asyncio's loop.sock_* calls, readers and writers, sendfile, a child process's pipes beside."""

import asyncio
import os
import socket
import sys
import tempfile

CONTENT = os.urandom(2_000_000)


async def pair(loop: asyncio.AbstractEventLoop) -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        client = socket.socket()
        client.setblocking(False)
        accepting = asyncio.create_task(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        server, address = await accepting
        assert address == client.getsockname()
        server.setblocking(False)
        return client, server


async def calls(loop: asyncio.AbstractEventLoop) -> None:
    client, server = await pair(loop)
    receiving = asyncio.create_task(loop.sock_recv(server, 100))
    await asyncio.sleep(0)
    await loop.sock_sendall(client, b"hello")
    assert await receiving == b"hello"
    buffer = bytearray(10)
    await loop.sock_sendall(server, b"back")
    assert await loop.sock_recv_into(client, buffer) == 4
    assert buffer[:4] == b"back"

    async def receive() -> bytes:
        parts = bytearray()
        while len(parts) < len(CONTENT):
            parts += await loop.sock_recv(server, 65536)
        return bytes(parts)

    got, _ = await asyncio.gather(receive(), loop.sock_sendall(client, CONTENT))
    assert got == CONTENT
    with tempfile.TemporaryFile() as file:
        file.write(CONTENT)
        file.seek(0)
        got, sent = await asyncio.gather(receive(), loop.sock_sendfile(client, file))
        assert got == CONTENT
        assert sent == len(CONTENT)
    # Cancelled, and what comes afterwards is for the next one.
    receiving = asyncio.create_task(loop.sock_recv(server, 100))
    await asyncio.sleep(0)
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    await loop.sock_sendall(client, b"next")
    assert await loop.sock_recv(server, 100) == b"next"
    client.close()
    assert await loop.sock_recv(server, 100) == b""
    server.close()


async def refused(loop: asyncio.AbstractEventLoop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with socket.socket() as sock:
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, address)
        except ConnectionRefusedError:
            pass
        else:
            raise AssertionError("nobody listened")


async def readers_and_writers(loop: asyncio.AbstractEventLoop) -> None:
    client, server = await pair(loop)
    received = bytearray()
    remaining = memoryview(CONTENT)
    done = loop.create_future()

    def on_readable() -> None:
        received.extend(server.recv(65536))
        if len(received) == len(CONTENT):
            loop.remove_reader(server)
            done.set_result(None)

    def on_writable() -> None:
        nonlocal remaining
        remaining = remaining[client.send(remaining[:65536]) :]
        if not remaining:
            loop.remove_writer(client)

    loop.add_reader(server, on_readable)
    loop.add_writer(client, on_writable)
    await asyncio.wait_for(done, 60)
    assert received == CONTENT
    assert not loop.remove_reader(server)
    client.close()
    server.close()


class Collector(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = bytearray()
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, error: Exception | None) -> None:
        self.over.set_result(error)


async def transports(loop: asyncio.AbstractEventLoop) -> None:
    made: list[Collector] = []

    def make() -> Collector:
        made.append(Collector())
        return made[-1]

    server = await loop.create_server(make, "127.0.0.1", 0)
    async with server:
        transport, protocol = await loop.create_connection(
            Collector, *server.sockets[0].getsockname()
        )
        transport.write(CONTENT)
        transport.writelines([b"a", b"b", b"c"])
        with tempfile.TemporaryFile() as file:
            file.write(CONTENT)
            file.seek(0)
            assert await loop.sendfile(transport, file) == len(CONTENT)
        transport.pause_reading()
        transport.resume_reading()
        transport.write_eof()
        assert await asyncio.wait_for(made[0].over, 60) is None
        assert bytes(made[0].data) == CONTENT + b"abc" + CONTENT
        assert await asyncio.wait_for(protocol.over, 60) is None


async def beside_a_child(loop: asyncio.AbstractEventLoop) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys\nfor line in sys.stdin: print(line.strip().upper(), flush=True)",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    client, server = await pair(loop)
    assert child.stdin
    assert child.stdout
    for number in range(50):
        child.stdin.write(b"line %d\n" % number)
        await loop.sock_sendall(client, b"line %d\n" % number)
        answers = await asyncio.gather(child.stdout.readline(), loop.sock_recv(server, 100))
        assert answers == [b"LINE %d\n" % number, b"line %d\n" % number]
    child.stdin.close()
    assert await child.wait() == 0
    client.close()
    server.close()


async def main() -> None:
    loop = asyncio.get_running_loop()
    await calls(loop)
    await refused(loop)
    await readers_and_writers(loop)
    await transports(loop)
    await beside_a_child(loop)


asyncio.run(main())
print("all well")
