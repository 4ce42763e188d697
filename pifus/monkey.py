"""Puts the stack under a running program: its `socket` module makes stack sockets from now on.

The class `socket.socket` stays the same object and gets other methods: whoever imported it, or
derived from it, before the patch uses the stack as well. Methods that were taken out of the class
before (`recv = socket.socket.recv`) are replaced where a global name or a closure holds them, as
those of trio do; not in other places, as in an object's attribute.
"""

import os
import socket
import threading
from collections.abc import Sequence
from typing import Any, Final

from pifus import _policy, compat_socket
from pifus._compat import (
    _bypass,
    _files,
    _flags,
    _greenlets,
    _held,
    _names,
    _pyopenssl,
    _raw,
    _sendfile,
    _strangers,
    _table,
    _tls_hook,
)

_lock: Final = threading.Lock()
_patched = False
_MISSING: Final = object()
# What was there before: (where, name, value).
_saved: list[tuple[Any, str, Any]] = []

# Of the methods of the C-level class, socket.py has these itself and builds on the C class's own.
_OF_SOCKET_PY: Final = ("__init__", "close", "detach")
# What socket.py hands on as it is; its getaddrinfo calls that of `_socket`.
_NAMES: Final = ("getnameinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr")
_NO_METHODS: Final = (
    "__slots__",
    "__doc__",
    "__module__",
    "__firstlineno__",
    "__static_attributes__",
)


def patch(dns: Sequence[str] | None = None) -> None:
    """From now on `socket.socket` makes stack sockets. Twice is no error.

    The backend is looked for when the first one is made: $PIFUS_BACKEND, else the running backend
    named "default", else a private one. $PIFUS_PRIORITY is the priority of new sockets.

    Args:
        dns: addresses of name servers, as for `pifus run --dns`: `getaddrinfo` and the like ask
            them by the stack's sockets. None: what $PIFUS_RULES says, else the system's resolver.

    Raises:
        ValueError: one of them is no address.
        ImportError: dnspython, the extra `pifus[dns]`, is missing.
    """
    global _patched
    policy = _policy.current()
    if dns is not None:
        policy = _policy.parse_dns([dns] if isinstance(dns, str) else dns).before(policy)
    _names.prepare(policy)
    if dns is not None:
        _policy.set_current(policy)
    with _lock:
        if _patched:
            _patch_names(policy)
            return
        _restore_all()
        _patch_names(policy)
        _patch_class()
        _replace(socket, "_socket", compat_socket)
        _replace(socket, "close", compat_socket.close)
        _replace(os, "sendfile", _sendfile.guarded(os.sendfile))
        _raw.wire(_replace)
        _flags.wire(_replace)
        _files.wire(_replace)
        _strangers.wire(_replace)
        _pyopenssl.wire(_replace)
        _tls_hook.wire("pifus.monkey")
        _greenlets.wire()
        _patched = True
        _table.taking_over = True
        _bypass.watch()


def unpatch() -> None:
    """From now on `socket.socket` makes kernel sockets. Stack sockets that are open still work."""
    global _patched
    with _lock:
        if not _patched:
            return
        _patched = False
        _table.taking_over = False
        _bypass.unwatch()
        _greenlets.unwire()
        _pyopenssl.unwire()
        _strangers.unwire()
        if _table.endpoints:
            # The methods find out by themselves whose socket they are for.
            _put_back(socket, ("_socket", *_NAMES))
        else:
            _restore_all()
            _tls_hook.unwire("pifus.monkey")


def bypasses() -> list[str]:
    """What was noticed to go past the stack so far: one sentence each, as printed to stderr."""
    return _bypass.told()


def is_patched() -> bool:
    """True between `patch` and `unpatch`."""
    return _patched


def _patch_class() -> None:
    cls: Any = socket.socket
    base = compat_socket.socket
    for name, method in vars(base).items():
        if name not in _OF_SOCKET_PY and name not in _NO_METHODS:
            _replace(cls, name, method)
    original_detach = cls.detach

    def detach(self: socket.socket) -> int:
        """detach() -> file descriptor: closes the object without closing the descriptor."""
        _table.detach(base.fileno(self))
        fd: int = original_detach(self)
        return fd

    def _real_close(self: Any, _ss: Any = base) -> None:
        _ss.close(self)

    _replace(cls, "detach", detach)
    _replace(cls, "_real_close", _real_close)
    for where, attribute, name in _held.taken(vars(base)):
        _saved.append((where, attribute, getattr(where, attribute)))
        setattr(where, attribute, getattr(cls, name))


def _patch_names(policy: _policy.Policy) -> None:
    for name in _NAMES if policy.dns else ():
        ours = getattr(compat_socket, name)
        if getattr(socket, name) is not ours:
            _replace(socket, name, ours)


def _replace(where: Any, name: str, value: Any) -> None:
    _saved.append((where, name, vars(where).get(name, _MISSING)))
    setattr(where, name, value)


def _put_back(where: Any, names: Sequence[str]) -> None:
    for entry in list(_saved):
        if entry[0] is where and entry[1] in names:
            _saved.remove(entry)
            _restore(*entry)


def _restore_all() -> None:
    while _saved:
        _restore(*_saved.pop())


def _restore(where: Any, name: str, value: Any) -> None:
    if value is _MISSING:
        delattr(where, name)
    else:
        setattr(where, name, value)
