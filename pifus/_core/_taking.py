"""How a client submits together, and takes the completions of any of its sockets."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from pifus._core import _errors, _ops
from pifus._core._batch import Batch, Shelf, new_shelf, take_many
from pifus._core._client import lib
from pifus._core._ops import SLICE_NS, Completion
from pifus._core._slot import new_slate

if TYPE_CHECKING:
    from pifus._core._client import CData
    from pifus._core._session import Session
    from pifus._core._slot import Slate
    from pifus._core._socket import Socket

Callback = Callable[[Completion], object]


class Taking:
    """Batches and completions: see `Client`."""

    on_completion: Callback | None
    _session: Session
    _handle: CData | None

    def __init__(self) -> None:
        """For the client only."""
        self._sockets: dict[int, Socket] = {}
        self._slates: list[Slate] = []
        self._shelves: list[Shelf] = []
        self._batch = Batch(self)

    def batch(self) -> AbstractContextManager[None]:
        """Submits what this thread submits in the `with` block at its end, all together.

        One look at each socket for the backend and one bell serve all; several sockets may have a
        part in it. Every method returns its operation's number at once, and each socket keeps the
        order. All or nothing: if the block raises (QueueFull, for example, of an operation for
        which there is no room), none of it is submitted, and those numbers never complete.

        A wait in the block is for what was submitted before it; when only what the block keeps back
        is left it raises RuntimeError at once. `Socket.release` in the block, and a close by
        another thread, submit at once what the block has for that socket. A batch is at most 1,024
        operations (else QueueFull), and one thread at a time is in such a block: others wait at its
        beginning. Do not `await` in it. In a forked child the end of the block raises, and the
        parent's batch is its own.

        Raises:
            RuntimeError: this thread is in such a block already.
            BackendGone, ClientClosed: the backend or this client has ended; also at the end.
        """
        self._require()
        return self._batch.block()

    # ---- completions of any socket ----

    def poll_any(self) -> Completion | None:
        """The next completion of any socket, the most urgent first, if there is one now.

        Raises: see `wait_any`.
        """
        handle = self._require()
        self._refuse_in_callback_mode()
        slate = self._slate()
        while (got := lib.pf_poll_any(handle, slate[0])) == 1:
            done = self._take(handle, slate)
            if done is not None:
                return done
            slate = self._slate()
        self._slates.append(slate)
        if got < 0:
            raise self._error(got)
        return None

    def wait_any(self, timeout: float | None = None) -> Completion:
        """Waits for the next completion of any socket, the most urgent first.

        Args:
            timeout: in seconds; None: as long as it takes.

        Raises:
            TimeoutError: there was none in time.
            BackendGone, ClientClosed: the backend or this client has ended.
            RuntimeError: the client has a callback, which gets them.
        """
        handle = self._require()
        self._refuse_in_callback_mode()
        deadline = None if timeout is None else _ops.deadline_ns(timeout)
        return self._wait_any(handle, deadline)

    def poll_many(self, limit: int = 64) -> list[Completion]:
        """The completions of all sockets that are there now, the most urgent first, in one call.

        Args:
            limit: so many at most.

        Raises:
            ValueError: the limit is not positive.
            BackendGone, ClientClosed, RuntimeError: see `wait_any`.
        """
        handle = self._require()
        self._refuse_in_callback_mode()
        found, result = self._take_all(handle, limit)
        if not found and result < 0:
            raise self._error(result)
        return found

    def wait_many(self, limit: int = 64, timeout: float | None = None) -> list[Completion]:
        """Waits for the next completion of any socket, and takes with it all that are there.

        Args:
            limit: so many at most.
            timeout: in seconds; None: as long as it takes.

        Raises: see `wait_any` and `poll_many`.
        """
        found = self.poll_many(limit)
        if not found:
            found = [self.wait_any(timeout)]
            # Closed meanwhile by another thread: what was taken is still the caller's.
            if limit > 1 and (handle := self._handle) is not None:
                found += self._take_all(handle, limit - 1)[0]
        return found

    def _take_all(self, handle: CData, limit: int) -> tuple[list[Completion], int]:
        raws, result = self._take_many(handle, lib.PF_ANY_SOCKET, limit)
        found = [done for raw in raws if (done := self._of_live(handle, raw)) is not None]
        return found, result

    def _take_many(self, handle: CData, slot: int, limit: int) -> tuple[list[bytes], int]:
        try:
            shelf = self._shelves.pop()
        except IndexError:
            shelf = new_shelf()
        taken = take_many(handle, slot, shelf, limit)
        self._shelves.append(shelf)
        return taken

    def _wait_any(self, handle: CData, deadline: int | None) -> Completion:
        slate = self._slate()
        while True:
            left = SLICE_NS if deadline is None else deadline - time.monotonic_ns()
            got = lib.pf_wait_any(handle, min(max(left, 0), SLICE_NS), slate[0])
            if got == 1:
                done = self._take(handle, slate)
                if done is not None:
                    return done
                slate = self._slate()
                continue
            if got == 0 and left <= 0:
                self._slates.append(slate)
                raise _errors.nothing_came()
            if got not in (0, -errno.EINTR):
                self._slates.append(slate)
                raise self._error(got)

    def _slate(self) -> Slate:
        try:
            return self._slates.pop()
        except IndexError:
            return new_slate()

    def _take(self, handle: CData, slate: Slate) -> Completion | None:
        """The completion in the slate: see `_of_live`."""
        raw = slate[1]()
        self._slates.append(slate)
        return self._of_live(handle, raw)

    def _of_live(self, handle: CData, raw: bytes) -> Completion | None:
        """The completion; None if its socket was released by another thread."""
        slot, generation = _ops.slot_of(raw)
        sock = self._sockets.get(slot)
        if sock is None or sock._generation != generation:
            return None
        return sock._completion(handle, raw)

    # ---- inside ----

    def _require(self) -> CData:
        handle = self._handle
        if handle is None:
            raise self._failure()
        return handle

    def _refuse_in_callback_mode(self) -> None:
        if self.on_completion is not None:
            raise _errors.has_callback()

    def _failure(self) -> Exception:
        return self._session.failure()

    def _error(self, result: int) -> Exception:
        if result == -errno.EDEADLK:
            return _errors.batch_waits()
        return self._failure() if result == -errno.EPIPE else _errors.os_error(-result)
