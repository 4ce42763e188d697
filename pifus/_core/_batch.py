"""Batches: operations that are submitted together; and completions that are taken together."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, NoReturn

from pifus._core import _lane, _ops
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._core._client import CBuffer, CData
    from pifus._core._taking import Taking

# So many completions are taken at once: the C core holds its lock so long.
_SHELF: Final = 64
# Where the C core writes them.
Shelf = tuple["CData", "CBuffer"]


class Batch(_lane.Batch):
    """The batch of a client: one thread at a time is in its block."""

    __slots__ = ("_client",)

    def __init__(self, client: Taking) -> None:
        self._client = client

    def start(self, handle: CData) -> None:
        """From now on there can be batches."""
        self._open(handle, int(ffi.cast("uintptr_t", handle)), threading.Lock())

    def _fail(self, result: int) -> NoReturn:
        raise self._client._error(result)


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
