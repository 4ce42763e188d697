"""Raw sockets of IPPROTO_ICMP and IPPROTO_ICMPV6: every message, whoever it is for."""

from __future__ import annotations

import errno
import os
import select
import socket as names
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, await_events, errno_of, python_environment
from tests.contract.legs import Leg, Side

Make = Callable[..., Any]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets are for root")

FAMILIES = pytest.mark.parametrize("family", [names.AF_INET, names.AF_INET6], ids=["4", "6"])
REQUEST = {names.AF_INET: 8, names.AF_INET6: 128}
REPLY = {names.AF_INET: 0, names.AF_INET6: 129}
# Which nobody else of the machine sends.
UNUSED = 200
FILTER = {names.AF_INET: (255, 1), names.AF_INET6: (names.IPPROTO_ICMPV6, 1)}


def maker(net: ModuleType, closing: Callable[[Any], Any]) -> Make:
    def create(family: int) -> Any:
        protocol = names.IPPROTO_ICMP if family == names.AF_INET else names.IPPROTO_ICMPV6
        sock = closing(net.socket(family, names.SOCK_RAW, protocol))
        sock.settimeout(PATIENCE_SECONDS)
        return sock

    return create


@pytest.fixture
def make(net: ModuleType, closing: Callable[[Any], Any]) -> Make:
    """Makes raw sockets."""
    return maker(net, closing)


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def message(kind: int, number: int, payload: bytes = b"", identifier: int = 0x1234) -> bytes:
    """With the checksum that it needs over IPv4; that over IPv6 is the stack's business."""
    data = struct.pack("!BBHHH", kind, 0, 0, identifier, number) + payload
    return data[:2] + struct.pack("!H", checksum(data)) + data[4:]


def await_message(sock: Any, kind: int, number: int, size: int = 65535) -> tuple[bytes, Any]:
    """The whole packet with the message; others may come before."""
    while True:
        packet, sender = sock.recvfrom(size)
        icmp = packet[20:] if sock.family == names.AF_INET else packet
        if icmp[:1] + icmp[6:8] == struct.pack("!BH", kind, number):
            return packet, sender


@FAMILIES
def test_ping_by_hand(make: Make, family: names.AddressFamily, leg: Leg) -> None:
    sock = make(family)
    host = leg.server.address(family)
    for number, size in ((1, 0), (2, 56), (3, 20001)):
        data = message(REQUEST[family], number, (bytes(range(256)) * 79)[:size])
        assert sock.sendto(data, (host, 0)) == len(data)
        request, sender = await_message(sock, REQUEST[family], number)
        assert sender[:2] == (host, 0)
        assert len(request) == len(data) + (20 if family == names.AF_INET else 0)
        reply, sender = await_message(sock, REPLY[family], number)
        assert sender[:2] == (host, 0)
        assert reply[-len(data) + 4 :] == data[4:]
        if family == names.AF_INET:
            assert checksum(reply[20:]) == checksum(reply[:20]) == 0


@FAMILIES
def test_ping_of_the_other_side(
    client_side: Side, server_side: Side, closing: Callable[[Any], Any], family: names.AddressFamily
) -> None:
    sock = maker(client_side.net, closing)(family)
    host = server_side.address(family)
    for number, size in ((1, 0), (2, 20001)):
        data = message(REQUEST[family], number, (bytes(range(256)) * 79)[:size])
        sock.sendto(data, (host, 0))
        reply, sender = await_message(sock, REPLY[family], number)
        assert sender[:2] == (host, 0)
        assert reply[-len(data) + 4 :] == data[4:]


def test_a_request_with_a_wrong_checksum_gets_no_reply(make: Make, host: str) -> None:
    sock = make(names.AF_INET)
    wrong = message(8, 4)[:2] + b"\x00\x01" + message(8, 4)[4:]
    for data in (wrong, message(8, 5)):
        sock.sendto(data, (host, 0))
    replies = []
    while 5 not in replies:
        packet = sock.recv(100)
        if packet[20] == 0:
            replies.append(packet[27])
    assert 4 not in replies


def test_the_header_of_ipv4(make: Make, host: str) -> None:
    sock = make(names.AF_INET)
    sock.setsockopt(names.IPPROTO_IP, names.IP_TTL, 33)
    sock.setsockopt(names.IPPROTO_IP, names.IP_TOS, 0x20)
    data = message(UNUSED, 7, b"seven")
    sock.sendto(data, (host, 0))
    packet, _ = await_message(sock, UNUSED, 7)
    first, tos, length, _, _, ttl, protocol, _, source, target = struct.unpack_from(
        "!BBHHHBBH4s4s", packet
    )
    assert (first, tos, length, ttl, protocol) == (0x45, 0x20, 20 + len(data), 33, 1)
    assert source == target == names.inet_aton(host)
    assert checksum(packet[:20]) == 0
    assert packet[20:] == data


