"""gevent and eventlet build their sockets on `_socket` itself: theirs are to be ours as well."""

from __future__ import annotations

import sys
from types import ModuleType

from pifus._compat import _late

# The modules in which they take hold of it.
_MODULES = (
    "gevent._socketcommon",
    "gevent._socket3",
    "gevent.resolver.thread",
    "gevent.resolver.blocking",
    "eventlet.greenio.base",
)


def wire() -> None:
    """From now on they find `pifus.compat_socket` when they import `_socket`."""
    for name in _MODULES:
        if name not in sys.modules:
            _late.watch(name, _execute)


def unwire() -> None:
    """Undoes `wire` for those that were not imported meanwhile."""
    for name in _MODULES:
        _late.forget(name)


def _execute(module: ModuleType, execute: _late.Execute) -> None:
    from pifus import compat_socket

    before = sys.modules["_socket"]
    # Only while this one is executed: whoever else imports it gets the interpreter's own.
    sys.modules["_socket"] = compat_socket
    try:
        execute(module)
    finally:
        sys.modules["_socket"] = before
