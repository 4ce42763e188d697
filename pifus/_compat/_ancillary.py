"""Ancillary data of received datagrams: where they came by, when, and what their header said."""

from __future__ import annotations

import socket as _names
import struct
from typing import TYPE_CHECKING, Final

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
