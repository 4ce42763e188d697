"""Datagrams: whole, with their sender, or not at all; errors as the kernel has them."""

from __future__ import annotations

import array
import errno
import random
import socket as names
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType
from typing import Any

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, errno_of
from tests.contract.legs import Side

Close = Callable[[Any], Any]
Spawn = Callable[..., Future[Any]]
Make = Callable[..., Any]


def maker(side: Side, closing: Close) -> Make:
    def create(family: int = names.AF_INET, bound: bool = True) -> Any:
        sock = closing(side.net.socket(family, names.SOCK_DGRAM))
        if bound:
            sock.bind((side.address(family), 0))
        sock.settimeout(PATIENCE_SECONDS)
        return sock

    return create


@pytest.fixture
def make(client_side: Side, closing: Close) -> Make:
    """Makes UDP sockets of one side, bound to a free port if `bound`."""
    return maker(client_side, closing)


@pytest.fixture
def make_other(server_side: Side, closing: Close) -> Make:
    """Makes those of the other side."""
    return maker(server_side, closing)


@pytest.fixture(params=[names.AF_INET, names.AF_INET6], ids=["ipv4", "ipv6"])
def two(request: pytest.FixtureRequest, make: Make, make_other: Make) -> tuple[Any, Any]:
    """Two bound sockets that are not connected."""
    return make(request.param), make_other(request.param)


def test_type_and_protocol(make: Make) -> None:
    sock = make()
    assert sock.type == names.SOCK_DGRAM
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_TYPE) == names.SOCK_DGRAM
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_PROTOCOL) == names.IPPROTO_UDP
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_ACCEPTCONN) == 0


def test_there_and_back(two: tuple[Any, Any]) -> None:
    one, other = two
    assert one.sendto(b"ping", other.getsockname()) == 4
    data, sender = other.recvfrom(100)
    assert (data, sender) == (b"ping", one.getsockname())
    assert other.sendto(b"pong", sender) == 4
    assert one.recvfrom(100) == (b"pong", other.getsockname())


def test_boundaries_are_kept(two: tuple[Any, Any]) -> None:
    one, other = two
    sizes = [1, 0, 8, 1000, 7, 30000, 0, 3]
    for size in sizes:
        assert one.sendto(bytes([size % 251]) * size, other.getsockname()) == size
    for size in sizes:
        assert other.recv(65535) == bytes([size % 251]) * size


def test_rest_of_a_long_one_is_dropped(two: tuple[Any, Any]) -> None:
    one, other = two
    for part in (b"abcdef", b"gh"):
        one.sendto(part, other.getsockname())
    assert other.recv(3) == b"abc"
    assert other.recv(3) == b"gh"


def test_peek_leaves_it(two: tuple[Any, Any]) -> None:
    one, other = two
    one.sendto(b"abc", other.getsockname())
    assert other.recvfrom(2, names.MSG_PEEK) == (b"ab", one.getsockname())
    assert other.recv(10, names.MSG_PEEK) == b"abc"
    assert other.recv(10) == b"abc"
    other.settimeout(None)
    assert errno_of(other.recv, 10, names.MSG_PEEK | names.MSG_DONTWAIT) == errno.EAGAIN


def test_trunc_tells_the_whole_length(two: tuple[Any, Any]) -> None:
    one, other = two
    room = bytearray(2)
    one.sendto(b"abcdef", other.getsockname())
    assert other.recv_into(room, 2, names.MSG_TRUNC) == 6
    assert room == b"ab"
    one.sendto(b"abcdef", other.getsockname())
    assert other.recvmsg(4) == (b"abcd", [], names.MSG_TRUNC, one.getsockname())
    one.sendto(b"abcdef", other.getsockname())
    assert other.recvmsg(6) == (b"abcdef", [], 0, one.getsockname())


def test_scatter_and_gather(two: tuple[Any, Any]) -> None:
    one, other = two
    parts = [b"ab", bytearray(b"cd"), memoryview(b"efg")]
    assert one.sendmsg(parts, [], 0, other.getsockname()) == 7
    rooms = [bytearray(3), bytearray(0), bytearray(10)]
    assert other.recvmsg_into(rooms) == (7, [], 0, one.getsockname())
    assert [bytes(room) for room in rooms] == [b"abc", b"", b"defg" + bytes(6)]


