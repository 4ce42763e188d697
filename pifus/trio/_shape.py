"""What the sockets of trio and of the standard library have in common, of a socket of the stack."""

from __future__ import annotations

import errno
import os
import socket as _socket
import sys
from types import TracebackType
from typing import Any, Final, Self

import trio

from pifus._async._endpoint import Endpoint
from pifus._compat._option_view import OptionView
from pifus._core._ops import Protocol

Kind = type[BaseException]

_NO_DESCRIPTOR: Final = -2
_INT_BYTES: Final = 4


class Shape:
    """The methods that are the same whether a program awaits the others or not."""

    _endpoint: Endpoint
    _options: OptionView

    @property
    def family(self) -> _socket.AddressFamily:
        """AF_INET or AF_INET6."""
        return _socket.AddressFamily(self._endpoint.sock.family)

    @property
    def type(self) -> _socket.SocketKind:
        """SOCK_STREAM or SOCK_DGRAM."""
        stream = self._endpoint.sock.protocol is Protocol.TCP
        return _socket.SOCK_STREAM if stream else _socket.SOCK_DGRAM

    @property
    def proto(self) -> int:
        """IPPROTO_TCP or IPPROTO_UDP."""
        return int(self._endpoint.sock.protocol)

    def fileno(self) -> int:
        """-2: there is no descriptor; -1 after close."""
        return -1 if self._endpoint.closed else _NO_DESCRIPTOR

    def getsockname(self) -> Any:
        """The local address."""
        any_address = ("0.0.0.0", 0) if self.family == _socket.AF_INET else ("::", 0, 0, 0)
        return self._live().sock.local_address or any_address

    def getpeername(self) -> Any:
        """The address of the peer."""
        peer = self._live().sock.peer_address
        if peer is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return peer

    @trio.lowlevel.enable_ki_protection
    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> Any:
        """As of the drop-in (docs/SOCKET_OPTIONS.md)."""
        endpoint = self._live()
        if (level, optname) == (_socket.SOL_SOCKET, _socket.SO_ERROR):
            error = endpoint.sock.take_error()
            return error if not buflen else error.to_bytes(_INT_BYTES, sys.byteorder)[:buflen]
        return self._options.get(level, optname, buflen or 0)

    @trio.lowlevel.enable_ki_protection
    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Sets an option, at once: as of the drop-in (docs/SOCKET_OPTIONS.md)."""
        self._live()
        self._options.set(level, optname, value, optlen)

    @trio.lowlevel.enable_ki_protection
    def listen(self, backlog: int = 128) -> None:
        """Listens, at once."""
        self._live().listen(backlog)

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Closes the socket; what was sent before still reaches the peer, unless SO_LINGER says
        that it is reset."""
        self._endpoint.close(reset=self._options.lingers == (1, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: Kind | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def get_inheritable(self) -> bool:
        """False: there is no descriptor."""
        return False

    def _live(self) -> Endpoint:
        if self._endpoint.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._endpoint
