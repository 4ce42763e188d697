"""Bytes: receiving and sending on a stack socket, with the kernel's semantics."""

from __future__ import annotations

import contextlib
import errno
import socket as _names
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from pifus._compat import _arguments, _claim, _connecting
from pifus._compat._endpoint import EAGAIN, EINTR, SLICE_NS, deadline, passed, slice_ns
from pifus._core import _errors
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from pifus._compat._endpoint import Endpoint
    from pifus._core._client import CData

MSG_OOB: Final = int(_names.MSG_OOB)
MSG_PEEK: Final = int(_names.MSG_PEEK)
MSG_TRUNC: Final = int(_names.MSG_TRUNC)
MSG_DONTWAIT: Final = int(_names.MSG_DONTWAIT)
MSG_WAITALL: Final = int(_names.MSG_WAITALL)
MSG_ERRQUEUE: Final = int(_names.MSG_ERRQUEUE)

# What one call hands out at most without being asked to wait for all: a receive ring holds no more.
_TAKE_MAX: Final = 262144
# One C call takes so much: between calls signal handlers run.
_SEND_MAX: Final = 1 << 20
_IOV_MAX: Final = 1024
_JOIN_MAX: Final = 65536
# What these say is no news of the connection.
_STATELESS: Final = frozenset({errno.ENOTCONN, errno.EPIPE, errno.EBADF, errno.EPROTO})

# Buffers for recv(): making one costs more than the bytes of a small message.
_pool: list[CData] = []
_recv: Callable[..., int] = lib.pf_recv
_send: Callable[..., int] = lib.pf_send
_send_urgent: Callable[..., int] = lib.pf_send_urgent
_SHUT_READ: Final = int(lib.PF_SHUT_READ)
_unpack: Callable[..., bytes] = ffi.unpack


def _nowait(flags: int, timeout: float | None) -> bool:
    """MSG_DONTWAIT is for blocking sockets: with a time-out the interpreter waits first."""
    return timeout == 0 or (timeout is None and bool(flags & MSG_DONTWAIT))


def recv(endpoint: Endpoint, size: int, flags: int, timeout: float | None) -> bytes:
    """`socket.recv`."""
    if not timeout and not flags and type(size) is int and 0 < size <= _TAKE_MAX:
        found = _recv_plain(endpoint, size, SLICE_NS if timeout is None else 0)
        if found is not None:
            return found
    if type(size) is not int or size > _arguments.SSIZE_MAX:
        size = _arguments.c_size(size)
    if size < 0:
        raise ValueError("negative buffersize in recv")
    if flags & MSG_WAITALL and size > _TAKE_MAX:
        whole = bytearray(size)
        got = recv_into(endpoint, whole, size, flags, timeout)
        return bytes(memoryview(whole)[:got])
    try:
        buffer = _pool.pop()
    except IndexError:
        buffer = ffi.new("char[]", _TAKE_MAX)
    try:
        got = receive(endpoint, buffer, min(size, _TAKE_MAX), flags, timeout)
        return ffi.buffer(buffer, got)[:]
    finally:
        _pool.append(buffer)


def _recv_plain(endpoint: Endpoint, size: int, wait_ns: int) -> bytes | None:
    """What nearly every recv() is, in one frame of the interpreter; None: go the long way.

    A round trip of a small message costs so little that the frames of the long way are seen.
    """
    handle = endpoint.session.handle
    if (
        handle is None
        or not endpoint.connected
        or endpoint.low_water != 1
        or endpoint.receive_patience is not None
    ):
        return None
    try:
        buffer = _pool.pop()
    except IndexError:
        return None
    endpoint.busy.append(None)
    try:
        if endpoint.closed:
            return None
        got = _recv(handle, endpoint.slot, buffer, size, 0, wait_ns)
        if got <= 0 and (got or endpoint.shut & _SHUT_READ or endpoint.closed):
            return None
        if endpoint.armed:
            endpoint.read_done(handle)
        return _unpack(buffer, got)
    finally:
        endpoint.leave()
        _pool.append(buffer)


