"""Makes sockets of the stack."""

from __future__ import annotations

import os
import socket as _names
from typing import TYPE_CHECKING, Final

from pifus._compat import _bypass, _current, _rules, _table
from pifus._compat._endpoint import Endpoint
from pifus._core import _address, _errors
from pifus._core._client import lib

if TYPE_CHECKING:
    from pifus._core._session import Session

_DGRAM: Final = int(_names.SOCK_DGRAM)
_RAW: Final = int(_names.SOCK_RAW)


def make(family: int, kind: int, proto: int) -> tuple[int, Endpoint]:
    """A new socket of the stack: its descriptor, which is the caller's, and itself.

    Raises:
        OSError: no backend, or no socket or descriptor left (EMFILE); EPERM: the backend does not
            let this process have a raw socket.
    """
    while True:
        owner = _current.session()
        with _table.no_fork():
            try:
                fd, endpoint = _make(owner, family, kind, proto)
            except OSError:
                if not owner.forked:
                    raise
            else:
                if not owner.forked or endpoint.inherited:
                    return fd, endpoint
                _table.close(fd)
        # A signal handler forked in the middle: that was the parent's, and this is the child.


def _make(owner: Session, family: int, kind: int, proto: int) -> tuple[int, Endpoint]:
    handle = owner.handle
    if handle is None:
        raise owner.failure()
    mirror_id, fd = owner.take_mirror()
    _bypass.glance()
    priority = _rules.first_priority()
    open_socket = lib.pf_socket_open
    if kind == _DGRAM:
        ping = proto in (_names.IPPROTO_ICMP, _names.IPPROTO_ICMPV6)
        open_socket = lib.pf_ping_open if ping else lib.pf_datagram_open
    elif kind == _RAW:
        open_socket = lib.pf_raw_open
    slot = open_socket(handle, _address.native_family(family), priority, 0)
    if slot < 0:
        os.close(fd)
        raise _errors.os_error(-slot)
    endpoint = Endpoint(owner, slot, family, kind, proto)
    endpoint.priority = priority
    endpoint.mirror_id = mirror_id
    if kind == _RAW:
        _await_permission(endpoint, fd)
    _table.register(fd, endpoint)
    return fd, endpoint


def _await_permission(endpoint: Endpoint, fd: int) -> None:
    """All other sockets are known to be granted; of a raw one only the backend can tell."""
    handle = endpoint.enter()
    try:
        endpoint.call(handle, lib.PF_OP_NOP)  # it comes after the open
        error = endpoint.state(handle).error
        if error:
            raise _errors.os_error(error)
    except BaseException:
        lib.pf_socket_release(handle, endpoint.slot, 0)
        os.close(fd)
        raise
    finally:
        endpoint.leave()
