"""trio's sockets and ours beside each other: every method, every argument that cannot be right."""

from __future__ import annotations

import errno
import inspect
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import pifus
import pifus.trio
from pifus._async._endpoint import Endpoint
from tests.trio.test_streams import run

# What trio's sockets have and these have not, and why.
MISSING = {
    "detach": "there is no descriptor",
    "dup": "there is no descriptor",
    "share": "of Windows",
}


def factory(client: pifus.Client) -> pifus.trio.SocketFactory:
    return pifus.trio.SocketFactory(client=client)


async def both(client: pifus.Client, kind: int) -> list[tuple[Any, Any]]:
    """The kernel's sockets and the stack's: of each a connected pair."""
    pairs = []
    for make in (None, factory(client)):
        trio.socket.set_custom_socket_factory(make)
        one, other = trio.socket.socket(type=kind), trio.socket.socket(type=kind)
        await other.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
            await one.connect(other.getsockname())
            accepted, _ = await other.accept()
            other.close()
            other = accepted
        else:
            await one.connect(other.getsockname())
        pairs.append((one, other))
    return pairs


async def outcome(call: Callable[[], Any]) -> Any:
    """What it gives, or the exception: its class, its errno or its text."""
    try:
        with trio.fail_after(1):
            result = call()
            return await result if inspect.isawaitable(result) else result
    except OSError as error:
        return OSError, error.errno
    except Exception as error:  # noqa: BLE001 - is compared
        return type(error), str(error) if isinstance(error, ValueError) else ""


def test_every_method_is_there() -> None:
    theirs = {name for name in dir(trio.socket.SocketType) if not name.startswith("_")}
    ours = {
        name
        for name in theirs
        if getattr(pifus.trio.StackSocket, name, None) is not getattr(trio.socket.SocketType, name)
    }
    assert theirs - ours <= MISSING.keys()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_what_needs_a_descriptor_is_refused(client: pifus.Client, kind: int) -> None:
    async def main() -> None:
        sock = factory(client).socket(type=kind)
        for call in (sock.detach, sock.dup, lambda: sock.set_inheritable(True)):
            with pytest.raises(OSError, match="no descriptor") as caught:
                call()
            assert caught.value.errno == errno.EOPNOTSUPP
        sock.close()

    run(main)


CALLS: list[Callable[[Any], Awaitable[Any]]] = [
    lambda sock: sock.recv(-1),
    lambda sock: sock.recv(1.5),
    lambda sock: sock.recvfrom(-1),
    lambda sock: sock.recvmsg(-1),
    lambda sock: sock.recvmsg(1, -1),
    lambda sock: sock.recv_into(bytearray(4), -1),
    lambda sock: sock.recv_into(bytearray(4), 5),
    lambda sock: sock.recvfrom_into(bytearray(4), -1),
    lambda sock: sock.recvfrom_into(bytearray(4), 5),
    lambda sock: sock.recv_into(bytes(4)),
    lambda sock: sock.recvfrom_into(bytes(4)),
    lambda sock: sock.recvmsg_into([bytes(4)]),
]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_wrong_arguments_take_nothing(client: pifus.Client, kind: int) -> None:
    async def main() -> None:
        pairs = await both(client, kind)
        for one, _ in pairs:
            await one.send(b"kept")
        for call in CALLS:
            kernels, stacks = [await outcome(lambda s=s, c=call: c(s)) for _, s in pairs]  # type: ignore[misc]
            assert stacks == kernels
        for one, other in pairs:
            assert await other.recv(100) == b"kept"
            one.close()
            other.close()

    run(main)


async def made(*arguments: int) -> Any:
    """What trio.socket.socket makes of them."""
    with trio.socket.socket(*arguments) as sock:
        return sock.family, sock.type, sock.fileno() != -2 and sock.family != socket.AF_UNIX


@pytest.mark.parametrize(
    "arguments",
    [
        (socket.AF_UNIX, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK),
        (socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC),
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP),
        (999, socket.SOCK_STREAM),
    ],
)
def test_making_one(client: pifus.Client, arguments: tuple[int, ...]) -> None:
    async def main() -> None:
        trio.socket.set_custom_socket_factory(None)
        theirs = await outcome(lambda: made(*arguments))
        trio.socket.set_custom_socket_factory(factory(client))
        ours = await outcome(lambda: made(*arguments))
        assert ours[:2] == theirs[:2]
        if socket.AF_INET6 in arguments or socket.AF_INET in arguments:
            assert len(ours) == 2 or not ours[2]  # of the stack
        with pytest.raises(OSError, match="type 77: only TCP and UDP") as caught:
            trio.socket.socket(type=77)
        assert caught.value.errno == errno.ESOCKTNOSUPPORT

    run(main)


def test_a_connect_to_what_is_no_address_leaves_the_socket_alone(client: pifus.Client) -> None:
    async def main() -> None:
        for make in (None, factory(client)):
            trio.socket.set_custom_socket_factory(make)
            with trio.socket.socket() as listener, trio.socket.socket() as one:
                await listener.bind(("127.0.0.1", 0))
                listener.listen()
                with pytest.raises(OverflowError):
                    await one.connect(("127.0.0.1", 99_999))
                await one.connect(listener.getsockname())
                with pytest.raises(TypeError):
                    await one.sendto(b"x", 0, 0, listener.getsockname())
                assert await one.send(b"x") == 1

    run(main)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_messages_and_flags(client: pifus.Client, kind: int) -> None:
    async def main() -> None:
        for one, other in await both(client, kind):
            sent = await one.sendmsg([b"ab", b"cdef"])
            assert sent == 6
            data, ancillary, flags, _ = await other.recvmsg(100, 100)
            assert (data, ancillary, flags & socket.MSG_TRUNC) == (b"abcdef", [], 0)
            await one.send(b"123456", socket.MSG_NOSIGNAL)
            buffers = [bytearray(2), bytearray(3)]
            count, _, flags, _ = await other.recvmsg_into(buffers)
            assert (count, [bytes(one) for one in buffers]) == (5, [b"12", b"345"])
            if kind == socket.SOCK_DGRAM:
                assert flags & socket.MSG_TRUNC
            else:
                assert await other.recv(10) == b"6"
            address = other.getsockname()
            if kind == socket.SOCK_DGRAM:
                assert await one.sendto(b"flag", socket.MSG_DONTWAIT, address) == 4
                assert (await other.recvfrom(10)) == (b"flag", one.getsockname())
            assert not one.did_shutdown_SHUT_WR
            if kind == socket.SOCK_STREAM:
                one.shutdown(socket.SHUT_WR)
                assert one.did_shutdown_SHUT_WR
                assert await other.recv(1) == b""
                assert other.is_readable()
            one.close()
            other.close()

    run(main)


