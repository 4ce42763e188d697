"""The `_socket` module over pifus: TCP goes to the user-space stack, all else is the kernel's.

It has every name of the interpreter's own `_socket`; `pifus.compat.socket` is the interpreter's
`socket.py` executed over it.
"""

import _socket as _c
from _socket import *  # noqa: F403

from pifus._compat import _names
from pifus._compat._methods import socket

SocketType = socket  # type: ignore[misc]

getaddrinfo = _names.getaddrinfo
getnameinfo = _names.getnameinfo
gethostbyname = _names.gethostbyname
gethostbyname_ex = _names.gethostbyname_ex
gethostbyaddr = _names.gethostbyaddr


def close(fd: int, /) -> None:  # type: ignore[no-redef]
    """Closes a socket by its descriptor."""
    from pifus._compat import _table

    if fd in _table.endpoints:
        _table.close(fd)
    else:
        _c.close(fd)
