"""Addresses, options, and what is answered to calls that cannot work."""

from __future__ import annotations

import errno
import socket as names
import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, errno_of
from tests.contract.legs import Side

Pair = tuple[Any, Any]


def test_both_ends_know_their_names(pair: Pair, client_side: Side, listener: Any) -> None:
    client, server = pair
    assert client.getpeername() == listener.getsockname()
    assert server.getsockname() == listener.getsockname()
    assert server.getpeername() == client.getsockname()
    assert client.getsockname()[0] == client_side.host


def test_accept_tells_the_peer(client_net: ModuleType, listener: Any) -> None:
    with client_net.create_connection(listener.getsockname()) as client:
        server, peer = listener.accept()
        server.close()
        assert peer == client.getsockname()


def test_names_before_and_after_bind(net: ModuleType, host: str) -> None:
    with net.socket() as sock:
        assert sock.getsockname() == ("0.0.0.0", 0)
        sock.bind((host, 0))
        name, port = sock.getsockname()
        assert name == host
        assert port > 0
    with net.socket() as sock:
        sock.bind(("", 0))
        assert sock.getsockname()[0] == "0.0.0.0"


def test_localhost_is_this_host(net: ModuleType) -> None:
    with net.create_server(("localhost", 0)) as listener:
        port = listener.getsockname()[1]
        with net.create_connection(("localhost", port), PATIENCE_SECONDS) as client:
            assert client.getpeername() == ("127.0.0.1", port)


@pytest.mark.loopback_only("which addresses of this host are the stack's is told by its rules")
def test_the_wildcard_is_a_way_to_this_host(net: ModuleType) -> None:
    with net.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        with net.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as client:
            server, _ = listener.accept()
            server.close()
            assert client.recv(1) == b""
        with net.create_connection(("0.0.0.0", port), PATIENCE_SECONDS) as client:
            assert client.getpeername() == ("127.0.0.1", port)


def test_ipv6(client_net: ModuleType, server_side: Side, closing: Callable[[Any], Any]) -> None:
    host6 = server_side.host6
    listener = closing(server_side.net.create_server((host6, 0), family=names.AF_INET6))
    name, port, flow, scope = listener.getsockname()
    assert (name, flow, scope) == (host6, 0, 0)
    client = closing(client_net.create_connection((host6, port), PATIENCE_SECONDS))
    server, peer = listener.accept()
    closing(server)
    assert client.family == names.AF_INET6
    assert peer == client.getsockname() == server.getpeername()
    client.sendall(b"six")
    assert server.recv(10) == b"six"
    with client_net.socket(names.AF_INET6) as fresh:
        assert fresh.getsockname() == ("::", 0, 0, 0)


def test_a_dual_stack_listener_takes_both(
    client_side: Side, server_side: Side, closing: Callable[[Any], Any]
) -> None:
    listener = closing(
        server_side.net.create_server(("::", 0), family=names.AF_INET6, dualstack_ipv6=True)
    )
    port = listener.getsockname()[1]
    for to, seen in (
        (server_side.host, f"::ffff:{client_side.host}"),
        (server_side.host6, client_side.host6),
    ):
        with client_side.net.create_connection((to, port), PATIENCE_SECONDS) as client:
            server, peer = listener.accept()
            server.close()
            assert peer[0] == seen
            assert client.recv(1) == b""


def test_v6only_refuses_ipv4(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Callable[[Any], Any]
) -> None:
    listener = closing(server_net.socket(names.AF_INET6))
    listener.setsockopt(names.IPPROTO_IPV6, names.IPV6_V6ONLY, 1)
    assert listener.getsockopt(names.IPPROTO_IPV6, names.IPV6_V6ONLY) == 1
    listener.bind(("::", 0))
    listener.listen()
    with pytest.raises(ConnectionRefusedError):
        client_net.create_connection((host, listener.getsockname()[1]), PATIENCE_SECONDS)


def test_an_address_is_used_once(server_net: ModuleType, listener: Any) -> None:
    with server_net.socket() as second:
        assert errno_of(second.bind, listener.getsockname()) == errno.EADDRINUSE
    port = listener.getsockname()[1]
    with server_net.socket() as second:
        assert errno_of(second.bind, ("", port)) == errno.EADDRINUSE


