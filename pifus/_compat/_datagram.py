"""Datagrams: sending and receiving on a UDP socket of the stack, with the kernel's semantics."""

from __future__ import annotations

import errno
import socket as _names
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from pifus._compat import _ancillary, _claim
from pifus._compat._endpoint import EAGAIN, EINTR, deadline, passed, slice_ns
from pifus._core import _address, _errors
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from pifus._compat._endpoint import Endpoint
    from pifus._core._client import CData

MSG_OOB: Final = int(_names.MSG_OOB)
MSG_PEEK: Final = int(_names.MSG_PEEK)
MSG_TRUNC: Final = int(_names.MSG_TRUNC)
MSG_DONTWAIT: Final = int(_names.MSG_DONTWAIT)
MSG_ERRQUEUE: Final = int(_names.MSG_ERRQUEUE)

_DATAGRAM_MAX: Final = 65535
_UDP: Final = (0, int(_names.IPPROTO_UDP))
# Datagrams that are longer are waited for: how long one may be depends on the family.
_SURE_MAX: Final = 60000
_REACHED_MAX: Final = 64
_NULL: Final = ffi.NULL

# Buffers for one datagram each.
_pool: list[CData] = []


def _nowait(flags: int, timeout: float | None) -> bool:
    """MSG_DONTWAIT is for blocking sockets: with a time-out the interpreter waits first."""
    return timeout == 0 or (timeout is None and bool(flags & MSG_DONTWAIT))


# ---- names ----


def connect(endpoint: Endpoint, native: CData) -> int:
    """Chooses the peer, or another one: 0 or an errno. Nothing is sent."""
    handle = endpoint.enter()
    try:
        endpoint.reached.clear()
        result = endpoint.call(handle, lib.PF_OP_CONNECT, addr=native)
    finally:
        endpoint.leave()
    if result == 0:
        endpoint.connected = True
        endpoint.bound = True
    return -result


def shutdown(endpoint: Endpoint, flags: int) -> None:
    """`socket.shutdown`; flags are enum pf_shut_flags."""
    handle = endpoint.enter()
    try:
        result = endpoint.call(handle, lib.PF_OP_SHUTDOWN, flags=flags)
    finally:
        endpoint.leave()
    if result < 0:
        raise _errors.os_error(-result)


def take_error(endpoint: Endpoint) -> int:
    """SO_ERROR: what the network said of a datagram sent earlier, if nobody was told yet."""
    handle = endpoint.enter()
    try:
        code: int = lib.pf_datagram_error(handle, endpoint.slot)
        endpoint.read_done(handle)
        return max(code, 0)
    finally:
        endpoint.leave()


# ---- receiving ----


def recv(endpoint: Endpoint, size: int, flags: int, timeout: float | None) -> bytes:
    """`socket.recv`."""
    if size < 0:
        raise ValueError("negative buffersize in recv")
    if size == 0:
        return b""  # so does the interpreter, without a call
    return _bytes(endpoint, size, flags, timeout)[0]


def recvfrom(endpoint: Endpoint, size: int, flags: int, timeout: float | None) -> tuple[bytes, Any]:
    """`socket.recvfrom`."""
    data, info = _bytes(endpoint, size, flags, timeout)
    return data, _source(endpoint, info)


def recvmsg(
    endpoint: Endpoint, size: int, room: int, flags: int, timeout: float | None
) -> tuple[bytes, list[Any], int, Any]:
    """`socket.recvmsg`."""
    data, info = _bytes(endpoint, size, flags, timeout)
    cut = MSG_TRUNC if info.length > size else 0
    messages, lost = _ancillary.collect(endpoint, info, room)
    return data, messages, cut | lost, _source(endpoint, info)


def recv_into(
    endpoint: Endpoint, buffer: WriteableBuffer, size: int, flags: int, timeout: float | None
) -> int:
    """`socket.recv_into`."""
    native, size = _writable(buffer, size, "recv_into")
    return _receive(endpoint, native, size, flags, timeout)[0] if size else 0


def recvfrom_into(
    endpoint: Endpoint, buffer: WriteableBuffer, size: int, flags: int, timeout: float | None
) -> tuple[int, Any]:
    """`socket.recvfrom_into`."""
    native, size = _writable(buffer, size, "recvfrom_into")
    got, info = _receive(endpoint, native, size, flags, timeout)
    return got, _source(endpoint, info)