def recv_into(
    endpoint: Endpoint, buffer: WriteableBuffer, size: int, flags: int, timeout: float | None
) -> int:
    """`socket.recv_into`."""
    try:
        native = ffi.from_buffer("char[]", buffer, require_writable=True)
    except BufferError:
        kind = type(buffer).__name__
        raise TypeError(
            f"recv_into() argument 1 must be read-write bytes-like object, not {kind}"
        ) from None
    length = len(native)  # type: ignore[arg-type]
    try:
        if size < 0:
            raise ValueError("negative buffersize in recv_into")
        if size > length:
            raise ValueError("buffer too small for requested bytes")
        # Of a stream MSG_TRUNC means: throw the bytes away.
        target = ffi.new("char[]", length) if flags & MSG_TRUNC else native
        return receive(endpoint, target, size or length, flags, timeout)
    finally:
        # Not only when the last traceback is gone: the caller may be about to resize it.
        ffi.release(native)


def receive(endpoint: Endpoint, buffer: Any, size: int, flags: int, timeout: float | None) -> int:
    """Receives into `buffer`: the number of bytes, 0 at the end of the stream.

    Raises:
        TimeoutError, BlockingIOError: there is nothing (in time).
        OSError: the connection's errno, once; ENOTCONN; EBADF after close.
    """
    if flags & MSG_OOB:
        raise _errors.os_error(errno.EINVAL)
    if flags & MSG_ERRQUEUE:
        raise _errors.os_error(errno.EAGAIN)
    if size == 0:
        return 0
    patience = endpoint.receive_patience
    if timeout is None and patience is not None and not flags & MSG_DONTWAIT:
        try:
            return receive(endpoint, buffer, size, flags, patience)
        except TimeoutError:
            raise _errors.os_error(errno.EAGAIN) from None
    nowait = _nowait(flags, timeout)
    end = None if nowait else deadline(timeout)
    handle = endpoint.enter()
    try:
        if not endpoint.connected and not _connecting.ready(endpoint, handle, nowait, end):
            return 0
        done = _receive(endpoint, handle, buffer, size, flags & MSG_PEEK, nowait, end)
        wanted = size if flags & MSG_WAITALL else min(size, endpoint.low_water)
        if done < wanted and not flags & MSG_PEEK:
            while 0 < done < wanted:
                try:
                    more = _receive(endpoint, handle, buffer + done, size - done, 0, nowait, end)
                except (OSError, TimeoutError):
                    break  # what came first is told first
                if more == 0:
                    break
                done += more
        if endpoint.armed and not flags & MSG_PEEK:
            endpoint.read_done(handle)
        return done
    finally:
        endpoint.leave()


def _receive(
    endpoint: Endpoint,
    handle: CData,
    buffer: Any,
    size: int,
    peek: int,
    nowait: bool,
    end: int | None,
) -> int:
    size = min(size, 0x7FFFFFFF)
    moves = 0
    while True:
        slot = endpoint.slot
        wait = 0 if nowait or moves > 1 else slice_ns(end)
        got = _recv(handle, slot, buffer, size, peek, wait)
        if got > 0:
            return got
        if endpoint.closed:
            raise _errors.os_error(errno.EBADF)
        if got == 0:
            return _at_end(endpoint, handle) if endpoint.shut else 0
        if got == EAGAIN:
            if nowait:
                endpoint.read_done(handle)
                raise endpoint.nothing(handle)
            if passed(end):
                raise TimeoutError("timed out")
            if moves > 1:
                endpoint.read_done(handle)
                _claim.await_readable(endpoint, handle, end)
        elif got != EINTR:
            again = endpoint.regain(handle, slot, got)
            if again is None:
                return _ended(endpoint, got, writing=False)
            handle = again
            # Two processes that both wait here must not take it from each other for ever: from the
            # second time on this one waits until there is something.
            moves += 1


def _ended(endpoint: Endpoint, result: int, writing: bool) -> int:
    """The connection ended with an errno: it is told once, then there is only the end."""
    code = -result
    if code == errno.EPIPE and writing and not endpoint.error_told:
        handle = endpoint.session.handle
        if handle is not None and endpoint.state(handle).state & lib.PF_STATE_ERROR:
            endpoint.tell()
    if code in _STATELESS:
        raise endpoint.error(result)
    if not endpoint.error_told:
        endpoint.tell()
        raise _errors.os_error(code)
    if writing:
        raise _errors.os_error(errno.EPIPE)
    return 0


