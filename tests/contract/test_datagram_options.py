"""Multicast, and ancillary data of datagrams."""

from __future__ import annotations

import errno
import select
import socket as names
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, errno_of
from tests.contract.legs import Side

Close = Callable[[Any], Any]
Make = Callable[..., Any]

GROUP = "239.1.2.3"
JOIN = names.IP_ADD_MEMBERSHIP
DROP = names.IP_DROP_MEMBERSHIP
# Names that Python does not have (all of).
IP_PKTINFO, IP_RECVTTL, IP_RECVTOS = 8, 12, 13
SO_TIMESTAMP, SO_TIMESTAMPNS = 29, 35


def maker(side: Side, closing: Close) -> Make:
    def create(family: int = names.AF_INET, address: Any = None, shared: bool = False) -> Any:
        sock = closing(side.net.socket(family, names.SOCK_DGRAM))
        sock.settimeout(PATIENCE_SECONDS)
        if shared:
            sock.setsockopt(names.SOL_SOCKET, names.SO_REUSEADDR, 1)
        if address is not None:
            sock.bind(address)
        return sock

    return create


@pytest.fixture
def make(client_side: Side, closing: Close) -> Make:
    """Makes UDP sockets of the side that sends, bound to `address` if one is given."""
    return maker(client_side, closing)


@pytest.fixture
def make_other(server_side: Side, closing: Close) -> Make:
    """Makes those of the side that receives."""
    return maker(server_side, closing)


def mreq(group: str, host: str) -> bytes:
    return names.inet_aton(group) + names.inet_aton(host)


@pytest.fixture
def sender(make: Make, client_side: Side) -> Any:
    """Sends to groups."""
    sock = make(address=(client_side.host, 0))
    sock.setsockopt(names.IPPROTO_IP, names.IP_MULTICAST_IF, names.inet_aton(client_side.host))
    return sock


def silent(sock: Any) -> bool:
    return not select.select([sock], [], [], 0.1)[0]


def test_a_group(make_other: Make, sender: Any, host: str) -> None:
    receiver = make_other(address=("", 0))
    port = receiver.getsockname()[1]
    sender.sendto(b"nobody", (GROUP, port))
    sender.sendto(b"behind it", (host, port))
    assert receiver.recv(100) == b"behind it"  # what is under way yet would find us in the group
    receiver.setsockopt(names.IPPROTO_IP, JOIN, mreq(GROUP, host))
    sender.sendto(b"somebody", (GROUP, port))
    assert receiver.recvfrom(100) == (b"somebody", sender.getsockname())
    receiver.setsockopt(names.IPPROTO_IP, DROP, mreq(GROUP, host))
    sender.sendto(b"nobody", (GROUP, port))
    assert silent(receiver)


def test_everybody_in_the_group_gets_it(make_other: Make, sender: Any, host: str) -> None:
    first = make_other(address=("", 0), shared=True)
    port = first.getsockname()[1]
    receivers = [first, *(make_other(address=("", port), shared=True) for _ in range(3))]
    elsewhere = make_other(address=(host, port), shared=True)
    for receiver in receivers:
        receiver.setsockopt(names.IPPROTO_IP, JOIN, mreq(GROUP, host))
    sender.sendto(b"x", (GROUP, port))
    for receiver in receivers:
        assert receiver.recvfrom(10) == (b"x", sender.getsockname())
        assert silent(receiver)
    assert silent(elsewhere)


def test_membership_errors(make_other: Make, host: str) -> None:
    sock = make_other(address=("", 0))
    assert (
        errno_of(sock.setsockopt, names.IPPROTO_IP, DROP, mreq(GROUP, host)) == errno.EADDRNOTAVAIL
    )
    sock.setsockopt(names.IPPROTO_IP, JOIN, mreq(GROUP, host))
    assert errno_of(sock.setsockopt, names.IPPROTO_IP, JOIN, mreq(GROUP, host)) == errno.EADDRINUSE
    assert errno_of(sock.setsockopt, names.IPPROTO_IP, JOIN, mreq("10.1.2.3", host)) == errno.EINVAL
    assert errno_of(sock.setsockopt, names.IPPROTO_IP, JOIN, b"1234567") == errno.EINVAL
    nowhere = mreq(GROUP, "203.0.113.77")
    assert errno_of(sock.setsockopt, names.IPPROTO_IP, JOIN, nowhere) == errno.ENODEV
    for i in range(19):
        sock.setsockopt(names.IPPROTO_IP, JOIN, mreq(f"239.1.3.{i}", host))
    assert (
        errno_of(sock.setsockopt, names.IPPROTO_IP, JOIN, mreq("239.1.4.1", host)) == errno.ENOBUFS
    )


