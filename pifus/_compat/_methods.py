"""The socket class at the level of `_socket`: TCP, UDP, ICMP of the stack, the rest of the kernel.

The methods find the stack's side of a socket by its descriptor, not by an attribute: so the same
functions serve a subclass of the C class and, put there by `pifus.monkey`, the interpreter's own
`socket.socket`.
"""

from __future__ import annotations

import _socket as _c
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pifus._compat import _arguments, _flags, _kinds, _names, _signals, _table

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from pifus._compat import (
        _accept,
        _claim,
        _connecting,
        _connection,
        _datagram,
        _making,
        _options,
        _rules,
    )
    from pifus._compat._endpoint import Endpoint
    from pifus._core import _address
    from pifus._core._client import CData, lib

    _is_unsure = lib.pf_mirror_is_unsure

_loaded = False
_C = _c.socket
_find = _table.endpoints.get
_fileno = _C.fileno
_gettimeout = _C.gettimeout
_set_blocking = os.set_blocking


class socket(_C):  # noqa: N801 - as the class it stands for
    """socket(family=AF_INET, type=SOCK_STREAM, proto=0) -> a socket of the stack or the kernel.

    TCP, UDP and ICMP go to the user-space stack; all else is the kernel's as always.
    The descriptor of a stack socket shows readiness only: data do not go through it.
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
            endpoint = None
            if isinstance(fileno, int):
                endpoint = _table.adopt(fileno) or foreign(fileno, family)
            if endpoint is not None:
                family = endpoint.family if family == -1 else family
                kind = endpoint.type if kind == -1 else kind
                if proto == -1:
                    proto = endpoint.proto or _kinds.USUAL[endpoint.datagram]
            _C.__init__(self, family, kind, proto, fileno)
            if endpoint is None:
                _know(self)
                return
            _flags.adopted(endpoint, fileno)
            if _gettimeout(self) == 0:
                endpoint.arm()
            return
        numbers = _kinds.numbers(family, kind, proto)
        family = _c.AF_INET if family == -1 else family
        kind = _c.SOCK_STREAM if kind == -1 else kind
        proto = 0 if proto == -1 else proto
        if numbers is None:
            _C.__init__(self, family, kind, proto)
            _table.forget(_fileno(self))
            _know(self)
            return
        if not _loaded:
            _load()
        fd, endpoint = _making.make(*numbers)
        try:
            _C.__init__(self, family, kind, proto, fd)
        except BaseException:
            _table.close(fd)
            raise
        if _gettimeout(self) == 0:
            _set_blocking(fd, False)
            endpoint.arm()

    def __del__(self) -> None:
        fd = _fileno(self)
        if fd not in _table.endpoints:
            _C.__del__(self)  # type: ignore[attr-defined]
            return
        # What the base class does, but its descriptor must leave our table before it is closed.
        try:
            _table.endpoints[fd].leave_alone()
            # At the interpreter's end what tells the addresses may be gone already.
            text = object.__repr__(self) if sys.is_finalizing() else repr(self)
            warnings.warn(f"unclosed {text}", ResourceWarning, source=self, stacklevel=2)
        finally:
            _close(self, fd)

    # ---- descriptors and time-outs ----

    def fileno(self) -> int:
        """The descriptor: a mirror of the socket's readiness."""
        fd = _fileno(self)
        endpoint = _find(fd)
        if endpoint is not None:
            if not endpoint.armed:
                endpoint.show()
            elif (handle := endpoint.session.handle) and _is_unsure(handle, endpoint.slot):
                endpoint.freshen()
        return fd

    def close(self) -> None:
        """Closes the socket; calls that other threads have under way end with EBADF."""
        _close(self, _fileno(self))

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
        address = _names.numeric(self.family, address)
        fd = _fileno(self)
        endpoint = _find(fd) or _undecided(self, fd)
        if endpoint is not None:
            native = _native(endpoint, address, "bind")
            sys.audit("socket.bind", self, address)
            if not _rules.leave_to_kernel(endpoint, native, fd, binding=True):
                _connection.bind(endpoint, native)
                return
        _C.bind(self, address)

    def listen(self, backlog: int = 128, /) -> None:
        """Accepts connections from now on."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            _C.listen(self, backlog)
        else:
            _connection.listen(endpoint, _arguments.c_int(backlog))

    def _accept(self) -> tuple[int, Any]:
        endpoint = _find(_fileno(self))
        if endpoint is None:
            fd, address = _C._accept(self)  # type: ignore[attr-defined]
            _table.forget(fd)
            _table.know(fd)
            return fd, address
        return _accept.accept(endpoint, _flags.patience(endpoint, _gettimeout(self)))

    def connect(self, address: Any, /) -> None:
        """Connects to a peer."""
        code = _connect(self, address, "connect", _C.connect)
        if code is None:
            raise TimeoutError("timed out")
        if code:
            raise OSError(code, os.strerror(code))

    def connect_ex(self, address: Any, /) -> int:
        """Connects to a peer; returns the errno, or 0."""
        code = _connect(self, address, "connect_ex", _C.connect_ex)
        return errno.EAGAIN if code is None else code

    def shutdown(self, how: int, /) -> None:
        """Ends one direction, or both."""
        endpoint = _find(_fileno(self))
        # True: whoever polls it is to wake.
        if endpoint is None or _connecting.shutdown(endpoint, _arguments.c_int(how)):
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
        _options.setsockopt(endpoint, level, optname, value, *length)

    # ---- bytes ----

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receives up to `bufsize` bytes; b"" at the end of the stream."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recv(self, bufsize, flags)
        return endpoint.io.recv(endpoint, bufsize, flags, _gettimeout(self))

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receives into a buffer; the number of bytes, 0 at the end of the stream."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recv_into(self, buffer, nbytes, flags)
        return endpoint.io.recv_into(endpoint, buffer, nbytes, flags, _gettimeout(self))

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        """Receives bytes and, of a datagram, the sender."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recvfrom(self, bufsize, flags)
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        return endpoint.io.recvfrom(endpoint, bufsize, flags, _gettimeout(self))

    def recvfrom_into(
        self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, Any]:
        """Receives into a buffer; also the sender of a datagram."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recvfrom_into(self, buffer, nbytes, flags)
        return endpoint.io.recvfrom_into(endpoint, buffer, nbytes, flags, _gettimeout(self))

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        """Receives bytes and ancillary data."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recvmsg(self, bufsize, ancbufsize, flags)
        if _arguments.c_size(bufsize) < 0:
            raise ValueError("negative buffer size in recvmsg()")
        _arguments.ancillary_size(ancbufsize)
        return endpoint.io.recvmsg(endpoint, bufsize, ancbufsize, flags, _gettimeout(self))

    def recvmsg_into(
        self, buffers: Iterable[WriteableBuffer], ancbufsize: int = 0, flags: int = 0, /
    ) -> Any:
        """Receives into several buffers."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.recvmsg_into(self, buffers, ancbufsize, flags)
        _arguments.ancillary_size(ancbufsize)
        return endpoint.io.recvmsg_into(endpoint, buffers, ancbufsize, flags, _gettimeout(self))

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """Sends; the number of bytes taken."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            return _C.send(self, data, flags)
        return endpoint.io.send(endpoint, data, flags, _gettimeout(self))

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Sends all of it."""
        endpoint = _find(_fileno(self))
        if endpoint is None:
            _C.sendall(self, data, flags)
            return
        endpoint.io.sendall(endpoint, data, flags, _gettimeout(self))

    def sendto(self, data: ReadableBuffer, *flags_address: Any) -> int:
        """Sends a datagram to an address; on a stream, the address is ignored."""
        if flags_address and _names.are_ours():
            flags_address = (*flags_address[:-1], _names.numeric(self.family, flags_address[-1]))
        fd = _fileno(self)
        endpoint = _find(fd)
        if endpoint is None:
            return _C.sendto(self, data, *flags_address)
        if not 1 <= len(flags_address) <= 2:
            raise TypeError(f"sendto() takes 2 or 3 arguments ({1 + len(flags_address)} given)")
        flags = _arguments.c_int(flags_address[0]) if len(flags_address) == 2 else 0
        if not endpoint.datagram:
            return endpoint.io.send(endpoint, data, flags, _gettimeout(self))
        native = _native(endpoint, flags_address[-1], "sendto")
        sys.audit("socket.sendto", self, flags_address[-1])
        if _rules.leave_to_kernel(endpoint, native, fd):
            return _C.sendto(self, data, *flags_address)
        try:
            patience = _flags.patience(endpoint, _gettimeout(self))
            return _datagram.sendto(endpoint, data, flags, patience, native)
        except TypeError:
            _arguments.refuse(endpoint.family, "sendto", data, *flags_address)
            raise

    def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[Any] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        """Sends several buffers as one; ancillary data mean nothing to TCP."""
        address = _names.numeric(self.family, address)
        fd = _fileno(self)
        endpoint = _find(fd)
        native = None
        if endpoint is not None and endpoint.datagram and address is not None:
            native = _native(endpoint, address, "sendmsg")
            sys.audit("socket.sendmsg", self, address)
            if _rules.leave_to_kernel(endpoint, native, fd):
                endpoint = None
        if endpoint is None:
            if address is None:
                return _C.sendmsg(self, buffers, ancdata, flags)
            return _C.sendmsg(self, buffers, ancdata, flags, address)
        if not endpoint.datagram and (ancdata != () or address is not None):
            name = () if address is None else (address,)
            _arguments.refuse(endpoint.family, "sendmsg", (), ancdata, flags, *name)
        return endpoint.io.sendmsg(endpoint, buffers, ancdata, flags, _gettimeout(self), native)


def _close(sock: _C, fd: int) -> None:
    endpoint = None
    if fd in _table.endpoints:
        endpoint = _table.let_go(fd, sock, _C.detach, _gettimeout(sock) is None)
    try:
        _C.close(sock)  # nothing, if it is detached
    finally:
        if endpoint is not None:
            endpoint.finish()


def _connect(
    sock: socket, address: Any, call: str, in_kernel: Callable[[_C, Any], int | None]
) -> int | None:
    """0, an errno, or None when the time was up; `in_kernel` connects what is not the stack's."""
    fd = _fileno(sock)
    endpoint = _find(fd)
    native = None if endpoint is None else _rules.decided(endpoint, address)
    if endpoint is None or native is None:
        address = _names.numeric(sock.family, address)
        endpoint = endpoint or _undecided(sock, fd)
        if endpoint is None:
            return in_kernel(sock, address) or 0
        native = _native(endpoint, address, call)
        sys.audit("socket.connect", sock, address)
        if _rules.leave_to_kernel(endpoint, native, fd):
            return in_kernel(sock, address) or 0
        _rules.decide(endpoint, address, native)
    else:
        sys.audit("socket.connect", sock, address)
    return _connecting.connect(endpoint, native, _flags.patience(endpoint, _gettimeout(sock)))


