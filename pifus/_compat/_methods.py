"""The socket class at the level of `_socket`: the stack's TCP, and the kernel's everything else.

The methods find the stack's side of a socket by its descriptor, not by an attribute: so the same
functions serve a subclass of the C class and, put there by `pifus.monkey`, the interpreter's own
`socket.socket`.
"""

from __future__ import annotations

import _socket as _c
import errno
import operator
import os
import sys
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pifus._compat import _table

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from pifus._compat import _connection, _endpoint, _options, _rules, _stream
    from pifus._compat._endpoint import Endpoint
    from pifus._core import _address
    from pifus._core._client import CData, lib

    _is_unsure = lib.pf_mirror_is_unsure

_C = _c.socket
_find = _table.endpoints.get
_fileno = _C.fileno
_gettimeout = _C.gettimeout

_TYPE_FLAGS = int(_c.SOCK_NONBLOCK) | int(_c.SOCK_CLOEXEC)


def _is_for_stack(family: int, kind: int, proto: int) -> bool:
    return (
        family in (_c.AF_INET, _c.AF_INET6)
        and kind & ~_TYPE_FLAGS == _c.SOCK_STREAM
        and proto in (0, _c.IPPROTO_TCP)
    )


class socket(_C):  # noqa: N801 - as the class it stands for
    """socket(family=AF_INET, type=SOCK_STREAM, proto=0) -> a socket of the stack or the kernel.

    TCP over IPv4 and IPv6 goes to the user-space stack; all else is the kernel's as always. The
    descriptor of a stack socket shows readiness only: data do not go through it.
    """

    __slots__ = ()

    def __init__(
        self,
        family: int = -1,
        type: int = -1,  # noqa: A002
        proto: int = -1,
        fileno: Any = None,
    ) -> None:
        kind = type
        if fileno is not None:
            endpoint = _table.adopt(fileno) if isinstance(fileno, int) else None
            if endpoint is not None:
                family = endpoint.family if family == -1 else family
                kind = endpoint.type if kind == -1 else kind
                proto = _c.IPPROTO_TCP if proto == -1 else proto
            _C.__init__(self, family, kind, proto, fileno)
            if endpoint is not None and _gettimeout(self) == 0:
                endpoint.arm()
            return
        family = _c.AF_INET if family == -1 else family
        kind = _c.SOCK_STREAM if kind == -1 else kind
        proto = 0 if proto == -1 else proto
        if not _is_for_stack(family, kind, proto):
            _C.__init__(self, family, kind, proto)
            _table.forget(_fileno(self))
            return
        _load()
        fd, endpoint = _endpoint.make(int(family), int(kind) & ~_TYPE_FLAGS, int(proto))
        try:
            _C.__init__(self, family, kind, proto, fd)
        except BaseException:
            _table.drop(fd)
            os.close(fd)
            raise
        if _gettimeout(self) == 0:
            endpoint.arm()

    def __del__(self) -> None:
        fd = _fileno(self)
        if fd not in _table.endpoints:
            _C.__del__(self)  # type: ignore[attr-defined]
            return
        # What the base class does, but its descriptor must leave our table before it is closed.
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:
            _table.drop(fd)
            _C.close(self)

    # ---- descriptors and time-outs ----

    def fileno(self) -> int:
        """The descriptor: a mirror of the socket's readiness."""
        fd = _fileno(self)
        endpoint = _find(fd)
        if endpoint is not None and (handle := endpoint.session.handle) is not None:
            if not endpoint.armed:
                endpoint.arm(settle=True)
            elif _is_unsure(handle, endpoint.slot):
                endpoint.settle()
        return fd

    def close(self) -> None:
        """Closes the socket; calls that other threads have under way end with EBADF."""
        fd = _fileno(self)
        if fd in _table.endpoints:
            _table.drop(fd)
        _C.close(self)

    def detach(self) -> int:
        """Lets go of the descriptor, which stays open, and returns it."""
        _table.detach(_fileno(self))
        return _C.detach(self)

    def setblocking(self, flag: bool, /) -> None:
        """setblocking(False) is settimeout(0), setblocking(True) is settimeout(None)."""
        _C.setblocking(self, flag)
        if not flag:
            self._went_nonblocking()

    def settimeout(self, value: float | None, /) -> None:
        """Sets how long calls wait, in seconds; None: as long as it takes."""
        _C.settimeout(self, value)
        if value == 0:
            self._went_nonblocking()

    def _went_nonblocking(self) -> None:
        endpoint = _find(_fileno(self))
        if endpoint is not None:
            endpoint.arm()

    # ---- connections ----

    def bind(self, address: Any, /) -> None:
        """Binds to a local address."""
        fd = _fileno(self)
        endpoint = _find(fd)
        if endpoint is not None:
            native = _native(endpoint, address, "bind")
            sys.audit("socket.bind", self, address)
            if not _leave_to_kernel(endpoint, native, fd):
                _connection.bind(endpoint, native)
                return
        _C.bind(self, address)

    def listen(self, backlog: int = 128, /) -> None:
        """Accepts connections from now on."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            _C.listen(self, backlog)
        else:
            _connection.listen(endpoint, operator.index(backlog))

    def _accept(self) -> tuple[int, Any]:
        endpoint = _find(_fileno(self))
        if endpoint is None:
            fd, address = _C._accept(self)  # type: ignore[attr-defined]
            _table.forget(fd)
            return fd, address
        return _connection.accept(endpoint, _gettimeout(self))

    def connect(self, address: Any, /) -> None:
        """Connects to a peer."""
        fd = _fileno(self)
        endpoint = _find(fd)
        if endpoint is not None:
            native = _native(endpoint, address, "connect")
            sys.audit("socket.connect", self, address)
            if not _leave_to_kernel(endpoint, native, fd):
                code = _connection.connect(endpoint, native, _gettimeout(self))
                if code is None:
                    raise TimeoutError("timed out")
                if code:
                    raise OSError(code, os.strerror(code))
                return
        _C.connect(self, address)

    def connect_ex(self, address: Any, /) -> int:
        """Connects to a peer; returns the errno, or 0."""
        fd = _fileno(self)
        endpoint = _find(fd)
        if endpoint is not None:
            native = _native(endpoint, address, "connect_ex")
            sys.audit("socket.connect", self, address)
            if not _leave_to_kernel(endpoint, native, fd):
                code = _connection.connect(endpoint, native, _gettimeout(self))
                return errno.EAGAIN if code is None else code
        return _C.connect_ex(self, address)

    def shutdown(self, how: int, /) -> None:
        """Ends one direction, or both."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            _C.shutdown(self, how)
        else:
            _connection.shutdown(endpoint, operator.index(how))
            # The descriptor shows it at once, and hangs up when both directions are shut.
            _C.shutdown(self, how)

    def getsockname(self) -> Any:
        """The local address."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.getsockname(self)
        return _connection.getsockname(endpoint)

    def getpeername(self) -> Any:
        """The peer's address."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.getpeername(self)
        return _connection.getpeername(endpoint)

    # ---- options ----

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> Any:
        """The value of an option: a number, or with a length, bytes."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.getsockopt(self, level, optname, buflen)
        return _options.getsockopt(endpoint, level, optname, buflen)

    def setsockopt(self, level: int, optname: int, value: Any, *length: int) -> None:
        """Sets an option: to a number, or to bytes."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            _C.setsockopt(self, level, optname, value, *length)
            return
        _options.setsockopt(endpoint, level, optname, value)

    # ---- bytes ----

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receives up to `bufsize` bytes; b"" at the end of the stream."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recv(self, bufsize, flags)
        return _stream.recv(endpoint, bufsize, flags, _gettimeout(self))

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receives into a buffer; the number of bytes, 0 at the end of the stream."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recv_into(self, buffer, nbytes, flags)
        return _stream.recv_into(endpoint, buffer, nbytes, flags, _gettimeout(self))

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """Receives bytes and, of a datagram, the sender."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recvfrom(self, bufsize, flags)
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        return _stream.recv(endpoint, bufsize, flags, _gettimeout(self)), None

    def recvfrom_into(
        self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, Any]:
        """Receives into a buffer; also the sender of a datagram."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recvfrom_into(self, buffer, nbytes, flags)
        return _stream.recv_into(endpoint, buffer, nbytes, flags, _gettimeout(self)), None

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        """Receives bytes and ancillary data, of which the stack has none."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recvmsg(self, bufsize, ancbufsize, flags)
        if bufsize < 0:
            raise ValueError("negative buffer size in recvmsg()")
        return _stream.recv(endpoint, bufsize, flags, _gettimeout(self)), [], 0, None

    def recvmsg_into(
        self, buffers: Iterable[WriteableBuffer], ancbufsize: int = 0, flags: int = 0, /
    ) -> Any:
        """Receives into several buffers."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recvmsg_into(self, buffers, ancbufsize, flags)
        got = _stream.recvmsg_into(endpoint, buffers, flags, _gettimeout(self))
        return got, [], 0, None

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Sends; the number of bytes taken."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.send(self, data, flags)
        return _stream.send(endpoint, data, flags, _gettimeout(self))

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Sends all of it."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            _C.sendall(self, data, flags)
            return
        _stream.sendall(endpoint, data, flags, _gettimeout(self))

    def sendto(self, data: ReadableBuffer, *flags_address: Any) -> int:
        """Sends; on a stream, the address is ignored."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.sendto(self, data, *flags_address)
        if not 1 <= len(flags_address) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({1 + len(flags_address)} given)")
        flags = operator.index(flags_address[0]) if len(flags_address) == 2 else 0
        return _stream.send(endpoint, data, flags, _gettimeout(self))

    def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[Any] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        """Sends several buffers; ancillary data mean nothing to TCP."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            if address is None:
                return _C.sendmsg(self, buffers, ancdata, flags)
            return _C.sendmsg(self, buffers, ancdata, flags, address)
        return _stream.sendmsg(endpoint, buffers, flags, _gettimeout(self))


def _load() -> None:
    """What only stack sockets need: a program that makes none does not pay for it."""
    global _address, _connection, _endpoint, _is_unsure, _options, _rules, _stream
    if "_endpoint" not in globals():
        from pifus._compat import _connection, _options, _rules, _stream
        from pifus._core import _address
        from pifus._core._client import lib

        _is_unsure = lib.pf_mirror_is_unsure

        # Last: it tells that the others are there.
        from pifus._compat import _endpoint  # isort: skip


def _native(endpoint: Endpoint, address: Any, call: str) -> CData:
    return _address.to_native(endpoint.family, address, call)


def _leave_to_kernel(endpoint: Endpoint, native: CData, fd: int) -> bool:
    """Puts a kernel socket in the place of one that is bound or connected to the kernel's world."""
    if endpoint.is_fresh() and not _rules.is_for_stack(endpoint, native):
        _rules.to_kernel(endpoint, fd)
        return True
    return False
