"""What can be done with a socket here and now: nothing in this module waits for the network."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pifus._core import _address, _errors, _ops
from pifus._core._client import ffi, lib
from pifus.errors import ArenaFull, QueueFull

if TYPE_CHECKING:
    from pifus._core._address import Address
    from pifus._core._client import CData
    from pifus._core._ops import Completion
    from pifus._core._socket import Socket

_AGAIN: Final = -errno.EAGAIN
_NULL: Final = ffi.NULL
# Bound once: see Socket.
_rx_read = lib.pf_rx_read
_send = lib.pf_send
_unpack = ffi.unpack
# What is written here is never looked at.
_nowhere: Final = ffi.new("struct pf_span[2]")


def read(sock: Socket, limit: int, scratch: CData, scratch_bytes: int) -> bytes | None:
    """Takes up to `limit` received bytes; b"" at the end of the stream; None: none are here now.

    Args:
        sock: of a stream.
        limit: at least 1.
        scratch: memory that nobody else uses during the call, of `scratch_bytes`.
        scratch_bytes: its size.

    Raises:
        OSError: what ended the connection; EBADF after close.
        BackendGone, ClientClosed: the backend or the client has ended.
    """
    handle = handle_of(sock)
    slot = sock._slot
    got = _rx_read(handle, slot, scratch, min(limit, scratch_bytes), 0)
    if got > 0:
        data: bytes = _unpack(scratch, got)
        if got < scratch_bytes or got == limit:
            return data
        # Many: the others without a stop in between.
        spans = ffi.new("struct pf_span[2]")
        pieces = lib.pf_rx_spans(handle, slot, limit - got, spans)
        if pieces <= 0:
            return data
        more = [ffi.buffer(spans[i].data, spans[i].length) for i in range(pieces)]
        data = b"".join((data, *more))
        lib.pf_rx_consume(handle, slot, len(data) - got)
        return data
    if got == 0:
        return b""
    _check_nothing(sock, got)
    return None


def answers(sock: Socket, scratch: CData) -> bool:
    """True: a `read` would not say None now. Nothing is taken; `scratch`: as of `read`."""
    return _rx_read(handle_of(sock), sock._slot, scratch, 1, 1) != _AGAIN


def read_datagram(sock: Socket, limit: int) -> tuple[bytes, Address | None] | None:
    """Takes the next datagram, cut to `limit` bytes, and its sender; None: none is here now.

    Raises:
        OSError: what the network reported; EBADF after close.
        BackendGone, ClientClosed: the backend or the client has ended.
    """
    handle = handle_of(sock)
    code = lib.pf_datagram_error(handle, sock._slot)
    if code > 0:
        raise _errors.os_error(code)
    limit = min(max(limit, 0), lib.PF_MAX_DATAGRAM_BYTES)
    buffer = ffi.new("char[]", max(limit, 1))
    info = ffi.new("struct pf_datagram *")
    got = lib.pf_recvfrom(handle, sock._slot, buffer, limit, 0, 0, info)
    if got < 0:
        _check_nothing(sock, got)
        return None
    return ffi.buffer(buffer, got)[:], _address.from_native(info.source, sock.family)


def readable(sock: Socket) -> bool:
    """True: bytes, a datagram or an end is there.

    Raises:
        OSError: EOPNOTSUPP, a listener: only an accept can tell; EBADF after close.
    """
    snapshot = sock._snapshot()
    ends = lib.PF_STATE_EOF | lib.PF_STATE_ERROR
    if snapshot.state & lib.PF_STATE_LISTENING:
        raise _errors.os_error(errno.EOPNOTSUPP)
    return bool(snapshot.state & ends) or has_bytes(sock)


def has_bytes(sock: Socket) -> bool:
    """True: a byte, or a datagram, is there."""
    return lib.pf_rx_spans(handle_of(sock), sock._slot, 1, _nowhere) > 0


def write(sock: Socket, data: bytes | memoryview) -> int | None:
    """Submits a write; the operation, or None: there is no room for it now.

    Raises:
        as `Socket.write`.
    """
    try:
        return sock.write(data)
    except (ArenaFull, QueueFull):
        return None


def drain(sock: Socket) -> int | None:
    """Submits a drain; the operation, or None: the queue has no room for it now.

    Raises:
        as `Socket.drain`.
    """
    try:
        return sock.drain()
    except QueueFull:
        return None


def send(sock: Socket, data: bytes | memoryview) -> int:
    """Sends what there is room for now, of whose end nobody is told; returns how many bytes.

    Raises:
        OSError: the connection is broken, or its sending direction ended; EBADF after close.
        BackendGone, ClientClosed: the backend or the client has ended.
    """
    handle = handle_of(sock)
    source = data if type(data) is bytes else ffi.from_buffer("char[]", data)
    sent = _send(handle, sock._slot, source, len(data), 0)
    del source  # in the error's traceback it would keep the program's buffer locked
    if sent > 0:
        return sent
    if sent == -errno.EPIPE and not lib.pf_client_ended(handle):
        raise _errors.os_error(errno.EPIPE)
    _check_nothing(sock, sent)
    return 0


def answer(
    sock: Socket,
    opcode: int,
    *,
    flags: int = 0,
    token: int = 0,
    offset: int = 0,
    length: int = 0,
    addr: CData | None = None,
    done: CData | None = None,
) -> int:
    """The result of an operation that completes at once, a few microseconds: 0 or more, or -errno.

    Args:
        sock: and what the operation is.
        opcode, flags, token, offset, length, addr: see `struct pf_sqe`.
        done: gets the completion.

    Raises:
        BackendGone, ClientClosed, OSError: it could not be submitted.
    """
    handle = handle_of(sock)
    slot = sock._slot
    native = _NULL if addr is None else addr
    op = lib.pf_submit(
        handle, slot, opcode, flags, token, offset, length, native, lib.PF_DELIVER_CALL
    )
    if op < 0:
        raise sock._refusal(op)
    done = done or ffi.new("struct pf_done *")
    got = 0
    try:
        while got in (0, -errno.EINTR):
            got = lib.pf_await(handle, slot, op, _ops.SLICE_NS, done)
    finally:
        if got != 1:  # an exception of a signal handler, too
            lib.pf_forget(handle, slot, op)
    if got < 0:
        raise sock._refusal(got)
    return int(done.result)


def call(
    sock: Socket,
    opcode: int,
    *,
    flags: int = 0,
    token: int = 0,
    offset: int = 0,
    length: int = 0,
    addr: CData | None = None,
) -> None:
    """The same. Raises: OSError: it failed."""
    result = answer(sock, opcode, flags=flags, token=token, offset=offset, length=length, addr=addr)
    if result < 0:
        raise _errors.os_error(-result)


def bind(sock: Socket, address: Address) -> None:
    """Binds, at once. Raises: as `call`; as of the kernel's sockets if the address is none."""
    call(sock, lib.PF_OP_BIND, addr=_address.to_native(sock.family, address, "bind"))


