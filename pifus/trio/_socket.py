"""Sockets of the stack in the shape of trio's own, so that programs for those run unchanged."""

from __future__ import annotations

import errno
import os
import socket as _socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import trio
from trio.socket import SocketType

from pifus import _ambient
from pifus._async._endpoint import Endpoint
from pifus._compat import _names
from pifus._core._address import Address
from pifus._core._ops import Priority, Protocol
from pifus.completion import Client
from pifus.trio._loop import loop_of
from pifus.trio._shape import Shape

if TYPE_CHECKING:
    from typing_extensions import Buffer

_TYPES: Final = {_socket.SOCK_STREAM: Protocol.TCP, _socket.SOCK_DGRAM: Protocol.UDP}


class SocketFactory(trio.abc.SocketFactory):
    """Makes TCP and UDP sockets over the stack: for `trio.socket.set_custom_socket_factory`.

    They have the priority of the innermost `with pifus.priority(…)`, else `priority`. All
    operations but those named here do what trio's do; of a call that is cancelled the promises
    of `Stream` and `UdpSocket` hold. `fileno` is -2 until the socket is closed: there is no
    descriptor. Sockets made with `trio.socket.from_stdlib_socket` are the program's own, but for
    those of `install`.

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
        return StackSocket(self._endpoint(family, type, proto))

    def _endpoint(self, family: int, type: int, proto: int) -> Endpoint:  # noqa: A002
        """What such a socket is made of. Raises: see `socket`."""
        protocol = _TYPES.get(_socket.SocketKind(type or _socket.SOCK_STREAM))
        if protocol is None:
            raise OSError(errno.ESOCKTNOSUPPORT, f"socket type {type}: only TCP and UDP")
        if proto not in (0, protocol):
            raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
        ambient = _ambient.current()
        priority = self._priority if ambient is None else Priority[ambient.upper()]
        loop = loop_of(self._client)
        sock = loop.hub.client.socket(protocol, family=family or _socket.AF_INET, priority=priority)
        return Endpoint(loop, sock)


class StackSocket(Shape, SocketType):
    """A socket of the stack with the methods of trio's sockets, which it documents."""

    def __init__(
        self, endpoint: Endpoint, options: dict[tuple[int, int], int] | None = None
    ) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._options = {} if options is None else options

    def __repr__(self) -> str:
        return f"<pifus.trio.StackSocket {self._endpoint.sock!r}>"

    @property
    def _sock(self) -> Self:
        """Where anyio looks for the names of a socket."""
        return self

    @property
    def did_shutdown_SHUT_WR(self) -> bool:  # noqa: N802 - trio's name
        return self._endpoint.eof_sent

    # ---- what it does ----

    async def bind(self, address: Any) -> None:
        await self._live().bind(await self._resolve(address, _socket.AI_PASSIVE))

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

    def set_inheritable(self, inheritable: bool) -> None:
        if inheritable:
            self.detach()

    # ---- inside ----

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
