"""Puts `_tls` under the interpreter's `ssl`: now, or when a program imports that later.

One method of `ssl.SSLContext` is what it takes: the one by which an SSLSocket, of whatever class,
gets its engine. Sockets of the kernel get the same one as always.
"""

from __future__ import annotations

import _socket
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from pifus._compat import _table

_fileno = _socket.socket.fileno
_METHOD = "_wrap_socket"
# On whose behalf: as long as there is one, `ssl` is wired.
_users: set[str] = set()
# To be called when `ssl` has been imported.
_waiting: dict[str, Callable[[Any], None]] = {}


def wire(user: str) -> None:
    """From now on SSLSockets over stack sockets work. Twice for the same user is once."""
    if not _users:
        when_imported("wire", _wire)
    _users.add(user)


def unwire(user: str) -> None:
    """Undoes `wire`, once no user is left; SSLSockets that are open still work."""
    _users.discard(user)
    if _users:
        return
    _waiting.pop("wire", None)
    if not _waiting and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    context: Any = getattr(sys.modules.get("ssl"), "SSLContext", None)
    if context is not None and _METHOD in vars(context):
        delattr(context, _METHOD)


def when_imported(key: str, call: Callable[[Any], None]) -> None:
    """Calls with the module `ssl`: now if it is there, else once a program imports it."""
    module = sys.modules.get("ssl")
    if module is not None and _is_complete(module):
        call(module)
        return
    _waiting[key] = call
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def _is_complete(module: ModuleType) -> bool:
    """False while another thread, or one of our callers, still executes it."""
    return not getattr(module.__spec__, "_initializing", False)


def _wire(module: Any) -> None:
    original = module.SSLContext._wrap_socket

    def _wrap_socket(
        self: Any, sock: Any, server_side: bool, server_hostname: str | None = None, **more: Any
    ) -> Any:
        if _fileno(sock) not in _table.endpoints:
            return original(self, sock, server_side, server_hostname, **more)
        from pifus._compat._tls import Engine

        return Engine(self, sock, server_side, server_hostname, **more)

    setattr(module.SSLContext, _METHOD, _wrap_socket)


class _Finder:
    """Finds `ssl` as everybody else does, and tells once it is executed."""

    def __init__(self) -> None:
        self._busy = False

    def find_spec(  # as of importlib.abc.MetaPathFinder
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "ssl" or self._busy:
            return None
        from importlib.util import find_spec

        self._busy = True
        try:
            spec = find_spec(name)
        finally:
            self._busy = False
        loader: Any = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                if module.__name__ != name:  # some loaders are there for many modules
                    execute(module)
                    return
                del loader.exec_module
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                while _waiting:
                    _waiting.popitem()[1](module)

            loader.exec_module = exec_module
        return spec


_finder: Any = _Finder()
