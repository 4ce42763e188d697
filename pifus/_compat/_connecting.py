"""How a stack socket gets connected, fails to, and is told: the states of the kernel's sockets."""

from __future__ import annotations

import errno
import os
import socket as _names
from typing import TYPE_CHECKING, Final

from pifus._compat import _datagram, _table
from pifus._compat._endpoint import EINTR, ESTALE, Endpoint, deadline, passed, slice_ns
from pifus._core import _errors
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._core._client import CData

# What the kernel knows of a socket beside the state of its TCP: whether a connect was asked for,
# and whether the program has been told how it ended.
UNCONNECTED: Final = 0
CONNECTING: Final = 1
CONNECTED: Final = 2
DISCONNECTING: Final = 3

# What the mirror descriptor shows of an attempt before: a failure, or the end of a connection.
STALE: Final = 1
SPENT: Final = 2


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
                return errno.EBADF if endpoint.closed else None
        elif not reap(endpoint, handle):
            return errno.EALREADY
        if timeout and first:
            # To the kernel this was a non-blocking connect and a look at SO_ERROR: the next
            # connect tells how it ended.
            code, endpoint.pending_error = endpoint.pending_error, 0
            return code
        return _verdict(endpoint, handle)
    finally:
        endpoint.leave()


def _start(endpoint: Endpoint, handle: CData, native: CData, nowait: bool) -> None:
    again = endpoint.mirror_left
    if not again:
        _arm_unwritable(endpoint, handle, nowait)
    endpoint.stage = CONNECTING
    endpoint.connect_op = endpoint.submit(handle, lib.PF_OP_CONNECT, addr=native)
    if again:
        # Not before: it would show the end of the former connection.
        endpoint.call(handle, lib.PF_OP_NOP)
        if again == SPENT:
            _renew_mirror(endpoint, handle)
        endpoint.mirror_left = 0
        endpoint.read_done(handle)
        _arm_unwritable(endpoint, handle, nowait)


def _arm_unwritable(endpoint: Endpoint, handle: CData, nowait: bool) -> None:
    if nowait or endpoint.armed:
        endpoint.arm()
        # Not writable until it is connected.
        endpoint.write_done(handle)


def _wait(endpoint: Endpoint, handle: CData, timeout: float | None) -> bool:
    end = deadline(timeout)
    while not reap(endpoint, handle, slice_ns(end)):
        if endpoint.closed or passed(end):
            return False
    return not endpoint.closed


def _verdict(endpoint: Endpoint, handle: CData) -> int:
    """How the connect ended. If it failed, or the connection is over, another one may be tried."""
    if endpoint.connected and endpoint.state(handle).state & lib.PF_STATE_CONNECTED:
        endpoint.stage = CONNECTED
        return 0
    code = _take(endpoint, handle) or errno.ECONNABORTED
    if endpoint.connected:
        _forget_bytes(endpoint, handle)
    endpoint.stage = UNCONNECTED
    if endpoint.attached:
        # Of a connection that was, it shows the end for ever.
        endpoint.mirror_left = SPENT if endpoint.connected else STALE
    endpoint.connected = False
    endpoint.failed = False
    endpoint.error_told = False
    endpoint.shut = 0
    return code


def _forget_bytes(endpoint: Endpoint, handle: CData) -> None:
    """What the former connection brought and nobody read must not show up in the next one."""
    spans = ffi.new("struct pf_span[2]")
    while pieces := lib.pf_rx_spans(handle, endpoint.slot, 2**31 - 1, spans):
        if pieces < 0:
            return
        lib.pf_rx_consume(handle, endpoint.slot, sum(spans[i].length for i in range(pieces)))
        # The backend may have had more than there was room for.
        endpoint.call(handle, lib.PF_OP_NOP)


def _renew_mirror(endpoint: Endpoint, handle: CData) -> None:
    """Another mirror descriptor under the same numbers."""
    mirror_id, fd = endpoint.session.take_mirror()
    was_armed, endpoint.armed = endpoint.armed, False
    try:
        os.set_blocking(fd, os.get_blocking(endpoint.fds[0]))
        for number in list(endpoint.fds):
            os.dup2(fd, number, os.get_inheritable(number))
    finally:
        os.close(fd)
    endpoint.mirror_id = mirror_id
    _table.renewed(endpoint)
    lib.pf_mirror_attach(handle, endpoint.slot, mirror_id, endpoint.fds[0])
    # Before it is asked for readiness: the question must not be answered in the former one.
    endpoint.call(handle, lib.PF_OP_NOP)
    if was_armed:
        endpoint.arm()


def reap(endpoint: Endpoint, handle: CData, wait_ns: int = 0) -> bool:
    """Looks whether the connect under way has ended, and notes how.

    Raises:
        OSError: the session ended.
    """
    op = endpoint.connect_op
    if not op:
        return True
    done = ffi.new("struct pf_done *")
    slot = endpoint.slot
    got = lib.pf_await(handle, slot, op, wait_ns, done)
    if got == 1:
        if done.result == ESTALE:
            # Another process has it; as a claim completes when the connect does, that is over then.
            endpoint.connect_op = 0
            try:
                endpoint.regain(handle, slot, ESTALE)
            except OSError as error:
                endpoint.pending_error = error.errno or errno.EIO
                endpoint.failed = True
            return True
        if done.result < 0:
            endpoint.pending_error = -done.result
            endpoint.failed = True
        else:
            endpoint.connected = True
        endpoint.connect_op = 0
        return True
    if got == -errno.EBADF:
        return not endpoint.connect_op  # another thread was faster
    if got not in (0, EINTR):
        raise endpoint.error(got)
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
        code, endpoint.pending_error = endpoint.pending_error, 0
        raise _errors.os_error(code)
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
        return code
    if endpoint.connected and not endpoint.error_told:
        state = endpoint.state(handle)
        if state.state & lib.PF_STATE_ERROR:
            endpoint.error_told = True
            return int(state.error)
    return 0


def shutdown(endpoint: Endpoint, how: int) -> None:
    """`socket.shutdown`."""
    flags = _HOW.get(how)
    if flags is None:
        raise _errors.os_error(errno.EINVAL)
    if endpoint.datagram:
        _datagram.shutdown(endpoint, flags)
        return
    handle = endpoint.enter()
    try:
        if endpoint.listening:
            if flags & lib.PF_SHUT_READ:
                # Blocked accepts end with EINVAL, as the kernel's do.
                endpoint.listening = False
                if endpoint.shared:
                    lib.pf_socket_interrupt(handle, endpoint.slot)
                    return
                endpoint.accept_op = 0
                endpoint.call(handle, lib.PF_OP_SHUTDOWN, flags=flags)
                # The backend has reset what was reported here and not accepted.
                done = ffi.new("struct pf_done *")
                while lib.pf_poll(handle, endpoint.slot, done) == 1:
                    pass
            return
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


_HOW: Final = {
    int(_names.SHUT_RD): lib.PF_SHUT_READ,
    int(_names.SHUT_WR): lib.PF_SHUT_WRITE,
    int(_names.SHUT_RDWR): lib.PF_SHUT_READ | lib.PF_SHUT_WRITE,
}
