"""Puts `_tls` under the interpreter's `ssl`: now, or when a program imports that later.

One method of `ssl.SSLContext` is what it takes: the one by which an SSLSocket, of whatever class,
gets its engine. Sockets of the kernel get the same one as always.
"""

from __future__ import annotations

import _socket
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pifus._compat import _late, _table

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
    if not _waiting:
        _late.forget("ssl")
    context: Any = getattr(sys.modules.get("ssl"), "SSLContext", None)
    if context is not None and _METHOD in vars(context):
        delattr(context, _METHOD)


def when_imported(key: str, call: Callable[[Any], None]) -> None:
    """Calls with the module `ssl`: now if it is there, else once a program imports it."""
    module = _late.imported("ssl")
    if module is not None:
        call(module)
        return
    _waiting[key] = call
    _late.watch("ssl", _execute)


def _execute(module: ModuleType, execute: _late.Execute) -> None:
    execute(module)
    while _waiting:
        _waiting.popitem()[1](module)


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
