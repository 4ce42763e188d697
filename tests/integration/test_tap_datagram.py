"""Datagrams over a TAP device, with the machine's own kernel as the peer."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pifus
from tests.integration.test_tap import SECONDS, StartBackend, Tap, needs_tap, start_tap

pytestmark = needs_tap

VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


@pytest.fixture(params=["offload", "no-offload"])
def tap(request: pytest.FixtureRequest, start_backend: StartBackend) -> Tap:
    return start_tap(start_backend, f"--{request.param}")


@pytest.fixture
def client(tap: Tap) -> Iterator[pifus.Client]:
    with pifus.Client(tap.backend.path) as attached:
        yield attached


def family_of(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def kernel_socket(tap: Tap, version: int) -> socket.socket:
    sock = socket.socket(family_of(version), socket.SOCK_DGRAM)
    sock.settimeout(SECONDS)
    sock.bind((tap.host4 if version == 4 else tap.host6, 0))
    return sock


def stack_socket(client: pifus.Client, tap: Tap, version: int) -> tuple[pifus.Socket, tuple]:
    sock = client.socket(pifus.UDP, family=family_of(version))
    sock.bind((tap.stack4 if version == 4 else tap.stack6, 0))
    sock.wait(SECONDS).check()
    address = sock.local_address
    assert address is not None
    return sock, address


def sent(sock: pifus.Socket, data: bytes, address: tuple | None = None) -> pifus.Completion:
    sock.sendto(data, address)
    return sock.wait(SECONDS)


@VERSIONS
def test_there_and_back(client: pifus.Client, tap: Tap, version: int) -> None:
    ours, ours_name = stack_socket(client, tap, version)
    # 65,507 bytes at most over IPv4; all but the first two sizes travel in fragments.
    longest = 65507 if version == 4 else 65487
    with kernel_socket(tap, version) as theirs:
        for size in (0, 1400, 1473, 4000, 30001, longest):
            data = random.Random(size).randbytes(size)
            assert sent(ours, data, theirs.getsockname()[:2]).check().result == size
            assert theirs.recvfrom(65535) == (data, ours_name)
            ours.recv(65535)
            theirs.sendto(data, ours_name)
            done = ours.wait(SECONDS).check()
            assert done.data == data
            assert done.peer == theirs.getsockname()


@VERSIONS
def test_many_senders_at_once(client: pifus.Client, tap: Tap, version: int) -> None:
    """Fragments of several datagrams between each other."""
    ours, ours_name = stack_socket(client, tap, version)
    senders = [kernel_socket(tap, version) for _ in range(4)]
    wanted = {}
    for sender in senders:
        data = random.Random(sender.fileno()).randbytes(9000)
        wanted[sender.getsockname()] = data
        sender.sendto(data, ours_name)
    for _ in senders:
        ours.recv(65535)
        done = ours.wait(SECONDS).check()
        assert wanted.pop(done.peer) == done.data
    for sender in senders:
        sender.close()


@VERSIONS
def test_the_kernel_refuses(client: pifus.Client, tap: Tap, version: int) -> None:
    ours, _ = stack_socket(client, tap, version)
    with kernel_socket(tap, version) as theirs:
        address = theirs.getsockname()
    ours.connect(address[:2])
    ours.wait(SECONDS).check()
    receive = ours.recv(100)
    send = ours.sendto(b"anybody there?")
    results = {}
    for _ in range(2):
        done = ours.wait(SECONDS)
        results[done.op] = done.result
    assert results == {send: 14, receive: -errno.ECONNREFUSED}


@VERSIONS
def test_we_refuse(client: pifus.Client, tap: Tap, version: int) -> None:
    ours, ours_name = stack_socket(client, tap, version)
    with kernel_socket(tap, version) as theirs:
        theirs.connect(ours_name)
        ours.close()
        ours.wait(SECONDS)
        theirs.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            theirs.recv(100)


def test_broadcast(client: pifus.Client, tap: Tap) -> None:
    ours, _ = stack_socket(client, tap, 4)
    net = tap.stack4.rsplit(".", 1)[0] + ".255"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.settimeout(SECONDS)
        theirs.bind(("", 0))
        port = theirs.getsockname()[1]
        assert sent(ours, b"x", (net, port)).errno == errno.EACCES
        assert sent(ours, b"x", ("255.255.255.255", port)).errno == errno.EACCES
        ours.setopt(pifus.Option.BROADCAST, 1)
        ours.wait(SECONDS).check()
        assert sent(ours, b"to all", (net, port)).result == 6
        assert theirs.recvfrom(100)[0] == b"to all"
        # And in the other direction: every socket of the port gets it.
        takers = []
        for _ in range(2):
            taker = client.socket(pifus.UDP)
            taker.setopt(pifus.Option.REUSEADDR, 1)
            taker.bind(("", 4999))
            for _ in range(2):
                taker.wait(SECONDS).check()
            taker.recv(100)
            takers.append(taker)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        theirs.sendto(b"everybody", (net, 4999))
        for taker in takers:
            done = taker.wait(SECONDS).check()
            assert done.data == b"everybody"
            assert done.peer is not None
            assert done.peer[0] == tap.host4


def test_no_way_there(client: pifus.Client, tap: Tap) -> None:
    ours = client.socket(pifus.UDP)
    ours.bind(("127.0.0.1", 0))
    ours.wait(SECONDS).check()
    assert sent(ours, b"x", (tap.host4, 9)).errno == errno.EINVAL  # from 127.0.0.1 to the wire


def test_the_drop_in_over_the_wire(tap: Tap) -> None:
    """A Python program that knows nothing of pifus asks a service of the kernel."""
    program = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.settimeout(20)\n"
        "s.sendto(b'question', (sys.argv[1], int(sys.argv[2]))); print(s.recvfrom(100)[0].decode())"
    )
    with kernel_socket(tap, 4) as theirs:
        host, port = theirs.getsockname()
        command = [sys.executable, "-m", "pifus.cli", "run", "--", sys.executable, "-c", program]
        child = subprocess.Popen(
            [*command, host, str(port)],
            env={**os.environ, "PIFUS_BACKEND": tap.backend.path},
            stdout=subprocess.PIPE,
            text=True,
        )
        question, sender = theirs.recvfrom(100)
        assert (question, sender[0]) == (b"question", tap.stack4)
        theirs.sendto(b"answer", sender)
        assert child.communicate(timeout=SECONDS)[0] == "answer\n"
        assert child.returncode == 0


# ---- multicast ----

GROUP4 = "239.77.1.2"
GROUP6 = "ff05::77"


@pytest.fixture
def drop_in(tap: Tap, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes drop-in sockets of the TAP backend, in a process of their own session."""
    import pifus.compat.socket as over
    from pifus._compat import _current

    monkeypatch.setenv("PIFUS_BACKEND", tap.backend.path)
    before, _current._session = _current._session, None
    made = []

    def make(family: int = socket.AF_INET) -> Any:
        made.append(over.socket(family, socket.SOCK_DGRAM))
        made[-1].settimeout(SECONDS)
        return made[-1]

    yield make
    for sock in made:
        sock.close()
    ours, _current._session = _current._session, before
    if ours is not None:
        ours.close()


