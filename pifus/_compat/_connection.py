"""Binding, listening, and the names of a stack socket."""

from __future__ import annotations

import errno
import socket as _names
from typing import TYPE_CHECKING, Final

from pifus._compat import _registrations, _rules, _table
from pifus._compat._connecting import reap
from pifus._compat._endpoint import UNCONNECTED, Endpoint
from pifus._core import _address, _errors
from pifus._core._client import lib

if TYPE_CHECKING:
    from pifus._core._client import CData

# One port in three is taken at the very worst: 28,000 of the kernel's choice beside 10,000 pcbs.
_PORT_ATTEMPTS: Final = 32


def bind(endpoint: Endpoint, native: CData) -> None:
    """`socket.bind` to an address of the stack."""
    handle = endpoint.enter()
    try:
        if endpoint.connected and not endpoint.datagram:
            raise _errors.os_error(errno.EINVAL)
        if native.port or endpoint.datagram or any(bytes(native.ip)):
            result = endpoint.call(handle, lib.PF_OP_BIND, addr=native)
        else:
            result = _bind_undecided(endpoint, handle, native)
    finally:
        endpoint.leave()
    if result < 0:
        raise _errors.os_error(-result)
    endpoint.bound = True


def _bind_undecided(endpoint: Endpoint, handle: CData, native: CData) -> int:
    """Binds to the wildcard address and a port that the program leaves open.

    The peer may yet turn out to be the kernel's: the port is one that is free there, too.
    """
    for _ in range(_PORT_ATTEMPTS):
        native.port = _rules.free_kernel_port(endpoint)
        result = endpoint.call(handle, lib.PF_OP_BIND, addr=native)
        if result != -errno.EADDRINUSE:
            return result
    return result


def listen(endpoint: Endpoint, backlog: int) -> None:
    """`socket.listen`; from now on connections come in by themselves."""
    handle = endpoint.enter()
    try:
        if endpoint.datagram:
            raise _errors.os_error(errno.EOPNOTSUPP)
        if endpoint.stage != UNCONNECTED or endpoint.connected:
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
        if endpoint.spent:
            # It shows for ever that a connect failed, or that listening ended.
            endpoint.spent = False
            was_armed = endpoint.armed
            registered = endpoint.renew_mirror()
            if was_armed:
                endpoint.arm()
            _registrations.restore(registered)
        elif endpoint.armed:
            lib.pf_mirror_rearm_write(handle, endpoint.slot)  # never writable
    finally:
        endpoint.leave()


def getsockname(endpoint: Endpoint) -> _address.Address:
    """`socket.getsockname`."""
    handle = endpoint.enter()
    try:
        state = _known(endpoint, handle)
        name = _address.from_native(state.local, endpoint.family)
    finally:
        endpoint.leave()
    port = name[1] if name else 0
    known = endpoint.bound or endpoint.listening or endpoint.stage or not endpoint.spent
    if name is None or not known:
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
    if name is None or name[1] == 0:  # to the kernel, too, a peer without a port is none
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