def test_a_wrong_checksum_of_ipv4_is_sent_and_received(make: Make, host: str) -> None:
    sock = make(names.AF_INET)
    data = message(UNUSED, 8)
    data = data[:2] + b"\x00\x01" + data[4:]
    sock.sendto(data, (host, 0))
    assert await_message(sock, UNUSED, 8)[0][20:] == data


def test_the_checksum_of_ipv6_is_made(make: Make, leg: Leg) -> None:
    sock = make(names.AF_INET6)
    data = struct.pack("!BBHHH", UNUSED, 0, 0xFFFF, 1, 9)
    sock.sendto(data, (leg.server.host6, 58))
    got, _ = await_message(sock, UNUSED, 9)
    address = names.inet_pton(names.AF_INET6, leg.server.host6)
    pseudo = address + address + struct.pack("!II", len(data), 58)
    assert checksum(pseudo + got) == 0
    assert got[:2] + got[4:] == data[:2] + data[4:]


@FAMILIES
def test_each_gets_all_of_them(make: Make, family: names.AddressFamily, leg: Leg) -> None:
    socks = [make(family) for _ in range(3)]
    socks[1].bind((leg.server.address(family), 0))
    socks[0].sendto(message(UNUSED, 10), (leg.server.address(family), 0))
    for sock in socks:
        await_message(sock, UNUSED, 10)


@FAMILIES
def test_the_requests_of_ping_sockets_are_seen(
    net: ModuleType,
    make: Make,
    closing: Callable[[Any], Any],
    family: names.AddressFamily,
    leg: Leg,
) -> None:
    protocol = names.IPPROTO_ICMP if family == names.AF_INET else names.IPPROTO_ICMPV6
    try:
        ping = closing(net.socket(family, names.SOCK_DGRAM, protocol))
    except PermissionError:
        pytest.skip("net.ipv4.ping_group_range of this machine does not have our group")
    ping.settimeout(PATIENCE_SECONDS)
    sock = make(family)
    ping.sendto(message(REQUEST[family], 11), (leg.server.address(family), 0))
    await_message(sock, REQUEST[family], 11)
    await_message(sock, REPLY[family], 11)
    assert ping.recv(100)[0] == REPLY[family]


@pytest.mark.loopback_only("the network of the loopback is its subject")
def test_bound_to_another_address(make: Make) -> None:
    other, sock = make(names.AF_INET), make(names.AF_INET)
    other.bind(("127.0.0.2", 0))
    sock.sendto(message(UNUSED, 12), ("127.0.0.1", 0))
    await_message(sock, UNUSED, 12)
    sock.sendto(message(UNUSED, 13), ("127.0.0.2", 0))
    packet, _ = other.recvfrom(100)
    assert packet[26:28] == b"\x00\x0d"


@FAMILIES
def test_connected(make: Make, family: names.AddressFamily, leg: Leg) -> None:
    sock = make(family)
    host = leg.server.address(family)
    number = 1 if family == names.AF_INET else 58
    assert sock.getsockname()[1] == number
    assert errno_of(sock.getpeername) == errno.ENOTCONN
    assert errno_of(sock.send, message(UNUSED, 1)) == errno.EDESTADDRREQ
    sock.connect((host, 0))
    assert sock.getsockname()[:2] == (host, number)
    assert errno_of(sock.getpeername) == errno.ENOTCONN  # as it has no port
    assert sock.send(message(UNUSED, 14)) == 8
    await_message(sock, UNUSED, 14)
    assert errno_of(sock.bind, (host, 0)) == errno.EINVAL
    sock.connect((host, 9))
    assert sock.getpeername()[:2] == (host, 9)
    assert sock.send(message(UNUSED, 15)) == 8
    await_message(sock, UNUSED, 15)


@FAMILIES
def test_names_and_refusals(make: Make, family: names.AddressFamily, leg: Leg) -> None:
    sock = make(family)
    number = 1 if family == names.AF_INET else 58
    host = leg.server.address(family)
    anywhere = "0.0.0.0" if family == names.AF_INET else "::"
    assert sock.getsockname()[:2] == (anywhere, number)
    sock.bind((host, 5))
    assert sock.getsockname()[:2] == (host, number)
    sock.bind((anywhere, 7))  # as often as one likes
    assert sock.getsockname()[:2] == (anywhere, number)
    assert errno_of(sock.listen) == errno.EOPNOTSUPP
    assert errno_of(sock.shutdown, names.SHUT_RD) == errno.ENOTCONN
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_TYPE) == names.SOCK_RAW
    protocol = sock.getsockopt(names.SOL_SOCKET, names.SO_PROTOCOL)
    assert (protocol, sock.proto) == (number, number)


