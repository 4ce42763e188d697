"""Every socket option that Python names on Linux: what the stack does with it.

Pure data and pure functions: `_options` acts on it, `docs/SOCKET_OPTIONS.md` is made of it
(`python -m pifus._compat._option_docs`), and the contract tests compare every row with the kernel.
"""

from __future__ import annotations

import errno
import socket as _names
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INT_MIN: Final = -(2**31)
INT_MAX: Final = 2**31 - 1
LEVELS: Final = {
    "SO": int(_names.SOL_SOCKET),
    "TCP": int(_names.IPPROTO_TCP),
    "IP": int(_names.IPPROTO_IP),
    "IPV6": int(_names.IPPROTO_IPV6),
    "UDPLITE": 136,
}
LEVEL_NAMES: Final = {
    "SO": "SOL_SOCKET",
    "TCP": "IPPROTO_TCP",
    "IP": "IPPROTO_IP",
    "IPV6": "IPPROTO_IPV6",
    "UDPLITE": "IPPROTO_UDPLITE",
}

BACKEND: Final = "backend"
CLIENT: Final = "client"
STATE: Final = "state"
NO_OP: Final = "no-op"
REFUSED: Final = "refused"

# A value as set, to the value as kept; raises OSError.
Keep = Callable[[int], int]


def _fail(code: int = errno.EINVAL) -> OSError:
    import os

    return OSError(code, os.strerror(code))


def anything(value: int) -> int:
    """Kept as it is."""
    return value


def switch(value: int) -> int:
    """Whatever is not 0 is 1."""
    return int(value != 0)


def strict_switch(value: int) -> int:
    """0 or 1."""
    if value not in (0, 1):
        raise _fail()
    return value


def within(low: int, high: int) -> Keep:
    """Between these, or EINVAL."""

    def keep(value: int) -> int:
        if not low <= value <= high:
            raise _fail()
        return value

    return keep


def never(value: int) -> int:
    """Not a number."""
    del value
    raise _fail()


def _sysctl(name: str, fallback: int) -> int:
    try:
        words = Path("/proc/sys/net", name).read_text(encoding="ascii").split()
        return int(words[-1])
    except (OSError, ValueError, IndexError):
        return fallback


def _buffer(low: int, limit: str) -> Keep:
    """The kernel keeps twice what it is asked for, between a minimum and twice the sysctl."""

    def keep(value: int) -> int:
        most = _sysctl(limit, 212992)
        return max(2 * min(value & 0xFFFFFFFF, most), low)

    return keep


def _low_water(value: int) -> int:
    most = _sysctl("ipv4/tcp_rmem", 6291456) // 2
    return min(INT_MAX if value < 0 else value or 1, most)


def _class(low: int, high: int) -> Keep:
    """TOS and traffic class: of a stream the two bits of ECN are not the program's."""

    def keep(value: int) -> int:
        if not low <= value <= high:
            raise _fail()
        return 0 if low == -1 and value == -1 else value & 0xFC

    return keep


def _ttl(low: int) -> Keep:
    def keep(value: int) -> int:
        if value != -1 and not low <= value <= 255:
            raise _fail()
        return 64 if value == -1 else value

    return keep


def _linger2(value: int) -> int:
    return -1 if value < 0 else min(value, 120) or 60


def _maxseg(value: int) -> int:
    if value and not 88 <= value <= 32767:
        raise _fail()
    return value


def _clamp(value: int) -> int:
    return max(value, 1152) if value else 0


def _fastopen(value: int) -> int:
    if value < 0:
        raise _fail()
    return min(value, _sysctl("core/somaxconn", 4096))


def _defer(value: int) -> int:
    """The kernel keeps a number of retransmissions of the SYN-ACK: 1, 2, 4 … 120 s apart."""
    period, step = 0, 1
    while period < value and period < 29_887:
        period += step
        step = min(2 * step, 120)
    return period


def _thin_dupack(value: int) -> int:
    return 0 * strict_switch(value)


@dataclass(frozen=True, slots=True)
class Row:
    """One option.

    Attributes:
        name: as in the `socket` module (or the kernel's headers).
        number: the kernel's.
        how: BACKEND, CLIENT, STATE, NO_OP or REFUSED.
        note: what it does; for a no-op or a refusal, why.
        default: what getsockopt says of a fresh socket; bytes: of that length.
        keep: makes of a value that is set the one that is kept.
        native: the name of the backend's option (`PF_OPT_…`) that gets it.
        size: setsockopt needs so many bytes; 0: fewer are a smaller number.
        set_errno, get_errno: how it is refused; 0: it is not.
        null_errno: what setsockopt says of no value with a length, where it is not as usual.
        datagrams: it means something for datagram sockets, which have rows of their own.
        differs: where the kernel's answer to a call differs; "" where both are the same.
    """

    name: str
    number: int
    how: str
    note: str
    default: int | bytes = 0
    keep: Keep = switch
    native: str = ""
    size: int = 4
    set_errno: int = 0
    get_errno: int = 0
    null_errno: int = 0
    datagrams: bool = False
    differs: str = ""

    @property
    def level(self) -> int:
        """The kernel's number of its level."""
        return LEVELS[self.name.partition("_")[0]]

    @property
    def key(self) -> tuple[int, int]:
        """Level and number."""
        return (self.level, self.number)


def _rows() -> tuple[Row, ...]:
    from pifus._compat import _option_rows, _option_rows_ip

    return (
        _option_rows._SOCKET
        + _option_rows._TCP
        + _option_rows_ip._IP
        + _option_rows_ip._IPV6
        + _option_rows_ip._UDPLITE
    )


class _Table(dict[tuple[int, int], Row]):
    """By level and number; filled when it is first asked."""

    def __missing__(self, key: tuple[int, int]) -> Row:
        if not self:
            # The kernel gives two options of IP one number; the first one in the table counts.
            for row in reversed(_rows()):
                self[row.key] = row
            return self[key]
        raise KeyError(key)


TABLE: Final = _Table()


def find(key: tuple[int, int]) -> Row | None:
    """The row of an option, or None."""
    try:
        return TABLE[key]
    except KeyError:
        return None


def rows() -> tuple[Row, ...]:
    """All of them, in the order of the documentation."""
    return _rows()
