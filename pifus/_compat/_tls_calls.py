"""What TLS on a stack socket raises, and how long its calls may take."""

from __future__ import annotations

import _socket
import _ssl
import errno
import functools
import ssl
import threading
import time
from typing import Any, Final

from pifus._compat._endpoint import deadline

# A wait without an end, in seconds: sends come back with what went, so that nothing is sent twice
# after a signal.
_FOREVER: Final = 1e6
# One of the engine's own error numbers, without a name in `ssl`.
_NO_SOCKET: Final = 9
# The engine on a descriptor.
wrap_descriptor: Any = vars(_ssl._SSLContext)["_wrap_socket"]


def tls_error(text: str, reason: str = "", kind: Any = ssl.SSLError, number: int = 1) -> Exception:
    """An SSLError with the attributes that the engine's have."""
    error: ssl.SSLError = kind(number, f"[SSL: {reason}] {text}" if reason else text)
    attributes: Any = error
    attributes.reason = reason or None
    attributes.library = "SSL" if reason else None
    return error


def want_read() -> Exception:
    """There is not enough ciphertext, and the call may not wait."""
    text = "The operation did not complete (read)"
    return tls_error(text, kind=ssl.SSLWantReadError, number=ssl.SSL_ERROR_WANT_READ)


def want_write() -> Exception:
    """Ciphertext does not fit, and the call may not wait."""
    text = "The operation did not complete (write)"
    return tls_error(text, kind=ssl.SSLWantWriteError, number=ssl.SSL_ERROR_WANT_WRITE)


def retell(error: OSError) -> None:
    """Raises what a read or a write is to raise instead of an errno of the connection, if so.

    Interpreters before 3.12.3 take any of them for an end of the stream without a close_notify.
    """
    if not isinstance(error, ssl.SSLError) and error.errno not in (None, errno.EBADF) and _ends():
        text = "EOF occurred in violation of protocol"
        raise tls_error(text, kind=ssl.SSLEOFError, number=ssl.SSL_ERROR_EOF) from None


class _Plain(_socket.socket):
    """A socket of the kernel, patched or not, with weak references as the engine needs."""


@functools.cache
def _ends() -> bool:
    """What this interpreter does, by trying: a read of a connection that was reset."""
    context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair = _socket.socketpair()
    ours, theirs = _Plain(fileno=pair[0].detach()), pair[1]
    ours.send(b"unread")  # so the close below is a reset
    theirs.close()
    try:
        wrap_descriptor(context, ours, True).read(1)
    except ssl.SSLEOFError:
        return True
    except OSError:
        pass
    finally:
        ours.close()
    return False


def gone() -> Exception:
    """The SSLSocket is not there any more."""
    return tls_error("Underlying socket connection gone", number=_NO_SOCKET)


def closed() -> Exception:
    """The SSLSocket is closed."""
    return tls_error("Underlying socket has been closed.")


class Call:
    """How long one call of the program may take."""

    __slots__ = ("end", "is_read", "nowait", "what")

    def __init__(self, what: str, timeout: float | None) -> None:
        self.what = what
        self.is_read = what == "read"
        self.nowait = timeout == 0
        self.end = None if self.nowait else deadline(timeout)

    def left(self) -> float:
        """Seconds; at least 0, and never for ever."""
        if self.end is None:
            return 0.0 if self.nowait else _FOREVER
        return max((self.end - time.monotonic_ns()) / 1e9, 1e-9)

    def late(self) -> TimeoutError:
        """For when the time is up."""
        return TimeoutError(f"The {self.what} operation timed out")


class Lock:
    """A lock that is waited for as long as the call may take."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self, call: Call) -> bool:
        """False: held by another thread, and this call may not wait.

        Raises:
            TimeoutError: the time of the call was up.
        """
        if call.nowait:
            return self._lock.acquire(blocking=False)
        if not self._lock.acquire(timeout=-1 if call.end is None else call.left()):
            raise call.late()
        return True

    def give(self) -> None:
        """Undoes `take`."""
        self._lock.release()
