"""Operations and their completions: numbers, flags, and how a `struct pf_done` is read. No I/O."""

from __future__ import annotations

import socket
import struct
import time
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final

from pifus._core import _address, _errors, _lane
from pifus._core._client import lib

if TYPE_CHECKING:
    from pifus._core._lease import Held
    from pifus._core._socket import Socket


class Priority(IntEnum):
    """How urgent the work of a socket is: what is HIGH always goes first."""

    HIGH = lib.PF_PRIORITY_HIGH
    MEDIUM = lib.PF_PRIORITY_MEDIUM
    LOW = lib.PF_PRIORITY_LOW


class Opcode(IntEnum):
    """What an operation does."""

    BIND = lib.PF_OP_BIND
    LISTEN = lib.PF_OP_LISTEN
    ACCEPT = lib.PF_OP_ACCEPT
    CONNECT = lib.PF_OP_CONNECT
    WRITE = lib.PF_OP_WRITE
    RECV = lib.PF_OP_RECV
    SHUTDOWN = lib.PF_OP_SHUTDOWN
    CLOSE = lib.PF_OP_CLOSE
    NOP = lib.PF_OP_NOP
    CANCEL = lib.PF_OP_CANCEL
    SETOPT = lib.PF_OP_SETOPT
    SENDTO = lib.PF_OP_SENDTO
    GROUP = lib.PF_OP_GROUP
    DRAIN = lib.PF_OP_DRAIN


class Protocol(IntEnum):
    """The transport protocol of a socket."""

    TCP = socket.IPPROTO_TCP
    UDP = socket.IPPROTO_UDP


class Option(IntEnum):
    """What `Socket.setopt` can set, with its values."""

    NODELAY = lib.PF_OPT_NODELAY
    KEEPALIVE = lib.PF_OPT_KEEPALIVE
    KEEPIDLE = lib.PF_OPT_KEEPIDLE
    KEEPINTVL = lib.PF_OPT_KEEPINTVL
    KEEPCNT = lib.PF_OPT_KEEPCNT
    REUSEADDR = lib.PF_OPT_REUSEADDR
    V6ONLY = lib.PF_OPT_V6ONLY
    PRIORITY = lib.PF_OPT_PRIORITY
    TOS = lib.PF_OPT_TOS
    TTL = lib.PF_OPT_TTL
    CORK = lib.PF_OPT_CORK
    REUSEPORT = lib.PF_OPT_REUSEPORT
    BROADCAST = lib.PF_OPT_BROADCAST
    MULTICAST_TTL = lib.PF_OPT_MULTICAST_TTL
    MULTICAST_LOOP = lib.PF_OPT_MULTICAST_LOOP
    MULTICAST_IF = lib.PF_OPT_MULTICAST_IF
    RCVBUF = lib.PF_OPT_RCVBUF
    MAXSEG = lib.PF_OPT_MAXSEG
    USER_TIMEOUT = lib.PF_OPT_USER_TIMEOUT
    DEFER_ACCEPT = lib.PF_OPT_DEFER_ACCEPT
    QUICKACK = lib.PF_OPT_QUICKACK
    SYNCNT = lib.PF_OPT_SYNCNT


class SocketState(IntFlag):
    """The state of a socket, as the backend last published it."""

    OPEN = lib.PF_STATE_OPEN
    CONNECTED = lib.PF_STATE_CONNECTED
    LISTENING = lib.PF_STATE_LISTENING
    EOF = lib.PF_STATE_EOF
    ERROR = lib.PF_STATE_ERROR
    WANTS_HINT = lib.PF_STATE_WANTS_HINT
    TX_CLOSED = lib.PF_STATE_TX_CLOSED


# struct pf_done, up to the address.
DONE: Final = struct.Struct("<QiBBHIIQQQQ")
DONE_BYTES: Final = 88
OPCODE_AT: Final = 12
SLOT_AT: Final = 16
GENERATION_AT: Final = 20

