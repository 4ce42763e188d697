"""Batches: operations that are submitted together; and completions that are taken together."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pifus._core import _errors, _ops
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._core._client import CBuffer, CData
    from pifus._core._taking import Taking

# So many completions are taken at once: the C core holds its lock so long.
_SHELF: Final = 64
# Where the C core writes them.
Shelf = tuple["CData", "CBuffer"]


class Batch:
    """The batch of a client, made by `Client.batch`: one thread at a time is in its block."""

    __slots__ = ("_client", "_lock", "_owner")

    def __init__(self, client: Taking) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._owner = 0

    # A generator inside of the lock's own `with`: an exception of a signal handler, wherever it
    # comes, ends the batch and lets go of the lock.
    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        """See `Client.batch`."""
        if self._owner == threading.get_ident():
            raise RuntimeError("this thread is in a batch() block already: leave that one first")
        with self._lock:
            handle = self._client._require()
            try:
                result = lib.pf_batch_begin(handle)
                if result < 0:
                    raise _errors.os_error(-result)
                self._owner = threading.get_ident()
                yield
                if self._client._handle is None or lib.pf_batch_end(handle, 1) < 0:
                    raise self._client._failure()
            finally:
                self._owner = 0
                if self._client._handle is not None:
                    lib.pf_batch_end(handle, 0)  # nothing is left, but after an exception


def new_shelf() -> Shelf:
    """Room for many completions. Never shared: each call takes one and puts it back."""
    done = ffi.new("struct pf_done[]", _SHELF)
    return done, ffi.buffer(done)


def take_many(handle: CData, slot: int, shelf: Shelf, limit: int) -> tuple[list[bytes], int]:
    """Completions of the socket, or of PF_ANY_SOCKET, and the errno of the last attempt, negative.

    Raises:
        ValueError: the limit is not positive.
    """
    if limit < 1:
        raise ValueError(f"limit={limit}: allowed is 1 or more")
    done, buffer = shelf
    size = _ops.DONE_BYTES
    found: list[bytes] = []
    while len(found) < limit:
        wanted = min(limit - len(found), _SHELF)
        got = lib.pf_poll_many(handle, slot, done, wanted)
        if got <= 0:
            return found, got
        raw = buffer[: got * size]
        found += [raw[at : at + size] for at in range(0, len(raw), size)]
        if got < wanted:
            break
    return found, 0
