"""Streams, servers and datagram sockets for asyncio, on completion queues."""

from __future__ import annotations

import asyncio
import socket as _socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from pifus._async import _opening
from pifus._async._completed import completed as _completed
from pifus._async._endpoint import Endpoint
from pifus._async._loop import Side
from pifus._async._resource import Connected, Datagrams, Resource
from pifus._core._address import Address
from pifus._core._ops import Completion, Priority
from pifus._core._socket import Socket
from pifus.aio._loop import loop_of
from pifus.completion import Client

_BACKLOG: Final = 1024
_DATAGRAM_BYTES: Final = 65507
_READ_BYTES: Final = 65536


class _Closing(Resource):
    """What is true of every socket here; `async with` closes it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the socket: tasks that wait in it get ConnectionAbortedError.

        What was written before still reaches the peer; nothing is waited for.
        """
        self._endpoint.close()


class Stream(_Closing, Connected):
    """A TCP connection over the stack.

    Raised by its methods:
        RuntimeError: another task is in a call of the same direction.
        ConnectionAbortedError: this side has closed it, before the call or during it.
        OSError: what broke the connection, as of the kernel's sockets; BackendGone.

    **Cancellation.** A read that is cancelled has taken nothing: every byte that has come, or comes
    later, goes to the next one. `write` that is cancelled has written some first part of its bytes,
    and nobody knows how much: afterwards the stream can only be read from and closed, unless the
    protocol can live with that. All other calls have their effect or not, and not both.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._buffer = bytearray()
        # The endpoint's own has a turn between two receives of one call.
        self._reading = Side(endpoint.loop, "reading from")

    async def read(self, limit: int = _READ_BYTES) -> bytes:
        """Reads at least one byte and at most `limit`; b"" at the end of the stream.

        Raises:
            ValueError: `limit` is not positive.
        """
        if limit < 1:
            raise ValueError(f"read() of {limit} bytes: at least 1")
        with self._reading:
            if not self._buffer:
                return await self._endpoint.receive(limit)
            return self._take(limit)

    async def readexactly(self, count: int) -> bytes:
        """Reads exactly `count` bytes.

        Raises:
            ValueError: `count` is negative.
            asyncio.IncompleteReadError: the stream ended before; its `partial` has the rest.
        """
        if count < 0:
            raise ValueError(f"readexactly() of {count} bytes: at least 0")
        with self._reading:
            while len(self._buffer) < count:
                data = await self._endpoint.receive(count - len(self._buffer))
                if not data:
                    raise asyncio.IncompleteReadError(self._take(count), count)
                self._buffer += data
            return self._take(count)

    async def readuntil(self, separator: bytes = b"\n", limit: int = _READ_BYTES) -> bytes:
        """Reads up to and with `separator`.

        Raises:
            ValueError: the separator is empty.
            asyncio.IncompleteReadError: the stream ended before; its `partial` has the rest.
            asyncio.LimitOverrunError: it is not within `limit` bytes. All that came stays to be
                read; `consumed` bytes of it are before the separator, or no part of one.
        """
        if not separator:
            raise ValueError("the separator must have at least one byte")
        with self._reading:
            looked = 0
            while (at := self._buffer.find(separator, looked, limit)) < 0:
                looked = max(len(self._buffer) - len(separator) + 1, 0)
                if len(self._buffer) >= limit:
                    at = self._buffer.find(separator)
                    before = looked if at < 0 else at
                    raise asyncio.LimitOverrunError(f"no {separator!r} in {limit} bytes", before)
                data = await self._endpoint.receive(_READ_BYTES)
                if not data:
                    raise asyncio.IncompleteReadError(self._take(len(self._buffer)), None)
                self._buffer += data
            return self._take(at + len(separator))

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Writes all of `data`, which may change afterwards.

        Returns when the last byte is queued; `flush` waits until the peer has it. At most 256 KiB
        are queued and not acknowledged: then this waits.
        """
        await self._endpoint.send_all(data)

    async def flush(self) -> None:
        """Waits until the peer has acknowledged everything that was written."""
        await self._endpoint.flush()

    async def write_eof(self) -> None:
        """Ends the writing direction: the peer finds the end of the stream behind the last byte."""
        await self._endpoint.send_eof()


class UdpSocket(_Closing, Datagrams):
    """A UDP socket over the stack.

    A cancelled `recvfrom` has taken nothing; a cancelled `sendto` has sent the whole datagram or
    none. Errors: as of Stream.
    """

    async def sendto(
        self, data: bytes | bytearray | memoryview, address: Address | None = None
    ) -> int:
        """Sends one datagram; None: to the peer of a connected socket. Its length."""
        return await self._endpoint.send_to(data, address)

    async def recvfrom(self, limit: int = _DATAGRAM_BYTES) -> tuple[bytes, Address | None]:
        """Receives one datagram, cut to `limit` bytes, and its sender."""
        return await self._endpoint.receive_from(limit)