_u32 = struct.Struct("<I").unpack_from
_u64 = struct.Struct("<Q").unpack_from
_i32 = struct.Struct("<i").unpack_from
_RESULT_AT = 8
_TOKEN_AT = 24
_ADDR_AT = 56
_HANDED_AT = 64
_REAPED_AT = 80

# One C call waits at most so long, so that signal handlers run even when a signal came just before
# the thread slept.
SLICE_NS: Final = 200_000_000
# What fits in the C core's arithmetic, and is for ever: 100 years.
FOREVER_NS: Final = 3_153_600_000_000_000_000


def timeout_ns(timeout: float, what: str = "timeout") -> int:
    """A time-out in seconds as nanoseconds, rounded up; `what` is its name, for messages.

    Raises:
        TypeError: not a number.
        ValueError: negative, or not a number (NaN).
    """
    try:
        wrong = timeout != timeout or timeout < 0
    except TypeError:
        raise TypeError(
            f"{what} must be a number of seconds, or None, not {type(timeout).__name__}"
        ) from None
    if wrong:
        raise ValueError(f"{what}={timeout}: allowed is a number of seconds, 0 or more, or None")
    if timeout >= 3e9:
        return FOREVER_NS
    nanoseconds = timeout * 1e9
    whole = int(nanoseconds)
    return whole if whole == nanoseconds else whole + 1


def deadline_ns(timeout: float) -> int:
    """When a wait that starts now has to end, in nanoseconds of CLOCK_MONOTONIC."""
    return time.monotonic_ns() + timeout_ns(timeout)


def latest_ns(timeout: float | None, deadline: float | None) -> int:
    """When an operation has to be done, in nanoseconds of CLOCK_MONOTONIC; 0: whenever.

    Raises:
        ValueError: both are given, or one is no number that a time can be.
    """
    if timeout is not None:
        if deadline is not None:
            raise ValueError(f"{timeout=} and {deadline=}: give one of them, not both")
        return deadline_ns(timeout)
    if deadline is None:
        return 0
    if not isinstance(deadline, int | float):
        raise TypeError(
            f"deadline must be a time of time.monotonic(), not {type(deadline).__name__}"
        )
    if not -FOREVER_NS < deadline * 1e9 < FOREVER_NS:
        raise ValueError(f"{deadline=}: allowed is a time of time.monotonic(), in seconds")
    return max(int(deadline * 1e9), 1)


