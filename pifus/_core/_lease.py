"""Received bytes that are looked at where they lie: what of the ring is still in use."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._core._client import CData
    from pifus._core._lane import Lane


def view_of(handle: CData, data: CData, size: int) -> memoryview:
    """A view of memory that `handle` has mapped, and keeps mapped while the view lives."""

    def keep(_: CData) -> CData:
        return handle

    return memoryview(ffi.buffer(ffi.gc(data, keep), size))


class Held:
    """What one receive was given of the ring."""

    __slots__ = ("count", "done", "used")

    def __init__(self, count: int, done: bool) -> None:
        self.count = count
        self.done = done
        self.used = False


class ReceiveBook:
    """Gives the bytes in the receive ring of one socket to its receives, in order.

    A receive's bytes are consumed when it and all before it are done with theirs.
    """

    __slots__ = ("_held", "_leases", "lock")

    def __init__(self) -> None:
        # Two threads must not copy the same bytes before one has consumed them.
        self.lock = threading.Lock()
        self._held: deque[Held] = deque()
        self._leases: set[int] = set()

    def expect(self, op: int) -> None:
        """The receive `op` is one with a lease. The caller holds the lock."""
        self._leases.add(op)

    def forget(self, op: int) -> None:
        """The receive `op` got no bytes."""
        with self.lock:
            self._leases.discard(op)

    def take(self, lane: Lane, handle: CData, slot: int, op: int, count: int) -> bytes | Held:
        """The bytes of a receive that completed with `count` bytes, or their place."""
        with self.lock:
            if not self._held and not self._leases:
                small = lane._read(count)
                if small is not None:
                    return small
            if op in self._leases:
                self._leases.remove(op)
                held = Held(count, False)
                self._held.append(held)
                return held
            skip = sum(held.count for held in self._held)
            data = b"".join(
                ffi.buffer(start, length)[:] for start, length in _spans(handle, slot, skip, count)
            )
            if self._held:
                self._held.append(Held(len(data), True))
            else:
                lib.pf_rx_consume(handle, slot, len(data))
            return data

    def view(self, handle: CData, slot: int, held: Held) -> memoryview:
        """The bytes of a place; a copy when they lie across the end of the ring."""
        with self.lock:
            skip = 0
            for other in self._held:
                if other is held:
                    break
                skip += other.count
            pieces = [view_of(handle, *span) for span in _spans(handle, slot, skip, held.count)]
        if len(pieces) == 1:
            return pieces[0].toreadonly()
        return memoryview(b"".join(pieces))

    def give_back(self, handle: CData, slot: int, held: Held) -> None:
        """Consumes the bytes of a place, as soon as those before it are."""
        with self.lock:
            held.done = True
            while self._held and self._held[0].done:
                lib.pf_rx_consume(handle, slot, self._held.popleft().count)


def _spans(handle: CData, slot: int, skip: int, count: int) -> list[tuple[CData, int]]:
    """Where `count` bytes lie that come after `skip` others: starts and lengths."""
    spans = ffi.new("struct pf_span[2]")
    found = []
    for i in range(max(lib.pf_rx_spans(handle, slot, skip + count, spans), 0)):
        length = spans[i].length
        if length > skip:
            found.append((spans[i].data + skip, length - skip))
        skip = max(skip - length, 0)
    return found


class Lease:
    """The bytes of a receive while they lie in the ring: made by `Socket.lease`.

    A context manager; what it gives is a read-only memoryview, which is released at the end.
    """

    __slots__ = ("_book", "_handle", "_held", "_slot", "_view")

    def __init__(self, book: ReceiveBook, handle: CData, slot: int, held: Held) -> None:
        """For `Socket.lease` only."""
        self._book = book
        self._handle = handle
        self._slot = slot
        self._held = held
        self._view: memoryview | None = None

    def __enter__(self) -> memoryview:
        if self._held.used:
            raise ValueError(
                "the bytes of a receive can be leased once: keep a copy, bytes(view), for later"
            )
        self._held.used = True
        self._view = self._book.view(self._handle, self._slot, self._held)
        return self._view

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._view is not None:
            self._view.release()
            self._view = None
            self._book.give_back(self._handle, self._slot, self._held)
