"""From bind to shutdown: how a stack socket gets its peer and its names."""

from __future__ import annotations

import errno
import socket as _names
from typing import TYPE_CHECKING, Final

from pifus._compat import _datagram, _registrations, _table
from pifus._compat._endpoint import EINTR, ESTALE, Endpoint, deadline, passed, slice_ns
from pifus._core import _address, _errors
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._core._client import CData

_HOW: Final = {
    int(_names.SHUT_RD): lib.PF_SHUT_READ,
    int(_names.SHUT_WR): lib.PF_SHUT_WRITE,
    int(_names.SHUT_RDWR): lib.PF_SHUT_READ | lib.PF_SHUT_WRITE,
}


def bind(endpoint: Endpoint, native: CData) -> None:
    """`socket.bind` to an address of the stack."""
    handle = endpoint.enter()
    try:
        result = endpoint.call(handle, lib.PF_OP_BIND, addr=native)
    finally:
        endpoint.leave()
    if result < 0:
        raise _errors.os_error(-result)
    endpoint.bound = True


def listen(endpoint: Endpoint, backlog: int) -> None:
    """`socket.listen`; from now on connections come in by themselves."""
    handle = endpoint.enter()
    try:
        if endpoint.datagram:
            raise _errors.os_error(errno.EOPNOTSUPP)
        if endpoint.connected or endpoint.connect_op:
            raise _errors.os_error(errno.EINVAL)
        result = endpoint.call(handle, lib.PF_OP_LISTEN, length=max(backlog, 1))
        if result < 0:
            raise _errors.os_error(-result)
        if not endpoint.accept_op and not endpoint.shared:
            endpoint.accept_op = endpoint.submit(
                handle,
                lib.PF_OP_ACCEPT,
                flags=lib.PF_SQE_MULTISHOT,
                delivery=lib.PF_DELIVER_QUEUE,
            )
        endpoint.listening = True
        if endpoint.armed:
            lib.pf_mirror_rearm_write(handle, endpoint.slot)  # never writable
    finally:
        endpoint.leave()


def connect(endpoint: Endpoint, native: CData, timeout: float | None) -> int | None:
    """Connects: 0, an errno, or None when the time was up."""
    if endpoint.datagram:
        return _datagram.connect(endpoint, native)
    nowait = timeout == 0
    handle = endpoint.enter()
    try:
        if endpoint.connect_op:
            if not reap(endpoint, handle):
                if nowait:
                    return errno.EALREADY
                return _wait(endpoint, handle, timeout)
            return _verdict(endpoint)
        if not endpoint.connect_told and (endpoint.connected or endpoint.pending_error):
            return _verdict(endpoint)
        if endpoint.connected or endpoint.listening:
            return errno.EISCONN
        shows = nowait or endpoint.armed
        renews = endpoint.connect_failed and endpoint.attached
        if shows and not renews:
            endpoint.arm()
            # Not writable until it is connected.
            endpoint.write_done(handle)
        endpoint.error_told = False
        endpoint.connect_failed = False
        endpoint.connect_told = False
        endpoint.connect_op = endpoint.submit(handle, lib.PF_OP_CONNECT, addr=native)
        if renews:
            # Behind the connect: before it, all there is to show is how the last one failed.
            registered = endpoint.renew_mirror()
            if shows:
                endpoint.arm()
                lib.pf_mirror_rearm_write(handle, endpoint.slot)
            _registrations.restore(registered)
        if nowait:
            return errno.EINPROGRESS
        code = _wait(endpoint, handle, timeout)
        if timeout is not None and code == 0:
            # To the kernel this connect was non-blocking: the next one tells how it ended.
            endpoint.connect_told = False
        return code
    finally:
        endpoint.leave()


def _wait(endpoint: Endpoint, handle: CData, timeout: float | None) -> int | None:
    end = deadline(endpoint.send_patience if timeout is None else timeout)
    while not reap(endpoint, handle, slice_ns(end)):
        if endpoint.closed:
            return errno.EBADF
        if passed(end):
            return None if timeout is not None else errno.EINPROGRESS
    return _verdict(endpoint)


