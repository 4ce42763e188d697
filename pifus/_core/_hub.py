"""A client in an event loop: one descriptor to wait for, each completion to its owner."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pifus._core import _ops
from pifus._core._client import ffi, lib
from pifus._core._slot import new_slate

if TYPE_CHECKING:
    from pifus._core._client import CData
    from pifus._core._socket import Socket
    from pifus.completion import Client

# So many completions are handed out before other work of the event loop has its turn.
_BATCH: Final = 256
_BELL_BYTES: Final = 64
# Longer than any profile has it.
_SPIN_SECONDS: Final = 0.001
# What is received in one call; more is taken in pieces.
SCRATCH_BYTES: Final = 4096

_poll_any = lib.pf_poll_any
_spin = lib.pf_bell_spin
_watch = lib.pf_watch

# Gets the `struct pf_done` of its operation, or None: the session has ended.
Deliver = Callable[[bytes | None], None]


class _Entry:
    """What is known of the operations of one socket.

    Attributes:
        generation: of its slot.
        expected: who gets the completion of an operation.
        unclaimed: completions that came before anybody asked for them.
        reader: who is told, once, that there is something to receive.
    """

    __slots__ = ("expected", "generation", "reader", "unclaimed")

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.expected: dict[int, Deliver] = {}
        self.unclaimed: dict[int, deque[bytes]] = {}
        self.reader: Callable[[], None] | None = None


class Hub:
    """Takes all completions of a client, in one thread, for an event loop.

    The loop waits until `fileno` is readable, calls `drain` and then `dispatch`; it calls
    `dispatch` again, without waiting, as long as that returns True.

    Args:
        client: in poll mode; nobody else may take its completions while this hub is there.

    Attributes:
        scratch: SCRATCH_BYTES of memory for whoever receives, for as long as one call lasts.

    Raises:
        RuntimeError: the client has a callback, which gets them.
        BackendGone, ClientClosed, OSError: see `Session.take_bell`.
    """

    def __init__(self, client: Client) -> None:
        client._refuse_in_callback_mode()
        self._handle: CData | None = client._require()
        self.client = client
        self._bell = client._session.take_bell()
        client._session.add_owner(self)
        self.scratch = ffi.new("char[]", SCRATCH_BYTES)
        self._slate = new_slate()
        self._entries: dict[int, _Entry] = {}

    def _session_ended(self) -> None:
        self._handle = None

    def fileno(self) -> int:
        """The bell; -1 after close."""
        return self._bell

    @property
    def ended(self) -> bool:
        """True: nothing comes any more, because the client was closed or the backend is gone."""
        return self._bell < 0 or self._handle is None or bool(lib.pf_client_ended(self._handle))

    @property
    def left(self) -> bool:
        """True: it was closed, as its event loop ended, and the client lives on."""
        handle = self._handle
        return self._bell < 0 and handle is not None and not lib.pf_client_ended(handle)

    def expect(self, sock: Socket, op: int, deliver: Deliver) -> bool:
        """Has the next completion of an operation delivered. False: that has happened already."""
        entry = self._entry(sock._slot, sock._generation)
        kept = entry.unclaimed.get(op)
        if kept:
            raw = kept.popleft()
            if not kept:
                del entry.unclaimed[op]
            deliver(raw)
            return False
        if self.ended:
            deliver(None)
            return False
        entry.expected[op] = deliver
        return True

    def is_expected(self, sock: Socket, op: int) -> bool:
        """True: somebody waits for the next completion of the operation."""
        entry = self._entries.get(sock._slot)
        return entry is not None and entry.generation == sock._generation and op in entry.expected

    def watch(self, sock: Socket, reader: Callable[[], None]) -> bool:
        """Has `reader` called, once, when there may be something to receive. False: look now."""
        handle = self._handle
        if handle is None or _watch(handle, sock._slot) != 0:
            return False
        self._entry(sock._slot, sock._generation).reader = reader
        return True

    def forget(self, sock: Socket, op: int) -> None:
        """Nobody waits for it any more; its completion is kept until it is expected again."""
        self._entry(sock._slot, sock._generation).expected.pop(op, None)

    def give_back(self, sock: Socket, raw: bytes) -> None:
        """Keeps a completion that was delivered and not used."""
        entry = self._entry(sock._slot, sock._generation)
        entry.unclaimed.setdefault(_ops.op_of(raw), deque()).appendleft(raw)

    def drop(self, sock: Socket) -> None:
        """The socket was released: none of its completions comes any more."""
        entry = self._entries.get(sock._slot)
        if entry is not None and entry.generation == sock._generation:
            del self._entries[sock._slot]

    def _entry(self, slot: int, generation: int) -> _Entry:
        entry = self._entries.get(slot)
        if entry is None or entry.generation != generation:
            entry = self._entries[slot] = _Entry(generation)
        return entry

    def drain(self) -> None:
        """Takes the rings out of the bell; notices the end of the session."""
        try:
            rung = os.read(self._bell, _BELL_BYTES)
        except BlockingIOError:
            return
        except OSError:
            rung = b""
        if not rung and self._handle is not None:
            # The stack thread is gone, or says that it is done with us.
            lib.pf_client_abandon(self._handle)

    def dispatch(self) -> bool:
        """Hands out completions, a batch at most, the most urgent first.

        Returns:
            False: there are no more now, and the bell rings when there are (unless `ended`).
        """
        got = self.poll()
        handle = self._handle
        if got == 0 and handle is not None:
            got = lib.pf_bell_arm(handle)
        if got < 0:
            self._fail()
        return got == 1

    def spin(self, timeout: float = _SPIN_SECONDS) -> bool:
        """Before waiting for `fileno`, for so many seconds at most: not to sleep for a moment.

        Spins where the backend's profile allows it and it has paid of late, in C. True: there is
        something to dispatch.
        """
        handle = self._handle
        return handle is not None and _spin(handle, int(min(timeout, _SPIN_SECONDS) * 1e9)) != 0

    def poll(self) -> int:
        """The same, and leaves the bell alone: 1, there are more; 0, there are none; or -errno."""
        handle = self._handle
        if handle is None or self._bell < 0:
            return -errno.EPIPE
        done, copy = self._slate
        for _ in range(_BATCH):
            got: int = _poll_any(handle, done)
            if got != 1:
                return got
            if done.op_id:
                self._hand_out(copy())
            else:
                self._tell_reader(done.slot, done.generation)
        return 1

    def _tell_reader(self, slot: int, generation: int) -> None:
        entry = self._entries.get(slot)
        if entry is not None and entry.generation == generation and entry.reader is not None:
            reader, entry.reader = entry.reader, None
            reader()

    def _hand_out(self, raw: bytes) -> None:
        slot, generation = _ops.slot_of(raw)
        entry = self._entries.get(slot)
        if entry is None or entry.generation != generation:
            sock = self.client._sockets.get(slot)
            if sock is None or sock._generation != generation:
                return  # released meanwhile
            entry = self._entry(slot, generation)
        op = _ops.op_of(raw)
        deliver = entry.expected.pop(op, None)
        if deliver is not None:
            deliver(raw)
        else:
            entry.unclaimed.setdefault(op, deque()).append(raw)

    def _fail(self) -> None:
        entries, self._entries = self._entries, {}
        for entry in entries.values():
            for deliver in entry.expected.values():
                deliver(None)
            if entry.reader is not None:
                entry.reader()

    def close(self) -> None:
        """Lets go of the client's completions; who waits for one is told that there is none."""
        if self._bell >= 0:
            os.close(self._bell)
            self._bell = -1
            self._fail()
