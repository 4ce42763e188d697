"""How a stack socket gets connected, fails to, and is told: the states of the kernel's sockets."""

from __future__ import annotations

import errno
import socket as _names
from typing import TYPE_CHECKING, Final

from pifus._compat import _datagram, _registrations
from pifus._compat._endpoint import (
    CONNECTED,
    CONNECTING,
    DISCONNECTING,
    EINTR,
    ESTALE,
    UNCONNECTED,
    Endpoint,
    deadline,
    dones,
    passed,
    slice_ns,
)
from pifus._core import _errors
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._core._client import CData


_submit: Final = lib.pf_submit
_await: Final = lib.pf_await
_OP_CONNECT: Final = int(lib.PF_OP_CONNECT)
_DELIVER_CALL: Final = int(lib.PF_DELIVER_CALL)
_STATE_CONNECTED: Final = int(lib.PF_STATE_CONNECTED)
_STATE_MOVED: Final = int(lib.PF_STATE_MOVED)


def connect(endpoint: Endpoint, native: CData, timeout: float | None) -> int | None:
    """Connects: 0, an errno, or None when the time was up."""
    if endpoint.datagram:
        return _datagram.connect(endpoint, native)
    handle = endpoint.enter()
    try:
        if endpoint.stage == DISCONNECTING:
            return errno.EINVAL
        if endpoint.stage == CONNECTED or endpoint.listening:
            return errno.EISCONN
        first = endpoint.stage == UNCONNECTED
        if first:
            _start(endpoint, handle, native, nowait=timeout == 0)
            if timeout == 0:
                return errno.EINPROGRESS
        if timeout is None or first:
            if not _wait(endpoint, handle, timeout):
                if endpoint.closed:
                    return errno.EBADF
                return None if timeout is not None else errno.EINPROGRESS
        elif not reap(endpoint, handle):
            return errno.EALREADY
        if timeout and first:
            # To the kernel this was a non-blocking connect and a look at SO_ERROR: the next
            # connect tells how it ended.
            return _take(endpoint, handle) if endpoint.failed else 0
        return _verdict(endpoint, handle)
    finally:
        endpoint.leave()


def _start(endpoint: Endpoint, handle: CData, native: CData, nowait: bool) -> None:
    shows = nowait or endpoint.armed
    renews = endpoint.spent and endpoint.attached
    if shows and not renews:
        endpoint.arm()
        # Not writable until it is connected.
        endpoint.write_done(handle)
    endpoint.error_told = False
    endpoint.failed = False
    endpoint.spent = False
    endpoint.stage = CONNECTING
    op = _submit(handle, endpoint.slot, _OP_CONNECT, 0, 0, 0, 0, native, _DELIVER_CALL)
    # The long way tells why not, or tries again.
    endpoint.connect_op = op if op > 0 else endpoint.submit(handle, lib.PF_OP_CONNECT, addr=native)
    if renews:
        # Behind the connect: before it, all there is to show is how the last one ended.
        registered = endpoint.renew_mirror()
        if shows:
            endpoint.arm()
            lib.pf_mirror_rearm_write(handle, endpoint.slot)
        _registrations.restore(registered)


def _wait(endpoint: Endpoint, handle: CData, timeout: float | None) -> bool:
    end = deadline(endpoint.send_patience if timeout is None else timeout)
    while not reap(endpoint, handle, slice_ns(end)):
        if endpoint.closed or passed(end):
            return False
    return not endpoint.closed


def _verdict(endpoint: Endpoint, handle: CData) -> int:
    """How the connect ended. If it failed, or the connection is over, another one may be tried."""
    if endpoint.connected and _is_connected(endpoint, handle):
        endpoint.stage = CONNECTED
        return 0
    code = _take(endpoint, handle) or errno.ECONNABORTED
    if endpoint.connected:
        _forget_bytes(endpoint, handle)
    endpoint.stage = UNCONNECTED
    endpoint.spent = True
    endpoint.connected = False
    endpoint.failed = False
    endpoint.error_told = False
    endpoint.shut = 0
    return code


def _is_connected(endpoint: Endpoint, handle: CData) -> bool:
    state = lib.pf_socket_flags(handle, endpoint.slot)
    if state < 0 or state & _STATE_MOVED:
        state = endpoint.state(handle).state
    return bool(state & _STATE_CONNECTED)


def _forget_bytes(endpoint: Endpoint, handle: CData) -> None:
    """What the former connection brought and nobody read must not show up in the next one."""
    spans = ffi.new("struct pf_span[2]")
    while pieces := lib.pf_rx_spans(handle, endpoint.slot, 2**31 - 1, spans):
        if pieces < 0:
            return
        lib.pf_rx_consume(handle, endpoint.slot, sum(spans[i].length for i in range(pieces)))
        # The backend may have had more than there was room for.
        endpoint.call(handle, lib.PF_OP_NOP)


