"""What the sockets of trio and of the standard library have in common, of a socket of the stack."""

from __future__ import annotations

import errno
import os
import socket as _socket
from types import TracebackType
from typing import Any, Final, Self

from pifus._async._endpoint import Endpoint
from pifus._core._ops import Option, Protocol, SocketState

Kind = type[BaseException]

_NO_DESCRIPTOR: Final = -2
_INT_BYTES: Final = 4
# What is set in the stack, and what it is before.
_OPTIONS: Final = {
    (_socket.SOL_SOCKET, _socket.SO_REUSEADDR): (Option.REUSEADDR, 0),
    (_socket.SOL_SOCKET, _socket.SO_REUSEPORT): (Option.REUSEPORT, 0),
    (_socket.SOL_SOCKET, _socket.SO_KEEPALIVE): (Option.KEEPALIVE, 0),
    (_socket.SOL_SOCKET, _socket.SO_BROADCAST): (Option.BROADCAST, 0),
    (_socket.IPPROTO_TCP, _socket.TCP_NODELAY): (Option.NODELAY, 1),
    (_socket.IPPROTO_TCP, _socket.TCP_CORK): (Option.CORK, 0),
    (_socket.IPPROTO_TCP, _socket.TCP_KEEPIDLE): (Option.KEEPIDLE, 7200),
    (_socket.IPPROTO_TCP, _socket.TCP_KEEPINTVL): (Option.KEEPINTVL, 75),
    (_socket.IPPROTO_TCP, _socket.TCP_KEEPCNT): (Option.KEEPCNT, 9),
    (_socket.IPPROTO_TCP, _socket.TCP_USER_TIMEOUT): (Option.USER_TIMEOUT, 0),
    (_socket.IPPROTO_IP, _socket.IP_TOS): (Option.TOS, 0),
    (_socket.IPPROTO_IP, _socket.IP_TTL): (Option.TTL, 64),
    (_socket.IPPROTO_IPV6, _socket.IPV6_TCLASS): (Option.TOS, 0),
    (_socket.IPPROTO_IPV6, _socket.IPV6_UNICAST_HOPS): (Option.TTL, 64),
    (_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY): (Option.V6ONLY, 0),
}


class Shape:
    """The methods that are the same whether a program awaits the others or not."""

    _endpoint: Endpoint
    _options: dict[tuple[int, int], int]

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

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> Any:
        """What was set, or the default."""
        value = self._getopt(level, optname)
        return value if buflen is None else value.to_bytes(_INT_BYTES, "little")[:buflen]

    def _getopt(self, level: int, name: int) -> int:
        endpoint = self._live()
        if level == _socket.SOL_SOCKET:
            if name == _socket.SO_TYPE:
                return int(self.type)
            if name == _socket.SO_DOMAIN:
                return int(self.family)
            if name == _socket.SO_PROTOCOL:
                return self.proto
            if name == _socket.SO_ERROR:
                return endpoint.sock.take_error()
            if name == _socket.SO_ACCEPTCONN:
                return int(SocketState.LISTENING in endpoint.sock.state)
        if (level, name) not in _OPTIONS:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        return self._options.get((level, name), _OPTIONS[level, name][1])

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Sets an option, at once; ENOPROTOOPT: the stack does not have it."""
        endpoint = self._live()
        known = _OPTIONS.get((level, optname))
        if known is None or optlen is not None:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        number = value if isinstance(value, int) else int.from_bytes(value, "little")
        endpoint.setopt(known[0], number)
        self._options[level, optname] = number

    def listen(self, backlog: int = 128) -> None:
        """Listens, at once."""
        self._live().listen(backlog)

    def close(self) -> None:
        """Closes the socket; what was sent before still reaches the peer."""
        self._endpoint.close()

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
