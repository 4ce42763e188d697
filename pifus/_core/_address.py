"""Addresses: between Python's tuples and `struct pf_addr`."""

from __future__ import annotations

import errno
import functools
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Final

from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._core._client import CData

Address = tuple[str, int] | tuple[str, int, int, int]

_ADDR = struct.Struct("<HHI16s")  # struct pf_addr
# By numbers: the members of an enumeration are equal to them, and dear to look for.
FAMILIES = {int(socket.AF_INET): lib.PF_FAMILY_IPV4, int(socket.AF_INET6): lib.PF_FAMILY_IPV6}
_IPV4: Final = int(socket.AF_INET)
_IPV6: Final = int(socket.AF_INET6)
_NATIVE_IPV4: Final = int(lib.PF_FAMILY_IPV4)
_NATIVE_IPV6: Final = int(lib.PF_FAMILY_IPV6)


def native_family(family: int) -> int:
    """enum pf_family of AF_INET or AF_INET6.

    Raises:
        OSError: EAFNOSUPPORT, as the kernel says.
    """
    try:
        return FAMILIES[family]
    except KeyError:
        raise OSError(
            errno.EAFNOSUPPORT, f"family {int(family)}: only AF_INET and AF_INET6 are supported"
        ) from None


def to_native(family: int, address: object, call: str) -> CData:
    """The `struct pf_addr *` of an address tuple.

    Args:
        family: AF_INET or AF_INET6, of the socket.
        address: (host, port), for IPv6 also (host, port, flowinfo, scope_id). A numeric host, a
            name (asked of the system's resolver, which may block), "" for any address.
        call: the name of the calling method, for messages.

    Raises:
        TypeError: not a tuple of that shape.
        OverflowError: the port, the flow information or the scope is out of its range.
        OSError: socket.gaierror, when a name is not known.
    """
    host, port, scope = _parts(family, address, call)
    packed = _numeric(family, host)
    if packed is None:
        packed, scope = _resolve(family, host, scope)
    native = ffi.new("struct pf_addr *")
    native.family = FAMILIES[family]
    native.port = port
    native.scope_id = scope
    ffi.memmove(native.ip, packed, len(packed))
    return native


def from_bytes(packed: bytes, family: int | None = None) -> Address | None:
    """The address tuple of the 24 bytes of a `struct pf_addr`; None if it holds none.

    Args:
        packed: the bytes.
        family: AF_INET6 shows an IPv4 address in the form of IPv6, as the kernel does.
    """
    kind, port, scope, ip = _ADDR.unpack(packed)
    if kind == _NATIVE_IPV4:
        if family == _IPV6:
            return ("::ffff:" + _text(ip), port, 0, 0)
        return (_text(ip), port)
    if kind == _NATIVE_IPV6:
        return (socket.inet_ntop(_IPV6, ip), port, 0, scope)
    return None


@functools.lru_cache(maxsize=256)
def _text(ip: bytes) -> str:
    """An IPv4 address: a server has few that call often."""
    return socket.inet_ntop(_IPV4, ip[:4])


def from_native(address: CData, family: int | None = None) -> Address | None:
    """The same for a `struct pf_addr` in place."""
    return from_bytes(ffi.buffer(ffi.addressof(address), _ADDR.size)[:], family)


def _parts(family: int, address: object, call: str) -> tuple[str, int, int]:
    name = "AF_INET6" if family == socket.AF_INET6 else "AF_INET"
    if not isinstance(address, tuple):
        raise TypeError(f"{call}(): {name} address must be tuple, not {type(address).__name__}")
    allowed = (2, 3, 4) if family == socket.AF_INET6 else (2,)
    if len(address) not in allowed:
        shape = "(host, port[, flowinfo[, scopeid]])" if len(allowed) > 1 else "a pair (host, port)"
        raise TypeError(f"{call}(): {name} address must be {shape}, not {address!r}")
    host, port = address[:2]
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("ascii")
    if not isinstance(host, str):
        raise TypeError(
            f"{call}(): host must be str, bytes or bytearray, not {type(host).__name__}"
        )
    if not isinstance(port, int):
        raise TypeError(f"{call}(): port must be int, not {type(port).__name__}")
    if not 0 <= port <= 65535:
        raise OverflowError(f"{call}(): port must be 0-65535, not {port}")
    flowinfo, scope = (*address[2:], 0, 0)[:2]
    if not isinstance(flowinfo, int) or not isinstance(scope, int):
        raise TypeError(f"{call}(): flowinfo and scopeid must be int")
    if not 0 <= flowinfo <= 0xFFFFF:
        raise OverflowError(f"{call}(): flowinfo must be 0-1048575, not {flowinfo}")
    if not 0 <= scope <= 0xFFFFFFFF:
        raise OverflowError(f"{call}(): scopeid must be 0-4294967295, not {scope}")
    return host, port, scope


def _numeric(family: int, host: str) -> bytes | None:
    if not host:
        return bytes(4) if family == socket.AF_INET else bytes(16)
    if host == "<broadcast>" and family == socket.AF_INET:
        return b"\xff" * 4
    try:
        return socket.inet_pton(family, host)
    except OSError:
        return None


def _resolve(family: int, host: str, scope: int) -> tuple[bytes, int]:
    found = socket.getaddrinfo(host, None, socket.AddressFamily(family), socket.SOCK_STREAM)
    address = found[0][4]
    # Of "fe80::1%eth0" the resolver makes the scope.
    text = str(address[0]).partition("%")[0]
    if len(address) == 4:
        scope = int(address[3]) or scope
    return ipaddress.ip_address(text).packed, scope
