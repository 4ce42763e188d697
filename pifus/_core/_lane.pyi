"""Types of the extension module made from native/python/lane.c."""

from pifus._core._client import CData
from pifus._core._ops import Completion
from pifus._core._socket import Socket

class Done:
    """A completion as the C core wrote it; `_raw`: all of it."""

    _raw: bytes
    _sock: Socket
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

class Lane:
    """The calls of a socket that cost no more than what they do; each answers -EBADF after `_shut`.

    Instead of a completion: what the C core answered, 0 or -errno.
    """

    def _open(self, handle: CData, address: int, slot: int, takes: bool, /) -> None: ...
    def _shut(self) -> None: ...
    def _nop(self) -> int: ...
    def _poll(self) -> Completion | int: ...
    def _take(self, timeout_ns: int, /) -> Completion | int: ...
    def _read(self, count: int, /) -> bytes | None:
        """Takes received bytes; None: too many, or not here: do it the long way."""

def set_completion(kind: type[Completion], /) -> None:
    """Says what a completion is made as."""

def file_of(fd: int, /) -> tuple[int, int]:
    """The device and the inode of a descriptor's file."""
