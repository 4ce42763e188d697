"""`monkey.patch()` when the program's event loop is imported, or running, already; and its end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.contract.conftest import python_environment

TRIO = """
import functools, trio
from pifus import monkey
from pifus._compat import _table

async def echo(stream):
    async for data in stream:
        await stream.send_all(data)

async def talk():
    "How many of the sockets are the stack's."
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, echo, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port = listener.socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"x" * 100_000)
            got = 0
            while got < 100_000:
                got += len(await stream.receive_some())
            stacks = len(_table.endpoints)
        udp = [trio.socket.socket(type=trio.socket.SOCK_DGRAM) for _ in range(2)]
        await udp[0].bind(("127.0.0.1", 0))
        await udp[1].sendto(b"datagram", udp[0].getsockname())
        assert (await udp[0].recvfrom(100))[0] == b"datagram"
        with trio.move_on_after(0.01) as scope:
            await udp[0].recv(100)
        assert scope.cancelled_caught
        for one in udp:
            one.close()
        nursery.cancel_scope.cancel()
    return stacks

def bounded(call, *arguments):
    async def main():
        with trio.fail_after(20):
            return await call(*arguments)
    return trio.run(main)
"""
BEFORE_THE_RUN = """
monkey.patch()
stacks = bounded(talk)
"""
IN_THE_RUN = """
async def patched_meanwhile():
    assert await talk() == 0
    monkey.patch()
    # trio's own wake-up is the kernel's socket pair, made before.
    assert await trio.to_thread.run_sync(lambda: 42) == 42
    return await talk()
stacks = bounded(patched_meanwhile)
"""
TWICE = """
monkey.patch()
assert bounded(talk) == 3
monkey.unpatch()
assert bounded(talk) == 0
monkey.patch()
stacks = bounded(talk)
"""
THROUGH_ANYIO = """
import anyio
monkey.patch()
async def through_anyio():
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        async with anyio.create_task_group() as group:
            async def serve(stream):
                await stream.send(await stream.receive())
            group.start_soon(listener.serve, serve)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"anyio")
                assert await stream.receive() == b"anyio"
                stacks = len(_table.endpoints)
            group.cancel_scope.cancel()
    return stacks
stacks = bounded(through_anyio)
"""
ASYNCIO = """
import asyncio
from pifus import monkey
from pifus._compat import _table

async def talk():
    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x" * 100_000)
    await reader.readexactly(100_000)
    stacks = len(_table.endpoints)
    writer.close()
    await writer.wait_closed()
    server.close()
    return stacks

async def main():
    assert await talk() == 0
    monkey.patch()
    # The loop's own wake-up is the kernel's socket pair, made before.
    assert await asyncio.to_thread(lambda: 42) == 42
    return await talk()
stacks = asyncio.run(asyncio.wait_for(main(), 20))
"""
TWISTED = """
from twisted.internet import defer, endpoints, protocol, reactor
from pifus import monkey
from pifus._compat import _table
monkey.patch()
stacks = 0

class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

class Ask(protocol.Protocol):
    def connectionMade(self):
        self.left = 100_000
        self.transport.write(b"x" * self.left)
    def dataReceived(self, data):
        global stacks
        self.left -= len(data)
        if not self.left:
            stacks = len(_table.endpoints)
            self.transport.loseConnection()
            reactor.stop()

async def main():
    server = endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await server.listen(protocol.Factory.forProtocol(Echo))
    client = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    await client.connect(protocol.Factory.forProtocol(Ask))
reactor.callWhenRunning(lambda: defer.ensureDeferred(main()))
reactor.callLater(20, reactor.stop)
reactor.run()
"""
GLOBAL = """
import socket
receive = socket.socket.recv
def closed_over():
    send = socket.socket.send
    return lambda sock, data: send(sock, data)
send = closed_over()
from pifus import monkey
monkey.patch()
from pifus._compat import _table
with socket.create_server(("127.0.0.1", 0)) as listener:
    with socket.create_connection(listener.getsockname(), 10) as client:
        server, _ = listener.accept()
        with server:
            send(client, b"held")
            assert receive(server, 10) == b"held"
            stacks = len(_table.endpoints)
monkey.unpatch()
import _socket
assert receive is _socket.socket.recv
assert send.__closure__[0].cell_contents is _socket.socket.send
"""

ASKED_FOR = """
import select, socket
from pifus import monkey
sock = socket.socket()
number = sock.fileno()
monkey.patch()
from pifus._compat import _table
with socket.create_server(("127.0.0.1", 0)) as listener, select.epoll() as epoll:
    address = listener.getsockname()
    sock.connect(address)
    peer, _ = listener.accept()
    stacks = len(_table.endpoints)
    epoll.register(number, select.EPOLLIN)
    peer.sendall(b"x")
    assert epoll.poll(10) == [(number, select.EPOLLIN)]
    sock.close()
    peer.close()
    # What took its number is none of the epoll's.
    with socket.create_connection(address) as other, listener.accept()[0] as peer:
        peer.sendall(b"x")
        assert select.select([other], [], [], 10)[0]
        assert epoll.poll(0) == []
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(TRIO + BEFORE_THE_RUN, id="trio-imported"),
        pytest.param(TRIO + IN_THE_RUN, id="trio-running"),
        pytest.param(TRIO + TWICE, id="trio-unpatched"),
        pytest.param(TRIO + THROUGH_ANYIO, id="anyio"),
        pytest.param(ASYNCIO, id="asyncio-running"),
        pytest.param(TWISTED, id="twisted-installed"),
        pytest.param(GLOBAL, id="held"),
        pytest.param(ASKED_FOR, id="asked-for"),
    ],
)
def test_late_patch(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code + "\nprint(stacks)"],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
