"""Files over a stack socket's descriptor: open(fd), os.fdopen, and the standard streams.

The interpreter's own FileIO reads and writes the descriptor in C, and in that of a stack socket
there are no data. So whoever opens a descriptor gets a FileIO that uses the stack; and so do
sys.stdin, sys.stdout and sys.stderr, when the process was started with a connection in their place,
as inetd does, or puts one there with os.dup2.
"""

from __future__ import annotations

import _io
import abc
import builtins
import errno
import io
import os
import stat
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from pifus._compat import _raw, _table

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from pifus._compat._endpoint import Endpoint

_STANDARD: Final = ("stdin", "stdout", "stderr")
_CHUNK: Final = 65536


def is_ours(fd: int) -> bool:
    """Whether a descriptor is a stack socket, of this process or another; claims nothing."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
    except (OSError, OverflowError):
        return False
    return _table.mirror_name(fd) is not None


class _FileType(abc.ABCMeta):
    """As classes of `io` may be, so that others can be derived from several of them."""

    def __call__(cls, file: Any, *arguments: Any, **options: Any) -> Any:
        # Not for a derived class, whose descriptor may become a socket later on.
        if cls is FileIO and not (type(file) is int and is_ours(file)):
            return _io.FileIO(file, *arguments, **options)
        return super().__call__(file, *arguments, **options)

    def __instancecheck__(cls, instance: Any) -> bool:
        return (
            isinstance(instance, _io.FileIO)
            if cls is FileIO
            else type.__instancecheck__(cls, instance)
        )

    def __subclasscheck__(cls, subclass: type) -> bool:
        return (
            issubclass(subclass, _io.FileIO)
            if cls is FileIO
            else type.__subclasscheck__(cls, subclass)
        )


class FileIO(_io.FileIO, metaclass=_FileType):
    """A raw file over a descriptor that is, at least now, a stack socket.

    Which it is, is looked up at each call: os.dup2 may put another file under the number.
    """

    __module__ = "_io"

    def __init__(
        self, file: Any, mode: str = "r", closefd: bool = True, opener: Any = None
    ) -> None:
        # The base would close a descriptor in C.
        named = type(file) is not int
        super().__init__(file, mode, closefd and named, opener)
        self._closes = closefd and not named
        self._closefd = closefd

    @property
    def closefd(self) -> bool:
        """Whether close() closes the descriptor."""
        return self._closefd

    def _endpoint(self) -> Endpoint | None:
        return _raw.find(self.fileno())  # ValueError if it is closed

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """As of RawIOBase; None: there is nothing, and the descriptor is non-blocking."""
        endpoint = self._endpoint() if self.readable() else None
        if endpoint is None:
            return super().readinto(buffer)
        fd = self.fileno()
        try:
            return _raw.readv(endpoint, fd, [buffer])
        except BlockingIOError:
            return None

    def read(self, size: int | None = -1, /) -> bytes | None:  # type: ignore[override]
        """As of RawIOBase: at most one receive, unless it reads to the end."""
        endpoint = self._endpoint() if self.readable() else None
        if endpoint is None:
            return super().read(size)
        if size is None or size < 0:
            return self.readall()
        try:
            return _raw.read(endpoint, self.fileno(), size)
        except BlockingIOError:
            return None

    def readall(self) -> bytes | None:  # type: ignore[override]
        """As of RawIOBase."""
        if not self.readable() or self._endpoint() is None:
            return super().readall()
        parts = []
        while part := self.read(_CHUNK):
            parts.append(part)
        return b"".join(parts) if parts or part is not None else None

    def write(self, data: ReadableBuffer, /) -> int | None:  # type: ignore[override]
        """As of RawIOBase; None: there is no room, and the descriptor is non-blocking."""
        endpoint = self._endpoint() if self.writable() else None
        if endpoint is None:
            return super().write(data)
        try:
            return _raw.write(endpoint, self.fileno(), data)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Closes the descriptor by os.close, which knows the stack's sockets."""
        if self.closed:
            return
        fd = self.fileno()
        super().close()
        if self._closes:
            os.close(fd)

    def _dealloc_warn(self, source: Any) -> None:
        if not self.closed and self._closes:
            warnings.warn(f"unclosed file {source!r}", ResourceWarning, 2, source=source)

    def __del__(self) -> None:
        self._dealloc_warn(self)
        super().__del__()


class _Open:
    """`open`: as a function of a module, it does not become a method of a class that has it."""

    __name__ = "open"
    __qualname__ = "open"
    __module__ = "io"
    __doc__ = io.open.__doc__
    __text_signature__ = getattr(io.open, "__text_signature__", None)

    def __init__(self) -> None:
        self._original = io.open

    def __reduce__(self) -> str:
        return "open"

    def __call__(self, file: Any, *arguments: Any, **options: Any) -> Any:
        # Files are opened by their names: that must cost nothing.
        if type(file) is int and is_ours(file):
            return _opened(self._original, file, *arguments, **options)
        return self._original(file, *arguments, **options)


