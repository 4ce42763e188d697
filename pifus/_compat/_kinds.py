"""Which kinds of sockets are the stack's."""

from __future__ import annotations

import _socket as _c

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


def is_for_stack(family: int, kind: int, proto: int) -> bool:
    """True for TCP, UDP, ping and raw ICMP sockets over IPv4 or IPv6."""
    kind &= ~TYPE_FLAGS
    if kind in (_c.SOCK_DGRAM, _c.SOCK_RAW) and proto == _ICMP.get(family):
        return True
    return family in (_c.AF_INET, _c.AF_INET6) and proto in _PROTOCOLS.get(kind, ())
