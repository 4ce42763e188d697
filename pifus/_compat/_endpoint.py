"""One socket of the stack: its slot in the session, its mirror descriptor, its life."""

from __future__ import annotations

import contextlib
import errno
import os
import socket as _names
import time
from typing import TYPE_CHECKING, Final, NoReturn

from pifus._compat import _registrations, _table
from pifus._compat._sharing import Sharing
from pifus._core import _address, _errors, _lane
from pifus._core._client import ffi, lib
from pifus._core._session import Session

if TYPE_CHECKING:
    from pifus._compat._io import Io
    from pifus._core._client import CData

_table.identify_by(_lane.file_of)

# One C call waits at most so long, so that signal handlers run even when a signal came just before
# the thread slept, and a close by another thread is noticed.
SLICE_NS: Final = 200_000_000
EAGAIN: Final = -errno.EAGAIN
EINTR: Final = -errno.EINTR
ESTALE: Final = -errno.ESTALE

# Where completions are put that are looked at right away: each belongs to who takes it out.
dones: Final = [ffi.new("struct pf_done *") for _ in range(4)]

# What the kernel knows of a socket beside the state of its TCP: whether a connect was asked for,
# and whether the program has been told how it ended.
UNCONNECTED: Final = 0
CONNECTING: Final = 1
CONNECTED: Final = 2
DISCONNECTING: Final = 3


def deadline(timeout: float | None) -> int | None:
    """When a call with this time-out that starts now has to end; None: never."""
    return None if timeout is None else time.monotonic_ns() + int(timeout * 1e9)


def slice_ns(end: int | None) -> int:
    """How long the next C call may wait."""
    if end is None:
        return SLICE_NS
    return min(max(end - time.monotonic_ns(), 0), SLICE_NS)


def passed(end: int | None) -> bool:
    """True when the time is up."""
    return end is not None and time.monotonic_ns() >= end


def awaited(handle: CData, slot: int, op: int, done: CData) -> int:
    """Waits for an operation that the backend answers at once: 1, it is in `done`; or -errno."""
    got = 0
    try:
        while got in (0, EINTR):
            got = lib.pf_await(handle, slot, op, SLICE_NS, done)
    finally:
        if got != 1:  # also when a signal handler raised: nobody takes the completion any more
            lib.pf_forget(handle, slot, op)
    return got


def _io(datagram: bool) -> Io:
    found = _ios.get(datagram)
    if found is None:
        # Late: they are built on this module.
        from pifus._compat import _datagram, _stream

        _ios.update({True: _datagram, False: _stream})
        found = _ios[datagram]
    return found


_ios: dict[bool, Io] = {}
_KINDS_OF_DATAGRAMS: Final = (int(_names.SOCK_DGRAM), int(_names.SOCK_RAW))
_MEDIUM: Final = int(lib.PF_PRIORITY_MEDIUM)


