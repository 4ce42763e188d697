"""O_NONBLOCK of a descriptor, where it and the time-out of the socket object say different things.

The interpreter keeps the two in step. A program that sets the flag by itself, with `fcntl.fcntl` or
`os.set_blocking`, or that makes a socket object of a descriptor that has it, gets what the kernel
does then: the flag decides whether calls of an object without a time-out wait. To look at it before
each call would cost those who never do that; so only sockets of which it is known are looked at.
"""

from __future__ import annotations

import fcntl
import operator
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from pifus._compat import _table
from pifus._compat._io import Io

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint

_F_SETFL: Final = fcntl.F_SETFL
_FIONBIO: Final = 0x5421
_get_blocking: Final = os.get_blocking


class _Looking:
    """Another `Io` that looks at the descriptor in each call. As it, the time-out comes last."""

    def __init__(self, io: Io) -> None:
        self._io = io

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._io, name)

        def looking(endpoint: Endpoint, *arguments: Any) -> Any:
            *before, timeout = arguments
            return call(endpoint, *before, patience(endpoint, timeout))

        setattr(self, name, looking)
        return looking

    def sendmsg(self, endpoint: Endpoint, *arguments: Any) -> int:
        *before, timeout, to = arguments
        send: Any = self._io.sendmsg
        sent: int = send(endpoint, *before, patience(endpoint, timeout), to)
        return sent


def patience(endpoint: Endpoint, timeout: float | None) -> float | None:
    """How long a call of an object with this time-out waits."""
    if timeout or type(endpoint.io) is not _Looking:
        return timeout
    try:
        return None if _get_blocking(endpoint.fds[0]) else 0
    except (OSError, IndexError):
        return timeout  # it is being closed: the call itself will tell


def look_from_now_on(endpoint: Endpoint) -> None:
    """The flag of its descriptor was set, or may be."""
    if type(endpoint.io) is not _Looking:
        endpoint.io = cast("Io", _Looking(endpoint.io))


def adopted(endpoint: Endpoint, fd: int) -> None:
    """A socket object is made of a descriptor: by others, unless nobody knows of its socket yet."""
    if endpoint.attached and not _get_blocking(fd):
        look_from_now_on(endpoint)


class _Setting:
    """A function that may set the flag; not one that would become a method of a class."""

    def __init__(self, where: Any, name: str, command: int | None = None) -> None:
        self._original = getattr(where, name)
        self._command = command
        self.__name__ = name
        self.__doc__ = self._original.__doc__

    def __call__(self, fd: Any, *arguments: Any) -> Any:
        result = self._original(fd, *arguments)
        if self._command is None or (arguments and arguments[0] == self._command):
            endpoint = _table.known(_number(fd))
            if endpoint is not None:
                look_from_now_on(endpoint)
        return result


def _number(fd: Any) -> int:
    """Of all that the functions take: numbers of any kind, and what has a fileno()."""
    try:
        return operator.index(fd)
    except TypeError:
        number: int = fd.fileno()
        return number


def wire(replace: Callable[[Any, str, Any], None]) -> None:
    """Puts the functions into `os` and `fcntl`.

    Args:
        replace: sets an attribute, and remembers what was there.
    """
    replace(os, "set_blocking", _Setting(os, "set_blocking"))
    replace(fcntl, "fcntl", _Setting(fcntl, "fcntl", _F_SETFL))
    replace(fcntl, "ioctl", _Setting(fcntl, "ioctl", _FIONBIO))
