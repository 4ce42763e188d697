"""Registered blocks: memory for what a program sends every period, written in place."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from pifus._core import _errors
from pifus._core._client import lib
from pifus._core._lease import view_of

if TYPE_CHECKING:
    from pifus._core._client import CData


class Block:
    """A block of a client's send arena, made by `Client.register`, sent by `Socket.write_block`.

    It goes back to the arena with `release`, as a context manager, or when nobody refers to it.

    Attributes:
        size: in bytes.
        view: a memoryview of it, to be written in place. While a write of the block is under way
            its bytes must not be changed: the stack sends them from here, again if they get lost.
    """

    __slots__ = ("__weakref__", "_handle", "_offset", "size", "view")

    def __init__(self, handle: CData, size: int) -> None:
        """For the client only."""
        self._handle: CData | None = None
        offset = lib.pf_block_register(handle, size)
        if offset < 0:
            raise _errors.arena_full(size, lib.pf_client_arena_free(handle))
        self._handle = handle
        self._offset = offset
        self.size = size
        self.view = view_of(handle, lib.pf_block_data(handle, offset), size)

    def __repr__(self) -> str:
        return f"<pifus.Block of {self.size} bytes{'' if self._handle else ', released'}>"

    def __len__(self) -> int:
        return self.size

    def __enter__(self) -> Block:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __del__(self) -> None:
        handle = self._handle
        if handle is not None:
            lib.pf_block_release(handle, self._offset)

    @property
    def busy(self) -> bool:
        """True while a write of it is under way, until its completion has been taken."""
        handle = self._handle
        return handle is not None and bool(lib.pf_block_busy(handle, self._offset))

    def release(self) -> None:
        """Gives it back to the arena, at the end of the write that is under way. Twice is no error.

        Raises:
            BufferError: something else still uses `view`, an array made from it for example.
        """
        handle = self._handle
        if handle is not None:
            self.view.release()
            self._handle = None
            lib.pf_block_release(handle, self._offset)

    def _offset_for(self, handle: CData) -> int:
        if self._handle is not handle:
            raise ValueError(
                f"{self!r} was released, or belongs to another client: register one with the "
                "client of this socket"
            )
        return self._offset

    def _end(self) -> None:
        """The session has ended; the memory stays mapped while `view` lives."""
        self._handle = None
