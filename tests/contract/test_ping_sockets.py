"""ICMP echo without privilege: datagram sockets of IPPROTO_ICMP and IPPROTO_ICMPV6."""

from __future__ import annotations

import errno
import socket as names
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, errno_of
from tests.contract.legs import Side

Make = Callable[..., Any]

FAMILIES = pytest.mark.parametrize("family", [names.AF_INET, names.AF_INET6], ids=["4", "6"])
REQUEST = {names.AF_INET: 8, names.AF_INET6: 128}
REPLY = {names.AF_INET: 0, names.AF_INET6: 129}


@pytest.fixture
def make(client_side: Side, closing: Callable[[Any], Any]) -> Make:
    def create(family: int) -> Any:
        protocol = names.IPPROTO_ICMP if family == names.AF_INET else names.IPPROTO_ICMPV6
        try:
            sock = closing(client_side.net.socket(family, names.SOCK_DGRAM, protocol))
        except PermissionError:
            if client_side.net is not names:
                raise
            pytest.skip("net.ipv4.ping_group_range of this machine does not have our group")
        sock.settimeout(PATIENCE_SECONDS)
        return sock

    return create


def request(family: int, sequence: int, payload: bytes = b"payload", kind: int = 0) -> bytes:
    # Neither checksum nor identifier is the program's business.
    return (
        struct.pack("!BBHHH", kind or REQUEST[names.AddressFamily(family)], 0, 0, 77, sequence)
        + payload
    )


@FAMILIES
def test_echo(make: Make, server_side: Side, family: int) -> None:
    sock = make(family)
    host = server_side.address(family)
    for sequence, size in ((1, 0), (2, 56), (3, 20000)):
        data = request(family, sequence, bytes(range(256)) * 79)[: 8 + size]
        assert sock.sendto(data, (host, 0)) == len(data)
        reply, sender = sock.recvfrom(65535)
        assert sender[:2] == (host, 0)
        kind, code, _, identifier, echoed = struct.unpack_from("!BBHHH", reply)
        assert (kind, code, echoed) == (REPLY[names.AddressFamily(family)], 0, sequence)
        assert identifier == sock.getsockname()[1] != 0
        assert reply[8:] == data[8:]


@FAMILIES
def test_each_gets_its_own(make: Make, server_side: Side, family: int) -> None:
    socks = [make(family) for _ in range(5)]
    for i, sock in enumerate(socks):
        sock.sendto(request(family, i), (server_side.address(family), 0))
    for i, sock in enumerate(socks):
        assert struct.unpack_from("!H", sock.recv(100), 6)[0] == i
        sock.setblocking(False)
        assert errno_of(sock.recv, 100) == errno.EAGAIN


@FAMILIES
def test_bound_and_connected(make: Make, client_side: Side, server_side: Side, family: int) -> None:
    sock = make(family)
    host = server_side.address(family)
    sock.bind((client_side.address(family), 4711))
    sock.connect((host, 0))
    sock.send(request(family, 9))
    assert struct.unpack_from("!HH", sock.recv(100), 4) == (4711, 9)


@FAMILIES
def test_only_requests_can_be_sent(make: Make, server_side: Side, family: int) -> None:
    sock = make(family)
    where = (server_side.address(family), 0)
    assert errno_of(sock.sendto, request(family, 1)[:7], where) == errno.EINVAL
    kind = REPLY[names.AddressFamily(family)]
    assert errno_of(sock.sendto, request(family, 1, kind=kind or 5), where) == errno.EINVAL
    assert sock.sendto(request(family, 1)[:8], where) == 8
    assert len(sock.recv(100)) == 8
