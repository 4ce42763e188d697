"""Opening: connections with happy eyeballs, listeners for every address of a name, UDP."""

from __future__ import annotations

import socket as _socket
from collections.abc import Awaitable, Callable

import trio

from pifus._async import _opening
from pifus._async._completed import completed as _completed
from pifus._async._endpoint import Endpoint
from pifus._core._address import Address
from pifus._core._ops import Completion, Priority
from pifus._core._socket import Socket
from pifus.completion import Client
from pifus.trio._loop import loop_of
from pifus.trio._stream import Listener, Stream, UdpSocket

_BACKLOG_MAX = 65535


async def _addresses(
    host: str | bytes | None, port: int, flags: int = 0
) -> list[tuple[int, Address]]:
    """Families and addresses of a name, in the order in which to try them."""
    found = await trio.socket.getaddrinfo(host, port, type=_socket.SOCK_STREAM, flags=flags)
    return _opening.families(found)


async def _connected(endpoint: Endpoint, address: Address, local: str | None) -> Endpoint:
    try:
        if local is not None:
            await endpoint.bind((local, 0))
        await endpoint.connect(address)
    except BaseException:
        endpoint.close()
        raise
    return endpoint


@trio.lowlevel.enable_ki_protection
async def open_tcp_stream(
    host: str | bytes,
    port: int,
    *,
    happy_eyeballs_delay: float = 0.25,
    local_address: str | None = None,
    priority: Priority = Priority.MEDIUM,
    client: Client | None = None,
) -> Stream:
    """Connects. Of several addresses of a name the first that answers is taken.

    Args:
        host: a name or a numeric address.
        port: of the peer.
        happy_eyeballs_delay: how long, in seconds, until the next address is tried beside.
        local_address: numeric address to connect from; None: the stack chooses.
        priority: how urgent its work is.
        client: of the completion API, which must be used by nothing else then; None: one that
            belongs to this run of trio (its first use may start a private backend).

    Raises:
        OSError: no address could be connected to. With one address, its own error; else an
            ExceptionGroup of all of them is the cause.
        BackendUnavailable: there is no backend, and none could be started.
    """
    loop = loop_of(client)
    targets = await _addresses(host, port)
    errors: list[OSError] = []
    won: list[Endpoint] = []

    @trio.lowlevel.enable_ki_protection
    async def attempt(family: int, address: Address, failed: trio.Event) -> None:
        try:
            won.append(
                await _connected(_opening.endpoint(loop, family, priority), address, local_address)
            )
            nursery.cancel_scope.cancel()
        except OSError as error:
            errors.append(error)
            failed.set()

    try:
        async with trio.open_nursery() as nursery:
            for family, address in targets:
                failed = trio.Event()
                nursery.start_soon(attempt, family, address, failed)
                with trio.move_on_after(happy_eyeballs_delay):
                    await failed.wait()
    except BaseException:
        for endpoint in won:
            endpoint.close()
        raise
    for endpoint in won[1:]:
        endpoint.close()
    if won:
        return Stream(won[0])
    if len(errors) == 1:
        raise errors[0]
    text = f"no address of {host!r} could be connected to"
    raise OSError(text) from ExceptionGroup(text, errors)


@trio.lowlevel.enable_ki_protection
async def open_tcp_listeners(
    port: int,
    *,
    host: str | bytes | None = None,
    backlog: int | None = None,
    priority: Priority = Priority.MEDIUM,
    client: Client | None = None,
) -> list[Listener]:
    """Listens on every address of `host`.

    Args:
        port: to listen on; 0: each listener gets one of its own.
        host: a name or a numeric address; None: all addresses, one listener for IPv4 and one for
            IPv6.
        backlog: how many connections wait to be accepted at most; None: as many as possible.
        priority: of the listeners and of the connections that they accept.
        client: see `open_tcp_stream`.

    Raises:
        OSError: an address cannot be listened on; then there are no listeners.
        TypeError: the port or the backlog is no int.
    """
    if not isinstance(port, int):
        raise TypeError(f"port must be int, not {type(port).__name__}")
    if backlog is not None and not isinstance(backlog, int):
        raise TypeError(f"backlog must be int or None, not {type(backlog).__name__}")
    loop = loop_of(client)
    addresses = await _addresses(host, port, _socket.AI_PASSIVE)
    most = _BACKLOG_MAX if backlog is None else min(backlog, _BACKLOG_MAX)
    endpoints = await _opening.listening(loop, addresses, most, priority)
    return [Listener(endpoint) for endpoint in endpoints]


async def serve_tcp(
    handler: Callable[[Stream], Awaitable[object]],
    port: int,
    *,
    host: str | bytes | None = None,
    backlog: int | None = None,
    handler_nursery: trio.Nursery | None = None,
    priority: Priority = Priority.MEDIUM,
    client: Client | None = None,
    task_status: trio.TaskStatus[list[Listener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs `handler` with each incoming connection, as `trio.serve_tcp`, until cancelled.

    Args:
        handler: called in a task of its own; the stream is closed when it returns.
        port: see `open_tcp_listeners`; so for host, backlog, priority and client.
        handler_nursery: where the handlers run; None: in a nursery of this call's own.
        task_status: `nursery.start` returns the listeners.
    """
    listeners = await open_tcp_listeners(
        port, host=host, backlog=backlog, priority=priority, client=client
    )
    await trio.serve_listeners(
        handler, listeners, handler_nursery=handler_nursery, task_status=task_status
    )


@trio.lowlevel.enable_ki_protection
async def open_udp_socket(
    local_address: Address | None = None,
    *,
    remote_address: Address | None = None,
    family: int = _socket.AF_INET,
    priority: Priority = Priority.MEDIUM,
    client: Client | None = None,
) -> UdpSocket:
    """Makes a UDP socket.

    Args:
        local_address: numeric address and port to bind to; None: chosen by the stack when needed.
        remote_address: numeric address and port of the only peer; None: any peer.
        family: socket.AF_INET or socket.AF_INET6.
        priority: how urgent its work is.
        client: see `open_tcp_stream`.

    Raises:
        OSError: an address cannot be used.
    """
    return UdpSocket(
        await _opening.datagrams(loop_of(client), local_address, remote_address, family, priority)
    )


@trio.lowlevel.enable_ki_protection
async def completed(sock: Socket, op: int) -> Completion:
    """Waits for the next completion of an operation that was submitted to `sock`.

    From the first use on, all completions of the socket's client come this way, and are kept until
    somebody waits for them. A wait that is cancelled leaves the operation alone: wait again, or
    submit a `cancel`. Release a socket only when nobody waits for its completions.

    Raises:
        BackendGone, ClientClosed: the backend or the client has ended.
        RuntimeError: the client has a callback, which gets them.
    """
    return await _completed(loop_of(sock.client), sock, op)