def test_a_closed_socket_has_left(make_other: Make, sender: Any, host: str) -> None:
    stays = make_other(address=("", 0), shared=True)
    port = stays.getsockname()[1]
    goes = make_other(address=("", port), shared=True)
    goes.setsockopt(names.IPPROTO_IP, JOIN, mreq("239.9.9.9", host))
    sender.sendto(b"x", ("239.9.9.9", port))
    assert stays.recv(10) == b"x"  # the host is in the group, that is enough
    goes.close()
    sender.sendto(b"x", ("239.9.9.9", port))
    assert silent(stays)


def test_multicast_options(make: Make, client_side: Side) -> None:
    sock = make()
    interface = names.inet_aton(client_side.host)
    ip = names.IPPROTO_IP
    assert sock.getsockopt(ip, names.IP_MULTICAST_TTL) == 1
    assert sock.getsockopt(ip, names.IP_MULTICAST_LOOP) == 1
    sock.setsockopt(ip, names.IP_MULTICAST_TTL, struct.pack("b", 7))
    assert sock.getsockopt(ip, names.IP_MULTICAST_TTL) == 7
    sock.setsockopt(ip, names.IP_MULTICAST_TTL, 33)
    assert sock.getsockopt(ip, names.IP_MULTICAST_TTL) == 33
    assert errno_of(sock.setsockopt, ip, names.IP_MULTICAST_TTL, 256) == errno.EINVAL
    sock.setsockopt(ip, names.IP_MULTICAST_LOOP, 0)
    assert sock.getsockopt(ip, names.IP_MULTICAST_LOOP) == 0
    sock.setsockopt(ip, names.IP_MULTICAST_IF, interface)
    assert sock.getsockopt(ip, names.IP_MULTICAST_IF, 4) == interface
    gone = names.inet_aton("203.0.113.77")
    assert errno_of(sock.setsockopt, ip, names.IP_MULTICAST_IF, gone) == errno.EADDRNOTAVAIL


def test_multicast_ttl_is_sent(make_other: Make, sender: Any, host: str) -> None:
    receiver = make_other(address=("", 0))
    receiver.setsockopt(names.IPPROTO_IP, JOIN, mreq(GROUP, host))
    receiver.setsockopt(names.IPPROTO_IP, IP_RECVTTL, 1)
    for ttl in (1, 9):
        sender.setsockopt(names.IPPROTO_IP, names.IP_MULTICAST_TTL, ttl)
        sender.sendto(b"x", (GROUP, receiver.getsockname()[1]))
        messages = receiver.recvmsg(10, 100)[1]
        assert messages == [(names.IPPROTO_IP, names.IP_TTL, struct.pack("i", ttl))]


@pytest.mark.legs(
    "pifus",
    "connects",
    "accepts",
    reason="the kernel has no route for multicast on its loopback",
)
def test_a_group_over_ipv6(
    make: Make, make_other: Make, client_side: Side, server_side: Side
) -> None:
    group = "ff02::1:77"
    receiver = make_other(names.AF_INET6, ("::", 0))
    sender = make(names.AF_INET6, (client_side.host6, 0))
    index = client_side.index
    member = names.inet_pton(names.AF_INET6, group) + struct.pack("I", server_side.index)
    ipv6 = names.IPPROTO_IPV6
    receiver.setsockopt(ipv6, names.IPV6_JOIN_GROUP, member)
    assert errno_of(receiver.setsockopt, ipv6, names.IPV6_JOIN_GROUP, member) == errno.EADDRINUSE
    sender.setsockopt(ipv6, names.IPV6_MULTICAST_IF, index)
    sender.setsockopt(ipv6, names.IPV6_MULTICAST_HOPS, 3)
    port = receiver.getsockname()[1]
    sender.sendto(b"six", (group, port))
    assert receiver.recvfrom(10)[0] == b"six"
    sender.sendto(b"by scope", (group, port, 0, index))
    assert receiver.recvfrom(10)[0] == b"by scope"
    receiver.setsockopt(ipv6, names.IPV6_LEAVE_GROUP, member)
    sender.sendto(b"x", (group, port))
    assert silent(receiver)
    left = errno_of(receiver.setsockopt, ipv6, names.IPV6_LEAVE_GROUP, member)
    assert left == errno.EADDRNOTAVAIL


# ---- ancillary data ----


