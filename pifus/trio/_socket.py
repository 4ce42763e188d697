"""Sockets of the stack in the shape of trio's own, so that programs for those run unchanged."""

from __future__ import annotations

import errno
import os
import socket as _socket
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import trio
from trio.socket import SocketType

from pifus import _ambient
from pifus._async._endpoint import Endpoint
from pifus._compat import _names
from pifus._core._address import Address
from pifus._core._ops import Option, Priority, Protocol, SocketState
from pifus.completion import Client
from pifus.trio._loop import loop_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

Kind = type[BaseException]

_TYPES: Final = {_socket.SOCK_STREAM: Protocol.TCP, _socket.SOCK_DGRAM: Protocol.UDP}
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


class SocketFactory(trio.abc.SocketFactory):
    """Makes TCP and UDP sockets over the stack: for `trio.socket.set_custom_socket_factory`.

    They have the priority of the innermost `with pifus.priority(…)`, else `priority`. All
    operations but those named here do what trio's do; of a call that is cancelled the promises
    of `Stream` and `UdpSocket` hold. `fileno` is -2 until the socket is closed: there is no
    descriptor. Sockets made with `trio.socket.from_stdlib_socket` are the program's own.

    Args:
        priority: how urgent the work of the sockets is.
        client: see `open_tcp_stream`.
    """

    def __init__(
        self, priority: Priority = Priority.MEDIUM, *, client: Client | None = None
    ) -> None:
        self._priority = priority
        self._client = client

    def socket(self, family: int = 0, type: int = 0, proto: int = 0) -> SocketType:  # noqa: A002
        """A socket of the stack.

        Raises:
            OSError: EAFNOSUPPORT, EPROTONOSUPPORT, ESOCKTNOSUPPORT: not TCP or UDP over IP.
        """
        protocol = _TYPES.get(_socket.SocketKind(type or _socket.SOCK_STREAM))
        if protocol is None:
            raise OSError(errno.ESOCKTNOSUPPORT, f"socket type {type}: only TCP and UDP")
        if proto not in (0, protocol):
            raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
        ambient = _ambient.current()
        priority = self._priority if ambient is None else Priority[ambient.upper()]
        loop = loop_of(self._client)
        sock = loop.hub.client.socket(protocol, family=family or _socket.AF_INET, priority=priority)
        return StackSocket(Endpoint(loop, sock))


