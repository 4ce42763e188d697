"""Listening, accepting, and the names of a stack socket."""

from __future__ import annotations

import errno
import os
import socket as _names
from typing import TYPE_CHECKING

from pifus._compat import _table
from pifus._compat._connecting import CONNECTED, UNCONNECTED, reap
from pifus._compat._endpoint import EINTR, Endpoint, deadline, passed, slice_ns
from pifus._core import _address, _errors
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._core._client import CData


def bind(endpoint: Endpoint, native: CData) -> None:
    """`socket.bind` to an address of the stack."""
    handle = endpoint.enter()
    try:
        if endpoint.connected:
            raise _errors.os_error(errno.EINVAL)
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
        if endpoint.stage != UNCONNECTED or endpoint.connected:
            raise _errors.os_error(errno.EINVAL)
        result = endpoint.call(handle, lib.PF_OP_LISTEN, length=max(backlog, 1))
        if result < 0:
            raise _errors.os_error(-result)
        if not endpoint.accept_op:
            endpoint.accept_op = endpoint.submit(
                handle,
                lib.PF_OP_ACCEPT,
                flags=lib.PF_SQE_MULTISHOT,
                delivery=lib.PF_DELIVER_QUEUE,
            )
        endpoint.listening = True
        endpoint.never_writable(handle)
    finally:
        endpoint.leave()


def accept(endpoint: Endpoint, timeout: float | None) -> tuple[int, _address.Address | None]:
    """`socket._accept`: the descriptor of the new connection and the peer's address."""
    nowait = timeout == 0
    end = None if nowait else deadline(timeout)
    done = ffi.new("struct pf_done *")
    handle = endpoint.enter()
    try:
        while True:
            if not endpoint.listening:
                raise _errors.os_error(errno.EINVAL)
            got = lib.pf_wait(handle, endpoint.slot, 0 if nowait else slice_ns(end), done)
            if endpoint.closed:
                raise _errors.os_error(errno.EBADF)
            if got == 1:
                if done.result >= 0:
                    accepted = _adopt(endpoint, handle, done)
                    endpoint.read_done(handle)
                    return accepted
                endpoint.listening = False  # cancelled, by a shutdown
            elif got == 0:
                if nowait:
                    endpoint.read_done(handle)
                    raise _errors.os_error(errno.EAGAIN)
                if passed(end):
                    raise TimeoutError("timed out")
            elif got != EINTR:
                raise endpoint.error(got)
    finally:
        endpoint.leave()


def _adopt(listener: Endpoint, handle: CData, done: CData) -> tuple[int, _address.Address | None]:
    slot = lib.pf_socket_adopt(handle, done.token, listener.priority)
    if slot < 0:
        lib.pf_accept_reject(handle, listener.slot, done.token)
        raise _errors.os_error(-slot)
    try:
        mirror_id, fd = listener.session.take_mirror()
    except BaseException:
        lib.pf_socket_release(handle, slot, lib.PF_CLOSE_ABORT)
        raise
    endpoint = Endpoint(listener.session, slot, listener.family, listener.type, listener.proto)
    endpoint.priority = listener.priority
    endpoint.mirror_id = mirror_id
    endpoint.connected = True
    endpoint.stage = CONNECTED
    endpoint.options.update(listener.options)
    endpoint.lingers = listener.lingers
    endpoint.peer = _address.from_native(done.addr, listener.family)
    _table.register(fd, endpoint)
    # Until a Python object takes it over, in a moment.
    _table.detach(fd)
    return fd, endpoint.peer


def getsockname(endpoint: Endpoint) -> _address.Address:
    """`socket.getsockname`."""
    handle = endpoint.enter()
    try:
        state = _known(endpoint, handle)
        name = _address.from_native(state.local, endpoint.family)
    finally:
        endpoint.leave()
    port = name[1] if name else 0
    if name is None or not (endpoint.bound or endpoint.listening or endpoint.stage):
        # A connect that failed leaves the port, but takes back the address it had chosen.
        return ("0.0.0.0", port) if endpoint.family == _names.AF_INET else ("::", port, 0, 0)
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
    _table.drop(fd)
    os.close(fd)