def _at_end(endpoint: Endpoint, handle: CData) -> int:
    """The end of the stream, which the program itself may have brought about: an error is told."""
    if endpoint.shut & lib.PF_SHUT_READ and not endpoint.error_told:
        state = endpoint.state(handle)
        if state.state & lib.PF_STATE_ERROR and state.error != errno.EPIPE:
            return _ended(endpoint, -state.error, writing=False)
    return 0


def recvfrom(
    endpoint: Endpoint, size: int, flags: int, timeout: float | None
) -> tuple[bytes, None]:
    """`socket.recvfrom`: a stream names no sender."""
    return recvmsg(endpoint, size, 0, flags, timeout)[0], None


def recvfrom_into(
    endpoint: Endpoint, buffer: WriteableBuffer, size: int, flags: int, timeout: float | None
) -> tuple[int, None]:
    """`socket.recvfrom_into`."""
    if not size and not memoryview(buffer).nbytes:
        return len(recvfrom(endpoint, 0, flags, timeout)[0]), None
    return recv_into(endpoint, buffer, size, flags, timeout), None


def recvmsg(
    endpoint: Endpoint, size: int, _ancillary: int, flags: int, timeout: float | None
) -> tuple[bytes, list[Any], int, None]:
    """`socket.recvmsg`: a stream has no ancillary data; for no byte at all it waits, too."""
    if size == 0:
        recv(endpoint, 1, flags | MSG_PEEK, timeout)
        return b"", [], 0, None
    return recv(endpoint, size, flags, timeout), [], 0, None


def recvmsg_into(
    endpoint: Endpoint,
    buffers: Iterable[WriteableBuffer],
    _ancillary: int,
    flags: int,
    timeout: float | None,
) -> tuple[int, list[Any], int, None]:
    """`socket.recvmsg_into`: scatters, waiting for the first bytes only."""
    with contextlib.ExitStack() as stack:
        views = [stack.enter_context(memoryview(buffer).cast("B")) for buffer in buffers]
        if any(view.readonly for view in views):
            raise TypeError("recvmsg_into() argument 1 must be an iterable of writable buffers")
        if len(views) > _IOV_MAX:
            raise _errors.os_error(errno.EMSGSIZE)
        if any(view.nbytes for view in views):
            return _scatter(endpoint, views, flags, timeout), [], 0, None
    recv(endpoint, 1, flags | MSG_PEEK, timeout)
    return 0, [], 0, None


def _scatter(
    endpoint: Endpoint, views: Iterable[memoryview], flags: int, timeout: float | None
) -> int:
    total = 0
    for view in views:
        if view.nbytes == 0:
            continue
        if total and not flags & MSG_WAITALL:
            flags |= MSG_DONTWAIT
            timeout = 0 if timeout is not None else None
        try:
            got = recv_into(endpoint, view, 0, flags, timeout)
        except OSError:
            if total:
                break
            raise
        total += got
        if got < view.nbytes:
            break
    return total


def send(endpoint: Endpoint, data: ReadableBuffer, flags: int, timeout: float | None) -> int:
    """`socket.send`: a blocking socket takes all of it, as the kernel's does."""
    return _transmit(endpoint, data, flags, timeout, whole=timeout is None)


def sendall(endpoint: Endpoint, data: ReadableBuffer, flags: int, timeout: float | None) -> None:
    """`socket.sendall`; the time-out is for all of it."""
    _transmit(endpoint, data, flags, timeout, whole=True, strict=True)


def _send_plain(endpoint: Endpoint, data: bytes) -> int:
    """What nearly every send() is, in one frame of the interpreter: the bytes taken, maybe none."""
    handle = endpoint.session.handle
    if handle is None or not endpoint.connected or endpoint.send_patience is not None:
        return 0
    endpoint.busy.append(None)
    try:
        if endpoint.closed:
            return 0
        sent = _send(handle, endpoint.slot, data, len(data), 0)
        if sent > 0 and endpoint.armed:
            endpoint.write_done(handle, full=sent < len(data))
        return max(sent, 0)
    finally:
        endpoint.leave()