def recvmsg_into(
    endpoint: Endpoint,
    buffers: Iterable[WriteableBuffer],
    room: int,
    flags: int,
    timeout: float | None,
) -> tuple[int, list[Any], int, Any]:
    """`socket.recvmsg_into`: one datagram, scattered."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    if any(view.readonly for view in views):
        raise TypeError("recvmsg_into() argument 1 must be an iterable of single-segment buffers")
    size = sum(view.nbytes for view in views)
    data, info = _bytes(endpoint, size, flags & ~MSG_TRUNC, timeout)
    at = 0
    for view in views:
        part = data[at : at + view.nbytes]
        view[: len(part)] = part
        at += len(part)
    cut = MSG_TRUNC if info.length > size else 0
    messages, lost = _ancillary.collect(endpoint, info, room)
    got = info.length if flags & MSG_TRUNC else len(data)
    return got, messages, cut | lost, _source(endpoint, info)


def _source(endpoint: Endpoint, info: CData) -> Any:
    return _address.from_native(info.source, endpoint.family)


def _writable(buffer: WriteableBuffer, size: int, call: str) -> tuple[Any, int]:
    try:
        native: Any = ffi.from_buffer("char[]", buffer, require_writable=True)
    except BufferError:
        kind = type(buffer).__name__
        raise TypeError(
            f"{call}() argument 1 must be read-write bytes-like object, not {kind}"
        ) from None
    if size < 0:
        raise ValueError(f"negative buffersize in {call}")
    if size > len(native):
        raise ValueError(
            "nbytes is greater than the length of the buffer"
            if call == "recvfrom_into"
            else "buffer too small for requested bytes"
        )
    return native, size or len(native)


def _bytes(endpoint: Endpoint, size: int, flags: int, timeout: float | None) -> tuple[bytes, CData]:
    try:
        buffer = _pool.pop()
    except IndexError:
        buffer = ffi.new("char[]", _DATAGRAM_MAX)
    try:
        size = min(size, _DATAGRAM_MAX)
        got, info = _receive(endpoint, buffer, size, flags, timeout)
        data = ffi.buffer(buffer, min(got, size))[:]
        # MSG_TRUNC: the interpreter makes as many bytes as the datagram had.
        return data + bytes(got - len(data)), info
    finally:
        _pool.append(buffer)


def _receive(
    endpoint: Endpoint, buffer: Any, size: int, flags: int, timeout: float | None
) -> tuple[int, CData]:
    """Receives one datagram: how many bytes, and what is known of it.

    Raises:
        TimeoutError, BlockingIOError: there is none (in time).
        OSError: what the network said of one sent earlier; EBADF after close.
    """
    if flags & MSG_ERRQUEUE:
        raise _errors.os_error(errno.EAGAIN)
    nowait = _nowait(flags, timeout)
    end = None if nowait else deadline(timeout)
    how = lib.PF_DATAGRAM_ERRORS | (lib.PF_DATAGRAM_PEEK if flags & MSG_PEEK else 0)
    info = ffi.new("struct pf_datagram *")
    handle = endpoint.enter()
    moves = 0
    try:
        while True:
            slot = endpoint.slot
            wait = 0 if nowait or moves > 1 else slice_ns(end)
            got = lib.pf_recvfrom(handle, slot, buffer, size, how, wait, info)
            if endpoint.closed:
                raise _errors.os_error(errno.EBADF)
            if got >= 0:
                break
            if got == EAGAIN:
                _none_yet(endpoint, handle, nowait, end, moves > 1)
            elif got == -errno.ESHUTDOWN:
                if nowait:
                    raise _errors.os_error(errno.EAGAIN)
                return 0, info
            elif got != EINTR:
                again = endpoint.regain(handle, slot, got)
                if again is None:
                    endpoint.read_done(handle)
                    raise endpoint.error(got)
                handle = again
                moves += 1  # as of a stream: see _stream._receive
        if endpoint.armed and not flags & MSG_PEEK:
            endpoint.read_done(handle)
        return (info.length if flags & MSG_TRUNC else got), info
    finally:
        endpoint.leave()


def _none_yet(
    endpoint: Endpoint, handle: CData, nowait: bool, end: int | None, contended: bool
) -> None:
    if nowait:
        endpoint.read_done(handle)
        raise endpoint.nothing(handle)
    if passed(end):
        raise TimeoutError("timed out")
    if contended:
        endpoint.read_done(handle)
        _claim.await_readable(endpoint, handle, end)


# ---- sending ----


def send(endpoint: Endpoint, data: ReadableBuffer, flags: int, timeout: float | None) -> int:
    """`socket.send`: one datagram to the peer."""
    return sendto(endpoint, data, flags, timeout, None)


def sendall(endpoint: Endpoint, data: ReadableBuffer, flags: int, timeout: float | None) -> None:
    """`socket.sendall`: the same; a datagram is sent whole."""
    sendto(endpoint, data, flags, timeout, None)


def sendmsg(
    endpoint: Endpoint,
    buffers: Iterable[ReadableBuffer],
    messages: Iterable[Any],
    flags: int,
    timeout: float | None,
    to: CData | None,
) -> int:
    """`socket.sendmsg`: one datagram, gathered.

    Raises:
        TypeError: an ancillary message is none.
        OSError: EINVAL, one that means nothing here.
    """

    def is_source(address: bytes) -> bool:
        from pifus._compat import _connection  # which needs this module

        # Its own, or one talks to oneself.
        text = _names.inet_ntop(_names.AF_INET6, address)
        local = _connection.getsockname(endpoint)[0]
        return local == text or (to is not None and ffi.buffer(to.ip)[:] == address)

    how = _ancillary.parse(messages, is_source)
    return sendto(endpoint, b"".join(memoryview(b) for b in buffers), flags, timeout, to, how)


def sendto(
    endpoint: Endpoint,
    data: ReadableBuffer,
    flags: int,
    timeout: float | None,
    to: CData | None,
    how: int = 0,
) -> int:
    """`socket.sendto`; `to` None: to the peer; `how`: enum pf_send_bits.

    The first datagram to a destination is waited for until it has left, so that the program gets
    the errno if it cannot; later ones are only queued. ICMP messages are always waited for: whether
    one can be sent depends on what it says.

    Raises:
        TimeoutError, BlockingIOError: no room (in time).
        OSError: it cannot be sent, or what the network said of one sent earlier.
    """
    if flags & MSG_OOB:
        raise _errors.os_error(errno.EOPNOTSUPP)
    native: Any = ffi.from_buffer("char[]", data)
    size = len(native)
    if to is None and not endpoint.connected:
        raise _errors.os_error(errno.EDESTADDRREQ)
    udp = endpoint.proto in _UDP
    if size > (lib.PF_MAX_DATAGRAM_BYTES if udp else lib.PF_MAX_ICMP_BYTES):
        raise _errors.os_error(errno.EMSGSIZE)
    key = b"" if to is None else ffi.buffer(to)[:]
    sure = udp and key in endpoint.reached and size <= _SURE_MAX and not how
    delivery = lib.PF_DELIVER_NONE if sure else lib.PF_DELIVER_CALL
    nowait = _nowait(flags, timeout)
    end = None if nowait else deadline(timeout)
    handle = endpoint.enter()
    try:
        code = lib.pf_datagram_error(handle, endpoint.slot)
        if code > 0:
            endpoint.read_done(handle)
            raise _errors.os_error(code)
        while True:
            handle, op = _submit(endpoint, handle, native, size, to, how, delivery, nowait, end)
            if sure:
                break
            slot = endpoint.slot
            result = endpoint.result_of(handle, op)
            again = endpoint.regain(handle, slot, result) if result < 0 else None
            if again is None:
                _confirm(endpoint, result, key)
                break
            handle = again
        # Last: it may get the socket back from another process, to another slot.
        endpoint.write_done(handle, full=False)
        return size
    finally:
        endpoint.leave()


def _submit(
    endpoint: Endpoint,
    handle: CData,
    data: Any,
    size: int,
    to: CData | None,
    how: int,
    delivery: int,
    nowait: bool,
    end: int | None,
) -> tuple[CData, int]:
    addr = _NULL if to is None else to
    while True:
        slot = endpoint.slot
        wait = 0 if nowait else slice_ns(end)
        op: int = lib.pf_sendto_wait(handle, slot, data, size, addr, how, delivery, wait)
        if op > 0:
            return handle, op
        if endpoint.closed:
            raise _errors.os_error(errno.EBADF)
        if op == EAGAIN:
            if nowait:
                endpoint.write_done(handle)
                raise endpoint.nothing(handle)
            if passed(end):
                raise TimeoutError("timed out")
        elif op != EINTR:
            again = endpoint.regain(handle, slot, op)
            if again is None:
                raise endpoint.error(op)
            handle = again


def _confirm(endpoint: Endpoint, result: int, key: bytes) -> None:
    if result < 0:
        raise _errors.os_error(-result)
    endpoint.bound = True
    if len(endpoint.reached) >= _REACHED_MAX:
        endpoint.reached.clear()
    endpoint.reached.add(key)