def test_where_it_came_by(
    make: Make, make_other: Make, client_side: Side, server_side: Side
) -> None:
    one, other = make(address=(client_side.host, 0)), make_other(address=("", 0))
    other.setsockopt(names.IPPROTO_IP, IP_PKTINFO, 1)
    one.sendto(b"abc", (server_side.host, other.getsockname()[1]))
    data, messages, flags, sender = other.recvmsg(100, names.CMSG_SPACE(12))
    assert (data, flags, sender) == (b"abc", 0, one.getsockname())
    ((level, kind, info),) = messages
    assert (level, kind) == (names.IPPROTO_IP, IP_PKTINFO)
    assert info[:4] == struct.pack("i", server_side.index)
    assert info[8:] == names.inet_aton(server_side.host)


def test_where_it_came_by_ipv6(
    make: Make, make_other: Make, client_side: Side, server_side: Side
) -> None:
    one = make(names.AF_INET6, (client_side.host6, 0))
    other = make_other(names.AF_INET6, ("::", 0))
    other.setsockopt(names.IPPROTO_IPV6, names.IPV6_RECVPKTINFO, 1)
    other.setsockopt(names.IPPROTO_IPV6, names.IPV6_RECVHOPLIMIT, 1)
    one.setsockopt(names.IPPROTO_IPV6, names.IPV6_UNICAST_HOPS, 17)
    one.sendto(b"abc", (server_side.host6, other.getsockname()[1]))
    messages = other.recvmsg(100, 200)[1]
    where = names.inet_pton(names.AF_INET6, server_side.host6)
    where += struct.pack("I", server_side.index)
    assert messages == [
        (names.IPPROTO_IPV6, names.IPV6_PKTINFO, where),
        (names.IPPROTO_IPV6, names.IPV6_HOPLIMIT, struct.pack("i", 17)),
    ]
    four = make(address=(client_side.host, 0))
    four.sendto(b"abc", (server_side.host, other.getsockname()[1]))
    ((_, kind, info),) = other.recvmsg(100, 200)[1]
    assert kind == names.IPV6_PKTINFO
    assert info[:16] == names.inet_pton(names.AF_INET6, f"::ffff:{server_side.host}")


def test_ttl_and_tos(make: Make, make_other: Make, host: str) -> None:
    one, other = make(), make_other(address=(host, 0))
    other.setsockopt(names.IPPROTO_IP, IP_RECVTTL, 1)
    other.setsockopt(names.IPPROTO_IP, IP_RECVTOS, 1)
    one.sendto(b"x", other.getsockname())
    one.setsockopt(names.IPPROTO_IP, names.IP_TTL, 42)
    one.setsockopt(names.IPPROTO_IP, names.IP_TOS, 0x28)
    one.sendto(b"x", other.getsockname())
    for ttl, tos in ((64, 0), (42, 0x28)):
        assert other.recvmsg(10, 100)[1] == [
            (names.IPPROTO_IP, names.IP_TTL, struct.pack("i", ttl)),
            (names.IPPROTO_IP, names.IP_TOS, bytes([tos])),
        ]


@pytest.mark.parametrize(
    ("option", "unit"), [(SO_TIMESTAMP, 1_000_000), (SO_TIMESTAMPNS, 1_000_000_000)]
)
def test_when_it_came(make: Make, make_other: Make, host: str, option: int, unit: int) -> None:
    one, other = make(), make_other(address=(host, 0))
    other.setsockopt(names.SOL_SOCKET, option, 1)
    before = time.time()
    one.sendto(b"x", other.getsockname())
    ((level, kind, data),) = other.recvmsg(10, 100)[1]
    assert (level, kind) == (names.SOL_SOCKET, option)
    seconds, fraction = struct.unpack("qq", data)
    assert before - 0.01 <= seconds + fraction / unit <= time.time() + 0.01


def test_no_room_for_it(make: Make, make_other: Make, host: str) -> None:
    one, other = make(), make_other(address=(host, 0))
    other.setsockopt(names.IPPROTO_IP, IP_PKTINFO, 1)
    for _ in range(2):
        one.sendto(b"x", other.getsockname())
    assert other.recvmsg(10)[1:3] == ([], names.MSG_CTRUNC)
    rooms = [bytearray(10)]
    got, messages, flags, _ = other.recvmsg_into(rooms, names.CMSG_SPACE(12))
    assert (got, len(messages), flags) == (1, 1, 0)


# ---- ancillary data of what is sent ----


