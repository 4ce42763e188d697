"""The rows of the option table: IP and IPv6."""

from __future__ import annotations

import errno
from typing import Final

from pifus._compat._option_rows import refused
from pifus._compat._option_table import (
    BACKEND,
    NO_OP,
    REFUSED,
    Row,
    _class,
    _ttl,
    strict_switch,
)

_PROTO: Final = errno.ENOPROTOOPT
_ROOT = "the kernel grants it to root"
_CMSG = "a stream has no such ancillary data"
_HEADERS = "the stack sends no such IPv6 extension headers"
_GROUPS = "multicast is for datagrams"

_IP = (
    Row(
        "IP_TOS",
        1,
        BACKEND,
        "DSCP of what is sent",
        0,
        _class(-(2**31), 2**31 - 1),
        "PF_OPT_TOS",
        size=0,
        datagrams=True,
    ),
    Row(
        "IP_TTL",
        2,
        BACKEND,
        "time to live of what is sent",
        64,
        _ttl(1),
        "PF_OPT_TTL",
        size=-1,
        datagrams=True,
    ),
    Row("IP_RECVTOS", 13, NO_OP, _CMSG, size=0, datagrams=True),
    Row("IP_RECVOPTS", 6, NO_OP, _CMSG, size=0, datagrams=True),
    Row("IP_RETOPTS", 7, NO_OP, _CMSG, size=0, datagrams=True),
    Row("IP_RECVRETOPTS", 7, NO_OP, "the same as IP_RETOPTS", size=0, datagrams=True),
    Row("IP_PKTINFO", 8, NO_OP, _CMSG, size=0, datagrams=True),
    Row("IP_BIND_ADDRESS_NO_PORT", 24, NO_OP, "ports are found at bind; there are enough", size=0),
    Row("IP_MULTICAST_LOOP", 34, NO_OP, _GROUPS, 1, size=-1, datagrams=True),
    Row(
        "IP_MULTICAST_TTL",
        33,
        REFUSED,
        _GROUPS,
        1,
        set_errno=errno.EINVAL,
        size=0,
        null_errno=errno.EFAULT,
        datagrams=True,
    ),
    Row("IP_MULTICAST_IF", 32, REFUSED, _GROUPS, set_errno=errno.EINVAL, size=0, datagrams=True),
    *(
        Row(
            name, number, REFUSED, _GROUPS, set_errno=code, get_errno=_PROTO, size=0, datagrams=True
        )
        for name, number, code in (
            ("IP_ADD_MEMBERSHIP", 35, errno.EPROTO),
            ("IP_DROP_MEMBERSHIP", 36, errno.EPROTO),
            ("IP_UNBLOCK_SOURCE", 37, errno.EINVAL),
            ("IP_BLOCK_SOURCE", 38, errno.EINVAL),
            ("IP_ADD_SOURCE_MEMBERSHIP", 39, errno.EINVAL),
            ("IP_DROP_SOURCE_MEMBERSHIP", 40, errno.EINVAL),
        )
    ),
    refused(
        "IP_OPTIONS",
        4,
        "the stack sends no IP options",
        errno.EINVAL,
        default=b"",
        size=0,
        differs="the kernel sends them",
    ),
    Row(
        "IP_HDRINCL",
        3,
        REFUSED,
        "the stack makes the header, also of raw sockets",
        set_errno=_PROTO,
        size=0,
        null_errno=errno.EFAULT,
    ),
    refused(
        "IP_TRANSPARENT",
        19,
        "for proxies in the kernel; refused as for a user without CAP_NET_ADMIN",
        errno.EPERM,
        size=-1,
        differs=_ROOT,
    ),
)