def test_an_address_is_free_after_close(server_net: ModuleType, listener: Any) -> None:
    address = listener.getsockname()
    listener.close()
    with server_net.create_server(address) as again:
        assert again.getsockname() == address


def test_bind_is_once_and_only_here(net: ModuleType, host: str) -> None:
    with net.socket() as sock:
        assert errno_of(sock.bind, ("203.0.113.1", 0)) == errno.EADDRNOTAVAIL
    with net.socket() as sock:
        sock.bind((host, 0))
        assert errno_of(sock.bind, (host, 0)) == errno.EINVAL


def test_a_connected_socket_is_connected(pair: Pair, listener: Any) -> None:
    client, _ = pair
    # To the kernel a connect with a time-out was a non-blocking one, whose end it tells once.
    assert client.connect_ex(listener.getsockname()) == 0
    assert client.connect_ex(listener.getsockname()) == errno.EISCONN
    assert errno_of(client.connect, listener.getsockname()) == errno.EISCONN
    assert errno_of(client.listen) == errno.EINVAL


def test_a_blocking_connect_is_once(client_net: ModuleType, listener: Any) -> None:
    with client_net.socket() as sock:
        sock.connect(listener.getsockname())
        assert errno_of(sock.connect, listener.getsockname()) == errno.EISCONN


def test_accept_needs_listen(net: ModuleType, host: str) -> None:
    with net.socket() as sock:
        sock.bind((host, 0))
        assert errno_of(sock.accept) == errno.EINVAL


def test_what_is_no_address(net: ModuleType, host: str) -> None:
    with net.socket() as sock:
        for wrong in (None, "127.0.0.1", ("127.0.0.1",), ("127.0.0.1", "80"), (1, 2)):
            with pytest.raises(TypeError):
                sock.connect(wrong)
            with pytest.raises(TypeError):
                sock.bind(wrong)
        for port in (-1, 65536):
            with pytest.raises(OverflowError):
                sock.connect((host, port))
        with pytest.raises(names.gaierror):
            sock.connect(("no.such.host.invalid", 80))