def _verdict(endpoint: Endpoint) -> int:
    """How the connect ended: told to the program by this."""
    endpoint.connect_told = True
    code, endpoint.pending_error = endpoint.pending_error, 0
    if code:
        endpoint.tell()
    return code


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
                endpoint.connect_failed = True
            return True
        if done.result < 0:
            endpoint.pending_error = -done.result
            endpoint.connect_failed = True
        else:
            endpoint.connected = True
        endpoint.connect_op = 0
        return True
    if got == -errno.EBADF:
        return not endpoint.connect_op  # another thread was faster
    if got not in (0, EINTR):
        raise endpoint.error(got)
    return False


def finish(endpoint: Endpoint, handle: CData, nowait: bool, end: int | None) -> None:
    """Before bytes can move: waits for the connect under way.

    Raises:
        BlockingIOError, TimeoutError: it goes on.
        OSError: it failed; told once.
    """
    while not reap(endpoint, handle, 0 if nowait else slice_ns(end)):
        if endpoint.closed:
            raise _errors.os_error(errno.EBADF)
        if nowait:
            raise _errors.os_error(errno.EAGAIN)
        if passed(end):
            raise TimeoutError("timed out")
    if endpoint.pending_error:
        raise _errors.os_error(_verdict(endpoint))


def take_error(endpoint: Endpoint) -> int:
    """SO_ERROR: the errno that nobody was told of yet."""
    if endpoint.datagram:
        return _datagram.take_error(endpoint)
    handle = endpoint.enter()
    try:
        if endpoint.connect_op and not reap(endpoint, handle):
            return 0
        if endpoint.pending_error:
            return _verdict(endpoint)
        if endpoint.connect_failed or endpoint.error_told:
            return 0
        state = endpoint.state(handle)
        if state.state & lib.PF_STATE_ERROR:
            endpoint.tell()
            return int(state.error)
        return 0
    finally:
        endpoint.leave()


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
                endpoint.submit(
                    handle,
                    lib.PF_OP_CANCEL,
                    token=endpoint.accept_op,
                    delivery=lib.PF_DELIVER_NONE,
                )
            return
        if endpoint.connect_op:
            reap(endpoint, handle)
        if not endpoint.connected:
            raise _errors.os_error(errno.ENOTCONN)
        result = endpoint.call(handle, lib.PF_OP_SHUTDOWN, flags=flags)
    finally:
        endpoint.leave()
    if result < 0:
        raise _errors.os_error(-result)


def getsockname(endpoint: Endpoint) -> _address.Address:
    """`socket.getsockname`."""
    handle = endpoint.enter()
    try:
        state = _known(endpoint, handle)
        name = _address.from_native(state.local, endpoint.family)
    finally:
        endpoint.leave()
    if name is None:
        return ("0.0.0.0", 0) if endpoint.family == _names.AF_INET else ("::", 0, 0, 0)
    return name


def getpeername(endpoint: Endpoint) -> _address.Address:
    """`socket.getpeername`."""
    handle = endpoint.enter()
    try:
        if endpoint.connect_op:
            reap(endpoint, handle)
        state = _known(endpoint, handle)
        if not endpoint.connected or not state.state & lib.PF_STATE_CONNECTED:
            raise _errors.os_error(errno.ENOTCONN)
        name = endpoint.peer or _address.from_native(state.peer, endpoint.family)
    finally:
        endpoint.leave()
    if name is None:
        raise _errors.os_error(errno.ENOTCONN)
    return name


def _known(endpoint: Endpoint, handle: CData) -> CData:
    """The published state; of a fresh one, once the backend has taken it up."""
    state = endpoint.state(handle)
    if not state.state and not endpoint.closed:
        endpoint.call(handle, lib.PF_OP_NOP)
        state = endpoint.state(handle)
    return state


def close_fd(fd: int) -> None:
    """`socket.close(fd)`: of a number, without a Python object."""
    _table.close(fd)