def _load() -> None:
    """What only stack sockets need: a program that makes none does not pay for it."""
    global _accept, _address, _claim, _connecting, _connection, _datagram, _is_unsure, _making
    global _options, _rules, _loaded
    if _loaded:
        return
    # Nor does another thread fork meanwhile: the child would wait for modules that nobody loads.
    with _signals.later(), _table.no_fork():
        from pifus._compat import (
            _accept,
            _claim,
            _connecting,
            _connection,
            _datagram,
            _making,
            _options,
            _rules,
            _stream,  # noqa: F401 - the first socket of a stream needs it
        )
        from pifus._core import _address
        from pifus._core._client import lib

        _is_unsure = lib.pf_mirror_is_unsure
        _loaded = True


def foreign(fd: int, family: int) -> Endpoint | None:
    """The stack socket of another process behind a descriptor that this one was given."""
    name = _table.mirror_name(fd)
    if name is None:
        return None
    _load()
    return _claim.foreign(fd, name, family)


def _native(endpoint: Endpoint, address: Any, call: str) -> CData:
    try:
        return _address.to_native(endpoint.family, address, call)
    except (TypeError, ValueError, OverflowError):
        before: dict[str, tuple[Any, ...]] = {"sendto": (b"",), "sendmsg": ((), (), 0)}
        _arguments.refuse(endpoint.family, call, *before.get(call, ()), address)
        raise


def _know(sock: _C) -> None:
    """Remembers a kernel socket that may carry IP: who has another one is not Python code."""
    if sock.family in (_c.AF_INET, _c.AF_INET6):
        _table.know(_fileno(sock))


def _undecided(sock: _C, fd: int) -> Endpoint | None:
    """A kernel socket from before a late patch that is neither bound nor connected: ours now."""
    ours = _kinds.is_for_stack(sock.family, sock.type, sock.proto)
    if not _table.taking_over or not ours or fd < 0:
        return None
    _load()
    return _rules.from_kernel(sock, fd)