def _opened(
    original: Callable[..., Any],
    fd: int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """What open() does with a descriptor, over a FileIO."""
    # Bad arguments, and the modes that no socket has, are its own to refuse.
    try:
        probe = original(fd, mode, buffering, encoding, errors, newline, False, opener)
    except io.UnsupportedOperation:
        if closefd:
            os.close(fd)  # as it does itself: it had made a raw file already
        raise
    raw = FileIO(fd, probe.mode if "b" in mode else probe.buffer.raw.mode, closefd)
    if "b" in mode and buffering == 0:
        return raw
    # Not both: a buffered file for reading and writing has to be seekable.
    kind: type[Any] = io.BufferedReader if "r" in mode else io.BufferedWriter
    buffer = kind(raw, buffering) if buffering > 1 else kind(raw)
    if "b" in mode:
        return buffer
    text = io.TextIOWrapper(buffer, probe.encoding, errors, newline, buffering == 1)
    text.mode = mode  # type: ignore[misc]
    return text


# ---- the standard streams ----


def restream(fd: int) -> None:
    """`fd` may have become a stack socket: the standard stream over it uses the stack then.

    The stream stays the object that it is: programs, and handlers of `logging`, hold it.
    """
    if not 0 <= fd < len(_STANDARD) or not is_ours(fd):
        return
    name = _STANDARD[fd]
    for stream in {id(x): x for x in (getattr(sys, name), getattr(sys, f"__{name}__"))}.values():
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)
        if type(raw) is not _io.FileIO or raw.closed or raw.fileno() != fd:
            continue
        ours = FileIO(fd, raw.mode, False)
        ours.name = raw.name
        if raw is not buffer:
            kind: Any = type(buffer)
            kind.__init__(buffer, ours)
        elif type(stream) is io.TextIOWrapper:  # python -u: there is no buffer
            options = (stream.encoding, stream.errors, "\n", stream.line_buffering, True)
            mode = stream.mode
            io.TextIOWrapper.__init__(stream, ours, *options)
            stream.mode = mode  # type: ignore[misc]


# ---- numbers that get other files, or none ----


def dup2(original: Callable[..., int]) -> Callable[..., int]:
    """os.dup2 that knows stack sockets: what it closes, and what it puts in a stream's place."""

    @wraps(original)
    def dup2(fd: int, fd2: int, inheritable: bool = True) -> int:
        source = _raw.find(fd)
        last = None
        if fd != fd2 and type(fd2) is int and fd2 in _table.endpoints:
            os.fstat(fd)  # a bad one closes nothing
            if _raw.find(fd2) is not None:
                last = _table.drop(fd2)
        try:
            number = original(fd, fd2, inheritable)
        finally:
            if last is not None:
                last.finish()
        if source is not None:
            _raw.find(number)  # also for an object that has had this number for long
            restream(number)
        return number

    return dup2


def closerange(original: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """os.closerange that ends stack sockets, and leaves pifus what it needs for the next ones."""

    def closerange(fd_low: int, fd_high: int, /) -> None:
        if type(fd_low) is not int or type(fd_high) is not int:
            original(fd_low, fd_high)
            return
        from pifus._compat import _current

        inside = range(fd_low, fd_high)
        last = [_table.drop(fd) for fd in list(_table.endpoints) if fd in inside]
        low = fd_low
        for fd in sorted(fd for fd in _current.descriptors() if fd in inside):
            original(low, fd)
            low = fd + 1
        original(low, fd_high)
        for endpoint in last:
            if endpoint is not None:
                endpoint.finish()

    closerange.__doc__ = original.__doc__
    return closerange


def splice(original: Callable[..., int]) -> Callable[..., int]:
    """os.splice that says of a stack socket, as the kernel of some files, that it cannot.

    Who splices copies if he is told so; what he would find in the descriptor are no data.
    """

    @wraps(original)
    def splice(src: int, dst: int, *arguments: Any, **options: Any) -> int:
        for fd in (src, dst):
            if _raw.find(fd) is not None:
                text = (
                    f"descriptor {fd} is a socket of the user-space stack: read and write instead"
                )
                raise OSError(errno.EINVAL, text)
        return original(src, dst, *arguments, **options)

    return splice


def wire(replace: Callable[[Any, str, Any], None]) -> None:
    """Puts all of it into `io`, `builtins` and `os`.

    Args:
        replace: sets an attribute, and remembers what was there.
    """
    ours = _Open()
    replace(io, "open", ours)
    replace(io, "FileIO", FileIO)
    replace(builtins, "open", ours)
    replace(os, "dup2", dup2(os.dup2))
    replace(os, "closerange", closerange(os.closerange))
    replace(os, "splice", splice(os.splice))
    for fd in range(len(_STANDARD)):
        restream(fd)
