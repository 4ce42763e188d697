"""Programs for trio: unmodified with two lines; and how they end, by Ctrl-C or with the backend."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest
import trio
import trio.testing

import pifus
import pifus.trio
from tests.conftest import BackendProcess
from tests.trio import test_streams
from tests.trio.test_streams import run

KILLED_SECONDS = 1.0


@contextmanager
def two_lines(client: pifus.Client) -> Iterator[None]:
    trio.socket.set_custom_socket_factory(pifus.trio.SocketFactory(client=client))
    trio.socket.set_custom_hostname_resolver(pifus.trio.HostnameResolver())
    yield


def test_unmodified_streams(client: pifus.Client) -> None:
    async def main() -> None:
        with two_lines(client):
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

            async def make() -> tuple[trio.SocketStream, trio.SocketStream]:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(connect)
                    accepted = await listener.accept()
                return connected.pop(), accepted

            async def connect() -> None:
                connected.append(
                    await trio.open_tcp_stream("localhost", listener.socket.getsockname()[1])
                )

            async def make_clogged() -> tuple[trio.SocketStream, trio.SocketStream]:
                both = await make()
                await test_streams.clog(*both)
                return both

            connected: list[trio.SocketStream] = []
            await trio.testing.check_half_closeable_stream(make, make_clogged)
            # It was the stack's port: the kernel has nothing there.
            with socket.socket() as kernel, pytest.raises(ConnectionRefusedError):
                kernel.connect(listener.socket.getsockname())

    run(main)


def test_unmodified_sockets(client: pifus.Client) -> None:
    async def main() -> None:
        with two_lines(client):
            server = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
            await server.bind(("localhost", 0))
            one = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
            await one.connect(server.getsockname())
            assert await one.send(b"ping") == 4
            data, sender = await server.recvfrom(100)
            assert (data, sender) == (b"ping", one.getsockname())
            await server.sendto(b"pong", sender)
            buffer = bytearray(10)
            assert await one.recv_into(buffer) == 4
            assert buffer[:4] == b"pong"
            assert one.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_TYPE) == one.type
            one.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_BROADCAST, 1)
            assert one.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_BROADCAST) == 1
            with pytest.raises(OSError, match="not available"):
                one.setsockopt(trio.socket.SOL_SOCKET, 9999, 1)
            one.close()
            assert one.fileno() == -1
            with pytest.raises(OSError, match="Bad file descriptor"):
                await one.recv(1)
            with pifus.priority("high"):
                urgent = trio.socket.socket()
            assert isinstance(urgent, pifus.trio.StackSocket)
            assert urgent._endpoint.sock.priority is pifus.Priority.HIGH
            with pytest.raises(OSError, match="only TCP and UDP"):
                trio.socket.socket(type=trio.socket.SOCK_RAW)

    run(main)


def test_names(client: pifus.Client) -> None:
    async def main() -> None:
        with two_lines(client):
            found = await trio.socket.getaddrinfo("localhost", 80, family=socket.AF_INET6)
            assert {one[4] for one in found} == {("::1", 80, 0, 0)}
            # The system's resolver names raw sockets, too: not for the stack.
            assert {one[1] for one in found} == {socket.SOCK_STREAM, socket.SOCK_DGRAM}
            with pytest.raises(socket.gaierror):
                await trio.socket.getaddrinfo("no.such.name.invalid", 80)
            numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
            assert await trio.socket.getnameinfo(("127.0.0.1", 80), numeric) == ("127.0.0.1", "80")

    run(main)


def test_anyio(client: pifus.Client) -> None:
    async def main() -> None:
        with two_lines(client):
            listener = await test_streams.listen(client)
            port = test_streams.port_of(listener)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                accepted = await listener.accept()
                await stream.send(b"through anyio")
                assert await accepted.receive_some() == b"through anyio"
                await accepted.aclose()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()

    run(main)


def test_backend_killed(start_backend: Callable[..., BackendProcess]) -> None:
    backend = start_backend("trio-killed")

    async def main() -> None:
        with pifus.Client(backend.path) as client:
            listener = await test_streams.listen(client)
            left, right = await test_streams.pair(client)
            await test_streams.clog(right)
            killed = 0.0

            async def broken(call: Callable[[], object], error: type[Exception]) -> None:
                with pytest.raises(error):
                    await call()  # type: ignore[misc]
                assert trio.current_time() - killed < KILLED_SECONDS

            async with trio.open_nursery() as nursery:
                nursery.start_soon(broken, right.receive_some, trio.BrokenResourceError)
                nursery.start_soon(
                    broken, right.wait_send_all_might_not_block, trio.BrokenResourceError
                )
                nursery.start_soon(broken, listener.accept, pifus.BackendGone)
                await trio.testing.wait_all_tasks_blocked()
                killed = trio.current_time()
                backend.kill()
            with pytest.raises(trio.BrokenResourceError):
                await left.send_all(b"x")
            await left.aclose()
            await listener.aclose()

    run(main)


def test_client_closed_while_tasks_wait(backend: BackendProcess) -> None:
    async def main() -> None:
        client = pifus.Client(backend.path)
        left, _ = await test_streams.pair(client)

        async def close() -> None:
            client.close()

        with pytest.raises(ExceptionGroup) as caught:
            await test_streams.together(left.receive_some, close)
        assert caught.group_contains(trio.ClosedResourceError)

    run(main)


def test_the_runs_own_client(backend: BackendProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIFUS_BACKEND", backend.path)
    clients: list[pifus.Client] = []

    async def main() -> None:
        (listener,) = await pifus.trio.open_tcp_listeners(0, host="127.0.0.1")
        port = test_streams.port_of(listener)
        stream = await pifus.trio.open_tcp_stream("127.0.0.1", port)
        accepted = await listener.accept()
        await stream.send_all(b"x")
        assert await accepted.receive_some() == b"x"
        clients.append(stream.socket.client)
        assert clients[0] is accepted.socket.client

    for _ in range(2):
        run(main)
        assert clients.pop().closed


PROGRAM = """
import sys, trio, pifus.trio

async def main():
    (listener,) = await pifus.trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.local_address[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.accept)
        stream = await pifus.trio.open_tcp_stream("127.0.0.1", port)
        print("waiting", flush=True)
        await stream.receive_some()

try:
    trio.run(main)
except BaseException as error:
    found = error
    while isinstance(found, BaseExceptionGroup):
        (found,) = found.exceptions
    print(type(found).__name__)
"""


def test_control_c(backend: BackendProcess) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PIFUS_BACKEND": backend.path},
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "waiting\n"
        program.send_signal(signal.SIGINT)
        output, _ = program.communicate(timeout=20)
    assert output == "KeyboardInterrupt\n"
    assert program.returncode == 0
