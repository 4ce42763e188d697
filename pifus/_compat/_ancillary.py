"""Ancillary data of datagrams: where they came by, when, what their header says."""

from __future__ import annotations

import errno
import operator
import socket as _names
import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from pifus._core import _errors
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint
    from pifus._core._client import CData

Message = tuple[int, int, bytes]

SOCKET: Final = int(_names.SOL_SOCKET)
IP: Final = int(_names.IPPROTO_IP)
IPV6: Final = int(_names.IPPROTO_IPV6)

# Not all of these have names in Python.
TIMESTAMP: Final = (SOCKET, 29)
TIMESTAMPNS: Final = (SOCKET, 35)
PKTINFO: Final = (IP, 8)
RECVTTL: Final = (IP, 12)
RECVTOS: Final = (IP, 13)
RECVPKTINFO6: Final = (IPV6, int(_names.IPV6_RECVPKTINFO))
RECVHOPLIMIT6: Final = (IPV6, int(_names.IPV6_RECVHOPLIMIT))
RECVTCLASS6: Final = (IPV6, int(_names.IPV6_RECVTCLASS))

SWITCHES: Final = (
    TIMESTAMP,
    TIMESTAMPNS,
    PKTINFO,
    RECVTTL,
    RECVTOS,
    RECVPKTINFO6,
    RECVHOPLIMIT6,
    RECVTCLASS6,
)

_IP_TTL: Final = 2
_IP_TOS: Final = 1
_MSG_CTRUNC: Final = int(_names.MSG_CTRUNC)


def collect(endpoint: Endpoint, info: CData, room: int) -> tuple[list[Message], int]:
    """The messages that were asked for and fit, and MSG_CTRUNC if some did not.

    Args:
        endpoint: whose options say what is asked for.
        info: the `struct pf_datagram`.
        room: bytes for them, in the kernel's format.
    """
    options = endpoint.options
    wanted = [_make(key, info) for key in SWITCHES if options.get(key)]
    messages: list[Message] = []
    for level, kind, data in filter(None, wanted):
        if room < _names.CMSG_LEN(0):
            return messages, _MSG_CTRUNC
        if _names.CMSG_LEN(len(data)) > room:
            messages.append((level, kind, data[: room - _names.CMSG_LEN(0)]))
            return messages, _MSG_CTRUNC
        messages.append((level, kind, data))
        room -= min(_names.CMSG_SPACE(len(data)), room)
    return messages, 0


def _make(key: tuple[int, int], info: CData) -> Message | None:
    four = info.destination.family == lib.PF_FAMILY_IPV4
    if key == TIMESTAMP:
        seconds, nanoseconds = divmod(info.received_ns, 1_000_000_000)
        return (SOCKET, 29, struct.pack("qq", seconds, nanoseconds // 1000))
    if key == TIMESTAMPNS:
        return (SOCKET, 35, struct.pack("qq", *divmod(info.received_ns, 1_000_000_000)))
    if key[0] == (IPV6 if four else IP):
        # An IPv4 datagram of an IPv6 socket shows its address in the form of IPv6.
        if key != RECVPKTINFO6:
            return None
        mapped = bytes(10) + b"\xff\xff" + ffi.buffer(info.destination.ip)[:4]
        return (IPV6, int(_names.IPV6_PKTINFO), mapped + struct.pack("I", info.ifindex))
    if key == PKTINFO:
        address = ffi.buffer(info.destination.ip)[:4]
        return (IP, 8, struct.pack("i", info.ifindex) + address + address)
    if key == RECVTTL:
        return (IP, _IP_TTL, struct.pack("i", info.ttl))
    if key == RECVTOS:
        return (IP, _IP_TOS, bytes([info.tos]))
    if key == RECVPKTINFO6:
        address = ffi.buffer(info.destination.ip)[:16]
        return (IPV6, int(_names.IPV6_PKTINFO), address + struct.pack("I", info.ifindex))
    if key == RECVHOPLIMIT6:
        return (IPV6, int(_names.IPV6_HOPLIMIT), struct.pack("i", info.ttl))
    return (IPV6, int(_names.IPV6_TCLASS), struct.pack("i", info.tos))


# ---- for sending ----


def parse(messages: Iterable[Any], is_source: Callable[[bytes], bool]) -> int:
    """What the ancillary data of `sendmsg` ask for, as enum pf_send_bits.

    Args:
        messages: the ancillary data.
        is_source: whether the datagram goes from this IPv6 address anyway. Another cannot be
            chosen: there is no room for it in a submission.

    Raises:
        TypeError: a message is no triple of level, type and bytes.
        OSError: EINVAL, one that means nothing here, or a value out of its range.
    """
    triples = []
    for message in list(messages):
        if not isinstance(message, tuple) or len(message) != 3:
            raise TypeError("[sendmsg() argument 2] must be a sequence of 3-item tuples")
        level, kind = operator.index(message[0]), operator.index(message[1])
        triples.append((level, kind, bytes(memoryview(message[2]).cast("B"))))
    how = 0
    for level, kind, data in triples:
        how |= _bits(level, kind, data, is_source)
    return how


def _bits(level: int, kind: int, data: bytes, is_source: Callable[[bytes], bool]) -> int:
    key = (level, kind)
    if key in ((IP, _IP_TTL), (IPV6, int(_names.IPV6_HOPLIMIT))):
        return _number(data, 1 if level == IP else -1) + 1 << lib.PF_SEND_TTL
    if key in ((IP, _IP_TOS), (IPV6, int(_names.IPV6_TCLASS))):
        if key == (IP, _IP_TOS) and len(data) == 1:
            return data[0] + 1 << lib.PF_SEND_TOS
        return _number(data, 0 if level == IP else -1) + 1 << lib.PF_SEND_TOS
    if key == PKTINFO and len(data) == 12:
        index, source = struct.unpack_from("=iI", data)
        return _interface(index) | int(source) << lib.PF_SEND_SOURCE4
    if key == (IPV6, int(_names.IPV6_PKTINFO)) and len(data) == 20:
        if any(data[:16]) and not is_source(data[:16]):
            raise OSError(errno.EOPNOTSUPP, "the source of one IPv6 datagram cannot be chosen")
        return _interface(struct.unpack_from("i", data, 16)[0])
    raise _errors.os_error(errno.EINVAL)


def _interface(index: int) -> int:
    if not 0 <= index < 1 << lib.PF_SEND_SOURCE4 - lib.PF_SEND_INTERFACE:
        raise _errors.os_error(errno.ENODEV)
    return index << lib.PF_SEND_INTERFACE


def _number(data: bytes, low: int) -> int:
    """An int that is at least `low` (-1: the socket's own) and at most 255."""
    if len(data) != 4:
        raise _errors.os_error(errno.EINVAL)
    number: int = struct.unpack("i", data)[0]
    if not low <= number <= 255:
        raise _errors.os_error(errno.EINVAL)
    return number