class Endpoint(Sharing):
    """A socket of the stack behind one or more descriptors of this process.

    Attributes:
        connect_op: the connect under way, 0 if there is none.
        connected: a connect succeeded, or it came out of an accept.
        failed: the last connect failed, and none was tried since.
        stage: what the program asked for and has been told, UNCONNECTED and so on.
        spent: the descriptor shows for ever how a connect, a connection or listening ended.
        shut: PF_SHUT_* of the directions that the program has ended.
        error_told: the program got the errno that ended the connection: from then on there is
            only the end of the stream.
        options: what getsockopt tells of options that were set.
        requested: the bytes that were set, in order: for a socket that moves to the kernel.
        receive_patience, send_patience: SO_RCVTIMEO and SO_SNDTIMEO, in seconds.
        low_water: SO_RCVLOWAT.
        device: SO_BINDTODEVICE.
        wants_kernel: it is bound to a device of the kernel's.
        priority_chosen: the program has set SO_PRIORITY itself.
        datagram: it is a socket of datagrams: UDP, ping or raw.
        io: the module that sends and receives: _stream or _datagram.
        reached: destinations to which a datagram left, as the bytes of a `struct pf_addr`.
        shared: a listener from which other processes accept, too.
    """

    __slots__ = (
        "bound",
        "connect_op",
        "connected",
        "datagram",
        "device",
        "error_told",
        "failed",
        "family",
        "inode",
        "io",
        "listening",
        "low_water",
        "options",
        "peer",
        "pending_error",
        "priority",
        "priority_chosen",
        "proto",
        "reached",
        "receive_patience",
        "requested",
        "send_patience",
        "shared",
        "shut",
        "spent",
        "stage",
        "type",
        "wants_kernel",
    )

    def __init__(self, owner: Session, slot: int, family: int, kind: int, proto: int) -> None:
        super().__init__(owner, slot)
        self.family = family
        self.type = kind
        self.proto = proto
        self.priority = _MEDIUM
        self.inode = (0, 0)
        self.shared = False
        self.bound = False
        self.listening = False
        self.connect_op = 0
        self.connected = False
        self.failed = False
        self.stage = UNCONNECTED
        self.spent = False
        self.shut = 0
        self.error_told = False
        self.pending_error = 0
        self.peer: _address.Address | None = None
        self.options: dict[tuple[int, int], int] = {}
        self.requested: dict[tuple[int, int], bytes] = {}
        self.receive_patience: float | None = None
        self.send_patience: float | None = None
        self.low_water = 1
        self.device = b""
        self.wants_kernel = False
        self.priority_chosen = False
        self.datagram = kind in _KINDS_OF_DATAGRAMS
        self.reached: set[bytes] = set()
        self.io: Io = _io(self.datagram)

    def take_after(self, listener: Endpoint) -> None:
        """What an accepted connection has of its listener, as in the kernel."""
        self.priority = listener.priority
        self.priority_chosen = listener.priority_chosen
        if listener.options:
            self.options.update(listener.options)
        self.lingers = listener.lingers
        self.receive_patience = listener.receive_patience
        self.send_patience = listener.send_patience
        self.low_water = listener.low_water
        self.device = listener.device

    def replay(self) -> list[tuple[tuple[int, int], int | bytes]]:
        """Options and what they were set to, in order."""
        if self.datagram:
            return [*self.options.items(), *self.requested.items()]
        return [*self.requested.items()]

    def become_datagram(self, raw: bool) -> None:
        """The descriptor came from another process: only its claim told what it is."""
        self.type = int(_names.SOCK_RAW if raw else _names.SOCK_DGRAM)
        if raw:
            four = self.family == _names.AF_INET
            self.proto = int(_names.IPPROTO_ICMP if four else _names.IPPROTO_ICMPV6)
        self.datagram = True
        self.io = _io(self.datagram)

    # ---- calls into the core ----

    def enter(self) -> CData:
        """The session's handle, for one call; `leave` has to follow.

        Raises:
            OSError: EBADF when the socket is closed or the parent process's; the session is gone.
        """
        handle = self.session.handle
        if handle is None:
            handle = self._recover()
        self.busy.append(None)
        if self.closed:
            self.leave()
            raise _errors.os_error(errno.EBADF)
        return handle

    def leave(self) -> None:
        """The end of what `enter` began."""
        if self.busy:  # else a signal handler forked: the child begins anew
            self.busy.pop()
        if self.untidy and not self.busy:
            self._tidy()

    def gone(self) -> OSError:
        """Why the session cannot be used."""
        if self.session.handle is None and self not in _table.endpoints.values():
            return _errors.os_error(errno.EBADF)
        failure = self.session.failure()
        return failure if isinstance(failure, OSError) else OSError(errno.EIO, str(failure))

    def nothing(self, handle: CData) -> OSError:
        """What a call raises that found nothing and does not wait: EAGAIN, if anything can come.

        Only who sleeps in the core is told there that the backend was killed. The descriptor shows
        it, so a program that goes by that would come back for ever.
        """
        if not self.inherited and lib.pf_client_look(handle):
            return self.gone()
        return _errors.os_error(errno.EAGAIN)

    def error(self, result: int) -> OSError:
        """The exception for a result below zero of the core."""
        handle = self.session.handle
        if handle is None or (result == -errno.EPIPE and lib.pf_client_ended(handle)):
            return self.gone()
        return _errors.os_error(-result)

    def submit(
        self,
        handle: CData,
        opcode: int,
        *,
        flags: int = 0,
        token: int = 0,
        offset: int = 0,
        length: int = 0,
        addr: CData | None = None,
        delivery: int = lib.PF_DELIVER_CALL,
    ) -> int:
        """Submits an operation; its id.

        Raises:
            OSError: the core refused it.
        """
        while True:
            slot = self.slot
            op: int = lib.pf_submit(
                handle,
                slot,
                opcode,
                flags,
                token,
                offset,
                length,
                ffi.NULL if addr is None else addr,
                delivery,
            )
            if op > 0:
                return op
            if op != EAGAIN:
                handle = self.regain(handle, slot, op) or self._fail(op)
                continue
            # The queue is full: a completion makes room, or the next attempt tells what is wrong.
            lib.pf_await_room(handle, slot, SLICE_NS)

    def call(
        self,
        handle: CData,
        opcode: int,
        *,
        flags: int = 0,
        token: int = 0,
        offset: int = 0,
        length: int = 0,
        addr: CData | None = None,
        done: CData | None = None,
    ) -> int:
        """Submits an operation and waits for its result, which is 0 or more, or -errno.

        For operations that the backend answers at once: signals wait so long. `done` gets the
        whole completion.
        """
        own = done
        try:
            done = own or dones.pop()
        except IndexError:
            done = ffi.new("struct pf_done *")
        while True:
            op = self.submit(
                handle, opcode, flags=flags, token=token, offset=offset, length=length, addr=addr
            )
            slot = self.slot
            got = awaited(handle, slot, op, done)
            result: int = done.result if got == 1 else got
            again = self.regain(handle, slot, result) if result < 0 else None
            if again is not None:
                handle = again
            elif got == 1:
                if own is None:
                    dones.append(done)
                return result
            else:
                raise self.error(got)

    def result_of(self, handle: CData, op: int) -> int:
        """Waits for the result of an operation that the backend answers at once."""
        done = ffi.new("struct pf_done *")
        got = awaited(handle, self.slot, op, done)
        if got != 1:
            raise self.error(got)
        result: int = done.result
        return result

    def _fail(self, result: int) -> NoReturn:
        raise self.error(result)

    def state(self, handle: CData) -> CData:
        """What the backend last published about the socket."""
        state = ffi.new("struct pf_socket_b2c *")
        slot = self.slot
        lib.pf_socket_state(handle, slot, state)
        if state.state & lib.PF_STATE_MOVED:
            lib.pf_socket_state(self.regain(handle, slot, ESTALE) or handle, self.slot, state)
        return state

    def is_fresh(self) -> bool:
        """True before any bind, connect or listen."""
        return not (self.bound or self.connected or self.listening or self.stage or self.spent)

    def is_called_on(self) -> bool:
        """True while anybody may come to it by its address."""
        return self.listening or (self.datagram and self.bound)

    # ---- the mirror ----

    def arm(self, settle: bool = False) -> None:
        """Makes the descriptor show readiness from now on.

        Args:
            settle: wait until it shows what holds now: somebody may look without waiting.
        """
        if self.armed or self.closed:
            return
        handle = self.enter()
        try:
            if self.armed:
                return  # by the claim
            self.identify()
            slot = self.slot
            if lib.pf_mirror_arm(handle, slot) == ESTALE:
                self._try_regain(handle, slot)  # it may have been filled in vain
            self.armed = True
            if self.listening or self.connect_op:
                lib.pf_mirror_rearm_write(handle, self.slot)  # never writable, or not yet
            if settle:
                self.call(handle, lib.PF_OP_MIRROR)
                self.settled = True
        finally:
            self.leave()

    def freshen(self) -> None:
        """Somebody may look at the descriptor: it must not show what has been read already."""
        handle = self.enter()
        try:
            slot = self.slot
            with self.unless_gone():
                self.call(handle, lib.PF_OP_MIRROR)
            if lib.pf_mirror_settle(handle, slot) == ESTALE:
                self.regain(handle, slot, ESTALE)
        finally:
            self.leave()

    def moved(self) -> None:
        """The list of descriptors changed: the core must use one that is open."""
        handle = self.session.handle
        if self.attached and handle is not None and not self.closed and self.fds:
            lib.pf_mirror_move(handle, self.slot, self.fds[0])

    def read_done(self, handle: CData) -> None:
        """After reading: an empty socket must not look readable."""
        if self.armed:
            slot = self.slot
            if lib.pf_mirror_rearm_read(handle, slot) == ESTALE:
                self._try_regain(handle, slot)

    def tell(self) -> None:
        """The program is told the errno of the connection: the descriptor stops to show it."""
        self.error_told = True
        handle = self.session.handle
        if self.attached and handle is not None:
            lib.pf_mirror_told(handle, self.slot)

    def renew_mirror(self) -> list[_registrations.Registration]:
        """Another connect on a socket whose last one failed: its descriptor shows that for ever.

        So another takes its place under its number.

        Returns:
            In which epolls it was; it is to be put there again once it shows what holds.
        """
        registered = [one for number in self.fds for one in _registrations.find(number)]
        with _table.no_fork():
            self.mirror_id, fresh = self.session.take_mirror()
            try:
                for number in self.fds:
                    os.set_blocking(fresh, os.get_blocking(number))
                    _table.replace_file(fresh, number, os.get_inheritable(number))
                _table.moved(self)
            finally:
                os.close(fresh)
        self.attached = self.armed = self.settled = False
        return registered

    def write_done(self, handle: CData, full: bool = True) -> None:
        """After writing: a full socket must not look writable.

        Args:
            full: less was taken than wanted.
        """
        if self.armed:
            slot = self.slot
            done = lib.pf_mirror_rearm_write if full else lib.pf_mirror_sent
            if done(handle, slot) == ESTALE:
                self._try_regain(handle, slot)

    def _try_regain(self, handle: CData, slot: int) -> None:
        """After a call that succeeded: if the socket cannot be had back, the next call tells.

        Else bytes that were read would be lost, and bytes that were sent be sent again.
        """
        with contextlib.suppress(OSError):
            self.regain(handle, slot, ESTALE)
