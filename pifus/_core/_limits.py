"""What the arguments of the completion API may be: each error tells the value and what is allowed.

The backend checks all of it again, of what reaches it: a client's own checks are for its messages.
"""

from __future__ import annotations

import errno
from typing import Final

from pifus._core._client import lib
from pifus._core._ops import Option, Priority, Protocol

_SHUTDOWN_FLAGS: Final = (
    lib.PF_SHUT_READ,
    lib.PF_SHUT_WRITE,
    lib.PF_SHUT_READ | lib.PF_SHUT_WRITE,
)


def whole(what: str, value: int, low: int, high: int, note: str = "") -> int:
    """`value`, a whole number of the range.

    Raises:
        TypeError: it is no int.
        ValueError: it is out of the range.
    """
    if not isinstance(value, int):
        raise TypeError(f"{what} must be int, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{what}={value}: allowed is {low} to {high}{note}")
    return value


def shutdown_flags(how: int) -> int:
    """enum pf_shut_flags of `how`.

    Raises:
        OSError: EINVAL, it is none of the three.
    """
    if how not in (0, 1, 2):
        raise OSError(
            errno.EINVAL,
            f"{how=}: allowed is socket.SHUT_RD (0), SHUT_WR (1) or SHUT_RDWR (2)",
        )
    return _SHUTDOWN_FLAGS[how]


def leasable(protocol: Protocol, multishot: bool) -> None:
    """Raises ValueError if the bytes of such a receive cannot be leased."""
    if protocol == Protocol.UDP:
        raise ValueError("lease=True of a UDP socket: allowed of TCP sockets; take `data`")
    if multishot:
        raise ValueError("lease=True with multishot=True: give one of them, not both")


def ring_bytes(value: int, most: int) -> int:
    """`value`, the size of a receive ring; 0: as great as the client allows.

    Raises:
        ValueError: it is no power of two of the range.
    """
    if value and not (lib.PF_MIN_RX_BYTES <= value <= most and value & (value - 1) == 0):
        raise ValueError(
            f"rx_bytes={value}: allowed is a power of two, {lib.PF_MIN_RX_BYTES} to {most} (the "
            "client's rx_bytes), or 0 for that"
        )
    return value


def depth(value: int, most: int) -> int:
    """`value`, how many operations of a socket may be under way.

    Raises:
        ValueError: it is out of its range.
    """
    return whole("queue_depth", value, 1, most, ", the client's queue_depth")


def share(value: int, most: int) -> int:
    """`value`, the most bytes of the send arena that a socket's writes hold.

    Raises:
        ValueError: it is out of its range.
    """
    return whole("tx_bytes", value, 1, most, ", the client's arena_bytes")


def priority(value: Priority) -> Priority:
    """`value` as a priority.

    Raises:
        ValueError: there is no such priority.
    """
    try:
        return Priority(value)
    except ValueError:
        names = ", ".join(f"{each.name} ({each.value})" for each in Priority)
        raise ValueError(f"priority={value!r}: allowed is {names}") from None


def option(value: Option) -> Option:
    """`value` as an option.

    Raises:
        ValueError: there is no such option.
    """
    try:
        return Option(value)
    except ValueError:
        raise ValueError(f"option={value!r}: allowed are the members of pifus.Option") from None


def nodelay(value: bool, protocol: Protocol) -> bool:
    """`value`, for Nagle's algorithm of a TCP socket: True is off.

    Raises:
        ValueError: it is neither True nor False, or the socket has no such algorithm.
    """
    if value not in (False, True):
        raise ValueError(f"nodelay={value!r}: allowed is True or False")
    if protocol != Protocol.TCP:
        raise ValueError(f"nodelay={value!r}: a datagram never waits; this is of TCP sockets")
    return bool(value)


def tos_of(dscp: int) -> int:
    """The TOS or traffic class of a DSCP.

    Raises:
        ValueError: it is out of its range.
    """
    return whole("dscp", dscp, 0, 63) << 2