def interface_of(tap: Tap) -> str:
    done = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if f" {tap.host4}/" in line)
    return line.split()[1]


def test_multicast_from_the_kernel(drop_in: Callable[..., Any], tap: Tap) -> None:
    ours = drop_in()
    ours.bind((GROUP4, 0))
    port = ours.getsockname()[1]
    ours.setsockopt(
        socket.IPPROTO_IP,
        socket.IP_ADD_MEMBERSHIP,
        socket.inet_aton(GROUP4) + socket.inet_aton(tap.stack4),
    )
    with kernel_socket(tap, 4) as theirs:
        theirs.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(tap.host4))
        theirs.sendto(b"x" * 5000, (GROUP4, port))
        assert ours.recvfrom(10000) == (b"x" * 5000, theirs.getsockname())
        theirs.sendto(b"another group", ("239.77.1.3", port))
        theirs.sendto(b"after it", (GROUP4, port))
        assert ours.recv(100) == b"after it"


def test_multicast_to_the_kernel_and_to_ourselves(drop_in: Callable[..., Any], tap: Tap) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.settimeout(SECONDS)
        theirs.bind(("", 0))
        port = theirs.getsockname()[1]
        theirs.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton(GROUP4) + socket.inet_aton(tap.host4),
        )
        sender, member = drop_in(), drop_in()
        member.bind(("", port))
        member.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton(GROUP4) + socket.inet_aton(tap.stack4),
        )
        for size in (5, 4000):
            sender.sendto(b"a" * size, (GROUP4, port))
            assert theirs.recvfrom(10000)[0] == b"a" * size
            data, source = member.recvfrom(10000)
            assert (data, source) == (b"a" * size, (tap.stack4, sender.getsockname()[1]))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        sender.sendto(b"not to us", (GROUP4, port))
        assert theirs.recv(100) == b"not to us"
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        sender.sendto(b"to us only", (GROUP4, port))
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
        sender.sendto(b"to all", (GROUP4, port))
        assert member.recv(100) == b"to us only"
        assert member.recv(100) == b"to all"
        assert theirs.recv(100) == b"to all"


