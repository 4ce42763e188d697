"""Types of the extension module made from native/python/lane.c."""

from contextlib import AbstractContextManager
from threading import Lock

from pifus._core._client import CData
from pifus._core._ops import Completion
from pifus._core._socket import Socket

class Done:
    """A completion as the C core wrote it; `_raw`: all of it.

    `_rest`: something is left to do for it in Python (`Socket._finish`).
    """

    _raw: bytes
    _sock: Socket
    _data: bytes | None
    @property
    def _rest(self) -> bool: ...
    @property
    def _op(self) -> int: ...
    @property
    def _result(self) -> int: ...
    @property
    def _opcode(self) -> int: ...
    @property
    def _flags(self) -> int: ...
    @property
    def _token(self) -> int: ...
    @property
    def _submitted_ns(self) -> int: ...
    @property
    def _picked_ns(self) -> int: ...
    @property
    def _completed_ns(self) -> int: ...
    @property
    def _reaped_ns(self) -> int: ...

class Batch:
    """The batches of a client, one thread at a time; after `_shut` each fails.

    `_fail` is called with -errno, and raises.
    """

    def _open(self, handle: CData, address: int, lock: Lock, /) -> None: ...
    def _shut(self) -> None: ...
    def block(self) -> AbstractContextManager[None]:
        """See `Client.batch`."""

class Lane:
    """The calls of a socket that cost no more than what they do; each answers -EBADF after `_shut`.

    Instead of a completion: what the C core answered, 0 or -errno.
    """

    _leases: bool
    def _open(
        self, handle: CData, address: int, slot: int, takes: bool, stream: bool, /
    ) -> None: ...
    def _shut(self) -> None: ...
    def _nop(self) -> int: ...
    def _recv(self, limit: int, /) -> int:
        """Submits a plain receive; 0: it has to be done the long way."""

    def _write(self, data: object, /) -> int:
        """Submits a write of a few bytes; 0: it has to be done the long way."""

    def _poll(self) -> Completion | int: ...
    def _wait(self, timeout: float | None, /) -> Completion | int | None:
        """Waits for a completion, for a slice at most. 0: there was none in time. More than 0: go
        on with `_take`, until then. None: see what is wrong with the time-out."""

    def _take(self, end_ns: int, /) -> Completion | int:
        """Goes on with a wait until a time of CLOCK_MONOTONIC; answers as `_wait`."""

    def _read(self, count: int, /) -> bytes | None:
        """Takes received bytes; None: too many, or not here: do it the long way."""

def set_completion(kind: type[Completion], /) -> None:
    """Says what a completion is made as."""

def set_slice(nanoseconds: int, /) -> None:
    """Says how long a wait stays in the C core before it comes back to run signal handlers."""

def file_of(fd: int, /) -> tuple[int, int]:
    """The device and the inode of a descriptor's file."""
