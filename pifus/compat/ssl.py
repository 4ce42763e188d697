"""The interpreter's own `ssl` module over `pifus.compat.socket`.

Contexts, errors and constants are those of `ssl` itself, so they fit whatever else the program
uses; SSLSocket, and the functions that make sockets, are the same code over the stack.
"""

import enum as _enum
import ssl as _original
import sys as _sys
from typing import Any as _Any

import pifus.compat.socket as _sockets
from pifus._compat import _tls_hook
from pifus.compat import _execute


def _build(names: dict[str, _Any]) -> None:
    _execute.run_with(_sys.modules[__name__], "ssl", {"socket": _sockets})
    for name, value in vars(_original).items():
        is_class = isinstance(value, type) and name not in ("SSLSocket", "socket")
        if is_class or isinstance(value, _enum.Enum):
            names[name] = value


def _dispatch(own: _Any) -> None:
    """Contexts make an SSLSocket of this module over its sockets, else one of the interpreter's."""
    create = own._create.__func__

    def _create(cls: _Any, sock: _Any, *args: _Any, **kwargs: _Any) -> _Any:
        if cls is own and not isinstance(sock, _sockets.socket):
            theirs: _Any = _original.SSLSocket
            return theirs._create(sock, *args, **kwargs)
        return create(cls, sock, *args, **kwargs)

    own._create = classmethod(_create)
    _original.SSLContext.sslsocket_class = own


_build(globals())
_dispatch(globals()["SSLSocket"])
_tls_hook.wire("pifus.compat.ssl")