def test_multicast_over_ipv6(drop_in: Callable[..., Any], tap: Tap) -> None:
    index = socket.if_nametoindex(interface_of(tap))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as theirs:
        theirs.settimeout(SECONDS)
        theirs.bind(("::", 0))
        port = theirs.getsockname()[1]
        group = socket.inet_pton(socket.AF_INET6, GROUP6)
        theirs.setsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("I", index)
        )
        theirs.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        theirs.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        ours = drop_in(socket.AF_INET6)
        ours.bind(("::", 0))
        ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + struct.pack("I", 0))
        ours.sendto(b"question", (GROUP6, port))
        data, source = theirs.recvfrom(100)
        assert (data, source[:2]) == (b"question", (tap.stack6, ours.getsockname()[1]))
        theirs.sendto(b"answer", (GROUP6, ours.getsockname()[1]))
        assert ours.recvfrom(100)[0] == b"answer"


@VERSIONS
def test_we_ping_the_kernel(drop_in: Callable[..., Any], tap: Tap, version: int) -> None:
    import pifus.compat.socket as over

    family = family_of(version)
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    drop_in(family)  # the session
    with over.socket(family, socket.SOCK_DGRAM, protocol) as sock:
        sock.settimeout(SECONDS)
        for size in (56, 5000):  # the second one in fragments
            data = struct.pack("!BBHHH", 8 if version == 4 else 128, 0, 0, 0, size) + bytes(size)
            sock.sendto(data, (tap.host4 if version == 4 else tap.host6, 0))
            reply, sender = sock.recvfrom(10000)
            assert sender[0] == (tap.host4 if version == 4 else tap.host6)
            assert reply[6:] == data[6:]


@pytest.fixture
def raw(drop_in: Callable[..., Any], tap: Tap) -> Iterator[Callable[[int], Any]]:
    """Makes raw sockets over the device."""
    import pifus.compat.socket as over

    drop_in()  # the session
    with contextlib.ExitStack() as stack:

        def make(version: int) -> Any:
            protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
            sock = stack.enter_context(over.socket(family_of(version), socket.SOCK_RAW, protocol))
            sock.settimeout(SECONDS)
            return sock

        yield make


def await_message(sock: Any, version: int, kind: int, number: int) -> tuple[bytes, str]:
    """The message behind its header, and who sent it; others may come before."""
    while True:
        packet, sender = sock.recvfrom(65535)
        icmp = packet[20:] if version == 4 else packet
        if icmp[:1] + icmp[6:8] == struct.pack("!BH", kind, number):
            return icmp, sender[0]


@VERSIONS
def test_we_ping_the_kernel_by_hand(raw: Callable[[int], Any], tap: Tap, version: int) -> None:
    sock = raw(version)
    host = tap.host4 if version == 4 else tap.host6
    for size in (56, 5000):  # the second one in fragments
        data = bytearray(struct.pack("!BBHHH", 8 if version == 4 else 128, 0, 0, 77, size))
        data += bytes(size)
        if version == 4:
            total = sum(struct.unpack(f"!{len(data) // 2}H", data))
            data[2:4] = struct.pack("!H", ~(total % 0xFFFF) & 0xFFFF)
        sock.sendto(data, (host, 0))
        reply, sender = await_message(sock, version, 0 if version == 4 else 129, size)
        assert (sender, reply[4:]) == (host, data[4:])


@VERSIONS
def test_the_requests_of_the_kernel_are_seen(
    raw: Callable[[int], Any], tap: Tap, version: int
) -> None:
    sock = raw(version)
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    request, reply = (8, 0) if version == 4 else (128, 129)
    with socket.socket(family_of(version), socket.SOCK_RAW, protocol) as theirs:
        theirs.settimeout(SECONDS)
        data = struct.pack("!BBHHH", request, 0, 0, 1, 4711)
        if version == 4:
            data = struct.pack("!BBHHH", request, 0, ~(0x800 + 1 + 4711) & 0xFFFF, 1, 4711)
        theirs.sendto(data, (tap.stack4 if version == 4 else tap.stack6, 0))
        seen, sender = await_message(sock, version, request, 4711)
        assert (sender, seen[4:]) == (tap.host4 if version == 4 else tap.host6, data[4:])
        # And the stack has answered, as always.
        answer, sender = await_message(theirs, version, reply, 4711)
        assert (sender, answer[4:]) == (tap.stack4 if version == 4 else tap.stack6, data[4:])


def test_a_raw_socket_cannot_take_our_address(raw: Callable[[int], Any], tap: Tap) -> None:
    """By advertising it as somebody else's."""
    sock = raw(6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
    sock.bind((tap.stack6, 0))
    ours = socket.inet_pton(socket.AF_INET6, tap.stack6)
    theft = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + ours + b"\x02\x01\x02\0\0\0\0\x09"
    index = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF)
    sock.sendto(theft, ("ff02::1", 0, 0, index))
    sock.sendto(theft, (tap.stack6, 0))
    data = struct.pack("!BBHHH", 128, 0, 0, 1, 99)
    sock.sendto(data, (tap.stack6, 0))
    await_message(sock, 6, 129, 99)
    sock.sendto(data, (tap.host6, 0))
    assert await_message(sock, 6, 129, 99)[1] == tap.host6