@FAMILIES
def test_what_cannot_be_sent(make: Make, family: names.AddressFamily, leg: Leg) -> None:
    sock = make(family)
    where = (leg.server.address(family), 0)
    assert sock.sendto(message(UNUSED, 16), where) == 8
    for size in (0, 1):
        assert errno_of(sock.sendto, bytes(size), where) == errno.EFAULT
    if family == names.AF_INET:
        assert sock.sendto(b"\xc8\x00", where) == 2
        assert sock.sendto(message(UNUSED, 17), (where[0], 99)) == 8
        assert sock.sendto(message(UNUSED, 18, bytes(65507)), where) == 65515
        assert len(await_message(sock, UNUSED, 18)[0]) == 65535
        assert errno_of(sock.sendto, bytes(65516), where) == errno.EMSGSIZE
    else:
        assert errno_of(sock.sendto, b"\xc8\x00\x00", where) == errno.EINVAL
        # The port stands for the protocol: this one, or none.
        assert errno_of(sock.sendto, message(UNUSED, 17), (where[0], 99)) == errno.EINVAL
        assert errno_of(sock.sendto, bytes(65536), where) == errno.EMSGSIZE
    assert sock.sendto(message(UNUSED, 19), where) == 8
    await_message(sock, UNUSED, 19)


@FAMILIES
def test_truncated(make: Make, family: names.AddressFamily, leg: Leg) -> None:
    sock = make(family)
    header = 20 if family == names.AF_INET else 0
    refuse_all_but(sock, UNUSED)
    for number in (20, 21, 22, 23):
        sock.sendto(message(UNUSED, number, bytes(100)), (leg.server.address(family), 0))
    assert len(sock.recv(header + 8, names.MSG_PEEK)) == header + 8
    assert len(sock.recv(header + 8)) == header + 8
    data, _, flags, _ = sock.recvmsg(header + 8)
    assert (len(data), flags & names.MSG_TRUNC, data[-1]) == (header + 8, names.MSG_TRUNC, 21)
    buffer = bytearray(10)
    assert sock.recv_into(buffer, 0, names.MSG_TRUNC) == header + 108
    assert sock.recvfrom_into(bytearray(200))[0] == header + 108


def refuse_all_but(sock: Any, kind: int) -> None:
    """ICMP of IPv4 can refuse the first 32 types only."""
    if sock.family == names.AF_INET:
        sock.setsockopt(*FILTER[names.AF_INET], struct.pack("I", 0xFFFFFFFF))
    else:
        mask = (1 << 256) - 1 & ~(1 << kind)
        sock.setsockopt(*FILTER[names.AF_INET6], mask.to_bytes(32, "little"))


@FAMILIES
def test_filters(make: Make, family: names.AddressFamily, leg: Leg) -> None:
    sock = make(family)
    key = FILTER[family]
    size = 4 if family == names.AF_INET else 32
    assert sock.getsockopt(*key, 64) == bytes(size)
    assert sock.getsockopt(*key) == 0
    sock.setsockopt(*key, 5)
    assert sock.getsockopt(*key, 64) == b"\x05" + bytes(size - 1)
    sock.setsockopt(*key, b"ab")
    assert sock.getsockopt(*key, 3) == b"ab\x00"
    sock.setsockopt(*key, bytes(64))
    assert sock.getsockopt(*key, 64) == bytes(size)
    refuse_all_but(sock, UNUSED)
    sock.sendto(message(REQUEST[family], 30), (leg.server.address(family), 0))
    sock.sendto(message(UNUSED, 31), (leg.server.address(family), 0))
    packet = sock.recv(100)
    assert packet[-8] == UNUSED  # the request and its reply would have come before
    assert errno_of(sock.getsockopt, key[0], 77) == errno.ENOPROTOOPT
    assert errno_of(sock.setsockopt, key[0], 77, 1) == errno.ENOPROTOOPT


@FAMILIES
def test_waiting(
    make: Make, spawn: Callable[..., Future[Any]], family: names.AddressFamily, leg: Leg
) -> None:
    sock = make(family)
    refuse_all_but(sock, UNUSED)
    sock.settimeout(0.01)
    with pytest.raises(TimeoutError):
        sock.recv(100)
    sock.setblocking(False)
    assert errno_of(sock.recv, 100) == errno.EAGAIN
    await_events(sock, select.POLLOUT, select.POLLIN | select.POLLOUT)
    sock.sendto(message(UNUSED, 40), (leg.server.address(family), 0))
    await_events(sock, select.POLLIN | select.POLLOUT, select.POLLIN | select.POLLOUT)
    assert sock.recv(100)
    await_events(sock, select.POLLOUT, select.POLLIN | select.POLLOUT)
    sock.settimeout(PATIENCE_SECONDS)
    waiting = spawn(sock.recv, 100)
    make(family).sendto(message(UNUSED, 41), (leg.server.address(family), 0))
    assert waiting.result(PATIENCE_SECONDS)[-1] == 41


