"""What `_stream` and `_datagram` have in common: how bytes get into and out of a socket."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from pifus._compat._endpoint import Endpoint
    from pifus._core._client import CData

Message = tuple[bytes, list[Any], int, Any]
MessageInto = tuple[int, list[Any], int, Any]


class Io(Protocol):
    """The methods of the socket class of the same names, on an endpoint and with a time-out."""

    def recv(self, e: Endpoint, size: int, flags: int, timeout: float | None, /) -> bytes: ...

    def recv_into(
        self, e: Endpoint, buffer: WriteableBuffer, size: int, flags: int, timeout: float | None, /
    ) -> int: ...

    def recvfrom(
        self, e: Endpoint, size: int, flags: int, timeout: float | None, /
    ) -> tuple[bytes, Any]: ...

    def recvfrom_into(
        self, e: Endpoint, buffer: WriteableBuffer, size: int, flags: int, timeout: float | None, /
    ) -> tuple[int, Any]: ...

    def recvmsg(
        self, e: Endpoint, size: int, ancillary: int, flags: int, timeout: float | None, /
    ) -> Message: ...

    def recvmsg_into(
        self,
        e: Endpoint,
        buffers: Iterable[WriteableBuffer],
        ancillary: int,
        flags: int,
        timeout: float | None,
        /,
    ) -> MessageInto: ...

    def send(
        self, e: Endpoint, data: ReadableBuffer, flags: int, timeout: float | None, /
    ) -> int: ...

    def sendall(
        self, e: Endpoint, data: ReadableBuffer, flags: int, timeout: float | None, /
    ) -> None: ...

    def sendmsg(
        self,
        e: Endpoint,
        buffers: Iterable[ReadableBuffer],
        ancillary: Iterable[Any],
        flags: int,
        timeout: float | None,
        to: CData | None,
        /,
    ) -> int: ...
