"""Who may bind what, who listens, and what becomes of connections that nobody accepts."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import resource
import select
import signal
import socket as names
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pifus._compat import _sharing
from tests.conftest import BackendProcess
from tests.contract.conftest import PATIENCE_SECONDS, await_events, errno_of
from tests.contract.legs import Leg, Side

Closing = Callable[[Any], Any]


def outcome(call: Callable[..., Any], *arguments: Any) -> str:
    """The name of the errno, or "done"."""
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def expected(reuse: tuple[int, int], hosts: tuple[str, str], listens: bool) -> str:
    """What Linux says of a second bind to the port of the first."""
    apart = hosts[0] != hosts[1] and "" not in hosts
    return "done" if apart or (all(reuse) and not listens) else "EADDRINUSE"


@contextlib.contextmanager
def few_descriptors() -> Iterator[None]:
    """This process can have no further descriptors."""
    taken = [os.open(os.devnull, os.O_RDONLY)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


REUSES = list(itertools.product((0, 1), repeat=2))


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("hosts", list(itertools.product(("here", ""), repeat=2)))
@pytest.mark.parametrize("reuse", REUSES)
def test_two_sockets_and_one_port(
    net: ModuleType, host: str, reuse: tuple[int, int], hosts: tuple[str, str], listens: bool
) -> None:
    one, other = (host if name == "here" else "" for name in hosts)
    check_two_sockets_and_one_port(net, reuse, (one, other), listens)


@pytest.mark.loopback_only("on a device the stack has one address of each family")
@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("hosts", list(itertools.permutations(("127.0.0.1", "127.0.0.2", ""), 2)))
@pytest.mark.parametrize("reuse", REUSES)
def test_two_sockets_and_one_port_of_two_addresses(
    net: ModuleType, reuse: tuple[int, int], hosts: tuple[str, str], listens: bool
) -> None:
    check_two_sockets_and_one_port(net, reuse, hosts, listens)


def check_two_sockets_and_one_port(
    net: ModuleType, reuse: tuple[int, int], hosts: tuple[str, str], listens: bool
) -> None:
    with net.socket() as probe:
        probe.bind(("", 0))  # a port that no address has, not even a connection that has ended
        port = probe.getsockname()[1]
    with net.socket() as first, net.socket() as second:
        for sock, value in zip((first, second), reuse, strict=True):
            sock.setsockopt(names.SOL_SOCKET, names.SO_REUSEADDR, value)
        first.bind((hosts[0], port))
        if listens:
            first.listen()
        got = outcome(second.bind, (hosts[1], port))
        assert got == expected(reuse, hosts, listens)


def test_of_two_that_share_an_address_one_listens(net: ModuleType, host: str) -> None:
    with net.socket() as first, net.socket() as second:
        for sock in (first, second):
            sock.setsockopt(names.SOL_SOCKET, names.SO_REUSEADDR, 1)
        first.bind((host, 0))
        second.bind(("", first.getsockname()[1]))
        first.listen()
        assert errno_of(second.listen) == errno.EADDRINUSE


@pytest.mark.loopback_only("the network of the loopback is its subject")
def test_the_loopback_network_is_this_host(net: ModuleType, closing: Closing) -> None:
    listener = closing(net.create_server(("127.77.1.2", 0)))
    port = listener.getsockname()[1]
    with net.socket() as client:
        client.bind(("127.200.0.9", 0))
        client.connect(("127.77.1.2", port))
        server, peer = closing_pair(listener, closing)
        assert peer[0] == "127.200.0.9"
        assert server.getsockname()[0] == "127.77.1.2"
        client.sendall(b"from another address")
        assert server.recv(100) == b"from another address"
    with net.socket() as client:
        client.settimeout(PATIENCE_SECONDS)
        assert errno_of(client.connect, ("127.0.0.1", port)) == errno.ECONNREFUSED
        assert errno_of(client.connect, ("127.1.1.1", port)) == errno.ECONNABORTED


def closing_pair(listener: Any, closing: Closing) -> tuple[Any, Any]:
    server, peer = listener.accept()
    return closing(server), peer


@pytest.mark.parametrize("family", [names.AF_INET, names.AF_INET6], ids=["IPv4", "IPv6"])
def test_a_socket_may_connect_to_itself(net: ModuleType, leg: Leg, family: int) -> None:
    with net.socket(family) as sock:
        sock.settimeout(PATIENCE_SECONDS)
        sock.bind((leg.server.address(family), 0))
        sock.connect(sock.getsockname())
        assert sock.getpeername() == sock.getsockname()
        sock.sendall(b"to myself" * 5000)
        got = b""
        while len(got) < 45000:
            got += sock.recv(65536)
        assert got == b"to myself" * 5000
        sock.shutdown(names.SHUT_WR)
        assert sock.recv(1) == b""


def test_hundreds_wait_for_an_accept(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    listener = closing(server_net.create_server((host, 0), backlog=600))
    clients = [closing(client_net.socket()) for _ in range(500)]
    for client in clients:
        client.setblocking(False)
        assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    poller = select.poll()
    for client in clients:
        poller.register(client, select.POLLOUT)
    waiting = len(clients)
    while waiting:
        ready = poller.poll(PATIENCE_SECONDS * 1000)
        assert ready, f"{waiting} of {len(clients)} were not connected"
        for fd, events in ready:
            assert not events & select.POLLHUP
            poller.unregister(fd)
        waiting -= len(ready)
    ports = {client.getsockname()[1] for client in clients}
    assert {closing_pair(listener, closing)[1][1] for _ in clients} == ports


def test_a_closed_listener_resets_who_was_not_accepted(
    client_net: ModuleType, listener: Any, closing: Closing
) -> None:
    clients = [closing(client_net.create_connection(listener.getsockname())) for _ in range(3)]
    server, _ = closing_pair(listener, closing)
    listener.close()
    for client in clients[1:]:
        client.settimeout(PATIENCE_SECONDS)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    server.sendall(b"lives")
    assert clients[0].recv(10) == b"lives"


@pytest.mark.legs("accepts", reason="what overtakes a close that is late has to be the kernel's")
@pytest.mark.parametrize("polled", [False, True])
def test_who_has_closed_a_listener_accepts_nobody(
    client_net: ModuleType,
    server_side: Side,
    leg_backend: BackendProcess,
    polled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a busy machine it gave up before the backend went on: who gives up may be overtaken.
    monkeypatch.setattr(_sharing, "_CLOSE_SECONDS", PATIENCE_SECONDS)
    for _ in range(20):
        listener = server_side.net.create_server((server_side.host, 0))
        address = listener.getsockname()
        listener.setsockopt(names.SOL_SOCKET, names.SO_PRIORITY, 1)  # anything else goes first
        if polled:
            assert select.select([listener], [], [], 0)[0] == []
        with client_net.socket() as client:
            client.setblocking(False)
            os.kill(leg_backend.pid, signal.SIGSTOP)
            threading.Timer(0.005, os.kill, (leg_backend.pid, signal.SIGCONT)).start()
            listener.close()
            assert client.connect_ex(address) == errno.EINPROGRESS
            await_events(client, select.POLLOUT | select.POLLERR, select.POLLOUT | select.POLLERR)
            error = client.getsockopt(names.SOL_SOCKET, names.SO_ERROR)
            assert errno.errorcode[error] == "ECONNREFUSED"


@pytest.mark.parametrize("polled", [False, True])
def test_without_a_descriptor_left_a_connection_waits(
    client_net: ModuleType, listener: Any, closing: Closing, polled: bool
) -> None:
    # More than the mirrors that the drop-in may have at hand.
    clients = [closing(client_net.create_connection(listener.getsockname())) for _ in range(60)]
    if polled:
        assert select.select([listener], [], [], PATIENCE_SECONDS)[0] == [listener]
    servers = []
    with few_descriptors():
        refused = 0
        while not refused:
            try:
                servers.append(closing_pair(listener, closing)[0])
            except OSError as error:
                refused = error.errno or 0
        assert errno.errorcode[refused] == "EMFILE"
        assert errno_of(listener.accept) == errno.EMFILE
    for _ in clients[len(servers) :]:
        assert select.select([listener], [], [], PATIENCE_SECONDS)[0] == [listener]
        servers.append(closing_pair(listener, closing)[0])
    assert len(servers) == len(clients)
    for number, client in enumerate(clients):
        client.sendall(bytes([number]))
    for server in servers:
        server.settimeout(PATIENCE_SECONDS)
    assert sorted(server.recv(2)[0] for server in servers) == list(range(len(clients)))


def test_shutdown_ends_listening(
    client_net: ModuleType, server_net: ModuleType, listener: Any, closing: Closing
) -> None:
    address = listener.getsockname()
    listener.close()
    # A port that the program chose stays its own.
    listener = closing(server_net.create_server(address))
    left = closing(client_net.create_connection(address))
    listener.shutdown(names.SHUT_WR)
    closing_pair(listener, closing)
    waiting = closing(client_net.create_connection(address))
    listener.shutdown(names.SHUT_RD)
    waiting.settimeout(PATIENCE_SECONDS)
    with pytest.raises(ConnectionResetError):
        waiting.recv(1)
    assert errno_of(listener.accept) == errno.EINVAL
    with client_net.socket() as late:
        assert errno_of(late.connect, address) == errno.ECONNREFUSED
    listener.listen()
    again = closing(client_net.create_connection(address, PATIENCE_SECONDS))
    server, peer = closing_pair(listener, closing)
    assert peer == again.getsockname()
    assert server.getsockname() == address
    assert left.getpeername() == address


def test_a_listener_is_never_writable(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    late = closing(server_net.socket())
    late.setblocking(False)
    late.bind((host, 0))
    late.listen()
    early = closing(server_net.create_server((host, 0)))
    for listener in (late, early):
        assert select.select([], [listener], [], 0) == ([], [], [])
        closing(client_net.create_connection(listener.getsockname()))
        ready, writable, _ = select.select([listener], [listener], [], PATIENCE_SECONDS)
        assert (ready, writable) == ([listener], [])
