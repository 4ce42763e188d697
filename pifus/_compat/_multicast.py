"""Multicast options: groups by their structures, and which interface, how far, whether to us."""

from __future__ import annotations

import errno
import socket as _names
import struct
from typing import TYPE_CHECKING, Final

from pifus._core import _errors
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer

    from pifus._compat._endpoint import Endpoint

IP: Final = int(_names.IPPROTO_IP)
IPV6: Final = int(_names.IPPROTO_IPV6)

_GROUPS4: Final = {
    int(_names.IP_ADD_MEMBERSHIP): lib.PF_GROUP_JOIN,
    int(_names.IP_DROP_MEMBERSHIP): lib.PF_GROUP_LEAVE,
}
_GROUPS6: Final = {
    int(_names.IPV6_JOIN_GROUP): lib.PF_GROUP_JOIN,
    int(_names.IPV6_LEAVE_GROUP): lib.PF_GROUP_LEAVE,
}
_IF4: Final = (IP, int(_names.IP_MULTICAST_IF))
_IF6: Final = (IPV6, int(_names.IPV6_MULTICAST_IF))
_TTL: Final = frozenset(
    {(IP, int(_names.IP_MULTICAST_TTL)), (IPV6, int(_names.IPV6_MULTICAST_HOPS))}
)
_LOOP: Final = frozenset(
    {(IP, int(_names.IP_MULTICAST_LOOP)), (IPV6, int(_names.IPV6_MULTICAST_LOOP))}
)

KEYS: Final = frozenset(
    {
        *((IP, name) for name in _GROUPS4),
        *((IPV6, name) for name in _GROUPS6),
        *(_IF4, _IF6),
        *_TTL,
        *_LOOP,
    }
)
_STRUCTURES: Final = frozenset({*((IP, n) for n in _GROUPS4), *((IPV6, n) for n in _GROUPS6), _IF4})


def setsockopt(
    endpoint: Endpoint, key: tuple[int, int], value: int | ReadableBuffer | None
) -> None:
    """Sets one of KEYS.

    Raises:
        OSError: EINVAL, EADDRINUSE (joined already), EADDRNOTAVAIL (not joined, or no such
            interface), ENODEV, ENOBUFS (too many groups), as the kernel's.
    """
    level, name = key
    if level == IPV6 and endpoint.family != _names.AF_INET6:
        raise _errors.os_error(errno.ENOPROTOOPT)
    if key in _STRUCTURES:
        raw = _raw(value)
        if key == _IF4:
            _set_interface4(endpoint, raw)
        elif level == IP:
            _group4(endpoint, _GROUPS4[name], raw)
        else:
            _group6(endpoint, _GROUPS6[name], raw)
        return
    number = _number(value)
    if key == _IF6:
        _set(endpoint, lib.PF_OPT_MULTICAST_IF, number)
    elif key in _TTL:
        if not -1 <= number <= 255:
            raise _errors.os_error(errno.EINVAL)
        number = 1 if number == -1 else number
        _set(endpoint, lib.PF_OPT_MULTICAST_TTL, number)
    else:
        if level == IPV6 and number not in (0, 1):
            raise _errors.os_error(errno.EINVAL)
        number = int(number != 0)
        _set(endpoint, lib.PF_OPT_MULTICAST_LOOP, number)
    endpoint.options[key] = number


def getsockopt(endpoint: Endpoint, key: tuple[int, int], size: int) -> int | bytes:
    """The value of one of KEYS; `size` 0: as a number."""
    if key == _IF4:
        value = endpoint.options.get(key, 0)
        return struct.pack("=I", value)[:size] if size else value
    if key in _STRUCTURES or (key[0] == IPV6 and endpoint.family != _names.AF_INET6):
        raise _errors.os_error(errno.ENOPROTOOPT)
    value = endpoint.options.get(key, 0 if key == _IF6 else 1)
    return struct.pack("i", value)[:size] if size else value


def _set(endpoint: Endpoint, option: int, value: int) -> None:
    if value < 0:
        raise _errors.os_error(errno.EINVAL)
    _checked(
        endpoint,
        lambda handle: endpoint.call(handle, lib.PF_OP_SETOPT, offset=option, token=value),
    )


def _checked(endpoint: Endpoint, call: Callable[..., int]) -> None:
    handle = endpoint.enter()
    try:
        result = call(handle)
    finally:
        endpoint.leave()
    if result < 0:
        raise _errors.os_error(-result)
    endpoint.reached.clear()


def _raw(value: int | ReadableBuffer | None) -> bytes:
    if value is None or isinstance(value, int):
        raise _errors.os_error(errno.EINVAL)
    return bytes(memoryview(value).cast("B"))


def _number(value: int | ReadableBuffer | None) -> int:
    """These options may be given as one byte, too."""
    if isinstance(value, int):
        return value
    raw = _raw(value)
    if not raw:
        raise _errors.os_error(errno.EINVAL)
    number: int = struct.unpack_from("i", raw)[0] if len(raw) >= 4 else raw[0]
    return number


def _set_interface4(endpoint: Endpoint, raw: bytes) -> None:
    """By struct in_addr, ip_mreq or ip_mreqn."""
    if len(raw) < 4:
        raise _errors.os_error(errno.EINVAL)
    address = raw[:4] if len(raw) < 8 else raw[4:8]
    index = struct.unpack_from("i", raw, 8)[0] if len(raw) >= 12 else 0
    number: int = struct.unpack("=I", address)[0]
    _set(endpoint, lib.PF_OPT_MULTICAST_IF, index or number << 32)
    endpoint.options[_IF4] = number


def _group4(endpoint: Endpoint, flags: int, raw: bytes) -> None:
    """By struct ip_mreq or ip_mreqn."""
    if len(raw) < 8:
        raise _errors.os_error(errno.EINVAL)
    index = struct.unpack_from("i", raw, 8)[0] if len(raw) >= 12 else 0
    address: int = struct.unpack_from("=I", raw, 4)[0]
    _join_or_leave(endpoint, flags, lib.PF_FAMILY_IPV4, raw[:4], index, address)


def _group6(endpoint: Endpoint, flags: int, raw: bytes) -> None:
    """By struct ipv6_mreq."""
    if len(raw) < 20:
        raise _errors.os_error(errno.EINVAL)
    index = struct.unpack_from("i", raw, 16)[0]
    _join_or_leave(endpoint, flags, lib.PF_FAMILY_IPV6, raw[:16], index, 0)


def _join_or_leave(
    endpoint: Endpoint, flags: int, family: int, group: bytes, index: int, address: int
) -> None:
    if index < 0:
        raise _errors.os_error(errno.ENODEV)
    native = ffi.new("struct pf_addr *")
    native.family = family
    ffi.memmove(native.ip, group, len(group))
    _checked(
        endpoint,
        lambda handle: endpoint.call(
            handle, lib.PF_OP_GROUP, flags=flags, token=index, offset=address, addr=native
        ),
    )