def listen(sock: Socket, backlog: int) -> None:
    """Listens, at once. Raises: as `call`."""
    call(sock, lib.PF_OP_LISTEN, length=max(backlog, 0))


def shutdown(sock: Socket, how: int) -> None:
    """Ends one direction or both, at once. Raises: as `call`; EINVAL: `how` is no such value."""
    if how not in (0, 1, 2):
        raise _errors.os_error(errno.EINVAL)
    call(sock, lib.PF_OP_SHUTDOWN, flags=how + 1)


def setopt(sock: Socket, option: int, value: int) -> None:
    """Sets an option, at once. Raises: as `call`."""
    call(sock, lib.PF_OP_SETOPT, offset=option, token=value)


def adopt(sock: Socket, raw: bytes) -> tuple[Socket, Address | None]:
    """The socket of the connection that an accept of this listener brought, and its peer.

    Raises:
        OSError: EMFILE, all sockets of the client are in use; the connection was reset.
    """
    done = completion(sock, raw).check()
    assert done.accepted is not None
    return done.accepted, done.peer


def completion(sock: Socket, raw: bytes) -> Completion:
    """The completion that the C core wrote, with what belongs to it: bytes, a new socket.

    Raises:
        BackendGone, ClientClosed, OSError: the client or the socket is closed.
    """
    return sock._completion(handle_of(sock), raw)


def abort(sock: Socket) -> None:
    """Lets go of the socket and resets its connection. Twice is no error."""
    handle = sock._handle
    if handle is not None:
        sock._client._forget(sock)
        lib.pf_socket_release(handle, sock._slot, lib.PF_CLOSE_ABORT)


def ended(sock: Socket) -> Exception:
    """Why no completion comes any more."""
    return sock._refusal(-errno.EPIPE)


def reject(sock: Socket, raw: bytes) -> None:
    """Resets the connection that an accept of this listener brought and nobody will have."""
    handle = sock._handle
    if handle is not None:
        lib.pf_accept_reject(handle, sock._slot, _ops.token_of(raw))


def handle_of(sock: Socket) -> CData:
    """The client's. Raises: OSError: EBADF after close; ClientClosed."""
    handle = sock._handle
    if handle is None:
        raise sock._closed_error()
    return handle


def _check_nothing(sock: Socket, result: int) -> None:
    if result != _AGAIN:
        raise sock._refusal(result)