class StackSocket(SocketType):
    """A socket of the stack with the methods of trio's sockets, which it documents."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._options: dict[tuple[int, int], int] = {}

    def __repr__(self) -> str:
        return f"<pifus.trio.StackSocket {self._endpoint.sock!r}>"

    # ---- what it is ----

    @property
    def family(self) -> _socket.AddressFamily:
        return _socket.AddressFamily(self._endpoint.sock.family)

    @property
    def type(self) -> _socket.SocketKind:
        stream = self._endpoint.sock.protocol is Protocol.TCP
        return _socket.SOCK_STREAM if stream else _socket.SOCK_DGRAM

    @property
    def proto(self) -> int:
        return int(self._endpoint.sock.protocol)

    @property
    def did_shutdown_SHUT_WR(self) -> bool:  # noqa: N802 - trio's name
        return self._endpoint.eof_sent

    def fileno(self) -> int:
        return -1 if self._endpoint.closed else _NO_DESCRIPTOR

    def getsockname(self) -> Any:
        any_address = ("0.0.0.0", 0) if self.family == _socket.AF_INET else ("::", 0, 0, 0)
        return self._live().sock.local_address or any_address

    def getpeername(self) -> Any:
        peer = self._live().sock.peer_address
        if peer is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return peer

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> Any:
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
        endpoint = self._live()
        known = _OPTIONS.get((level, optname))
        if known is None or optlen is not None:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        number = value if isinstance(value, int) else int.from_bytes(value, "little")
        endpoint.setopt(known[0], number)
        self._options[level, optname] = number

    # ---- what it does ----

    async def bind(self, address: Any) -> None:
        await self._live().bind(await self._resolve(address, _socket.AI_PASSIVE))

    def listen(self, backlog: int = 128) -> None:
        self._live().listen(backlog)

    async def accept(self) -> tuple[SocketType, Any]:
        endpoint, peer = await self._live().accept()
        return StackSocket(endpoint), peer

    async def connect(self, address: Any) -> None:
        endpoint = self._live()
        if endpoint.sock.protocol is Protocol.UDP:
            await endpoint.reconnect(await self._resolve(address))
        else:
            await endpoint.connect(await self._resolve(address))

    def shutdown(self, flag: int) -> None:
        self._live().shut(flag)

    def close(self) -> None:
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

    async def wait_writable(self) -> None:
        await self._live().wait_writable()

    def is_readable(self) -> bool:
        return self._live().is_readable()

    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
        _plain(flags)
        if self._endpoint.sock.protocol is Protocol.UDP:
            return (await self._live().receive_from(buflen))[0]
        if buflen == 0:
            await trio.lowlevel.checkpoint()
            return b""
        return await self._live().receive(buflen)

    async def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        with memoryview(buffer).cast("B") as view:
            data = await self.recv(nbytes or len(view), flags)
            view[: len(data)] = data
        return len(data)

    async def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        _plain(flags)
        if self._endpoint.sock.protocol is Protocol.TCP:
            return await self.recv(bufsize), None
        return await self._live().receive_from(bufsize)

    async def recvfrom_into(
        self, buffer: Buffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, Any]:
        with memoryview(buffer).cast("B") as view:
            data, sender = await self.recvfrom(nbytes or len(view), flags)
            view[: len(data)] = data
        return len(data), sender

    async def send(self, data: Buffer, flags: int = 0, /) -> int:
        _plain(flags)
        with memoryview(data) as view:
            if self._endpoint.sock.protocol is Protocol.UDP:
                return await self._live().send_to(view, None)
            return await self._live().send_some(view)

    async def sendto(self, *args: Any) -> int:
        data, *flags, address = args
        _plain(*flags)
        if self._endpoint.sock.protocol is Protocol.TCP:
            return await self.send(data)
        to = await self._resolve(address)
        with memoryview(data) as view:
            return await self._live().send_to(view, to)

    async def sendmsg(
        self,
        buffers: Iterable[Buffer],
        ancdata: Iterable[tuple[int, int, Buffer]] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        _plain(flags, *ancdata)
        data = b"".join(bytes(memoryview(part)) for part in buffers)
        return await (self.send(data) if address is None else self.sendto(data, address))

    # ---- what needs a descriptor ----

    def detach(self) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, "a socket of the stack has no descriptor here")

    def dup(self) -> NoReturn:
        self.detach()

    def get_inheritable(self) -> bool:
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        if inheritable:
            self.detach()

    # ---- inside ----

    def _live(self) -> Endpoint:
        if self._endpoint.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._endpoint

    async def _resolve(self, address: Any, flags: int = 0) -> Address:
        """The address with its host as a number, as trio's sockets take names."""
        if not isinstance(address, tuple) or not 2 <= len(address) <= 4:
            raise ValueError("address should be a (host, port) tuple")
        host, port, *rest = address
        try:
            if isinstance(port, int) and _socket.inet_pton(self.family, host):
                return address
        except (OSError, TypeError):
            pass
        found = await trio.socket.getaddrinfo(
            host or None, port, self.family, self.type, self.proto, flags
        )
        resolved: Any = found[0][4]
        return (*resolved[:2], *rest, *resolved[2 + len(rest) :]) if rest else resolved


class HostnameResolver(trio.abc.HostnameResolver):
    """For `trio.socket.set_custom_hostname_resolver`: names as the stack can use them.

    `localhost` is the stack's loopback, whatever a file says. Other names are asked of the
    system's resolver or, where `dns` is set (docs/DROP_IN.md), of name servers over the stack; what
    is not TCP or UDP over IP is left out of the answers.
    """

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        if host is not None and host.lower() == b"localhost":
            loopback = "::1" if family == _socket.AF_INET6 else "127.0.0.1"
            host, flags = loopback.encode(), flags | _socket.AI_NUMERICHOST
        found = await trio.to_thread.run_sync(
            lambda: _names.getaddrinfo(host, port, family, type, proto, flags),
            abandon_on_cancel=True,
        )
        families = (_socket.AF_INET, _socket.AF_INET6)
        usable = [one for one in found if one[0] in families and one[1] in _TYPES]
        if not usable:
            raise _socket.gaierror(_socket.EAI_FAMILY, "no address that the stack can use")
        return usable

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        names: tuple[str, str] = await trio.to_thread.run_sync(
            lambda: _names.getnameinfo(sockaddr, flags), abandon_on_cancel=True
        )
        return names


def _plain(*extras: object) -> None:
    """Flags and ancillary data are not for sockets here."""
    if any(extras):
        raise OSError(errno.EOPNOTSUPP, "flags and ancillary data are not supported over the stack")
