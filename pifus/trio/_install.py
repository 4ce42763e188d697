"""Programs that make their sockets without trio, and then hand them to it: anyio's listeners,
hypercorn."""

from __future__ import annotations

import contextlib
import importlib
import socket as _socket
import sys
from types import ModuleType
from typing import Any, Final

import trio

from pifus._compat import _names
from pifus._compat._option_view import OptionView
from pifus._core import _now
from pifus._core._ops import Priority
from pifus.completion import Client
from pifus.trio._shape import Shape
from pifus.trio._socket import HostnameResolver, SocketFactory, StackSocket

# Modules that make listeners with `socket.socket` and `trio.socket.from_stdlib_socket`.
_MAKERS: Final = ("anyio._core._sockets", "hypercorn.config")
_FAMILIES: Final = (_socket.AF_INET, _socket.AF_INET6)

_factory: trio.lowlevel.RunVar[SocketFactory] = trio.lowlevel.RunVar("pifus_factory")
_from_stdlib_socket = trio.socket.from_stdlib_socket


class PlainSocket(Shape):
    """A socket of the stack in the shape of the standard library's: to be set up, and handed over.

    It neither sends nor receives: `trio.socket.from_stdlib_socket` makes one of it that does.
    """

    def __init__(self, factory: SocketFactory, family: int, type: int, proto: int) -> None:  # noqa: A002
        self._endpoint = factory._endpoint(family, type, proto)
        self._options = OptionView(self._endpoint.sock)

    def __repr__(self) -> str:
        return f"<pifus.trio.PlainSocket {self._endpoint.sock!r}>"

    @trio.lowlevel.enable_ki_protection
    def bind(self, address: Any) -> None:
        """Binds, at once; a name is resolved first.

        Raises:
            OSError: the address cannot be had.
        """
        host, port = address[:2]
        if host:
            found = _names.getaddrinfo(
                host, port, self.family, self.type, self.proto, _socket.AI_PASSIVE
            )
            address = (*found[0][4][:2], *address[2:])
        _now.bind(self._live().sock, address)

    def setblocking(self, flag: bool) -> None:
        """Nothing here waits."""

    def set_inheritable(self, inheritable: bool) -> None:
        """There is no descriptor that could be inherited."""


def install(priority: Priority = Priority.MEDIUM, *, client: Client | None = None) -> None:
    """Everything that uses trio's sockets runs over the stack from here on, in this run of trio.

    Sets a `SocketFactory` and a `HostnameResolver`; and the listeners that anyio (backend trio) and
    hypercorn (`hypercorn.trio.serve`) make are the stack's as well, if they have been imported
    before. Sockets of other families, and those made elsewhere or of a descriptor, stay the
    kernel's.

    Args:
        priority: how urgent the work of the sockets is, but for those made in a
            `with pifus.priority(…)`.
        client: see `open_tcp_stream`.

    Raises:
        RuntimeError: not called from inside of a run of trio.
    """
    factory = SocketFactory(priority, client=client)
    trio.socket.set_custom_socket_factory(factory)
    trio.socket.set_custom_hostname_resolver(HostnameResolver())
    _factory.set(factory)
    trio.socket.from_stdlib_socket = _taken_over
    for name in _MAKERS:
        # anyio imports its modules when they are used first.
        if name.partition(".")[0] in sys.modules:
            with contextlib.suppress(ImportError):
                module: Any = importlib.import_module(name)
                module.socket = _MODULE


def _taken_over(sock: Any) -> trio.socket.SocketType:
    if isinstance(sock, PlainSocket):
        return StackSocket(sock._live(), sock._options)
    return _from_stdlib_socket(sock)


def _make(family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> Any:  # noqa: A002
    """In the place of `socket.socket` in those modules."""
    flags = _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
    ours = type == -1 or type & ~flags in (_socket.SOCK_STREAM, _socket.SOCK_DGRAM)
    if fileno is None and ours and (family == -1 or family in _FAMILIES):
        try:
            factory = _factory.get()
        except (LookupError, RuntimeError):
            pass  # not installed in this run, or there is none
        else:
            return PlainSocket(factory, max(family, 0), max(type, 0), max(proto, 0))
    return _socket.socket(family, type, proto, fileno)


class _Module(ModuleType):
    """The module `socket`, but for its class of sockets."""

    socket = staticmethod(_make)

    def __getattr__(self, name: str) -> Any:
        return getattr(_socket, name)


_MODULE: Final = _Module("socket")
