"""The interpreter's own `socket` module, executed over `pifus.compat_socket`.

So makefile, time-outs, create_connection, create_server and all the rest are those of the running
Python, whatever its version; the only difference is the `_socket` below it.
"""

import sys

import pifus.compat_socket
from pifus._compat import _sendfile, _tls_hook
from pifus.compat import _execute

_execute.run_over(sys.modules[__name__], pifus.compat_socket)
_sendfile.refuse(sys.modules[__name__], setattr)


def _wrap_these(_: object) -> None:
    """Contexts of the interpreter's `ssl` are to know these sockets, too."""
    import pifus.compat.ssl  # noqa: F401


_tls_hook.when_imported(__name__, _wrap_these)