def test_what_is_no_argument(pair: Pair) -> None:
    client, _ = pair
    for call, arguments in [
        (client.send, ("text",)),
        (client.sendall, (5,)),
        (client.recv, ("1",)),
        (client.recv, ()),
        (client.recv, (1.5,)),
        (client.recv_into, (b"read only",)),
        (client.shutdown, ("x",)),
        (client.sendmsg, (b"not a list",)),
        (client.settimeout, ("x",)),
    ]:
        with pytest.raises(TypeError):
            call(*arguments)
    for call, arguments in [
        (client.recv, (-1,)),
        (client.recv_into, (bytearray(3), 4)),
        (client.recv_into, (bytearray(3), -1)),
        (client.settimeout, (-1,)),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011 - the words differ between versions
            call(*arguments)


SWITCHES = [
    (names.SOL_SOCKET, names.SO_REUSEADDR),
    (names.SOL_SOCKET, names.SO_KEEPALIVE),
    (names.SOL_SOCKET, names.SO_REUSEPORT),
    (names.SOL_SOCKET, names.SO_BROADCAST),
    (names.SOL_SOCKET, names.SO_OOBINLINE),
    (names.IPPROTO_TCP, names.TCP_NODELAY),
    (names.IPPROTO_TCP, names.TCP_CORK),
]
NUMBERS = [
    (names.IPPROTO_TCP, names.TCP_KEEPIDLE, 77),
    (names.IPPROTO_TCP, names.TCP_KEEPINTVL, 7),
    (names.IPPROTO_TCP, names.TCP_KEEPCNT, 3),
    (names.IPPROTO_TCP, names.TCP_USER_TIMEOUT, 5000),
    (names.IPPROTO_IP, names.IP_TOS, 16),
    (names.IPPROTO_IP, names.IP_TTL, 33),
    (names.SOL_SOCKET, names.SO_PRIORITY, 6),
]


@pytest.mark.parametrize(("level", "option"), SWITCHES)
def test_switches(net: ModuleType, level: int, option: int) -> None:
    with net.socket() as sock:
        assert sock.getsockopt(level, option) == 0
        sock.setsockopt(level, option, 1)
        assert sock.getsockopt(level, option) == 1
        sock.setsockopt(level, option, struct.pack("i", 0))
        assert sock.getsockopt(level, option, 4) == struct.pack("i", 0)


@pytest.mark.parametrize(("level", "option", "value"), NUMBERS)
def test_numbers(net: ModuleType, level: int, option: int, value: int) -> None:
    with net.socket() as sock:
        sock.setsockopt(level, option, value)
        assert sock.getsockopt(level, option) == value


def test_what_a_socket_tells_of_itself(listener: Any, pair: Pair) -> None:
    def ask(sock: Any, option: int) -> int:
        return int(sock.getsockopt(names.SOL_SOCKET, option))

    assert ask(listener, names.SO_ACCEPTCONN) == 1
    for sock in (*pair, listener):
        assert ask(sock, names.SO_TYPE) == names.SOCK_STREAM
        assert ask(sock, names.SO_DOMAIN) == names.AF_INET
        assert ask(sock, names.SO_PROTOCOL) == names.IPPROTO_TCP
        assert ask(sock, names.SO_ERROR) == 0
    assert ask(pair[1], names.SO_ACCEPTCONN) == 0


def test_buffer_sizes_are_doubled(net: ModuleType) -> None:
    with net.socket() as sock:
        for option in (names.SO_RCVBUF, names.SO_SNDBUF):
            sock.setsockopt(names.SOL_SOCKET, option, 20_000)
            assert sock.getsockopt(names.SOL_SOCKET, option) == 40_000


def test_linger_is_kept(net: ModuleType) -> None:
    with net.socket() as sock:
        assert sock.getsockopt(names.SOL_SOCKET, names.SO_LINGER, 8) == struct.pack("ii", 0, 0)
        value = struct.pack("ii", 1, 5)
        sock.setsockopt(names.SOL_SOCKET, names.SO_LINGER, value)
        assert sock.getsockopt(names.SOL_SOCKET, names.SO_LINGER, 8) == value


def test_wrong_options(net: ModuleType) -> None:
    with net.socket() as sock:
        tcp = names.IPPROTO_TCP
        assert errno_of(sock.setsockopt, names.SOL_SOCKET, 9999, 1) == errno.ENOPROTOOPT
        assert errno_of(sock.getsockopt, names.SOL_SOCKET, 9999) == errno.ENOPROTOOPT
        assert errno_of(sock.getsockopt, tcp, 9999) == errno.ENOPROTOOPT
        assert errno_of(sock.getsockopt, 9999, 1) == errno.EOPNOTSUPP
        assert errno_of(sock.setsockopt, tcp, names.TCP_KEEPCNT, 0) == errno.EINVAL
        assert errno_of(sock.setsockopt, tcp, names.TCP_NODELAY, b"\1") == errno.EINVAL
        assert errno_of(sock.setsockopt, names.SOL_SOCKET, names.SO_TYPE, 1) == errno.ENOPROTOOPT


def test_other_families_are_the_kernels(net: ModuleType, host: str) -> None:
    left, right = net.socketpair()
    with left, right:
        assert type(left) is net.socket
        left.sendall(b"unix")
        assert right.recv(10) == b"unix"
    with net.socket(names.AF_INET, names.SOCK_DGRAM) as one:
        one.bind((host, 0))
        one.settimeout(PATIENCE_SECONDS)
        one.sendto(b"to myself", one.getsockname())
        assert one.recvfrom(100) == (b"to myself", one.getsockname())


def test_the_class_is_one(client_net: ModuleType, server_net: ModuleType, pair: Pair) -> None:
    client, server = pair
    assert (type(client), type(server)) == (client_net.socket, server_net.socket)
    assert not server.get_inheritable()
    assert "raddr=" in repr(client)


@pytest.mark.loopback_only("the network of the loopback is its subject")
def test_every_loopback_address_is_this_host(
    net: ModuleType, closing: Callable[[Any], Any]
) -> None:
    """Debian's name of a host is 127.0.1.1."""
    listener = closing(net.create_server(("127.0.1.1", 0)))
    address = listener.getsockname()
    assert address[0] == "127.0.1.1"
    with net.create_connection(address, PATIENCE_SECONDS) as client:
        server, peer = listener.accept()
        with server:
            assert client.getpeername() == server.getsockname() == address
            assert client.getsockname() == peer
    with net.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", address[1])) == errno.ECONNREFUSED
