"""Calls of `os` that have only a descriptor's number: on a stack socket they go to the stack.

`multiprocessing.connection` works that way: it takes the descriptor out of a socket, reads and
writes it, polls it and passes it to other processes.
"""

from __future__ import annotations

import atexit
import errno
import os
import stat
import sys
from collections.abc import Callable, Sequence
from functools import partialmethod
from typing import TYPE_CHECKING, Any

from pifus._compat import _table
from pifus._core import _errors

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint

_is_unix: Callable[[int], int] | None = None


def _load() -> Callable[[int], int]:
    """When the first call is made, not when the interpreter starts."""
    global _is_unix
    from pifus._core._client import lib

    _is_unix = lib.pf_is_unix
    return _is_unix


def find(fd: Any) -> Endpoint | None:
    """The stack socket behind a descriptor, however this process came by it; else None."""
    try:
        endpoint = _table.endpoints.get(fd)
        # Pipes and files, the most of what is read by number, must not pay for fstat.
        if endpoint is None and not (_is_unix or _load())(fd):
            return None
        status = os.fstat(fd)
    except (OSError, TypeError, ValueError, OverflowError):
        return None  # the call itself will complain
    if endpoint is not None and (status.st_dev, status.st_ino) == endpoint.inode:
        return endpoint
    if not stat.S_ISSOCK(status.st_mode):
        _table.forget(fd)  # it was closed by others, and its number is used again
        return None
    from pifus._compat import _methods

    endpoint = _table.adopt(fd) or _methods.foreign(fd, -1)
    if endpoint is not None:
        _table.detach_new(fd)
    return endpoint


class _Call:
    """As a function of `os`, it does not become a method of a class that has it."""

    # Finalizers call os.close when this module's names are gone already.
    over = False

    def __init__(self, name: str, ours: Callable[..., Any]) -> None:
        self._original = getattr(os, name)
        self._ours = ours
        self.__name__ = name
        self.__doc__ = self._original.__doc__

    def __call__(self, fd: Any, *arguments: Any) -> Any:
        endpoint = None if self.over else find(fd)
        if endpoint is None:
            return self._original(fd, *arguments)
        return self._ours(endpoint, fd, *arguments)


class _Close(_Call):
    """Closing is for nobody but who has the socket already."""

    def __call__(self, fd: Any) -> None:
        if self.over or not isinstance(fd, int) or fd not in _table.endpoints or find(fd) is None:
            self._original(fd)
        else:
            self._ours(fd)


def read(endpoint: Endpoint, fd: int, length: int, /) -> bytes:
    if length < 0:
        raise _errors.os_error(errno.EINVAL)
    data = endpoint.io.recv(endpoint, length, 0, _timeout(fd))
    show(endpoint)
    return data


def write(endpoint: Endpoint, fd: int, data: Any, /) -> int:
    return endpoint.io.send(endpoint, data, 0, _timeout(fd))


def readv(endpoint: Endpoint, fd: int, buffers: Sequence[Any], /) -> int:
    got: int = endpoint.io.recvmsg_into(endpoint, buffers, 0, 0, _timeout(fd))[0]
    show(endpoint)
    return got


def _writev(endpoint: Endpoint, fd: int, buffers: Sequence[Any], /) -> int:
    return endpoint.io.sendmsg(endpoint, buffers, (), 0, _timeout(fd), None)


def _timeout(fd: int) -> float | None:
    """The descriptor says whether to wait, not the time-out of a socket object."""
    return None if os.get_blocking(fd) else 0


def show(endpoint: Endpoint) -> None:
    """Whoever reads by number polls by number: it must not show what has been read."""
    from pifus._core._client import lib

    handle = endpoint.session.handle
    if endpoint.armed and handle is not None and lib.pf_mirror_is_unsure(handle, endpoint.slot):
        endpoint.freshen()


def wire(replace: Callable[[Any, str, Any], None]) -> None:
    """Puts the calls into `os`, and into what has taken them out of it before.

    Args:
        replace: sets an attribute, and remembers what was there.
    """
    calls = {
        "read": _Call("read", read),
        "write": _Call("write", write),
        "close": _Close("close", _table.close),
    }
    for name, call in calls.items():
        replace(os, name, call)
    replace(os, "readv", _Call("readv", readv))
    replace(os, "writev", _Call("writev", _writev))
    early = getattr(sys.modules.get("multiprocessing.connection"), "Connection", None)
    if early is not None:
        for method, name, option in (
            ("_recv", "read", "read"),
            ("_send", "write", "write"),
            ("_close", "close", "_close"),
        ):
            replace(early, method, partialmethod(vars(early)[method], **{option: calls[name]}))
    atexit.register(setattr, _Call, "over", True)