def compared(option: tuple[int, int, Any]) -> Callable[[Any], Any]:
    level, name, value = option

    def call(sock: Any) -> Any:
        sock.setsockopt(level, name, value)
        if name == socket.IP_ADD_MEMBERSHIP and level == socket.IPPROTO_IP:
            return None
        size = len(value) if isinstance(value, bytes) else 0
        return sock.getsockopt(level, name), sock.getsockopt(level, name, size or 4)

    return call


GROUP = socket.inet_aton("224.1.2.3") + socket.inet_aton("127.0.0.1")
STREAM_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_RCVBUF, 40_000),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, 40_000),
    (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 7)),
    (socket.SOL_SOCKET, socket.SO_LINGER, b"short"),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 0),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 99),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 0),
    (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
    (socket.IPPROTO_IP, socket.IP_TTL, 0),
    (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 3),
    (socket.SOL_SOCKET, 9999, 1),
]
DATAGRAM_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_RCVBUF, 40_000),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, 40_000),
    (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 7)),
    (socket.SOL_SOCKET, socket.SO_BROADCAST, 1),
    (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 3),
    (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 256),
    (socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0),
    (socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1")),
    (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, GROUP),
    (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, GROUP),  # again
    (socket.IPPROTO_IP, socket.IP_TTL, 7),
    (socket.SOL_SOCKET, 9999, 1),
]


@pytest.mark.parametrize(
    ("kind", "options"),
    [(socket.SOCK_STREAM, STREAM_OPTIONS), (socket.SOCK_DGRAM, DATAGRAM_OPTIONS)],
)
def test_options_as_the_kernels(
    client: pifus.Client, kind: int, options: list[tuple[int, int, Any]]
) -> None:
    async def main() -> None:
        trio.socket.set_custom_socket_factory(None)
        kernels = trio.socket.socket(type=kind)
        stacks = factory(client).socket(type=kind)
        for option in options:
            call = compared(option)
            expected, got = [
                await outcome(lambda s=s, c=call: c(s))  # type: ignore[misc]
                for s in (kernels, stacks)
            ]
            assert got == expected, option
        kernels.close()
        stacks.close()

    run(main)


INHERITED: list[tuple[int, int, Any]] = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)),
    (socket.SOL_SOCKET, socket.SO_RCVLOWAT, 7),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77),
    (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
]


def test_options_that_a_connection_has_of_its_listener(client: pifus.Client) -> None:
    async def main() -> None:
        for make in (None, factory(client)):
            trio.socket.set_custom_socket_factory(make)
            with trio.socket.socket() as listener, trio.socket.socket() as one:
                for level, name, value in INHERITED:
                    listener.setsockopt(level, name, value)
                await listener.bind(("127.0.0.1", 0))
                listener.listen()
                await one.connect(listener.getsockname())
                accepted, _ = await listener.accept()
                for level, name, value in INHERITED:
                    size = (len(value),) if isinstance(value, bytes) else ()
                    assert accepted.getsockopt(level, name, *size) == value, (level, name)
                accepted.close()
                with pytest.raises(ConnectionResetError):
                    await one.recv(1)

    run(main)


def test_no_linger_resets(client: pifus.Client) -> None:
    async def main() -> None:
        for one, other in await both(client, socket.SOCK_STREAM):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
            with pytest.raises(ConnectionResetError):
                await other.recv(1)
            other.close()

    run(main)


@pytest.mark.parametrize("depth", [4, 8])
def test_a_small_queue(backend: Any, depth: int) -> None:
    """Every call waits for room, and none tells of the queue."""

    async def main() -> None:
        with pifus.Client(backend.path, queue_depth=depth) as client:
            listener = factory(client).socket()
            await listener.bind(("127.0.0.1", 0))
            listener.listen()
            ours = await pifus.trio.open_tcp_stream(*listener.getsockname(), client=client)
            theirs, _ = await listener.accept()
            for least in range(1, depth + 1):
                # As the program of the completion API may have set it.
                ours.socket.queue_depth = least
                for size in (1, 100, 30_000, 200_000):
                    data = bytes(size)

                    async def send(data: bytes = data) -> None:
                        for _ in range(3):
                            await ours.send_all(data)
                        await ours.flush()

                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(send)
                        left = 3 * size
                        while left:
                            left -= len(await theirs.recv(65536))
                    endpoint: Endpoint = ours._endpoint
                    assert (endpoint._writes, endpoint._unacked) == (0, 0)
            ours.socket.queue_depth = 1
            await ours.send_all(bytes(100_000))
            await ours.send_eof()
            got = 0
            while data := await theirs.recv(65536):
                got += len(data)
            assert got == 100_000
            await ours.aclose()
            theirs.close()
            listener.close()

    run(main)
