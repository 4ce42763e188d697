"""Options of datagram sockets: which the stack does, and which are only remembered."""

from __future__ import annotations

import errno
import socket as _names
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pifus._compat import _ancillary, _connecting, _icmp_filter, _multicast
from pifus._core import _errors
from pifus._core._client import lib

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from pifus._compat._endpoint import Endpoint

SOCKET: Final = int(_names.SOL_SOCKET)
TCP: Final = int(_names.IPPROTO_TCP)
IP: Final = int(_names.IPPROTO_IP)
IPV6: Final = int(_names.IPPROTO_IPV6)

_SO_PRIORITY: Final = (SOCKET, 12)
_LINGER: Final = (SOCKET, int(_names.SO_LINGER))
_SNDBUF: Final = (SOCKET, int(_names.SO_SNDBUF))
_RCVBUF: Final = (SOCKET, int(_names.SO_RCVBUF))
# The kernel keeps twice what it is asked for, between these.
_BUFFER_MIN: Final = 2304
_BUFFER_MAX: Final = 425984


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        default: what getsockopt says of a fresh socket.
        native: the stack's option that does it; 0: it is only remembered.
        low, high: what is allowed; else EINVAL.
        switch: any value but 0 is 1.
    """

    default: int = 0
    native: int = 0
    low: int = -(2**31)
    high: int = 2**31 - 1
    switch: bool = False


def _switch(native: int = 0, default: int = 0) -> Option:
    return Option(default, native, switch=True)


OPTIONS: Final[dict[tuple[int, int], Option]] = {
    (SOCKET, _names.SO_REUSEADDR): _switch(lib.PF_OPT_REUSEADDR),
    (SOCKET, _names.SO_KEEPALIVE): _switch(lib.PF_OPT_KEEPALIVE),
    # What the stack does not do (yet), and no program depends on.
    (SOCKET, _names.SO_REUSEPORT): _switch(),
    (SOCKET, _names.SO_BROADCAST): _switch(),
    (SOCKET, _names.SO_DONTROUTE): _switch(),
    (SOCKET, _names.SO_OOBINLINE): _switch(),
    (SOCKET, _names.SO_RCVLOWAT): Option(1),
    _RCVBUF: Option(131072),
    _SNDBUF: Option(524288),
    _SO_PRIORITY: Option(0, low=0, high=7),
    # The stack has Nagle's algorithm off unless asked for: nobody sees a difference but in time.
    (TCP, _names.TCP_NODELAY): _switch(lib.PF_OPT_NODELAY),
    (TCP, _names.TCP_CORK): _switch(lib.PF_OPT_CORK),
    (TCP, _names.TCP_KEEPIDLE): Option(7200, lib.PF_OPT_KEEPIDLE, 1, 32767),
    (TCP, _names.TCP_KEEPINTVL): Option(75, lib.PF_OPT_KEEPINTVL, 1, 32767),
    (TCP, _names.TCP_KEEPCNT): Option(9, lib.PF_OPT_KEEPCNT, 1, 127),
    (TCP, _names.TCP_QUICKACK): _switch(default=1),
    (TCP, _names.TCP_DEFER_ACCEPT): Option(),
    (TCP, _names.TCP_SYNCNT): Option(6, 0, 1, 127),
    (TCP, _names.TCP_LINGER2): Option(60),
    (TCP, _names.TCP_WINDOW_CLAMP): Option(),
    (TCP, _names.TCP_USER_TIMEOUT): Option(0, 0, 0),
    (TCP, _names.TCP_MAXSEG): Option(1460, 0, 88, 32767),
    (TCP, _names.TCP_FASTOPEN): Option(0, 0, 0),
    (TCP, _names.TCP_NOTSENT_LOWAT): Option(),
    (IP, _names.IP_TOS): Option(0, lib.PF_OPT_TOS, 0, 255),
    (IP, _names.IP_TTL): Option(64, lib.PF_OPT_TTL, 1, 255),
    (IPV6, _names.IPV6_V6ONLY): _switch(lib.PF_OPT_V6ONLY),
    (IPV6, _names.IPV6_TCLASS): Option(0, lib.PF_OPT_TOS, 0, 255),
    (IPV6, _names.IPV6_UNICAST_HOPS): Option(64, lib.PF_OPT_TTL, 1, 255),
}

# What is different for datagrams.
DATAGRAM_OPTIONS: Final[dict[tuple[int, int], Option]] = {
    (SOCKET, _names.SO_REUSEPORT): _switch(lib.PF_OPT_REUSEPORT),
    (SOCKET, _names.SO_BROADCAST): _switch(lib.PF_OPT_BROADCAST),
    _RCVBUF: Option(212992),
    _SNDBUF: Option(212992),
    **{key: _switch() for key in _ancillary.SWITCHES},
    # IP_RECVERR, IPV6_RECVERR: there is no queue of errors, MSG_ERRQUEUE finds nothing. Programs
    # (aiocoap) ask for it to be told sooner, and time out otherwise.
    (IP, 11): _switch(),
    (IPV6, 25): _switch(),
}

_READ_ONLY: Final = frozenset(
    (SOCKET, int(name))
    for name in (
        _names.SO_ERROR,
        _names.SO_TYPE,
        _names.SO_DOMAIN,
        _names.SO_PROTOCOL,
        _names.SO_ACCEPTCONN,
    )
)


def getsockopt(endpoint: Endpoint, level: int, name: int, size: int) -> int | bytes:
    """`socket.getsockopt`; `size` 0: as a number."""
    if not 0 <= size <= 1024:
        raise OSError("getsockopt buflen out of range")
    handle = endpoint.enter()
    endpoint.leave()
    del handle
    key = (level, name)
    if key == _LINGER:
        raw = struct.pack("ii", *endpoint.lingers)
        return raw[:size] if size else endpoint.lingers[0]
    if endpoint.datagram and key in _multicast.KEYS:
        return _multicast.getsockopt(endpoint, key, size)
    if _icmp_filter.concerns(endpoint, key):
        return _icmp_filter.getsockopt(endpoint, name, size)
    if key in _READ_ONLY:
        value = _ask(endpoint, name)
    else:
        option = _find(endpoint, key)
        value = endpoint.options.get(key, option.default)
    return struct.pack("i", value)[:size] if size else value


def _ask(endpoint: Endpoint, name: int) -> int:
    if name == _names.SO_ERROR:
        return _connecting.take_error(endpoint)
    if name == _names.SO_TYPE:
        return endpoint.type
    if name == _names.SO_DOMAIN:
        return endpoint.family
    if name == _names.SO_PROTOCOL:
        if endpoint.datagram:
            return endpoint.proto or int(_names.IPPROTO_UDP)
        return TCP
    return int(endpoint.listening)


def _find(endpoint: Endpoint, key: tuple[int, int]) -> Option:
    option = OPTIONS.get(key)
    if endpoint.datagram:
        option = DATAGRAM_OPTIONS.get(key, option) if key[0] != TCP else None
    if option is None or (key[0] == IPV6 and endpoint.family != _names.AF_INET6):
        if key[0] in (SOCKET, TCP, IP) or (key[0] == IPV6 and endpoint.family == _names.AF_INET6):
            raise _errors.os_error(errno.ENOPROTOOPT)
        raise _errors.os_error(errno.EOPNOTSUPP)
    return option


def setsockopt(
    endpoint: Endpoint, level: int, name: int, value: int | ReadableBuffer | None
) -> None:
    """`socket.setsockopt`."""
    key = (level, name)
    if endpoint.datagram and key in _multicast.KEYS:
        _multicast.setsockopt(endpoint, key, value)
        return
    if _icmp_filter.concerns(endpoint, key):
        _icmp_filter.setsockopt(endpoint, name, value)
        return
    handle = endpoint.enter()
    try:
        if key == _LINGER:
            _set_linger(endpoint, value)
            return
        if key in _READ_ONLY:
            raise _errors.os_error(errno.ENOPROTOOPT)
        option = _find(endpoint, key)
        number = _number(value)
        if option.switch:
            number = int(number != 0)
        if not option.low <= number <= option.high:
            raise _errors.os_error(errno.EINVAL)
        if key in (_SNDBUF, _RCVBUF):
            number = min(max(2 * number, _BUFFER_MIN), _BUFFER_MAX)
        elif key == _SO_PRIORITY:
            _set_priority(endpoint, number)
        if key == _SNDBUF:
            lib.pf_socket_set_send_limit(handle, endpoint.slot, number)
        elif option.native and not _is_so_already(endpoint, option, key, number):
            result = endpoint.call(handle, lib.PF_OP_SETOPT, offset=option.native, token=number)
            if result < 0:
                raise _errors.os_error(-result)
        endpoint.options[key] = number
        endpoint.reached.clear()
    finally:
        endpoint.leave()


def _is_so_already(endpoint: Endpoint, option: Option, key: tuple[int, int], number: int) -> bool:
    """Spares a round trip for what almost every program sets."""
    return option.native == lib.PF_OPT_NODELAY and number == 1 and key not in endpoint.options


def _number(value: int | ReadableBuffer | None) -> int:
    if isinstance(value, int):
        return value
    if value is None:
        raise _errors.os_error(errno.EINVAL)
    raw = bytes(memoryview(value).cast("B"))
    if len(raw) < 4:
        raise _errors.os_error(errno.EINVAL)
    number: int = struct.unpack_from("i", raw)[0]
    return number


def _set_linger(endpoint: Endpoint, value: int | ReadableBuffer | None) -> None:
    if value is None or isinstance(value, int):
        raise _errors.os_error(errno.EINVAL)
    raw = bytes(memoryview(value).cast("B"))
    if len(raw) < 8:
        raise _errors.os_error(errno.EINVAL)
    on, seconds = struct.unpack_from("ii", raw)
    endpoint.lingers = (int(on != 0), seconds)


def _set_priority(endpoint: Endpoint, number: int) -> None:
    """The kernel's 0 is best effort, 1 and 2 are filler and bulk, 6 and 7 interactive."""
    if number == 0:
        from pifus._compat import _rules

        priority = _rules.first_priority()
    elif number <= 2:
        priority = lib.PF_PRIORITY_LOW
    else:
        priority = lib.PF_PRIORITY_MEDIUM if number < 6 else lib.PF_PRIORITY_HIGH
    handle = endpoint.enter()
    try:
        result = endpoint.call(handle, lib.PF_OP_SETOPT, offset=lib.PF_OPT_PRIORITY, token=priority)
    finally:
        endpoint.leave()
    if result < 0:
        raise _errors.os_error(-result)
    endpoint.priority = priority
    endpoint.priority_chosen = number != 0
