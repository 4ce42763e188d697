"""A user's program that uses every public name; checked by `test_typed.py`, not run.

What is assigned has its type written down, so that a change of it does not go unnoticed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence

import trio

import pifus
import pifus.aio
import pifus.errors
import pifus.monkey
import pifus.trio
from pifus.compat import socket as stack_sockets
from pifus.compat import ssl as stack_ssl

# ---- completions ----


def clients(on_completion: bool) -> pifus.Client:
    seen: list[pifus.Completion] = []
    client = pifus.Client(
        os.environ.get("PIFUS_BACKEND"),
        name="typed",
        max_sockets=8,
        queue_depth=16,
        rx_bytes=65536,
        arena_bytes=1 << 20,
        priority=pifus.Priority.HIGH,
        driver=["loopback"],
        on_completion=seen.append if on_completion else None,
        stamp_reaped=True,
    )
    client.set_spin(0.00001)
    path: str = client.backend
    numbers: list[int] = [client.session, client.max_sockets, client.arena_free]
    numbers += [client.max_write_bytes, client.queue_depth, client.rx_bytes, client.arena_bytes]
    closed: bool = client.closed
    print(path, numbers, closed, client.name)
    return client


def sockets(client: pifus.Client) -> tuple[pifus.Socket, pifus.Socket]:
    stream: pifus.Socket = client.socket(
        pifus.TCP,
        family=socket.AF_INET6,
        priority=pifus.Priority.LOW,
        rx_bytes=4096,
        tx_bytes=65536,
        queue_depth=4,
        nodelay=False,
        dscp=46,
    )
    protocol: pifus.Protocol = stream.protocol
    state: pifus.SocketState = stream.state
    owner: pifus.Client = stream.client
    names: list[pifus.Address | None] = [stream.local_address, stream.peer_address]
    numbers: list[int] = [stream.family, stream.error, stream.dropped, stream.take_error()]
    stream.queue_depth = stream.queue_depth // 2
    stream.tx_bytes = stream.tx_bytes * 2
    priority: pifus.Priority = stream.priority
    print(protocol, state, owner, names, numbers, priority, stream.closed)
    return stream, client.socket(pifus.UDP)


def submit(client: pifus.Client, sock: pifus.Socket, datagrams: pifus.Socket) -> list[int]:
    ops: list[int] = [sock.nop(), sock.drain(timeout=1.0), sock.cancel(3), sock.cancel_all()]
    ops += [sock.bind(("", 0), link=True), sock.listen(5), sock.accept(multishot=True)]
    ops += [sock.connect(("127.0.0.1", 7), link=True, deadline=12.5), sock.shutdown(socket.SHUT_WR)]
    ops += [sock.set_priority(pifus.Priority.HIGH), sock.set_nodelay(True), sock.set_dscp(0)]
    ops.append(sock.setopt(pifus.Option.KEEPALIVE, 1))
    with client.batch():
        ops.append(sock.write(b"bytes"))
        ops.append(sock.write(bytearray(4), timeout=0.1, link=True))
        ops.append(sock.write(memoryview(b"any buffer"), deadline=1e9))
    with client.register(512) as block:
        registered: pifus.Block = block
        view: memoryview = registered.view
        view[:2] = b"hi"
        ops.append(sock.write_block(registered, 2, timeout=0.5))
        print(registered.size, len(registered), registered.busy)
        registered.release()
    ops += [sock.recv(100, lease=True), sock.recv(100, multishot=True, timeout=2)]
    ops += [datagrams.sendto(b"x", ("127.0.0.1", 9)), datagrams.sendto(b"to the peer")]
    ops += [datagrams.connect(None), datagrams.join_group("239.1.1.1")]
    ops += [datagrams.leave_group("239.1.1.1", 1), sock.close(abort=True)]
    return ops


def look_at(done: pifus.Completion) -> pifus.Socket | None:
    numbers: list[int] = [done.op, done.result, done.errno]
    opcode: pifus.Opcode = done.opcode
    flags: list[bool] = [done.more, done.late, done.truncated]
    times: list[int] = [done.submitted_ns, done.picked_ns, done.handed_ns, done.completed_ns]
    times.append(done.reaped_ns)
    data: bytes | None = done.data
    peer: pifus.Address | None = done.peer
    print(numbers, opcode, flags, times, data, peer)
    if done.check().opcode is pifus.Opcode.RECV:
        with done.sock.lease(done) as leased:
            bytes_of_it: memoryview = leased
            print(bytes_of_it.nbytes)
    return done.accepted


def take(client: pifus.Client, sock: pifus.Socket) -> list[pifus.Completion]:
    found: list[pifus.Completion] = sock.poll_many(8)
    found += client.poll_many(8)
    found += client.wait_many(limit=8, timeout=1.0)
    for maybe in (sock.poll(), client.poll_any()):
        if maybe is not None:
            found.append(maybe)
    found += [sock.wait(timeout=1.0), client.wait_any(timeout=None)]
    with sock:
        sock.release()
    client.close()
    return found


def what_went_wrong(error: Exception) -> str:
    words: dict[type[Exception], str] = {
        pifus.ArenaFull: "memory",
        pifus.BackendGone: "backend",
        pifus.BackendUnavailable: "backend",
        pifus.BlockBusy: "block",
        pifus.ClientClosed: "client",
        pifus.DeadlineMissed: "time",
        pifus.ProtocolError: "protocol",
        pifus.QueueFull: "queue",
        pifus.PifusError: "pifus",
    }
    also: list[type[OSError]] = [
        pifus.errors.ArenaFull,
        pifus.errors.BackendGone,
        pifus.errors.BackendUnavailable,
        pifus.errors.BlockBusy,
        pifus.errors.ClientClosed,
        pifus.errors.DeadlineMissed,
        pifus.errors.ProtocolError,
        pifus.errors.QueueFull,
    ]
    kinds: Sequence[type[Exception]] = [pifus.errors.PifusError, *also]
    return f"pifus {pifus.__version__}: {words[type(error)]} {kinds}"


# ---- the drop-in ----


def drop_in() -> bytes:
    pifus.monkey.patch(dns=["192.0.2.53"])
    if pifus.monkey.is_patched():
        print(pifus.monkey.bypasses())
    pifus.monkey.unpatch()
    with pifus.priority("high"):
        urgent: socket.socket = stack_sockets.create_connection(("127.0.0.1", 80), timeout=5)
    context: ssl.SSLContext = stack_ssl.create_default_context()
    with context.wrap_socket(urgent, server_hostname="localhost") as secured:
        secured.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return secured.recv(4096)


# ---- trio ----


async def serve_one(stream: pifus.trio.Stream) -> None:
    async with stream:
        data: bytes = await stream.receive_some(4096)
        await stream.wait_send_all_might_not_block()
        await stream.send_all(data)
        await stream.flush()
        stream.setopt(pifus.Option.NODELAY, 1)
        stream.set_priority(pifus.Priority.LOW)
        await stream.send_eof()
        op: int = stream.socket.nop()
        done: pifus.Completion = await pifus.trio.completed(stream.socket, op)
        print(done, stream.local_address, stream.peer_address, stream.priority)
        await stream.aclose()


async def in_trio(client: pifus.Client) -> None:
    async with trio.open_nursery() as nursery:
        listeners: list[pifus.trio.Listener] = await nursery.start(
            pifus.trio.serve_tcp, serve_one, 0
        )
        more = await pifus.trio.open_tcp_listeners(0, host="127.0.0.1", backlog=5, client=client)
        for listener in [*listeners, *more]:
            listener.setopt(pifus.Option.TOS, 8)
            listener.set_priority(pifus.Priority.HIGH)
            print(listener.local_address, listener.priority, listener.socket)
            accepted: pifus.trio.Stream = await listener.accept()
            await serve_one(accepted)
            await listener.aclose()
        stream = await pifus.trio.open_tcp_stream("localhost", 80, priority=pifus.Priority.HIGH)
        # Whoever takes trio's abstract classes takes these.
        secured = trio.SSLStream(stream, ssl.create_default_context(), server_hostname="localhost")
        await secured.send_all(b"x")
        async with await pifus.trio.open_udp_socket(("127.0.0.1", 0)) as udp:
            datagrams: pifus.trio.UdpSocket = udp
            await datagrams.send_to(b"x", ("127.0.0.1", 9))
            data, sender = await datagrams.receive_from(100)
            datagrams.set_priority(pifus.Priority.LOW)
            datagrams.setopt(pifus.Option.TTL, 4)
            print(data, sender, datagrams.local_address, datagrams.priority, datagrams.socket)
            await datagrams.aclose()


async def trio_programs(client: pifus.Client) -> None:
    factory = pifus.trio.SocketFactory(pifus.Priority.LOW, client=client)
    trio.socket.set_custom_socket_factory(factory)
    trio.socket.set_custom_hostname_resolver(pifus.trio.HostnameResolver())
    pifus.trio.install(pifus.Priority.LOW, client=client)
    made = factory.socket(socket.AF_INET, socket.SOCK_STREAM)
    assert isinstance(made, pifus.trio.StackSocket)
    sock: pifus.trio.StackSocket = made
    print(sock.family, sock.type, sock.proto, sock.did_shutdown_SHUT_WR, sock.fileno())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE), sock.get_inheritable())
    sock.set_inheritable(False)
    await sock.bind(("127.0.0.1", 0))
    sock.listen(3)
    await sock.accept()
    await sock.connect(("127.0.0.1", 80))
    await sock.wait_writable()
    await sock.send(b"x")
    await sock.sendmsg([b"x"])
    await sock.sendto(b"x", ("127.0.0.1", 9))
    room = bytearray(10)
    print(await sock.recv(10), await sock.recv_into(room), sock.is_readable())
    print(await sock.recvfrom(10), await sock.recvfrom_into(room))
    print(await sock.recvmsg(10), await sock.recvmsg_into([room]))
    print(sock.getsockname(), sock.getpeername())
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()
    for refused in (sock.dup, sock.detach):
        refused()


async def names() -> None:
    resolver = pifus.trio.HostnameResolver()
    await resolver.getaddrinfo(b"localhost", 80)
    await resolver.getnameinfo(("127.0.0.1", 80), 0)


# ---- asyncio ----


async def answer(stream: pifus.aio.Stream) -> None:
    async with stream:
        parts: list[bytes] = [await stream.read(10), await stream.readexactly(2)]
        parts.append(await stream.readuntil(b"\n"))
        await stream.write(b"".join(parts))
        await stream.flush()
        await stream.write_eof()
        stream.set_priority(pifus.Priority.HIGH)
        stream.setopt(pifus.Option.TTL, 9)
        print(stream.local_address, stream.peer_address, stream.socket)
        stream.close()


async def in_asyncio(client: pifus.Client) -> None:
    server: pifus.aio.Server = await pifus.aio.start_server(answer, "127.0.0.1", 0, backlog=4)
    addresses: list[pifus.Address | None] = server.addresses
    stream: pifus.aio.Stream = await pifus.aio.open_connection("localhost", 80, client=client)
    done: pifus.Completion = await pifus.aio.completed(stream.socket, stream.socket.nop())
    print(addresses, done)
    async with await pifus.aio.open_udp_socket(remote_address=("127.0.0.1", 9)) as udp:
        datagrams: pifus.aio.UdpSocket = udp
        await datagrams.sendto(b"x")
        data, sender = await datagrams.recvfrom(100)
        datagrams.set_priority(pifus.Priority.LOW)
        datagrams.setopt(pifus.Option.TTL, 4)
        print(data, sender, datagrams.local_address, datagrams.socket)
        datagrams.close()
    server.close()
    await server.wait_closed()


def main() -> None:
    client = clients(on_completion=False)
    sock, datagrams = sockets(client)
    submit(client, sock, datagrams)
    for done in take(client, sock):
        look_at(done)
    trio.run(in_trio, client)
    asyncio.run(in_asyncio(client))