# asyncio itself does not keep a task alive that waits for something nobody else refers to; and a
# server may be forgotten while its connections go on.
_handling: Final[set[asyncio.Task[None]]] = set()


class Server:
    """Listeners, and a task for each connection; `async with` closes the listeners."""

    def __init__(
        self, endpoints: list[Endpoint], handler: Callable[[Stream], Awaitable[object]]
    ) -> None:
        self._endpoints = endpoints
        self._handler = handler
        self._handling: set[asyncio.Task[None]] = set()
        self._accepting = [asyncio.create_task(self._accept(one)) for one in endpoints]

    @property
    def addresses(self) -> list[Address | None]:
        """Where it listens.

        Raises:
            OSError: EBADF after close.
        """
        return [one.sock.local_address for one in self._endpoints]

    async def _accept(self, endpoint: Endpoint) -> None:
        while True:
            try:
                accepted, _ = await endpoint.accept()
            except OSError:
                if endpoint.closed or endpoint.loop.hub.ended:
                    return
                await endpoint.loop.nap()  # no socket left, or a connection that ended early
                continue
            task = asyncio.create_task(self._handle(Stream(accepted)))
            for tasks in (self._handling, _handling):
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _handle(self, stream: Stream) -> None:
        try:
            await self._handler(stream)
        except OSError:
            pass  # the connection broke: that is the peer's affair
        except Exception as error:  # noqa: BLE001 - whatever a handler raises
            # As asyncio's own servers do; `wait_closed` waits for the other connections.
            asyncio.get_running_loop().call_exception_handler(
                {
                    "message": f"the handler of {stream!r} failed",
                    "exception": error,
                }
            )
        finally:
            stream.close()

    def close(self) -> None:
        """Stops listening; connections that were accepted go on."""
        for endpoint in self._endpoints:
            endpoint.close()

    async def wait_closed(self) -> None:
        """Waits until the listeners and the handlers of all connections have ended, of those too
        that came meanwhile. Cancelled, it leaves them alone."""
        while pending := [one for one in (*self._accepting, *self._handling) if not one.done()]:
            await asyncio.wait(pending)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


async def _addresses(host: str | None, port: int, flags: int = 0) -> list[tuple[int, Address]]:
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=_socket.SOCK_STREAM, flags=flags
    )
    return _opening.families(found)


async def open_connection(
    host: str,
    port: int,
    *,
    priority: Priority = Priority.MEDIUM,
    client: Client | None = None,
) -> Stream:
    """Connects, to one address of the name after the other.

    Args:
        host: a name or a numeric address.
        port: of the peer.
        priority: how urgent its work is.
        client: of the completion API, which must be used by nothing else then; None: one that
            belongs to the running event loop (its first use may start a private backend).

    Raises:
        OSError: no address could be connected to; the error of the last one.
        BackendUnavailable: there is no backend, and none could be started.
    """
    loop = loop_of(client)
    failure: OSError | None = None
    for family, address in await _addresses(host, port):
        endpoint = _opening.endpoint(loop, family, priority)
        try:
            await endpoint.connect(address)
        except OSError as error:
            endpoint.close()
            failure = error
        except BaseException:
            endpoint.close()
            raise
        else:
            return Stream(endpoint)
    raise failure or OSError(f"{host!r} has no address")


async def start_server(
    handler: Callable[[Stream], Awaitable[object]],
    host: str | None,
    port: int,
    *,
    backlog: int = _BACKLOG,
    priority: Priority = Priority.MEDIUM,
    client: Client | None = None,
) -> Server:
    """Runs `handler` with each connection to `host`, in a task of its own.

    Args:
        handler: the stream is closed when it returns. An OSError of it is dropped; other exceptions
            go to the event loop's exception handler.
        host: a name or a numeric address; None: all addresses.
        port: to listen on; 0: each address gets one of its own.
        backlog: how many connections wait to be accepted at most.
        priority: of the listeners and of the connections.
        client: see `open_connection`.

    Raises:
        OSError: an address cannot be listened on.
    """
    loop = loop_of(client)
    addresses = await _addresses(host, port, _socket.AI_PASSIVE)
    endpoints = await _opening.listening(loop, addresses, backlog, priority)
    return Server(endpoints, handler)


async def open_udp_socket(
    local_address: Address | None = None,
    *,
    remote_address: Address | None = None,
    family: int = _socket.AF_INET,
    priority: Priority = Priority.MEDIUM,
    client: Client | None = None,
) -> UdpSocket:
    """Makes a UDP socket; see `pifus.trio.open_udp_socket`.

    Raises:
        OSError: an address cannot be used.
    """
    return UdpSocket(
        await _opening.datagrams(loop_of(client), local_address, remote_address, family, priority)
    )


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
