"""Accepting: from completions that come by themselves, or from a queue that others share."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pifus._compat import _table
from pifus._compat._endpoint import (
    CONNECTED,
    EINTR,
    ESTALE,
    Endpoint,
    deadline,
    dones,
    passed,
    slice_ns,
)
from pifus._compat._sharing import EPIPE
from pifus._core import _address, _errors
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._core._client import CData

    Accepted = tuple[int, _address.Address | None]

_AGAIN = -errno.EAGAIN


def accept(endpoint: Endpoint, timeout: float | None) -> Accepted:
    """`socket._accept`: the descriptor of the new connection and the peer's address."""
    if timeout is None and endpoint.receive_patience is not None:
        try:
            return accept(endpoint, endpoint.receive_patience)
        except TimeoutError:
            raise _errors.os_error(errno.EAGAIN) from None
    nowait = timeout == 0
    end = None if nowait else deadline(timeout)
    handle = endpoint.enter()
    try:
        if not endpoint.shared:
            accepted = _accept_alone(endpoint, handle, nowait, end)
            if accepted is not None:
                return accepted
        return _accept_shared(endpoint, nowait, end)
    finally:
        endpoint.leave()


def _accept_alone(
    endpoint: Endpoint, handle: CData, nowait: bool, end: int | None
) -> Accepted | None:
    """Takes a connection that was reported; None: from now on the listener is shared."""
    try:
        done = dones.pop()
    except IndexError:
        done = ffi.new("struct pf_done *")
    try:
        return _accept_next(endpoint, handle, nowait, end, done)
    finally:
        dones.append(done)


def _accept_next(
    endpoint: Endpoint, handle: CData, nowait: bool, end: int | None, done: CData
) -> Accepted | None:
    while not endpoint.shared:
        if not endpoint.listening:
            raise _errors.os_error(errno.EOPNOTSUPP if endpoint.datagram else errno.EINVAL)
        got = lib.pf_wait(handle, endpoint.slot, 0 if nowait else slice_ns(end), done)
        if endpoint.closed:
            raise _errors.os_error(errno.EBADF)
        if got == 1:
            accepted = _take(endpoint, handle, done)
            if accepted is not None:
                return accepted
        elif got == 0:
            if nowait:
                endpoint.read_done(handle)
                raise endpoint.nothing(handle)
            if passed(end):
                raise TimeoutError("timed out")
        elif got == EPIPE and endpoint.inherited:
            endpoint.shared = True  # a signal handler forked: this is the child
        elif got != EINTR:
            raise endpoint.error(got)
    return None


def _take(endpoint: Endpoint, handle: CData, done: CData) -> Accepted | None:
    """What the accept that takes every connection has brought; None: no connection."""
    if done.result >= 0:
        accepted = _adopt(endpoint, handle, done)
        if accepted is not None:
            endpoint.read_done(handle)
            return accepted
        endpoint.shared = True
    elif done.result == ESTALE:
        endpoint.shared = True
    else:
        endpoint.listening = False  # cancelled, by a shutdown
    return None


def _accept_shared(endpoint: Endpoint, nowait: bool, end: int | None) -> Accepted:
    """Asks for one connection: it stays in the queue until somebody does."""
    done = ffi.new("struct pf_done *")
    while True:
        if endpoint.closed:
            raise _errors.os_error(errno.EBADF)
        if not endpoint.listening:
            raise _errors.os_error(errno.EINVAL)
        # As at the beginning of a call: after a fork in a signal handler it is to be claimed.
        handle = endpoint.enter()
        try:
            flags = lib.PF_SQE_NOWAIT if nowait else 0
            op = endpoint.submit(handle, lib.PF_OP_ACCEPT, flags=flags)
            in_time = _await(endpoint, handle, op, end, done)
            if done.result >= 0:
                accepted = _adopt(endpoint, handle, done)
                endpoint.read_done(handle)
                if accepted is not None:
                    return accepted
            elif done.result == _AGAIN:
                endpoint.read_done(handle)
                raise _errors.os_error(errno.EAGAIN)
            elif done.result == ESTALE:
                endpoint.regain(handle, endpoint.slot, ESTALE)
            elif done.result != -errno.ECANCELED:
                raise endpoint.error(done.result)
            elif not in_time:
                raise TimeoutError("timed out")
        finally:
            endpoint.leave()


def _await(endpoint: Endpoint, handle: CData, op: int, end: int | None, done: CData) -> bool:
    """Waits for the accept to complete, or takes it back. False: the time was up."""
    slot = endpoint.slot
    asked = False
    try:
        while True:
            got = lib.pf_await(handle, slot, op, slice_ns(None if asked else end), done)
            if got == 1:
                return not (asked and passed(end))
            if got not in (0, EINTR):
                if endpoint.inherited:
                    done.result = ESTALE
                    return True
                raise endpoint.error(got)
            if not asked and (endpoint.closed or not endpoint.listening or passed(end)):
                asked = True
                _take_back(endpoint, handle, slot, op)
    except BaseException:
        if not endpoint.inherited:
            _undo(endpoint, handle, slot, op, done)
        raise


def _take_back(endpoint: Endpoint, handle: CData, slot: int, op: int) -> None:
    args = (0, 0, ffi.NULL, lib.PF_DELIVER_NONE)
    result = lib.pf_submit(handle, slot, lib.PF_OP_CANCEL, 0, op, *args)
    if result < 0 and result != _AGAIN:
        raise endpoint.error(result)


def _undo(endpoint: Endpoint, handle: CData, slot: int, op: int, done: CData) -> None:
    """An exception ends the wait: a connection that came all the same goes to somebody else."""
    try:
        _take_back(endpoint, handle, slot, op)
        while (got := lib.pf_await(handle, slot, op, slice_ns(None), done)) in (0, EINTR):
            pass
    except OSError:
        return
    if got == 1 and done.result >= 0:
        lib.pf_accept_return(handle, slot, done.token)


def _adopt(listener: Endpoint, handle: CData, done: CData) -> Accepted | None:
    """Makes a socket of a reported connection; None: it went back to the queue.

    Without a descriptor or a slot for it, too: as with the kernel, who has one later accepts it.
    """
    with _table.no_fork():
        try:
            mirror = listener.session.take_mirror()
        except BaseException:
            lib.pf_accept_return(handle, listener.slot, done.token)
            raise
        slot = lib.pf_accept_adopt(handle, listener.slot, done.token, listener.priority)
        if slot >= 0:
            return _named(listener, slot, mirror, done)
        if not listener.session.give_mirror(*mirror):
            os.close(mirror[1])
    if slot == ESTALE:
        return None
    lib.pf_accept_return(handle, listener.slot, done.token)
    raise _errors.os_error(-slot)


def _named(listener: Endpoint, slot: int, mirror: tuple[int, int], done: CData) -> Accepted:
    mirror_id, fd = mirror
    endpoint = Endpoint(listener.session, slot, listener.family, listener.type, listener.proto)
    endpoint.take_after(listener)
    endpoint.mirror_id = mirror_id
    endpoint.connected = True
    endpoint.stage = CONNECTED
    endpoint.peer = _address.from_native(done.addr, listener.family)
    _table.register(fd, endpoint, detached=True)
    return fd, endpoint.peer