def test_ttl_and_tos_of_one_datagram(make: Make, make_other: Make, host: str) -> None:
    one, other = make(), make_other(address=(host, 0))
    other.setsockopt(names.IPPROTO_IP, IP_RECVTTL, 1)
    other.setsockopt(names.IPPROTO_IP, IP_RECVTOS, 1)
    ttl = (names.IPPROTO_IP, names.IP_TTL, struct.pack("i", 9))
    tos = (names.IPPROTO_IP, names.IP_TOS, struct.pack("i", 0x10))
    assert one.sendmsg([b"x"], [ttl, tos], 0, other.getsockname()) == 1
    one.sendto(b"x", other.getsockname())  # the next one is as always
    for expected in ((9, 0x10), (64, 0)):
        assert other.recvmsg(10, 100)[1] == [
            (names.IPPROTO_IP, names.IP_TTL, struct.pack("i", expected[0])),
            (names.IPPROTO_IP, names.IP_TOS, bytes([expected[1]])),
        ]


def test_hop_limit_and_class_of_one_datagram(
    make: Make, make_other: Make, server_side: Side
) -> None:
    one, other = make(names.AF_INET6), make_other(names.AF_INET6, (server_side.host6, 0))
    other.setsockopt(names.IPPROTO_IPV6, names.IPV6_RECVHOPLIMIT, 1)
    other.setsockopt(names.IPPROTO_IPV6, names.IPV6_RECVTCLASS, 1)
    for hops, tclass in ((7, 0x20), (-1, 0), (255, 255)):
        messages = [
            (names.IPPROTO_IPV6, names.IPV6_HOPLIMIT, struct.pack("i", hops)),
            (names.IPPROTO_IPV6, names.IPV6_TCLASS, struct.pack("i", tclass)),
        ]
        one.sendmsg([b"x"], messages, 0, other.getsockname())
        assert other.recvmsg(10, 100)[1] == [
            (names.IPPROTO_IPV6, names.IPV6_HOPLIMIT, struct.pack("i", hops if hops >= 0 else 64)),
            (names.IPPROTO_IPV6, names.IPV6_TCLASS, struct.pack("i", tclass)),
        ]


def test_where_one_datagram_goes_from(
    make: Make, make_other: Make, client_side: Side, server_side: Side
) -> None:
    one, other = make(), make_other(address=(server_side.host, 0))
    index, host = struct.pack("i", client_side.index), names.inet_aton(client_side.host)
    where = (names.IPPROTO_IP, IP_PKTINFO, index + host + bytes(4))
    assert one.sendmsg([b"x"], [where], 0, other.getsockname()) == 1
    assert other.recvfrom(10) == (b"x", (client_side.host, one.getsockname()[1]))
    foreign = struct.pack("i", 0) + names.inet_aton("203.0.113.77") + bytes(4)
    wrong = (names.IPPROTO_IP, IP_PKTINFO, foreign)
    assert errno_of(one.sendmsg, [b"x"], [wrong], 0, other.getsockname()) == errno.ENETUNREACH


@pytest.mark.parametrize(
    "message",
    [
        (names.IPPROTO_IP, names.IP_TTL, struct.pack("i", 0)),
        (names.IPPROTO_IP, names.IP_TTL, struct.pack("i", 256)),
        (names.IPPROTO_IP, names.IP_TTL, b"1"),
        (names.IPPROTO_IP, names.IP_TOS, struct.pack("i", 256)),
        (names.IPPROTO_IP, IP_PKTINFO, b"too short"),
        (names.IPPROTO_IP, 99, b""),
    ],
)
def test_ancillary_data_that_mean_nothing(
    make: Make, make_other: Make, host: str, message: Any
) -> None:
    one, other = make(), make_other(address=(host, 0))
    assert errno_of(one.sendmsg, [b"x"], [message], 0, other.getsockname()) == errno.EINVAL


def test_errors_are_asked_for(make: Make) -> None:
    """aiocoap does so, and looks for them before every datagram."""
    message = names.MSG_ERRQUEUE
    for family, level, option in ((names.AF_INET, 0, 11), (names.AF_INET6, 41, 25)):
        sock = make(family)
        sock.setsockopt(level, option, 1)
        assert sock.getsockopt(level, option) == 1
        sock.setblocking(False)
        assert errno_of(sock.recvmsg, 100, 1000, message) == errno.EAGAIN


def test_a_server_answers_from_where_it_was_asked(
    make: Make, make_other: Make, server_side: Side
) -> None:
    """With what recvmsg told it of the question, as aiocoap does."""
    one, other = make(names.AF_INET6), make_other(names.AF_INET6, (server_side.host6, 0))
    other.setsockopt(names.IPPROTO_IPV6, names.IPV6_RECVPKTINFO, 1)
    one.sendto(b"question", other.getsockname())
    data, messages, _, address = other.recvmsg(100, 100)
    assert other.sendmsg([b"answer to ", data], messages, 0, address) == 18
    assert one.recvfrom(100) == (b"answer to question", other.getsockname())
