"""Sockets of the stack in the shape of trio's own, so that programs for those run unchanged."""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import socket as _socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import trio
from trio.socket import SocketType

from pifus import _ambient
from pifus._async._endpoint import Endpoint
from pifus._compat import _names
from pifus._compat._option_view import OptionView
from pifus._core._address import Address
from pifus._core._ops import Priority, Protocol
from pifus.completion import Client
from pifus.trio._loop import loop_of
from pifus.trio._shape import Shape

if TYPE_CHECKING:
    from typing_extensions import Buffer

_TOO_SMALL: Final = {
    "recv_into": "buffer too small for requested bytes",
    "recvfrom_into": "nbytes is greater than the length of the buffer",
}
_FLAGS: Final = _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT
_TYPES: Final[dict[int, Protocol]] = {
    _socket.SOCK_STREAM: Protocol.TCP,
    _socket.SOCK_DGRAM: Protocol.UDP,
}
_FAMILIES: Final = (0, _socket.AF_INET, _socket.AF_INET6)
# Of trio itself: `install` has another one in its place.
_from_stdlib_socket = trio.socket.from_stdlib_socket


class SocketFactory(trio.abc.SocketFactory):
    """Makes TCP and UDP sockets over the stack: for `trio.socket.set_custom_socket_factory`.

    They have the priority of the innermost `with pifus.priority(…)`, else `priority`. All
    operations but those named here do what trio's do; of a call that is cancelled the promises
    of `Stream` and `UdpSocket` hold. `fileno` is -2 until the socket is closed: there is no
    descriptor. Sockets of other families are the kernel's; those made with
    `trio.socket.from_stdlib_socket` are the program's own, but for those of `install`.

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
        """A socket of the stack; of another family than AF_INET and AF_INET6: of the kernel.

        Raises:
            OSError: EPROTONOSUPPORT, ESOCKTNOSUPPORT: not TCP or UDP.
        """
        if family not in _FAMILIES:
            return _from_stdlib_socket(_socket.socket(family, type, proto))
        return StackSocket(self._endpoint(family, type, proto))

    @trio.lowlevel.enable_ki_protection
    def _endpoint(self, family: int, type: int, proto: int) -> Endpoint:  # noqa: A002
        """What such a socket is made of. Raises: see `socket`."""
        # None of them would block, or has a descriptor to be inherited.
        kind = type & ~(_socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC) or _socket.SOCK_STREAM
        protocol = _TYPES.get(kind)
        if protocol is None:
            raise OSError(errno.ESOCKTNOSUPPORT, f"socket type {kind}: only TCP and UDP")
        if proto not in (0, protocol):
            raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
        ambient = _ambient.current()
        priority = self._priority if ambient is None else Priority[ambient.upper()]
        loop = loop_of(self._client)
        sock = loop.hub.client.socket(protocol, family=family or _socket.AF_INET, priority=priority)
        return Endpoint(loop, sock)


class StackSocket(Shape, SocketType):
    """A socket of the stack with the methods of trio's sockets, which it documents."""

    def __init__(self, endpoint: Endpoint, options: OptionView | None = None) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._options = options or OptionView(endpoint.sock)

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

    @trio.lowlevel.enable_ki_protection
    async def bind(self, address: Any) -> None:
        await self._live().bind(await self._resolve(address, _socket.AI_PASSIVE))

    @trio.lowlevel.enable_ki_protection
    async def accept(self) -> tuple[SocketType, Any]:
        endpoint, peer = await self._live().accept()
        accepted = StackSocket(endpoint)
        accepted._options.take_after(self._options)
        return accepted, peer

    @trio.lowlevel.enable_ki_protection
    async def connect(self, address: Any) -> None:
        endpoint = self._live()
        if endpoint.sock.protocol is Protocol.UDP:
            await endpoint.reconnect(await self._resolve(address))
        else:
            await endpoint.connect(await self._resolve(address))

    @trio.lowlevel.enable_ki_protection
    def shutdown(self, flag: int) -> None:
        self._live().shut(flag)

    @trio.lowlevel.enable_ki_protection
    async def wait_writable(self) -> None:
        await self._live().wait_writable()

    def is_readable(self) -> bool:
        return self._live().is_readable()

    @trio.lowlevel.enable_ki_protection
    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
        limit = _size(buflen, "buffersize in recv")
        _plain(flags)
        if self._endpoint.sock.protocol is Protocol.UDP:
            return (await self._live().receive_from(limit))[0]
        if limit == 0:
            await trio.lowlevel.checkpoint()
            return b""
        return await self._live().receive(limit)

    @trio.lowlevel.enable_ki_protection
    async def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        with _room(buffer, nbytes, "recv_into") as view:
            data = await self.recv(len(view), flags)
            view[: len(data)] = data
        return len(data)

    @trio.lowlevel.enable_ki_protection
    async def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        limit = _size(bufsize, "buffersize in recvfrom")
        if self._endpoint.sock.protocol is Protocol.TCP:
            return await self.recv(limit, flags), None
        _plain(flags)
        return await self._live().receive_from(limit)

    @trio.lowlevel.enable_ki_protection
    async def recvfrom_into(
        self, buffer: Buffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, Any]:
        with _room(buffer, nbytes, "recvfrom_into") as view:
            data, sender = await self.recvfrom(len(view), flags)
            view[: len(data)] = data
        return len(data), sender

    @trio.lowlevel.enable_ki_protection
    async def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        limit = _size(bufsize, "buffer size in recvmsg()")
        if operator.index(ancbufsize) < 0:
            raise ValueError("invalid ancillary data buffer length")
        if self._endpoint.sock.protocol is Protocol.TCP:
            return await self.recv(limit, flags), [], 0, None
        _plain(flags)
        # One byte more tells whether all of it was taken.
        data, sender = await self._live().receive_from(limit + 1)
        return data[:limit], [], _socket.MSG_TRUNC if len(data) > limit else 0, sender

    @trio.lowlevel.enable_ki_protection
    async def recvmsg_into(
        self, buffers: Iterable[Buffer], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        with contextlib.ExitStack() as stack:
            views = [stack.enter_context(_room(one, 0, "recvmsg_into")) for one in buffers]
            total = sum(len(view) for view in views)
            data, ancillary, told, sender = await self.recvmsg(total, ancbufsize, flags)
            at = 0
            for view in views:
                part = data[at : at + len(view)]
                view[: len(part)] = part
                at += len(part)
        return len(data), ancillary, told, sender

    @trio.lowlevel.enable_ki_protection
    async def send(self, data: Buffer, flags: int = 0, /) -> int:
        _plain(flags)
        with memoryview(data) as view:
            if self._endpoint.sock.protocol is Protocol.UDP:
                return await self._live().send_to(view, None)
            return await self._live().send_some(view)

    @trio.lowlevel.enable_ki_protection
    async def sendto(self, *args: Any) -> int:
        if len(args) not in (2, 3):
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(args)} given)")
        data, *flags, address = args
        _plain(*flags)
        if self._endpoint.sock.protocol is Protocol.TCP:
            return await self.send(data)
        to = await self._resolve(address)
        with memoryview(data) as view:
            return await self._live().send_to(view, to)

    @trio.lowlevel.enable_ki_protection
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


def _size(size: int, what: str) -> int:
    """How much may come. Refused, as by the standard library, before anything is taken."""
    wanted = operator.index(size)
    if wanted < 0:
        raise ValueError(f"negative {what}")
    return wanted


def _room(buffer: Buffer, wanted: int, name: str) -> memoryview:
    """Where so many bytes go; 0: as many as there is room for. Refused as by `_size`."""
    view = memoryview(buffer)
    size = _size(wanted, f"buffersize in {name}")
    if view.readonly:
        raise TypeError(f"{name}() argument 1 must be read-write bytes-like object")
    if size > view.nbytes:
        raise ValueError(_TOO_SMALL[name])
    return view.cast("B")[: size or None]


def _plain(flags: int = 0, *ancillary: object) -> None:
    """Nothing here waits in the call itself, or raises SIGPIPE; other flags are not for these
    sockets, nor are ancillary data."""
    if flags & ~_FLAGS or ancillary:
        raise OSError(errno.EOPNOTSUPP, "flags and ancillary data are not supported over the stack")