class Completion(_lane.Done):
    """The end of one operation (or, of a multi-shot accept, one of its results). Read only.

    What the C core wrote is kept as it is and read when asked for: most programs look at one or two
    fields only, and a round trip costs less than a microsecond. For the same reason there is no
    `__init__`, and most slots are filled only where they mean something.
    """

    __slots__ = ("_accepted", "_held", "_truncated")

    _accepted: Socket | None
    _held: Held | None
    _truncated: bool

    @property
    def op(self) -> int:
        """The number that the method returned which submitted the operation."""
        return self._op

    @property
    def opcode(self) -> Opcode:
        """What the operation was."""
        return Opcode(self._opcode)

    @property
    def result(self) -> int:
        """Zero or more: bytes written or received, for example; below zero: -errno."""
        return self._result

    @property
    def errno(self) -> int:
        """Why the operation failed; 0: it did not."""
        result = self._result
        return -result if result < 0 else 0

    @property
    def more(self) -> bool:
        """True: further completions of the same operation follow."""
        return bool(self._flags & lib.PF_CQE_MORE)

    @property
    def submitted_ns(self) -> int:
        """When it was submitted: nanoseconds of CLOCK_MONOTONIC, as `time.monotonic_ns()`.

        Of an operation in a `Client.batch` block: the end of the block.
        """
        return self._submitted_ns

    @property
    def picked_ns(self) -> int:
        """When the backend took it up: the start of the step in which it did; same clock."""
        return self._picked_ns

    @property
    def handed_ns(self) -> int:
        """Of a write or sendto: when the TCP/IP stack had all of its bytes; same clock.

        0: of another operation, or of one that ended before.
        """
        opcode = self._opcode
        if opcode == Opcode.SENDTO and self._result >= 0:
            return self._completed_ns
        if opcode != Opcode.WRITE:
            return 0
        number: int = _u64(self._raw, _HANDED_AT)[0]
        return number

    @property
    def late(self) -> bool:
        """True: it ended because of its time-out or deadline."""
        return bool(self._flags & lib.PF_CQE_DEADLINE)

    @property
    def completed_ns(self) -> int:
        """When the backend was done with it: the start of that step; same clock."""
        return self._completed_ns

    @property
    def reaped_ns(self) -> int:
        """When this completion was taken off the queue; same clock.

        0: the client was made without `stamp_reaped`.
        """
        return self._reaped_ns

    @property
    def sock(self) -> Socket:
        """The socket it was submitted to."""
        return self._sock

    @property
    def data(self) -> bytes | None:
        """Of recv: the bytes; b"" at the end of the stream, or of an empty datagram. Else None.

        Of a receive with `lease`: None; see `Socket.lease`.
        """
        return getattr(self, "_data", None)

    @property
    def truncated(self) -> bool:
        """True: of a received datagram, which was longer than the limit of its receive."""
        return getattr(self, "_truncated", False)

    @property
    def accepted(self) -> Socket | None:
        """Of accept: the socket of the new connection. Else None."""
        return getattr(self, "_accepted", None)

    @property
    def peer(self) -> _address.Address | None:
        """Of accept: the address of the peer; of a received datagram: its sender. Else None."""
        return _address.from_bytes(self._raw[_ADDR_AT:_REAPED_AT], self._sock.family)

    def check(self) -> Completion:
        """Returns itself if the operation succeeded.

        Raises:
            DeadlineMissed: it ended because of its time-out or deadline.
            OSError: it failed; the subclass and the errno are those of the kernel's sockets.
        """
        result = self._result
        if result < 0:
            name = self._name()
            if self.late:
                raise _errors.deadline_missed(name, self._op)
            raise _errors.failed(name, self._op, -result)
        return self

    def _name(self) -> str:
        opcode = self._opcode
        return Opcode(opcode).name if opcode in Opcode._value2member_map_ else str(opcode)

    # It never changes, and the socket it is of cannot be another one: so a program may copy what it
    # keeps completions in.
    def __copy__(self) -> Completion:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Completion:
        return self

    def __repr__(self) -> str:
        return f"<Completion op={self.op} {self._name()} result={self.result} of {self._sock!r}>"


_lane.set_completion(Completion)
_lane.set_slice(SLICE_NS)


def with_result(raw: bytes, result: int) -> bytes:
    """The `struct pf_done` in `raw` with another result."""
    return raw[:_RESULT_AT] + struct.pack("<i", result) + raw[_RESULT_AT + 4 :]


def with_peer(raw: bytes, peer: bytes) -> bytes:
    """The `struct pf_done` in `raw` with another `struct pf_addr`."""
    return raw[:_ADDR_AT] + peer + raw[_REAPED_AT:]


def result_of(raw: bytes) -> int:
    """The result in the `struct pf_done` in `raw`."""
    number: int = _i32(raw, _RESULT_AT)[0]
    return number


def token_of(raw: bytes) -> int:
    """The token in the `struct pf_done` in `raw`."""
    number: int = _u64(raw, _TOKEN_AT)[0]
    return number


def has_address(raw: bytes) -> bool:
    """True when the `struct pf_done` in `raw` names a peer or a sender."""
    return raw[_ADDR_AT : _ADDR_AT + 2] != b"\0\0"


def op_of(raw: bytes) -> int:
    """The number of the operation in the `struct pf_done` in `raw`."""
    number: int = _u64(raw)[0]
    return number


def slot_of(raw: bytes) -> tuple[int, int]:
    """Slot and generation in the `struct pf_done` in `raw`."""
    slot: int = _u32(raw, SLOT_AT)[0]
    generation: int = _u32(raw, GENERATION_AT)[0]
    return slot, generation