def test_into_a_buffer(two: tuple[Any, Any]) -> None:
    one, other = two
    room = bytearray(10)
    one.sendto(b"abc", other.getsockname())
    assert other.recvfrom_into(room) == (3, one.getsockname())
    one.sendto(b"defg", 0, other.getsockname())
    assert other.recvfrom_into(room, 2) == (2, one.getsockname())
    assert room == b"dec" + bytes(7)
    with pytest.raises(ValueError, match="nbytes"):
        other.recvfrom_into(room, 11)
    with pytest.raises(TypeError):
        other.recvfrom_into(b"abc")


@pytest.mark.parametrize(
    "make_data", [bytes, bytearray, memoryview, lambda data: array.array("H", data)]
)
def test_sends_any_buffer(two: tuple[Any, Any], make_data: Callable[[bytes], Any]) -> None:
    one, other = two
    assert one.sendto(make_data(b"12345678"), other.getsockname()) == 8
    assert other.recv(100) == b"12345678"


def test_the_longest_datagram(make: Make, make_other: Make) -> None:
    one, other = make(), make_other()
    data = random.Random(3).randbytes(65507)
    assert one.sendto(data, other.getsockname()) == 65507
    assert other.recv(65535) == data
    assert errno_of(one.sendto, data + b"x", other.getsockname()) == errno.EMSGSIZE


def test_too_long_over_ipv6(make: Make, make_other: Make) -> None:
    one, other = make(names.AF_INET6), make_other(names.AF_INET6)
    data = random.Random(4).randbytes(65487)
    assert one.sendto(data, other.getsockname()) == 65487
    assert other.recv(65535) == data
    assert errno_of(one.sendto, bytes(65536), other.getsockname()) == errno.EMSGSIZE


def test_sending_binds(make: Make, make_other: Make, client_side: Side) -> None:
    one, other = make(bound=False), make_other()
    assert one.getsockname() == ("0.0.0.0", 0)
    one.sendto(b"x", other.getsockname())
    port = one.getsockname()[1]
    assert port >= 1024
    assert one.getsockname()[0] == "0.0.0.0"
    assert other.recvfrom(10) == (b"x", (client_side.host, port))
    assert errno_of(one.bind, (client_side.host, 0)) == errno.EINVAL


def test_the_wildcard_gets_both_families(
    make: Make, make_other: Make, client_side: Side, server_side: Side
) -> None:
    both = make(names.AF_INET6, bound=False)
    both.bind(("::", 0))
    port = both.getsockname()[1]
    four, six = make_other(), make_other(names.AF_INET6)
    four.sendto(b"4", (client_side.host, port))
    data, sender = both.recvfrom(10)
    assert (data, sender[:2]) == (b"4", (f"::ffff:{server_side.host}", four.getsockname()[1]))
    both.sendto(b"back", sender)
    assert four.recv(10) == b"back"
    six.sendto(b"6", (client_side.host6, port))
    assert both.recvfrom(10) == (b"6", six.getsockname())


def test_v6only(make: Make, make_other: Make, client_side: Side) -> None:
    six = make(names.AF_INET6, bound=False)
    six.setsockopt(names.IPPROTO_IPV6, names.IPV6_V6ONLY, 1)
    six.bind(("::", 0))
    port = six.getsockname()[1]
    four = make(bound=False)
    four.bind(("0.0.0.0", port))  # no conflict
    make_other().sendto(b"x", (client_side.host, port))
    assert four.recv(10) == b"x"
    assert errno_of(six.sendto, b"x", (f"::ffff:{client_side.host}", port)) == errno.ENETUNREACH


def test_the_resolver_of_the_machine_is_the_kernels(pifus_net: ModuleType, closing: Close) -> None:
    """The stack could only lose what is sent there."""
    served = closing(names.socket(names.AF_INET, names.SOCK_DGRAM))
    served.bind(("127.0.0.53", 0))
    served.settimeout(PATIENCE_SECONDS)
    asks = closing(pifus_net.socket(names.AF_INET, names.SOCK_DGRAM))
    asks.settimeout(PATIENCE_SECONDS)
    asks.sendto(b"who?", served.getsockname())
    question, sender = served.recvfrom(100)
    served.sendto(question + b" me", sender)
    assert asks.recv(100) == b"who? me"
    connects = closing(pifus_net.socket(names.AF_INET, names.SOCK_DGRAM))
    connects.connect(served.getsockname())
    connects.send(b"x")
    assert served.recv(10) == b"x"


