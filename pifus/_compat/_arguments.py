"""Arguments that cannot be right: refused in the words of the interpreter's own `_socket`.

What looks wrong is given to the method of the C class itself, of a socket without a descriptor: so
the exception is that of the running Python, whatever its version. If it finds nothing wrong, it
gets no further than EBADF.
"""

from __future__ import annotations

import _socket as _c
import errno
import os
from typing import Any, Final

_INT_MAX: Final = 2**31 - 1
SSIZE_MAX: Final = 2**63 - 1
_C = _c.socket

_without_descriptor: dict[int, _c.socket] = {}


def _nobody(family: int) -> _c.socket:
    """A socket object of a family that has no descriptor."""
    found = _without_descriptor.get(family)
    if found is None:
        found = _C(family, _c.SOCK_STREAM)
        os.close(found.detach())
        _without_descriptor[family] = found
    return found


def refuse(family: int, method: str, *arguments: Any) -> None:
    """Raises what the C method raises for these arguments; returns if it accepts them."""
    try:
        getattr(_C, method)(_nobody(family), *arguments)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise


def c_int(value: Any) -> int:
    """An argument that C takes as an int.

    Raises:
        TypeError, OverflowError: it is none, or does not fit.
    """
    if not _is_index(value):
        raise TypeError(f"{type(value).__name__!r} object cannot be interpreted as an integer")
    number = int(value.__index__())
    if number > _INT_MAX:
        raise OverflowError("signed integer is greater than maximum")
    if number < -_INT_MAX - 1:
        raise OverflowError("signed integer is less than minimum")
    return number


def c_size(value: Any) -> int:
    """An argument that C takes as a Py_ssize_t.

    Raises:
        TypeError, OverflowError: it is none, or does not fit.
    """
    if not _is_index(value):
        raise TypeError(f"{type(value).__name__!r} object cannot be interpreted as an integer")
    number = int(value.__index__())
    if not -SSIZE_MAX - 1 <= number <= SSIZE_MAX:
        raise OverflowError("Python int too large to convert to C ssize_t")
    return number


def _is_index(value: Any) -> bool:
    return hasattr(type(value), "__index__")


def ancillary_size(size: Any) -> None:
    """Refuses a size of ancillary data that no recvmsg can have."""
    if c_size(size) < 0:
        raise ValueError("invalid ancillary data buffer length")
