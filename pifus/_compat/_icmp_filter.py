"""Which ICMP messages a raw socket does not get: ICMP_FILTER and ICMPV6_FILTER."""

from __future__ import annotations

import errno
import socket as _names
import struct
from typing import TYPE_CHECKING, Final

from pifus._core import _errors
from pifus._core._client import lib

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from pifus._compat._endpoint import Endpoint

# By family: level and name, which Python does not know, and the bytes of the mask of types.
_FILTERS: Final = {
    int(_names.AF_INET): ((255, 1), 4),
    int(_names.AF_INET6): ((int(_names.IPPROTO_ICMPV6), 1), 32),
}


def concerns(endpoint: Endpoint, key: tuple[int, int]) -> bool:
    """True when the option is of the level of this socket's filter, which is alone there."""
    return endpoint.type == _names.SOCK_RAW and key[0] == _FILTERS[endpoint.family][0][0]


def getsockopt(endpoint: Endpoint, name: int, size: int) -> int | bytes:
    """The mask, a bit set for each type not to be received; `size` 0: its first 32 bits."""
    _check(name)
    mask = _mask(endpoint)
    if size:
        return mask[:size]
    number: int = struct.unpack_from("i", mask)[0]
    return number


def setsockopt(endpoint: Endpoint, name: int, value: int | ReadableBuffer | None) -> None:
    """Sets the mask; of one that is too short, the beginning.

    Raises:
        OSError: EFAULT, it is none; ENOPROTOOPT, another option.
    """
    _check(name)
    if value is None:
        raise _errors.os_error(errno.EFAULT)
    new = struct.pack("i", value) if isinstance(value, int) else bytes(memoryview(value).cast("B"))
    key, size = _FILTERS[endpoint.family]
    old = _mask(endpoint)
    mask = (new + old[len(new) :])[:size]
    handle = endpoint.enter()
    try:
        for at in range(0, size, 8):
            word, before = mask[at : at + 8], old[at : at + 8]
            if word == before:
                continue
            option = lib.PF_OPT_ICMP_FILTER + at // 8
            types = int.from_bytes(word, "little")
            result = endpoint.call(handle, lib.PF_OP_SETOPT, offset=option, token=types)
            if result < 0:
                raise _errors.os_error(-result)
    finally:
        endpoint.leave()
    endpoint.requested[key] = mask


def _check(name: int) -> None:
    if name != 1:
        raise _errors.os_error(errno.ENOPROTOOPT)


def _mask(endpoint: Endpoint) -> bytes:
    key, size = _FILTERS[endpoint.family]
    return endpoint.requested.get(key, bytes(size))
