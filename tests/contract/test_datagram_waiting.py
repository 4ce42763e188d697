"""Datagrams and time: time-outs, readiness, asyncio, receivers that do not read."""

from __future__ import annotations

import asyncio
import errno
import select
import selectors
import socket as names
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, errno_of
from tests.contract.legs import Side

Close = Callable[[Any], Any]
Spawn = Callable[..., Future[Any]]


def bound(side: Side, closing: Close) -> Any:
    sock = closing(side.net.socket(names.AF_INET, names.SOCK_DGRAM))
    sock.bind((side.host, 0))
    return sock


@pytest.fixture
def two(client_side: Side, server_side: Side, closing: Close) -> tuple[Any, Any]:
    """Two bound sockets that are not connected."""
    return bound(client_side, closing), bound(server_side, closing)


def test_nothing_there(two: tuple[Any, Any]) -> None:
    one, _ = two
    one.setblocking(False)
    assert errno_of(one.recv, 10) == errno.EAGAIN
    assert errno_of(one.recvfrom, 10) == errno.EAGAIN
    one.settimeout(0.05)
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match="timed out"):
        one.recvfrom(10)
    assert time.monotonic() - begun >= 0.05
    one.settimeout(None)
    assert errno_of(one.recv, 10, names.MSG_DONTWAIT) == errno.EAGAIN


def test_a_blocked_receive_wakes(two: tuple[Any, Any], spawn: Spawn) -> None:
    one, other = two
    waiting = spawn(one.recvfrom, 100)
    other.sendto(b"wake", one.getsockname())
    assert waiting.result(PATIENCE_SECONDS) == (b"wake", other.getsockname())


def test_readiness_follows(two: tuple[Any, Any]) -> None:
    one, other = two
    one.setblocking(False)
    poll = select.poll()
    poll.register(one, select.POLLIN | select.POLLOUT)
    assert poll.poll(0) == [(one.fileno(), select.POLLOUT)]
    for round_ in range(50):
        for i in range(3):
            other.sendto(bytes([round_, i]), one.getsockname())
        for i in range(3):
            assert select.select([one], [], [], PATIENCE_SECONDS)[0] == [one]
            assert one.recv(10) == bytes([round_, i])
        assert errno_of(one.recv, 10) == errno.EAGAIN
        assert select.select([one], [], [], 0)[0] == []


def test_selectors(two: tuple[Any, Any]) -> None:
    one, other = two
    one.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ)
        assert selector.select(0) == []
        other.sendto(b"x", one.getsockname())
        assert len(selector.select(PATIENCE_SECONDS)) == 1
        assert one.recv(10) == b"x"


class Echo(asyncio.DatagramProtocol):
    """Sends back what comes."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


class Client(asyncio.DatagramProtocol):
    """Counts what comes back."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.got: list[bytes] = []
        self.done = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append(data)
        if len(self.got) == self.wanted:
            self.done.set_result(None)

    def error_received(self, exc: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(exc)


async def asyncio_echo(server: Any, client: Any) -> list[bytes]:
    loop = asyncio.get_running_loop()
    for sock in (server, client):
        sock.setblocking(False)
    client.connect(server.getsockname())
    serving, _ = await loop.create_datagram_endpoint(Echo, sock=server)
    sending, protocol = await loop.create_datagram_endpoint(lambda: Client(100), sock=client)
    for i in range(100):
        sending.sendto(bytes([i]) * (i + 1))
        await asyncio.sleep(0)
    await asyncio.wait_for(protocol.done, PATIENCE_SECONDS)
    serving.close()
    sending.close()
    return protocol.got


def test_asyncio(two: tuple[Any, Any]) -> None:
    server, client = two
    assert asyncio.run(asyncio_echo(server, client)) == [bytes([i]) * (i + 1) for i in range(100)]


async def asyncio_refused(client: Any) -> None:
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    sending, protocol = await loop.create_datagram_endpoint(lambda: Client(1), sock=client)
    sending.sendto(b"x")
    try:
        await asyncio.wait_for(protocol.done, PATIENCE_SECONDS)
    finally:
        sending.close()


def test_asyncio_hears_of_a_refusal(two: tuple[Any, Any]) -> None:
    server, client = two
    client.connect(server.getsockname())
    server.close()
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(asyncio_refused(client))


def test_who_does_not_read_loses_and_holds_up_nobody(
    two: tuple[Any, Any], server_side: Side, closing: Close
) -> None:
    sender, slow = two
    quick = bound(server_side, closing)
    quick.settimeout(PATIENCE_SECONDS)
    for i in range(1000):
        sender.sendto(bytes(8000), slow.getsockname())
        if i % 10 == 0:
            sender.sendto(i.to_bytes(2, "big"), quick.getsockname())
            assert quick.recv(10) == i.to_bytes(2, "big")
    slow.setblocking(False)
    kept = 0
    while True:
        try:
            assert slow.recv(10000) == bytes(8000)
        except BlockingIOError:
            break
        kept += 1
    # And it goes on.
    sender.sendto(b"after", slow.getsockname())
    slow.settimeout(PATIENCE_SECONDS)
    while (data := slow.recv(10000)) != b"after":
        assert data == bytes(8000)
        kept += 1
    assert 5 < kept < 1000


@pytest.mark.legs(
    "pifus", "connects", reason="the kernel leaves a blocked recvfrom waiting for ever"
)
def test_close_wakes_a_blocked_receive(two: tuple[Any, Any], spawn: Spawn) -> None:
    one, _ = two
    waiting = spawn(one.recv, 10)
    while not waiting.running():
        time.sleep(0.001)
    one.close()
    assert errno_of(waiting.result, PATIENCE_SECONDS) == errno.EBADF


def test_threads_share_a_socket(two: tuple[Any, Any], spawn: Spawn) -> None:
    one, other = two
    one.settimeout(PATIENCE_SECONDS)

    def take() -> list[bytes]:
        return [one.recv(10) for _ in range(50)]

    takers = [spawn(take) for _ in range(4)]
    for i in range(200):
        other.sendto(i.to_bytes(2, "big"), one.getsockname())
    got = sorted(data for taker in takers for data in taker.result(PATIENCE_SECONDS))
    assert got == [i.to_bytes(2, "big") for i in range(200)]