def reap(endpoint: Endpoint, handle: CData, wait_ns: int = 0) -> bool:
    """Looks whether the connect under way has ended, and notes how.

    Raises:
        OSError: the session ended.
    """
    op = endpoint.connect_op
    if not op:
        return True
    slot = endpoint.slot
    try:
        done = dones.pop()
    except IndexError:
        done = ffi.new("struct pf_done *")
    got = _await(handle, slot, op, wait_ns, done)
    result = done.result
    dones.append(done)
    if got == 1:
        if result == ESTALE:
            # Another process has it; as a claim completes when the connect does, that is over then.
            endpoint.connect_op = 0
            try:
                endpoint.regain(handle, slot, ESTALE)
            except OSError as error:
                endpoint.pending_error = error.errno or errno.EIO
                endpoint.failed = True
            return True
        if result < 0:
            endpoint.pending_error = -result
            endpoint.failed = True
        else:
            endpoint.connected = True
        endpoint.connect_op = 0
        return True
    if got == -errno.EBADF:
        return not endpoint.connect_op  # another thread was faster
    if got not in (0, EINTR):
        raise endpoint.error(got)
    if not wait_ns and not endpoint.inherited and lib.pf_client_look(handle):
        raise endpoint.gone()
    return False


def ready(
    endpoint: Endpoint, handle: CData, nowait: bool, end: int | None, writing: bool = False
) -> bool:
    """Before bytes can move: waits for the connect under way. False: nothing will ever come.

    Raises:
        BlockingIOError, TimeoutError: it goes on.
        OSError: it failed, which is told once; ENOTCONN or EPIPE: there is no connection.
    """
    while not reap(endpoint, handle, 0 if nowait else slice_ns(end)):
        if endpoint.closed:
            raise _errors.os_error(errno.EBADF)
        if nowait:
            raise _errors.os_error(errno.EAGAIN)
        if passed(end):
            raise TimeoutError("timed out")
    if endpoint.connected:
        return True
    if endpoint.pending_error:
        raise _errors.os_error(_take(endpoint, handle))
    if writing:
        raise _errors.os_error(errno.EPIPE)
    if endpoint.failed or endpoint.shut & lib.PF_SHUT_READ:
        return False
    raise _errors.os_error(errno.ENOTCONN)


def take_error(endpoint: Endpoint) -> int:
    """SO_ERROR: the errno that nobody was told of yet."""
    if endpoint.datagram:
        return _datagram.take_error(endpoint)
    handle = endpoint.enter()
    try:
        return _take(endpoint, handle) if reap(endpoint, handle) else 0
    finally:
        endpoint.leave()


def _take(endpoint: Endpoint, handle: CData) -> int:
    if endpoint.pending_error:
        code, endpoint.pending_error = endpoint.pending_error, 0
        endpoint.tell()
        return code
    if endpoint.connected and not endpoint.error_told:
        state = endpoint.state(handle)
        if state.state & lib.PF_STATE_ERROR:
            endpoint.tell()
            return int(state.error)
    return 0


def shutdown(endpoint: Endpoint, how: int) -> bool:
    """`socket.shutdown`; True: its descriptor, too, is to be shut, so that who polls it wakes."""
    flags = _HOW.get(how)
    if flags is None:
        raise _errors.os_error(errno.EINVAL)
    if endpoint.datagram:
        _datagram.shutdown(endpoint, flags)
        return False
    handle = endpoint.enter()
    try:
        fits = how == _SHUT_WR and endpoint.connected and not endpoint.connect_op
        if fits and not endpoint.shut and lib.pf_end_writing(handle, endpoint.slot):
            # Of a connection that lives the answer is known, and nobody can poll it.
            endpoint.shut = flags
            if endpoint.stage == CONNECTING:
                endpoint.stage = CONNECTED
            return False
        if endpoint.listening:
            return bool(flags & lib.PF_SHUT_READ) and _stop_listening(endpoint, handle)
        ended = reap(endpoint, handle)
        endpoint.shut |= flags
        result = -errno.ENOTCONN
        if endpoint.connected:
            result = endpoint.call(handle, lib.PF_OP_SHUTDOWN, flags=flags)
        if ended and endpoint.stage == CONNECTING:
            endpoint.stage = CONNECTED if result == 0 else DISCONNECTING
    finally:
        endpoint.leave()
    if result < 0:
        raise _errors.os_error(-result)
    return False


def _stop_listening(endpoint: Endpoint, handle: CData) -> bool:
    """Blocked accepts end with EINVAL, as the kernel's do."""
    endpoint.listening = False
    shared = endpoint.shared
    if not shared:
        accept_op, endpoint.accept_op = endpoint.accept_op, 0
        result = endpoint.call(handle, lib.PF_OP_SHUTDOWN, flags=lib.PF_SHUT_READ)
        shared = result == -errno.EOPNOTSUPP
        if shared:
            endpoint.accept_op = accept_op
        elif result < 0:
            raise _errors.os_error(-result)
    if shared:
        lib.pf_socket_interrupt(handle, endpoint.slot)
        return True
    endpoint.spent = True
    # The backend has reset what was reported here and not accepted.
    done = ffi.new("struct pf_done *")
    while lib.pf_poll(handle, endpoint.slot, done) == 1:
        pass
    return True


_SHUT_WR: Final = int(_names.SHUT_WR)
_HOW: Final = {
    int(_names.SHUT_RD): lib.PF_SHUT_READ,
    int(_names.SHUT_WR): lib.PF_SHUT_WRITE,
    int(_names.SHUT_RDWR): lib.PF_SHUT_READ | lib.PF_SHUT_WRITE,
}