_IPV6 = (
    Row(
        "IPV6_V6ONLY",
        26,
        BACKEND,
        "a listener on :: takes no IPv4; before bind",
        native="PF_OPT_V6ONLY",
        datagrams=True,
    ),
    Row(
        "IPV6_TCLASS",
        67,
        BACKEND,
        "traffic class of what is sent; one value with IP_TOS",
        0,
        _class(-1, 255),
        "PF_OPT_TOS",
        datagrams=True,
    ),
    Row(
        "IPV6_UNICAST_HOPS",
        16,
        BACKEND,
        "hop limit of what is sent; one value with IP_TTL",
        64,
        _ttl(0),
        "PF_OPT_TTL",
        datagrams=True,
    ),
    Row(
        "IPV6_DONTFRAG", 62, NO_OP, "the segments of a stream fit its link", size=-4, datagrams=True
    ),
    *(
        Row(name, number, NO_OP, _CMSG, datagrams=True)
        for name, number in (
            ("IPV6_RECVPKTINFO", 49),
            ("IPV6_RECVHOPLIMIT", 51),
            ("IPV6_RECVHOPOPTS", 53),
            ("IPV6_RECVRTHDR", 56),
            ("IPV6_RECVDSTOPTS", 58),
            ("IPV6_RECVPATHMTU", 60),
            ("IPV6_RECVTCLASS", 66),
        )
    ),
    Row("IPV6_MULTICAST_LOOP", 19, NO_OP, _GROUPS, 1, strict_switch, datagrams=True),
    Row("IPV6_MULTICAST_HOPS", 18, REFUSED, _GROUPS, 1, set_errno=_PROTO, size=0, datagrams=True),
    Row("IPV6_MULTICAST_IF", 17, REFUSED, _GROUPS, set_errno=_PROTO, size=0, datagrams=True),
    Row(
        "IPV6_JOIN_GROUP",
        20,
        REFUSED,
        _GROUPS,
        set_errno=errno.EINVAL,
        get_errno=_PROTO,
        size=0,
        datagrams=True,
    ),
    Row(
        "IPV6_LEAVE_GROUP",
        21,
        REFUSED,
        _GROUPS,
        set_errno=errno.EINVAL,
        get_errno=_PROTO,
        size=0,
        datagrams=True,
    ),
    Row(
        "IPV6_PKTINFO",
        50,
        REFUSED,
        _CMSG,
        set_errno=errno.EINVAL,
        get_errno=_PROTO,
        size=0,
        datagrams=True,
    ),
    Row(
        "IPV6_PATHMTU",
        61,
        REFUSED,
        "of the connection TCP_INFO and TCP_MAXSEG tell",
        set_errno=_PROTO,
        get_errno=errno.ENOTCONN,
        size=0,
        differs="short buffers are EINVAL",
    ),
    refused(
        "IPV6_HOPOPTS",
        54,
        _HEADERS,
        errno.EINVAL,
        default=b"",
        size=0,
        differs="the kernel sends them",
    ),
    refused(
        "IPV6_DSTOPTS",
        59,
        _HEADERS,
        errno.EINVAL,
        default=b"",
        size=0,
        differs="the kernel sends them",
    ),
    refused(
        "IPV6_RTHDRDSTOPTS",
        55,
        _HEADERS,
        errno.EINVAL,
        default=b"",
        size=0,
        differs="the kernel sends them",
    ),
    refused(
        "IPV6_RTHDR",
        57,
        _HEADERS,
        errno.EINVAL,
        default=b"",
        size=0,
        differs="the kernel takes an empty one",
    ),
    refused("IPV6_CHECKSUM", 7, "for raw sockets", _PROTO, _PROTO, size=0),
    refused("IPV6_HOPLIMIT", 52, "only ancillary data", _PROTO, _PROTO, size=0),
    refused("IPV6_NEXTHOP", 9, "only ancillary data", _PROTO, _PROTO, size=0),
    refused("IPV6_RTHDR_TYPE_0", 0, "no option, but a type of header", _PROTO, _PROTO, size=0),
)

_UDPLITE = (
    refused(
        "UDPLITE_SEND_CSCOV",
        10,
        "for UDP-Lite sockets, which are the kernel's",
        _PROTO,
        errno.EOPNOTSUPP,
        size=0,
    ),
    refused(
        "UDPLITE_RECV_CSCOV",
        11,
        "for UDP-Lite sockets, which are the kernel's",
        _PROTO,
        errno.EOPNOTSUPP,
        size=0,
    ),
)
