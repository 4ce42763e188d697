"""The descriptors of a stack socket: who holds it, and what happens when nobody does any more."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, cast

from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint
    from pifus._core._client import CData
    from pifus._core._session import Session

_SHUT_WRITE: Final = int(lib.PF_SHUT_WRITE)
ESTALE: Final = -errno.ESTALE
EPIPE: Final = -errno.EPIPE
# A wait in C is cut into such pieces, so that signal handlers run.
_LINGER_SLICE_SECONDS: Final = 0.2
# A close takes some microseconds, unless another process was given the descriptor.
_CLOSE_SECONDS: Final = 0.1


class Sharing:
    """The part of an `Endpoint` that is about its descriptors, here and in other processes.

    Attributes:
        fds: the descriptors by which this process knows it.
        busy: one entry for each thread that is inside a C call with this slot.
        attached: the backend was told which descriptor stands for it.
        settled: and has heard it.
        elsewhere: other processes may hold the descriptor, too.
        armed: the descriptor shows readiness.
        inherited: it came from another process, and was not claimed here yet.
        ticket: the right to claim it, given by `session`; 0: none.
        left: slots out of which it was moved, and in which other threads may still be.
        untidy: it is closed, or has such slots.
    """

    __slots__ = (
        "accept_op",
        "armed",
        "attached",
        "busy",
        "claiming",
        "closed",
        "elsewhere",
        "fds",
        "inherited",
        "left",
        "lingers",
        "mirror_id",
        "session",
        "settled",
        "slot",
        "ticket",
        "unreleased",
        "untidy",
    )

    if TYPE_CHECKING:

        def arm(self, settle: bool = False) -> None: ...
        def call(self, handle: CData, opcode: int) -> int: ...
        def gone(self) -> OSError: ...
        def is_called_on(self) -> bool: ...
        def leave(self) -> None: ...

        bound: bool
        datagram: bool
        listening: bool
        shut: int
        spent: bool

    def __init__(self, owner: Session, slot: int) -> None:
        self.session = owner
        self.slot = slot
        self.fds: list[int] = []
        self.mirror_id = 0
        self.attached = False
        self.settled = False
        self.elsewhere = False
        self.armed = False
        self.busy: list[None] = []
        self.closed = False
        self.untidy = False
        self.inherited = False
        self.ticket = 0
        self.left: list[tuple[CData, int]] = []
        self.claiming = threading.RLock()
        # Taken by the one thread that gives the slot back.
        self.unreleased: list[None] = [None]
        self.lingers: tuple[int, int] = (0, 0)
        self.accept_op = 0

    def _recover(self) -> CData:
        if not self.inherited or self.closed:
            raise self.gone()
        from pifus._compat import _claim

        return _claim.claim(cast("Endpoint", self), None)

    def regain(self, handle: CData, slot: int, result: int) -> CData | None:
        """After a call that failed: a handle to try it again with, if the socket had only moved.

        Args:
            handle: what the call was made with.
            slot: likewise.
            result: what it returned.

        Raises:
            OSError: the socket cannot be had back.
        """
        if self.closed or not (
            result == ESTALE or (result == EPIPE and self.inherited) or self.slot != slot
        ):
            return None
        from pifus._compat import _claim

        return _claim.claim(cast("Endpoint", self), (handle, slot))

    def show(self) -> None:
        """The number of the descriptor is asked for: it may be polled, or given to others."""
        if self.session.handle is not None:
            with self.unless_gone():
                self.arm(settle=True)
        elif self.inherited:
            with contextlib.suppress(OSError):
                self.arm()

    @contextlib.contextmanager
    def unless_gone(self) -> Iterator[None]:
        """Around what makes the descriptor show what holds: if the backend is gone, it shows that.

        Its number must still be told: an event loop needs it to let go of the socket.
        """
        try:
            yield
        except OSError:
            if self.session.lives():
                raise

    def identify(self) -> None:
        """Lets the backend know which descriptor stands for this socket."""
        handle = self.session.handle
        if not self.attached and handle is not None and not self.closed and self.fds:
            self.attached = True
            lib.pf_mirror_attach(handle, self.slot, self.mirror_id, self.fds[0])

    def has_secret_mirror(self) -> bool:
        """True while nobody can know its descriptor: no program, no process, not the backend."""
        return not (
            self.attached
            or self.inherited
            or self.spent
            or self.listening
            or (self.datagram and self.bound)  # is_called_on()
        )

    def settle(self) -> None:
        """Before a fork: waits until the backend has heard of `identify`."""
        self.elsewhere = True
        if self.settled or self.session.handle is None or self.closed:
            return
        with contextlib.suppress(OSError):
            self.call(self.session.handle, lib.PF_OP_NOP)
            self.settled = True

    def inherit(self) -> None:
        """In a forked child: the socket is where the parent has it, until it is claimed."""
        self.inherited = True
        self.elsewhere = True
        self.armed = False
        self.attached = True
        self.settled = True
        self.ticket = 0
        self.busy = []
        self.left = []
        self.untidy = self.closed
        self.claiming = threading.RLock()

    def leave_alone(self) -> None:
        """Nobody will use it: `fileno` has nothing to do any more."""
        self.armed = True

    def _tidy(self) -> None:
        """No thread is inside: gives back the slots that are not needed any more."""
        while self.left:
            try:
                handle, slot = self.left.pop()
            except IndexError:
                break
            lib.pf_socket_release(handle, slot, lib.PF_CLOSE_SHARED)
        self.untidy = self.closed
        if self.closed:
            self._release()

    # ---- the end ----

    def close(self) -> None:
        """The last descriptor is about to be closed; `finish` has to follow."""
        self.closed = True
        self.untidy = True
        handle = self.session.handle
        if handle is not None and self.attached:
            lib.pf_mirror_move(handle, self.slot, -1)

    def finish(self) -> None:
        """The last descriptor is closed. Wakes the threads that wait here."""
        handle = self.session.handle
        if handle is None:
            return
        self.busy.append(None)
        if len(self.busy) > 1:
            if self.attached:
                # Other processes may go on with it: only our threads are told.
                lib.pf_socket_interrupt(handle, self.slot)
            else:
                self._cut(handle)
        self.leave()

    def _cut(self, handle: CData) -> None:
        both = lib.PF_SHUT_READ | lib.PF_SHUT_WRITE
        args = (0, 0, 0, ffi.NULL, lib.PF_DELIVER_NONE)
        lib.pf_submit(handle, self.slot, lib.PF_OP_SHUTDOWN, both, *args)
        if self.accept_op:
            args = (self.accept_op, 0, 0, ffi.NULL, lib.PF_DELIVER_NONE)
            lib.pf_submit(handle, self.slot, lib.PF_OP_CANCEL, 0, *args)

    def _release(self) -> None:
        handle = self.session.handle
        try:
            self.unreleased.pop()
        except IndexError:
            return
        if handle is None:
            return
        flags: int = lib.PF_CLOSE_ABORT if self.lingers == (1, 0) else lib.PF_CLOSE_GRACEFUL
        if self.attached:
            flags |= lib.PF_CLOSE_SHARED
        try:
            if self.lingers[0] and self.lingers[1] > 0:
                self._linger(handle, flags, self.lingers[1])
            elif (self.is_called_on() or self.lingers == (1, 0)) and not self.elsewhere:
                # Whoever knows of the close is refused, or finds the reset, from now on. If others
                # go on it is no end.
                self._linger(handle, flags, _CLOSE_SECONDS)
        finally:  # also when a signal handler raised
            if self.shut == _SHUT_WRITE and not flags and not self.bound and not self.lingers[0]:
                # Bound to a port, its end is awaited by whoever wants the port next.
                lib.pf_socket_release_ended(handle, self.slot, flags)
            else:
                lib.pf_socket_release(handle, self.slot, flags)

    def _linger(self, handle: CData, flags: int, seconds: float) -> None:
        """Closes and waits, at most so long, until that is done: all is acknowledged."""
        done = ffi.new("struct pf_done *")
        args = (0, 0, 0, ffi.NULL, lib.PF_DELIVER_CALL)
        op = lib.pf_submit(handle, self.slot, lib.PF_OP_CLOSE, flags, *args)
        end = time.monotonic() + seconds
        while op > 0 and (left := end - time.monotonic()) > 0:
            wait_ns = int(min(left, _LINGER_SLICE_SECONDS) * 1e9)
            if lib.pf_await(handle, self.slot, op, wait_ns, done) not in (0, -errno.EINTR):
                return
