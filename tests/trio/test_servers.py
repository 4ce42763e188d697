"""anyio and hypercorn over pifus.trio: they make their listeners without trio."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from anyio.abc import ByteStream, SocketAttribute, UDPSocket
from anyio.streams.tls import TLSListener, TLSStream

import pifus
import pifus.trio
from tests import certificates
from tests.trio.test_streams import run

BODY = bytes(range(256)) * 4096  # more than a receive ring holds
Installed = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture
def installed(client: pifus.Client) -> Installed:
    """Runs a test in a run of trio in which everything is over the stack."""

    def run_installed(main: Callable[[], Awaitable[None]]) -> None:
        async def installing() -> None:
            pifus.trio.install(client=client)
            await main()

        run(installing)

    return run_installed


def refuses(address: tuple[str, int]) -> bool:
    """True: the kernel has no listener there, so it is the stack's."""
    with socket.socket() as kernel:
        return kernel.connect_ex(address) != 0


async def echo(stream: ByteStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data)


async def check_echo(stream: ByteStream) -> None:
    """All of it comes back, and then the end."""
    async with stream, anyio.create_task_group() as group:

        async def send() -> None:
            await stream.send(BODY)

        group.start_soon(send)
        got = b""
        while len(got) < len(BODY):
            got += await stream.receive()
        assert got == BODY


def test_anyio_streams(installed: Installed) -> None:
    async def main() -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(SocketAttribute.local_port)
            assert refuses(("127.0.0.1", port))
            async with anyio.create_task_group() as group:
                group.start_soon(listener.serve, echo)
                stream = await anyio.connect_tcp("localhost", port)
                assert stream.extra(SocketAttribute.remote_address) == ("127.0.0.1", port)
                await check_echo(stream)
                with pytest.raises(anyio.ClosedResourceError):
                    await stream.receive()
                stream = await anyio.connect_tcp("127.0.0.1", port)
                await stream.send_eof()
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()
                await stream.aclose()
                group.cancel_scope.cancel()

    installed(main)


def test_anyio_listens_on_both_families(installed: Installed) -> None:
    async def main() -> None:
        async with await anyio.create_tcp_listener() as listener:
            port = listener.extra(SocketAttribute.local_port)
            async with anyio.create_task_group() as group:
                group.start_soon(listener.serve, echo)
                for host in ("127.0.0.1", "::1"):
                    await check_echo(await anyio.connect_tcp(host, port))
                group.cancel_scope.cancel()

    installed(main)


def test_anyio_tls(installed: Installed, tmp_path: Path) -> None:
    made = certificates.make(tmp_path)

    async def main() -> None:
        plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = plain.extra(SocketAttribute.local_port)
        listener = TLSListener(plain, made.server_context())
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            stream = await TLSStream.wrap(
                await anyio.connect_tcp("127.0.0.1", port),
                hostname="localhost",
                ssl_context=made.client_context(),
            )
            await check_echo(stream)
            group.cancel_scope.cancel()

    installed(main)


def test_anyio_datagrams(installed: Installed) -> None:
    async def main() -> None:
        async with await anyio.create_udp_socket(
            family=socket.AF_INET, local_host="127.0.0.1", reuse_port=True
        ) as server:
            port = server.extra(SocketAttribute.local_port)
            async with await anyio.create_connected_udp_socket("127.0.0.1", port) as one:
                await one.send(b"ping")
                data, sender = await server.receive()
                assert data == b"ping"
                assert sender == one.extra(SocketAttribute.local_address)
                await server.sendto(b"pong", *sender)
                assert await one.receive() == b"pong"
                async with anyio.create_task_group() as group:
                    group.start_soon(closed, server)
                    await anyio.wait_all_tasks_blocked()
                    await server.aclose()

    async def closed(server: UDPSocket) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await server.receive()

    installed(main)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """ASGI: answers with what it got, twice, and who asked."""
    if scope["type"] == "lifespan":
        while True:
            event = (await receive())["type"]
            await send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return
    body = b""
    while True:
        event = await receive()
        body += event["body"]
        if not event["more_body"]:
            break
    headers = [(b"x-peer", str(scope["client"]).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for more in (True, False):
        await send({"type": "http.response.body", "body": body, "more_body": more})


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_hypercorn(installed: Installed, tmp_path: Path, tls: bool) -> None:
    pytest.importorskip("hypercorn", reason="in the dev group: ./dev installs it")
    import httpx
    import hypercorn.config
    import hypercorn.trio

    made = certificates.make(tmp_path)
    config = hypercorn.config.Config()
    config.bind = ["localhost:0"]
    config.loglevel = "WARNING"
    if tls:
        config.certfile = config.keyfile = str(made.server)

    async def main() -> None:
        stop = trio.Event()
        serve = partial(hypercorn.trio.serve, application, config, shutdown_trigger=stop.wait)
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(serve)
            port = int(address.rpartition(":")[2])
            assert refuses(("127.0.0.1", port))
            url = f"{'https' if tls else 'http'}://localhost:{port}/"
            async with httpx.AsyncClient(verify=made.client_context()) as web:
                peers = set()
                for body in (b"", b"x", BODY):
                    answer = await web.post(url, content=body)
                    assert answer.status_code == 200
                    assert answer.content == 2 * body
                    peers.add(answer.headers["x-peer"])
                assert len(peers) == 1  # one connection, kept open
            stop.set()

    installed(main)


def test_only_in_runs_that_have_installed_it(installed: Installed) -> None:
    async def stack() -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            assert refuses(("127.0.0.1", listener.extra(SocketAttribute.local_port)))

    async def kernel() -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            assert not refuses(("127.0.0.1", listener.extra(SocketAttribute.local_port)))

    installed(stack)
    run(kernel)
    with pytest.raises(RuntimeError):
        pifus.trio.install()


def test_other_sockets_stay_the_kernels(installed: Installed, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "socket"
        listener = await anyio.create_unix_listener(path)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            with socket.socket(socket.AF_UNIX) as one:
                await anyio.to_thread.run_sync(one.connect, str(path))
                one.send(b"x")
                assert await anyio.to_thread.run_sync(one.recv, 1) == b"x"
            group.cancel_scope.cancel()

    installed(main)
