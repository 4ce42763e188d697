"""Sockets that other processes hold too: found by their descriptor, and claimed.

The backend serves a socket in the slot of one session at a time. When this process needs one that
is elsewhere, it shows the backend the descriptor, gets a ticket, and adopts the socket into a slot
of its own session; whoever had it finds out, and claims it back when it needs it.
"""

from __future__ import annotations

import errno
import os
import select
import socket as _names
import threading
import time
from typing import TYPE_CHECKING, Final

from pifus._compat import _current, _rules, _table
from pifus._compat._endpoint import CONNECTED, EAGAIN, Endpoint, awaited, slice_ns
from pifus._core import _address, _errors
from pifus._core._client import ffi, lib
from pifus._core._session import Session
from pifus._core._settings import Settings

if TYPE_CHECKING:
    from pifus._core._client import CData

EBADF: Final = -errno.EBADF
# The backend may see a claim before the submission that told it of the descriptor, or in which this
# process let go of it; or in the middle of ending the session in which the socket is.
_PASSING: Final = (EAGAIN, EBADF, -errno.EALREADY)
_PATIENCE_SECONDS: Final = 0.05
_PAUSE_SECONDS: Final = 0.0005

# Sessions with other backends than that of this process's own sockets, by path.
_others: dict[str, Session] = {}
_others_lock = threading.RLock()


def foreign(fd: int, name: bytes, family: int) -> Endpoint:
    """The socket behind a mirror descriptor that this process was given.

    Args:
        fd: the descriptor.
        name: what the backend called its end.
        family: of the socket; -1: not known.

    Raises:
        OSError: the backend cannot be reached, or does not know the socket (any more).
    """
    _, _, path = name[len(_table.MIRROR_NAME) :].partition(b":")
    owner, _ = _session_at(os.fsdecode(path))
    endpoint = Endpoint(owner, -1, family, int(_names.SOCK_STREAM), 0)
    endpoint.inherit()
    endpoint.priority = _rules.first_priority()
    endpoint.fds.append(fd)
    claim(endpoint, None)
    endpoint.fds.clear()
    _table.register(fd, endpoint)
    return endpoint


def _session_at(path: str, shown: int | None = None) -> tuple[Session, int]:
    """This process's session with a backend, and a ticket for the descriptor if it was shown."""
    own, ticket = _current.session_showing(shown)
    if not path or own.path == path:
        return own, ticket
    with _others_lock:
        other = _others.get(path)
        if other is None or not other.lives():
            settings = Settings(name="python", max_sockets=256)
            other = _others[path] = Session.open_named(path, settings)
        return other, 0


def claim(endpoint: Endpoint, seen: tuple[CData, int] | None) -> CData:
    """Brings a socket to this process; a handle for calls with `endpoint.slot`.

    Args:
        endpoint: the socket.
        seen: handle and slot with which a call failed; None: it was never here.

    Raises:
        OSError: nobody holds it any more, or the backend is gone.
    """
    with endpoint.claiming:
        handle = endpoint.session.handle
        if (
            handle is not None
            and not endpoint.inherited
            and (seen is None or endpoint.slot != seen[1])
        ):
            return handle  # another thread was faster
        owner = endpoint.session
        if handle is None:
            shown = endpoint.fds[0] if endpoint.fds else None
            owner, endpoint.ticket = _session_at(owner.path, shown)
            handle = owner.handle
            if handle is None:
                raise owner.failure()
        slot = _claim(endpoint, owner, handle)
        if not endpoint.inherited:
            endpoint.left.append((handle, endpoint.slot))
            endpoint.untidy = True
        endpoint.slot = slot
        endpoint.unreleased = [None]
        _learn(endpoint, handle)
        # Last: a thread that finds a session goes on with the slot.
        endpoint.session = owner
        endpoint.inherited = False
        return handle


def _claim(endpoint: Endpoint, owner: Session, handle: CData) -> int:
    op = ffi.new("uint64_t *")
    done = ffi.new("struct pf_done *")
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        if not endpoint.fds:
            raise _errors.os_error(errno.EBADF)
        fd = endpoint.fds[0]
        if not endpoint.ticket:
            endpoint.ticket = owner.show(fd)
        slot: int = lib.pf_socket_claim(handle, endpoint.ticket, endpoint.priority, fd, op)
        if slot < 0:
            raise endpoint.error(slot)
        try:
            got = awaited(handle, slot, op[0], done)
        except BaseException:
            # A signal handler's: the socket is, or comes, where nobody looks for it. The next call
            # claims it from there.
            lib.pf_socket_release(handle, slot, lib.PF_CLOSE_SHARED)
            raise
        result = done.result if got == 1 else got
        if result >= 0:
            return slot
        lib.pf_socket_release(handle, slot, 0)
        if result == EBADF:
            endpoint.ticket = 0
        if result not in _PASSING or time.monotonic() > end:
            raise endpoint.error(result)
        time.sleep(_PAUSE_SECONDS)


def _learn(endpoint: Endpoint, handle: CData) -> None:
    """Takes over what the backend knows about the socket."""
    state = ffi.new("struct pf_socket_b2c *")
    lib.pf_socket_state(handle, endpoint.slot, state)
    bits = state.state
    if endpoint.family == -1:
        is_v6 = state.local.family == lib.PF_FAMILY_IPV6
        endpoint.family = int(_names.AF_INET6 if is_v6 else _names.AF_INET)
    if bits & lib.PF_STATE_DATAGRAM and not endpoint.datagram:
        endpoint.become_datagram(bool(bits & lib.PF_STATE_RAW))
    endpoint.attached = True
    endpoint.settled = True
    endpoint.elsewhere = True
    endpoint.armed = True
    endpoint.connect_op = 0
    endpoint.accept_op = 0
    if bits & (lib.PF_STATE_CONNECTED | lib.PF_STATE_ERROR | lib.PF_STATE_EOF):
        # Of another process: whether it has been told is not known, and matters to nobody here.
        endpoint.stage = endpoint.stage if endpoint.connected else CONNECTED
        endpoint.connected = True
    if bits & lib.PF_STATE_LISTENING:
        endpoint.listening = True
        endpoint.shared = True
    endpoint.bound = endpoint.bound or state.local.port != 0
    if endpoint.connected and endpoint.peer is None:
        endpoint.peer = _address.from_native(state.peer, endpoint.family)


def await_readable(endpoint: Endpoint, handle: CData, end: int | None) -> None:
    """Waits, without claiming the socket, until its descriptor shows that there is something.

    Raises:
        OSError: the backend is gone, which the descriptor shows for ever.
    """
    if not endpoint.inherited and lib.pf_client_look(handle):
        raise endpoint.gone()
    poll = select.poll()
    poll.register(endpoint.fds[0], select.POLLIN)
    poll.poll(slice_ns(end) / 1e6)


def _in_child() -> None:
    global _others_lock
    _others.clear()
    _others_lock = threading.RLock()


os.register_at_fork(after_in_child=_in_child)