# ---- connecting ----


def test_connected(two: tuple[Any, Any], make: Make, make_other: Make) -> None:
    one, other = two
    one.connect(other.getsockname())
    assert one.getpeername() == other.getsockname()
    assert one.send(b"abc") == 3
    assert other.recvfrom(10) == (b"abc", one.getsockname())
    one.sendall(b"de")
    assert other.recv(10) == b"de"
    stranger = make_other(one.family)
    stranger.sendto(b"not for you", one.getsockname())
    other.sendto(b"for you", one.getsockname())
    assert one.recvfrom(100) == (b"for you", other.getsockname())
    # To an address that nobody is connected to, anybody may send.
    make(one.family).sendto(b"x", other.getsockname())
    assert other.recv(10) == b"x"


def test_connecting_again_changes_the_peer(make: Make, make_other: Make, client_side: Side) -> None:
    one, first, second = make(bound=False), make_other(), make_other()
    one.connect(first.getsockname())
    assert one.connect_ex(second.getsockname()) == 0
    assert one.getpeername() == second.getsockname()
    one.send(b"x")
    assert second.recvfrom(10) == (b"x", one.getsockname())
    assert one.getsockname()[0] == client_side.host
    # To another one than the peer.
    one.sendto(b"y", first.getsockname())
    assert first.recv(10) == b"y"


def test_the_connected_one_gets_what_is_its_peers(
    make: Make, make_other: Make, client_side: Side
) -> None:
    peer, other = make_other(), make_other()
    general = make(bound=False)
    special = make(bound=False)
    for sock in (general, special):
        sock.setsockopt(names.SOL_SOCKET, names.SO_REUSEADDR, 1)
    general.bind((client_side.host, 0))
    special.bind(general.getsockname())
    special.connect(peer.getsockname())
    peer.sendto(b"special", general.getsockname())
    other.sendto(b"general", general.getsockname())
    assert special.recv(10) == b"special"
    assert general.recv(10) == b"general"


def test_without_a_peer(make: Make, host: str) -> None:
    sock = make()
    assert errno_of(sock.send, b"x") == errno.EDESTADDRREQ
    assert errno_of(sock.sendmsg, [b"x"]) == errno.EDESTADDRREQ
    assert errno_of(sock.getpeername) == errno.ENOTCONN
    assert errno_of(sock.sendto, b"x", (host, 0)) == errno.EINVAL


def test_what_only_streams_do(make: Make) -> None:
    sock = make()
    sock.settimeout(None)
    assert errno_of(sock.listen) == errno.EOPNOTSUPP
    assert errno_of(sock.accept) == errno.EOPNOTSUPP
    assert errno_of(sock.send, b"x", names.MSG_OOB) in (errno.EOPNOTSUPP, errno.EDESTADDRREQ)
    assert errno_of(sock.setsockopt, names.IPPROTO_TCP, names.TCP_NODELAY, 1) == errno.ENOPROTOOPT


# ---- what did not arrive ----


def test_refused(make: Make, make_other: Make) -> None:
    one, other = make(bound=False), make_other()
    one.connect(other.getsockname())
    other.close()
    one.send(b"x")
    assert errno_of(one.recv, 10) == errno.ECONNREFUSED
    one.settimeout(0)
    assert errno_of(one.recv, 10) == errno.EAGAIN  # told once


def test_refused_shows_in_so_error(make: Make, make_other: Make) -> None:
    one, other = make(bound=False), make_other()
    one.connect(other.getsockname())
    other.close()
    one.setblocking(False)
    one.send(b"x")
    poll = select_read(one)
    assert poll
    code = one.getsockopt(names.SOL_SOCKET, names.SO_ERROR)
    assert code == errno.ECONNREFUSED
    assert one.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == 0


def test_refused_is_told_to_the_next_send(make: Make, make_other: Make) -> None:
    one, other = make(bound=False), make_other()
    one.connect(other.getsockname())
    other.close()
    one.send(b"x")
    assert select_read(one)
    assert errno_of(one.send, b"y") == errno.ECONNREFUSED