def _transmit(
    endpoint: Endpoint,
    data: ReadableBuffer,
    flags: int,
    timeout: float | None,
    whole: bool,
    strict: bool = False,
) -> int:
    """Sends `data`, all of it (`whole`) or what fits; `strict`: an error counts more than bytes."""
    sent = 0
    if not timeout and not flags and type(data) is bytes and len(data) <= _SEND_MAX:
        sent = _send_plain(endpoint, data)
        if sent and (sent == len(data) or not whole):
            return sent
    patience = endpoint.send_patience
    if timeout is None and patience is not None and not flags & MSG_DONTWAIT:
        try:
            return _transmit(endpoint, data, flags, patience, whole, strict)
        except TimeoutError:
            raise _errors.os_error(errno.EAGAIN) from None
    native: Any = ffi.from_buffer("char[]", data)
    try:
        return _transmit_from(endpoint, native, flags, timeout, whole, strict, sent)
    finally:
        ffi.release(native)


def _transmit_from(
    endpoint: Endpoint,
    native: Any,
    flags: int,
    timeout: float | None,
    whole: bool,
    strict: bool,
    sent: int,
) -> int:
    size = len(native)
    nowait, oob = _nowait(flags, timeout), flags & MSG_OOB
    end = None if nowait else deadline(timeout)
    handle = endpoint.enter()
    try:
        if not endpoint.connected:
            _connecting.ready(endpoint, handle, nowait, end, writing=True)
        while True:
            try:
                sent += _send_some(endpoint, handle, native + sent, size - sent, oob, nowait, end)
            except OSError:
                if sent and not strict:
                    return sent
                raise
            if sent >= size or not whole:
                return sent
            if nowait and not strict:
                return sent
    finally:
        endpoint.leave()


def _send_some(
    endpoint: Endpoint, handle: CData, data: Any, size: int, oob: int, nowait: bool, end: int | None
) -> int:
    # Urgent is the last byte: while not all is left to be sent in one piece, none.
    transmit = _send_urgent if oob and size <= _SEND_MAX else _send
    size = min(size, _SEND_MAX)
    while True:
        if endpoint.closed:
            raise _errors.os_error(errno.EBADF)
        slot = endpoint.slot
        sent = transmit(handle, slot, data, size, 0 if nowait else slice_ns(end))
        if sent >= 0:
            if endpoint.armed:
                endpoint.write_done(handle, full=sent < size)
            return sent
        if sent == EAGAIN:
            if nowait:
                endpoint.write_done(handle)
                raise endpoint.nothing(handle)
            if passed(end):
                raise TimeoutError("timed out")
        elif sent != EINTR:
            if endpoint.closed:
                raise _errors.os_error(errno.EBADF)
            again = endpoint.regain(handle, slot, sent)
            if again is None:
                _ended(endpoint, sent, writing=True)
            else:
                handle = again


def sendmsg(
    endpoint: Endpoint,
    buffers: Iterable[ReadableBuffer],
    _ancillary: Iterable[Any],
    flags: int,
    timeout: float | None,
    _to: CData | None = None,
) -> int:
    """Gathers several buffers into one send; ancillary data and an address mean nothing here."""
    with contextlib.ExitStack() as stack:
        views = [stack.enter_context(memoryview(buffer)) for buffer in buffers]
        if len(views) > _IOV_MAX:
            raise _errors.os_error(errno.EMSGSIZE)
        if len(views) == 1:
            return send(endpoint, views[0], flags, timeout)
        if sum(view.nbytes for view in views) <= _JOIN_MAX:
            return send(endpoint, b"".join(views), flags, timeout)
        sent = 0
        for view in views:
            if view.nbytes == 0:
                continue
            try:
                part = send(endpoint, view, flags, timeout)
            except OSError:
                if sent:
                    break
                raise
            sent += part
            if part < view.nbytes:
                break
        return sent
