"""Which kinds of sockets are the stack's."""

from __future__ import annotations

import _socket as _c
from typing import Any

# What a type may have besides the type.
TYPE_FLAGS = int(_c.SOCK_NONBLOCK) | int(_c.SOCK_CLOEXEC)
# The protocols of each kind of socket that are the stack's.
_PROTOCOLS = {
    int(_c.SOCK_STREAM): (0, _c.IPPROTO_TCP),
    int(_c.SOCK_DGRAM): (0, _c.IPPROTO_UDP),
}
# Datagrams that are ICMP messages: echo requests and replies, or raw, all of them.
_ICMP = {int(_c.AF_INET): _c.IPPROTO_ICMP, int(_c.AF_INET6): _c.IPPROTO_ICMPV6}
# The protocols of streams and of datagrams.
USUAL = (_c.IPPROTO_TCP, _c.IPPROTO_UDP)

# How TCP sockets are asked for, and the numbers that this means.
_STREAMS = {
    (family, kind, proto): (int(_c.AF_INET) if family == -1 else family, 1, max(proto, 0))
    for family in (-1, int(_c.AF_INET), int(_c.AF_INET6))
    for kind in (-1, int(_c.SOCK_STREAM))
    for proto in (-1, 0, int(_c.IPPROTO_TCP))
}


def numbers(family: Any, kind: Any, proto: Any) -> tuple[int, int, int] | None:
    """Family, kind and protocol of a socket of the stack, of which -1 means the usual.

    None: it is the kernel's, or none at all, which the C class will say.
    """
    try:
        plain = _STREAMS.get((family, kind, proto))
    except TypeError:
        return None
    if plain is not None:
        return plain  # most are
    family = _c.AF_INET if family == -1 else family
    kind = _c.SOCK_STREAM if kind == -1 else kind
    proto = 0 if proto == -1 else proto
    if not is_for_stack(family, kind, proto):
        return None
    return int(family), int(kind) & ~TYPE_FLAGS, int(proto)


def is_for_stack(family: int, kind: int, proto: int) -> bool:
    """True for TCP, UDP, ping and raw ICMP sockets over IPv4 or IPv6."""
    kind &= ~TYPE_FLAGS
    if kind in (_c.SOCK_DGRAM, _c.SOCK_RAW) and proto == _ICMP.get(family):
        return True
    return family in (_c.AF_INET, _c.AF_INET6) and proto in _PROTOCOLS.get(kind, ())
