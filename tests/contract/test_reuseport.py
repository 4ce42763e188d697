"""SO_REUSEPORT: who shares a port, who gets its connections."""

from __future__ import annotations

import errno
import select
import socket as names
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tests.contract.conftest import PATIENCE_SECONDS, errno_of
from tests.contract.legs import Side

Closing = Callable[[Any], Any]


def sharing(net: ModuleType, closing: Closing, address: Any, backlog: int = 64) -> Any:
    sock = closing(net.socket())
    sock.setsockopt(names.SOL_SOCKET, names.SO_REUSEPORT, 1)
    sock.bind(address)
    sock.listen(backlog)
    return sock


def test_listeners_share_a_port(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    first = sharing(server_net, closing, (host, 0))
    listeners = [first, *(sharing(server_net, closing, first.getsockname()) for _ in range(2))]
    assert {listener.getsockname() for listener in listeners} == {first.getsockname()}
    clients = [closing(client_net.create_connection(first.getsockname(), 10)) for _ in range(60)]
    taken = dict.fromkeys(listeners, 0)
    # A client is connected before the last of its handshake has come to the listener.
    while sum(taken.values()) < len(clients):
        ready = select.select(listeners, [], [], PATIENCE_SECONDS)[0]
        assert ready, f"only {taken.values()} came"
        for listener in ready:
            listener.accept()[0].close()
            taken[listener] += 1
    assert min(taken.values()) > 0, "every listener has its share"


def test_a_shared_port_outlives_its_first_listener(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    first = sharing(server_net, closing, (host, 0))
    address = first.getsockname()
    second = sharing(server_net, closing, address)
    first.close()
    with client_net.create_connection(address, PATIENCE_SECONDS) as client:
        server, _ = second.accept()
        with server:
            server.sendall(b"still")
            assert client.recv(10) == b"still"
    second.close()
    with client_net.socket() as sock:
        assert sock.connect_ex(address) == errno.ECONNREFUSED


def test_a_port_is_shared_only_by_those_who_want_it(
    net: ModuleType, host: str, closing: Closing
) -> None:
    first = sharing(net, closing, (host, 0))
    with net.socket() as sock:
        assert errno_of(sock.bind, first.getsockname()) == errno.EADDRINUSE
    plain = closing(net.create_server((host, 0)))
    with net.socket() as sock:
        sock.setsockopt(names.SOL_SOCKET, names.SO_REUSEPORT, 1)
        assert errno_of(sock.bind, plain.getsockname()) == errno.EADDRINUSE


def test_a_shared_port_is_one_to_connect_from(
    server_net: ModuleType, host: str, client_side: Side, closing: Closing
) -> None:
    listener = closing(server_net.create_server((host, 0)))
    other = closing(server_net.create_server((host, 0)))
    one, two = closing(client_side.net.socket()), closing(client_side.net.socket())
    for sock in (one, two):
        sock.setsockopt(names.SOL_SOCKET, names.SO_REUSEPORT, 1)
    one.bind((client_side.host, 0))
    two.bind(one.getsockname())
    one.connect(listener.getsockname())
    two.connect(other.getsockname())
    assert one.getsockname() == two.getsockname()
