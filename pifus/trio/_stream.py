"""Streams, listeners and datagram sockets for trio, on completion queues."""

from __future__ import annotations

import errno
from typing import Final

import trio

from pifus._async._resource import Connected, Datagrams, Resource
from pifus._core._address import Address

_RECEIVE_BYTES: Final = 65536
_DATAGRAM_BYTES: Final = 65507
# What can become of a connection before it is accepted: the next one is waited for.
_PASSING: Final = frozenset({errno.ECONNABORTED, errno.ECONNRESET, errno.EPROTO, errno.ETIMEDOUT})


def _as_trios(error: OSError) -> Exception:
    """What trio's streams raise for it. Raise it `from error`."""
    if error.errno == errno.EBADF:
        return trio.ClosedResourceError(str(error))
    return trio.BrokenResourceError(f"the connection broke: {error}")


class _Closing(Resource, trio.abc.AsyncResource):
    """What is true of every socket here."""

    @trio.lowlevel.enable_ki_protection
    async def aclose(self) -> None:
        """Closes the socket: tasks that wait in it get ClosedResourceError.

        What was sent before still reaches the peer, whether this is cancelled or not; nothing is
        waited for. Unread bytes make the peer see a reset, as with the kernel's sockets.
        """
        self._endpoint.close()
        await trio.lowlevel.checkpoint()


class Stream(_Closing, Connected, trio.abc.HalfCloseableStream):
    """A TCP connection over the stack.

    Raised by its methods:
        trio.BusyResourceError: another task is in a call of the same direction.
        trio.ClosedResourceError: this side has closed it, before the call or during it.
        trio.BrokenResourceError: the connection broke, or the backend is gone; the cause says why.

    **Cancellation.** `receive_some` that is cancelled has taken nothing: every byte that has come,
    or comes later, goes to the next call. `send_all` that is cancelled has sent some first part of
    its bytes, and nobody knows how much: afterwards the stream can only be received from and
    closed, unless the protocol can live with that. All other calls have their effect or not, and
    not both.
    """

    @trio.lowlevel.enable_ki_protection
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receives at least one byte and at most `max_bytes`; b"" at the end of the stream.

        Raises:
            ValueError, TypeError: `max_bytes` is no positive number.
        """
        limit = _RECEIVE_BYTES if max_bytes is None else max_bytes
        if not isinstance(limit, int):
            raise TypeError(f"max_bytes must be int or None, not {type(max_bytes).__name__}")
        if limit < 1:
            raise ValueError("max_bytes must be >= 1")
        try:
            return await self._endpoint.receive(limit)
        except OSError as error:
            raise _as_trios(error) from error

    @trio.lowlevel.enable_ki_protection
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all of `data`, which may change afterwards.

        Returns when the last byte is queued; `flush` waits until the peer has it. At most 256 KiB
        are queued and not acknowledged: then this waits.
        """
        if self._endpoint.eof_sent and not self._endpoint.closed:
            raise trio.ClosedResourceError("send_eof was called: nothing can be sent any more")
        try:
            await self._endpoint.send_all(data)
        except OSError as error:
            raise _as_trios(error) from error

    @trio.lowlevel.enable_ki_protection
    async def wait_send_all_might_not_block(self) -> None:
        """Waits until there is room for more bytes."""
        try:
            await self._endpoint.wait_writable()
        except OSError as error:
            raise _as_trios(error) from error

    @trio.lowlevel.enable_ki_protection
    async def flush(self) -> None:
        """Waits until the peer has acknowledged everything that was sent."""
        try:
            await self._endpoint.flush()
        except OSError as error:
            raise _as_trios(error) from error

    @trio.lowlevel.enable_ki_protection
    async def send_eof(self) -> None:
        """Ends the sending direction: the peer finds the end of the stream behind the last byte."""
        try:
            await self._endpoint.send_eof()
        except OSError as error:
            raise _as_trios(error) from error


class Listener(_Closing, trio.abc.Listener[Stream]):
    """Accepts TCP connections over the stack; they get its priority.

    A cancelled `accept` has accepted nothing: the next call gets the connection.
    """

    @trio.lowlevel.enable_ki_protection
    async def accept(self) -> Stream:
        """The next connection.

        Raises:
            trio.BusyResourceError: another task accepts.
            trio.ClosedResourceError: the listener was closed, before the call or during it.
            OSError: EMFILE, all sockets of the client are in use; BackendGone.
        """
        while True:
            try:
                endpoint, _ = await self._endpoint.accept()
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise trio.ClosedResourceError(str(error)) from None
                if error.errno not in _PASSING or self._endpoint.loop.hub.ended:
                    raise
            else:
                return Stream(endpoint)


class UdpSocket(_Closing, Datagrams):
    """A UDP socket over the stack; `async with` closes it.

    **Cancellation.** `receive_from` that is cancelled has taken nothing: the next call gets the
    datagram. `send_to` that is cancelled has sent the whole datagram or none.

    Raised by its methods:
        trio.BusyResourceError: another task is in a call of the same direction.
        trio.ClosedResourceError: this side has closed it, before the call or during it.
        OSError: what the network reported, as of the kernel's sockets.
    """

    @trio.lowlevel.enable_ki_protection
    async def send_to(
        self, data: bytes | bytearray | memoryview, address: Address | None = None
    ) -> int:
        """Sends one datagram; returns when it has been handed to the network.

        Args:
            data: up to 65,507 bytes (over IPv6 65,487), also none.
            address: where to; None: to the peer of a connected socket.
        """
        return await self._endpoint.send_to(data, address)

    @trio.lowlevel.enable_ki_protection
    async def receive_from(self, max_bytes: int = _DATAGRAM_BYTES) -> tuple[bytes, Address | None]:
        """Receives one datagram, cut to `max_bytes`, and its sender."""
        return await self._endpoint.receive_from(max_bytes)