def test_refused_over_ipv6(make: Make, make_other: Make) -> None:
    one, other = make(names.AF_INET6, bound=False), make_other(names.AF_INET6)
    one.connect(other.getsockname())
    other.close()
    one.send(b"x")
    assert errno_of(one.recv, 10) == errno.ECONNREFUSED


def test_nobody_tells_an_unconnected_socket(make: Make, make_other: Make) -> None:
    one, other, third = make(), make_other(), make_other()
    address = other.getsockname()
    other.close()
    one.sendto(b"x", address)
    third.sendto(b"still here", one.getsockname())
    assert one.recv(100) == b"still here"


def select_read(sock: Any) -> bool:
    import select

    return bool(select.select([sock], [], [], PATIENCE_SECONDS)[0])


# ---- sharing a port ----


def test_a_port_is_taken_once(make: Make, client_side: Side) -> None:
    one = make()
    other = make(bound=False)
    assert errno_of(other.bind, one.getsockname()) == errno.EADDRINUSE
    assert errno_of(other.bind, ("0.0.0.0", one.getsockname()[1])) == errno.EADDRINUSE
    other.setsockopt(names.SOL_SOCKET, names.SO_REUSEADDR, 1)
    assert errno_of(other.bind, one.getsockname()) == errno.EADDRINUSE
    one.close()
    other.bind((client_side.host, 0))


def test_reuseaddr_the_latest_gets_it(make: Make, make_other: Make, client_side: Side) -> None:
    socks = [make(bound=False) for _ in range(3)]
    for sock in socks:
        sock.setsockopt(names.SOL_SOCKET, names.SO_REUSEADDR, 1)
        sock.bind(socks[0].getsockname() if sock is not socks[0] else (client_side.host, 0))
    make_other().sendto(b"x", socks[0].getsockname())
    assert socks[-1].recv(10) == b"x"


def test_reuseport_spreads_by_sender(make: Make, make_other: Make, client_side: Side) -> None:
    socks = [make(bound=False) for _ in range(4)]
    for sock in socks:
        sock.setsockopt(names.SOL_SOCKET, names.SO_REUSEPORT, 1)
        sock.bind(socks[0].getsockname() if sock is not socks[0] else (client_side.host, 0))
        sock.setblocking(False)
    senders = [make_other() for _ in range(40)]
    for sender in senders:
        for _ in range(2):
            sender.sendto(b"x", socks[0].getsockname())
    got: list[list[int]] = []
    for sock in socks:
        mine: list[int] = []
        while select_now(sock):
            mine.append(sock.recvfrom(10)[1][1])
        got.append(sorted(mine))
    assert sum(len(mine) for mine in got) == 80
    assert sum(bool(mine) for mine in got) >= 2
    for mine in got:  # both datagrams of a sender went the same way
        assert mine[::2] == mine[1::2]


def select_now(sock: Any) -> bool:
    import select

    return bool(select.select([sock], [], [], 0.2)[0])


def test_broadcast_option(make: Make) -> None:
    sock = make(bound=False)
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_BROADCAST) == 0
    sock.setsockopt(names.SOL_SOCKET, names.SO_BROADCAST, 1)
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_BROADCAST) == 1


# ---- shutting down and closing ----


def test_shutdown(make: Make, make_other: Make, spawn: Spawn) -> None:
    one, other = make(bound=False), make_other()
    assert errno_of(make().shutdown, names.SHUT_RD) == errno.ENOTCONN
    one.connect(other.getsockname())
    one.settimeout(None)
    blocked = spawn(one.recv, 10)
    one.shutdown(names.SHUT_RDWR)
    assert blocked.result(PATIENCE_SECONDS) == b""
    assert errno_of(one.send, b"x") == errno.EPIPE
    assert errno_of(one.shutdown, 7) == errno.EINVAL


def test_sent_before_close_arrives(make: Make, make_other: Make) -> None:
    one, other = make(), make_other()
    for i in range(20):
        one.sendto(bytes([i]), other.getsockname())
    one.close()
    assert [other.recv(10) for _ in range(20)] == [bytes([i]) for i in range(20)]


def test_a_closed_port_is_free(make: Make) -> None:
    one = make()
    address = one.getsockname()
    one.close()
    again = make(bound=False)
    again.bind(address)
    assert errno_of(one.recv, 1) == errno.EBADF
    assert errno_of(one.sendto, b"x", address) == errno.EBADF