@FAMILIES
def test_ancillary_data(make: Make, family: names.AddressFamily, leg: Leg) -> None:
    sock = make(family)
    refuse_all_but(sock, UNUSED)
    if family == names.AF_INET:
        level, wanted, kind, sent = names.IPPROTO_IP, 12, 2, names.IP_TTL
    else:
        level, wanted, kind = names.IPPROTO_IPV6, names.IPV6_RECVHOPLIMIT, names.IPV6_HOPLIMIT
        sent = names.IPV6_HOPLIMIT
    sock.setsockopt(level, wanted, 1)
    ancillary = [(level, sent, struct.pack("i", 17))]
    where = (leg.server.address(family), 0)
    assert sock.sendmsg([message(UNUSED, 50)], ancillary, 0, where) == 8
    _, messages, _, sender = sock.recvmsg(100, 100)
    assert messages == [(level, kind, struct.pack("i", 17))]
    assert sender[:2] == where


MAKE_ONE = """
import os, sys
import pifus.compat.socket
from pifus._compat import _methods
_methods._load()  # other users may not be able to read it
net = {net}
user, family, protocol = map(int, sys.argv[1:])
os.setgid(user)
os.setuid(user)
try:
    net.socket(family, net.SOCK_RAW, protocol)
    print("made")
except PermissionError as error:
    print(error.errno, error.strerror)
"""
NOBODY = 65534
REFUSED = f"{errno.EPERM} Operation not permitted"


def made_by(user: int, net: ModuleType, family: int, path: str) -> str:
    protocol = names.IPPROTO_ICMP if family == names.AF_INET else names.IPPROTO_ICMPV6
    module = "pifus.compat.socket" if net is not names else "sys.modules['socket']"
    arguments = [str(int(number)) for number in (user, family, protocol)]
    done = subprocess.run(
        [sys.executable, "-c", MAKE_ONE.format(net=module), *arguments],
        env={**python_environment(), "PIFUS_BACKEND": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Where other users come to, too."""
    with tempfile.TemporaryDirectory(prefix="pifus-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.loopback_only("its backends are its own")
@FAMILIES
def test_who_may(
    net: ModuleType, family: int, open_directory: Path, start_backend: Callable[..., Any]
) -> None:
    path = str(open_directory / "socket")
    start_backend("raw-who", "--socket", path, "--mode", "0666")
    assert made_by(0, net, family, path) == "made"
    assert made_by(NOBODY, net, family, path) == REFUSED


@pytest.mark.parametrize(
    ("who", "roots", "nobodys"),
    [("nobody", REFUSED, REFUSED), ("root", "made", REFUSED), ("users", "made", "made")],
)
def test_the_backend_decides(
    pifus_net: ModuleType,
    open_directory: Path,
    start_backend: Callable[..., Any],
    who: str,
    roots: str,
    nobodys: str,
) -> None:
    path = str(open_directory / "socket")
    start_backend("raw-decides", "--socket", path, "--mode", "0666", "--raw", who)
    assert made_by(0, pifus_net, names.AF_INET, path) == roots
    assert made_by(NOBODY, pifus_net, names.AF_INET6, path) == nobodys


def pass_on(net: ModuleType, sock: Any) -> Any:
    """What another process would get of it: only the descriptor."""
    left, right = names.socketpair()
    with left, right:
        names.send_fds(left, [b"x"], [sock.fileno()])
        return net.socket(fileno=names.recv_fds(right, 1, 1)[1][0])


@FAMILIES
def test_a_descriptor_is_enough(
    net: ModuleType,
    make: Make,
    family: names.AddressFamily,
    closing: Callable[[Any], Any],
    leg: Leg,
) -> None:
    sock = make(family)
    refuse_all_but(sock, UNUSED)
    child = os.fork()
    if child == 0:
        try:
            sock.settimeout(PATIENCE_SECONDS)
            sock.sendto(message(UNUSED, 60), (leg.server.address(family), 0))
            again = sock.recv(100)[-1] == 60
            os._exit(0 if again else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    other = closing(pass_on(net, sock))
    other.settimeout(PATIENCE_SECONDS)
    sock.sendto(message(UNUSED, 61), (leg.server.address(family), 0))
    assert (other.type, other.recv(100)[-1]) == (names.SOCK_RAW, 61)
