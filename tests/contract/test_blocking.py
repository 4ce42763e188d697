"""Waiting: time-outs, non-blocking sockets, and the kernel's pollers on the mirror descriptor."""

from __future__ import annotations

import contextlib
import errno
import random
import select
import selectors
import signal
import socket as names
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import wait_until_asleep
from tests.contract.conftest import (
    PATIENCE_SECONDS,
    QUIET_SECONDS,
    errno_of,
    fill,
    python_environment,
    receive_exactly,
)
from tests.contract.legs import Leg

Pair = tuple[Any, Any]
Spawn = Callable[..., Future[Any]]


def poll(sock: Any, events: int, seconds: float = 0) -> int:
    """The events that are there now, or come in time."""
    poller = select.poll()
    poller.register(sock, events)
    found = poller.poll(seconds * 1000)
    return found[0][1] if found else 0


def check_times_out(call: Callable[[], Any], seconds: float) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="timed out"):
        call()
    assert seconds * 0.9 <= time.monotonic() - start < PATIENCE_SECONDS


def test_calls_time_out(pair: Pair, listener: Any) -> None:
    client, _ = pair
    client.settimeout(0.2)
    check_times_out(lambda: client.recv(1), 0.2)
    check_times_out(lambda: client.recv_into(bytearray(1)), 0.2)
    check_times_out(lambda: client.sendall(b"x" * 50_000_000), 0.2)
    listener.settimeout(0.2)
    check_times_out(listener.accept, 0.2)


def test_a_time_out_loses_nothing(pair: Pair) -> None:
    client, server = pair
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(10)
    server.sendall(b"late")
    client.settimeout(PATIENCE_SECONDS)
    assert client.recv(10) == b"late"


def test_the_time_out_is_remembered(net: ModuleType) -> None:
    with net.socket() as sock:
        assert sock.gettimeout() is None
        assert sock.getblocking()
        sock.settimeout(1.5)
        assert sock.gettimeout() == 1.5
        sock.setblocking(False)
        assert sock.gettimeout() == 0.0
        assert not sock.getblocking()
    net.setdefaulttimeout(2.5)
    try:
        with net.socket() as sock:
            assert sock.gettimeout() == 2.5
    finally:
        net.setdefaulttimeout(None)


def test_nothing_to_do_would_block(pair: Pair, listener: Any) -> None:
    client, _ = pair
    for sock in (client, listener):
        sock.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        client.recv(1)
    assert caught.value.errno == errno.EAGAIN
    with pytest.raises(BlockingIOError):
        client.recv_into(bytearray(5))
    with pytest.raises(BlockingIOError):
        listener.accept()
    fill(client)
    with pytest.raises(BlockingIOError):
        client.send(b"x")
    with pytest.raises(BlockingIOError):
        client.sendall(b"x")


def test_readable_follows_the_bytes(pair: Pair) -> None:
    client, server = pair
    assert not poll(server, select.POLLIN)
    client.sendall(b"abc")
    assert poll(server, select.POLLIN, PATIENCE_SECONDS) == select.POLLIN
    assert server.recv(1) == b"a"
    assert poll(server, select.POLLIN) == select.POLLIN, "level: some is left"
    assert server.recv(10) == b"bc"
    assert not poll(server, select.POLLIN), "all was taken"
    client.sendall(b"d")
    assert poll(server, select.POLLIN, PATIENCE_SECONDS) == select.POLLIN
    assert server.recv(10) == b"d"


@pytest.mark.parametrize("timeout", [None, 0], ids=["blocking", "nonblocking"])
def test_what_is_read_shows_no_more(pair: Pair, timeout: float | None) -> None:
    client, server = pair
    server.settimeout(timeout)
    assert not poll(server, select.POLLIN)
    for _ in range(3):
        client.sendall(b"abc")
        assert poll(server, select.POLLIN, PATIENCE_SECONDS) == select.POLLIN
        assert server.recv(10) == b"abc"
        assert not poll(server, select.POLLIN)


def test_the_first_look_sees_what_is_there(pair: Pair) -> None:
    client, server = pair
    client.sendall(b"abc")
    assert server.recv(1) == b"a"  # so it has come
    assert select.select([server], [], [], 0)[0] == [server]
    assert server.recv(10) == b"bc"
    assert select.select([server], [], [], 0)[0] == []


def test_the_end_is_readable_and_hangs_up(pair: Pair) -> None:
    client, server = pair
    client.shutdown(names.SHUT_WR)
    wanted = select.POLLIN | select.POLLRDHUP
    assert poll(server, wanted, PATIENCE_SECONDS) & wanted == wanted
    assert server.recv(10) == b""
    assert poll(server, select.POLLIN) & select.POLLIN
    assert poll(server, select.POLLOUT) & select.POLLOUT, "the other direction is open"


# On 549 of 3,000 connections over a veth pair the kernel's end did so, too.
@pytest.mark.legs(
    "kernel",
    "pifus",
    "accepts",
    reason="the kernel counts a FIN that comes by a wire before it says that it is the end",
)
def test_the_end_shows_at_one_stroke(make_pair: Callable[[], Pair]) -> None:
    wanted = select.POLLIN | select.POLLRDHUP
    for _ in range(200):
        client, server = make_pair()
        poll(server, wanted)  # the first of a drop-in's gets it a descriptor
        client.shutdown(names.SHUT_WR)
        deadline = time.monotonic() + PATIENCE_SECONDS
        found = 0
        # Whoever sleeps wakes too late to see less.
        while not found and time.monotonic() < deadline:
            found = poll(server, wanted)
        assert found == wanted
        client.close()
        server.close()


def test_a_reset_is_readable_and_writable(pair: Pair) -> None:
    client, server = pair
    server.setblocking(False)
    client.setsockopt(names.SOL_SOCKET, names.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    assert poll(server, select.POLLIN, PATIENCE_SECONDS) & (select.POLLIN | select.POLLHUP)
    assert poll(server, select.POLLOUT) & select.POLLOUT
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_writable_follows_the_room(pair: Pair, spawn: Spawn) -> None:
    client, server = pair
    client.setblocking(False)
    assert poll(client, select.POLLOUT) == select.POLLOUT
    sent = fill(client)
    assert not poll(client, select.POLLOUT)
    got = spawn(receive_exactly, server, sent)
    assert poll(client, select.POLLOUT, PATIENCE_SECONDS) == select.POLLOUT
    assert len(got.result(PATIENCE_SECONDS)) == sent
    assert client.send(b"room") == 4


def test_a_send_that_is_cut_short_leaves_no_room(pair: Pair, spawn: Spawn) -> None:
    """Nobody was told EAGAIN: that less was taken says it, and poll must say it too."""
    client, server = pair
    client.setblocking(False)
    assert poll(client, select.POLLOUT) == select.POLLOUT
    sent = 0
    while poll(client, select.POLLOUT, QUIET_SECONDS):
        sent += client.send(b"x" * 1_000_000)  # and as long as poll says so, there is room
    assert not poll(client, select.POLLOUT)
    got = spawn(receive_exactly, server, sent)
    assert poll(client, select.POLLOUT, PATIENCE_SECONDS) == select.POLLOUT
    assert len(got.result(PATIENCE_SECONDS)) == sent


def test_there_is_room_when_poll_says_so(pair: Pair) -> None:
    """Also at the first look, and when the program sends without having looked."""
    client, server = pair
    for sock in pair:
        sock.settimeout(None)
    choice = random.Random(5)
    for turn in range(300):
        for _ in range(choice.choice((0, 1, 2, 100)) if turn else 1000):
            with contextlib.suppress(BlockingIOError):
                client.send(b"x" * choice.choice((1, 3000, 70_000)), names.MSG_DONTWAIT)
        for seconds in (0, 0.01):
            if poll(client, select.POLLOUT, seconds):
                assert client.send(b"x", names.MSG_DONTWAIT) == 1, turn
        with contextlib.suppress(BlockingIOError):
            server.recv(choice.choice((1, 20_000, 200_000)), names.MSG_DONTWAIT)


def test_a_listener_is_readable(client_net: ModuleType, listener: Any, closing: Any) -> None:
    listener.setblocking(False)
    assert not poll(listener, select.POLLIN)
    clients = [closing(client_net.create_connection(listener.getsockname())) for _ in range(3)]
    for _ in clients:
        assert poll(listener, select.POLLIN, PATIENCE_SECONDS) == select.POLLIN
        closing(listener.accept()[0])
    assert not poll(listener, select.POLLIN)


def test_epoll_level_and_oneshot(pair: Pair) -> None:
    client, server = pair
    with select.epoll() as epoll:
        epoll.register(server, select.EPOLLIN)
        assert epoll.poll(0) == []
        client.sendall(b"ab")
        fd = server.fileno()
        assert epoll.poll(PATIENCE_SECONDS) == [(fd, select.EPOLLIN)]
        assert epoll.poll(0) == [(fd, select.EPOLLIN)]
        epoll.modify(server, select.EPOLLIN | select.EPOLLONESHOT)
        assert epoll.poll(0) == [(fd, select.EPOLLIN)]
        assert epoll.poll(0) == []
        epoll.modify(server, select.EPOLLIN)
        assert server.recv(10) == b"ab"
        assert epoll.poll(0) == []
        epoll.unregister(server)


def test_stack_and_kernel_in_one_wait(pair: Pair, closing: Any) -> None:
    client, server = pair
    left, right = map(closing, names.socketpair())
    client.sendall(b"stack")
    right.send(b"kernel")
    assert poll(server, select.POLLIN, PATIENCE_SECONDS)
    assert select.select([server, left], [], [], PATIENCE_SECONDS)[0] == [server, left]


def finish_connect(sock: Any) -> int:
    assert poll(sock, select.POLLOUT, PATIENCE_SECONDS)
    return int(sock.getsockopt(names.SOL_SOCKET, names.SO_ERROR))


def test_a_non_blocking_connect(client_net: ModuleType, listener: Any, closing: Any) -> None:
    sock = closing(client_net.socket())
    sock.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        sock.connect(listener.getsockname())
    assert caught.value.errno == errno.EINPROGRESS
    assert finish_connect(sock) == 0
    assert sock.getpeername() == listener.getsockname()
    assert sock.connect_ex(listener.getsockname()) == 0
    assert sock.connect_ex(listener.getsockname()) == errno.EISCONN
    server, _ = listener.accept()
    closing(server)
    sock.send(b"hello")
    assert server.recv(10) == b"hello"


def test_a_non_blocking_connect_refused(
    client_net: ModuleType, listener: Any, closing: Any
) -> None:
    address = listener.getsockname()
    listener.close()
    sock = closing(client_net.socket())
    sock.setblocking(False)
    assert sock.connect_ex(address) == errno.EINPROGRESS
    assert finish_connect(sock) == errno.ECONNREFUSED
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == 0


def test_a_pending_connect_is_not_writable(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Any
) -> None:
    listener = closing(server_net.socket())
    listener.bind((host, 0))
    listener.listen(0)
    # Nobody accepts: sooner or later a connect gets no answer.
    for _ in range(1500):
        sock = closing(client_net.socket())
        sock.setblocking(False)
        assert sock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        if not poll(sock, select.POLLOUT, 0.2):
            break
    else:
        pytest.fail("all connects were answered")
    assert sock.connect_ex(listener.getsockname()) == errno.EALREADY
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == 0
    assert errno_of(sock.getpeername) == errno.ENOTCONN
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    with pytest.raises(BlockingIOError):
        sock.send(b"x")


def test_many_clients_of_a_selectors_server(
    client_net: ModuleType, listener: Any, spawn: Spawn
) -> None:
    clients, rounds = 100, 20
    listener.setblocking(False)

    def serve() -> int:
        echoed = ended = 0
        # Whatever goes wrong here ends the connections, and so the clients.
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            stack.enter_context(listener)
            selector.register(listener, selectors.EVENT_READ)
            while ended < clients:
                ready = selector.select(PATIENCE_SECONDS)
                assert ready, "nothing happens any more"
                for key, _ in ready:
                    sock: Any = key.fileobj
                    if sock is listener:
                        accepted, _ = listener.accept()
                        stack.enter_context(accepted).setblocking(False)
                        selector.register(accepted, selectors.EVENT_READ)
                    elif data := sock.recv(65536):
                        echoed += sock.send(data)
                    else:
                        selector.unregister(sock)
                        sock.close()
                        ended += 1
        return echoed

    def talk(number: int) -> None:
        with client_net.create_connection(listener.getsockname(), PATIENCE_SECONDS) as sock:
            for turn in range(rounds):
                message = b"%d:%d;" % (number, turn)
                sock.sendall(message)
                assert receive_exactly(sock, len(message)) == message

    served = spawn(serve)
    talks = [spawn(talk, number) for number in range(clients)]
    expected = sum(len(b"%d:%d;" % (n, t)) for n in range(clients) for t in range(rounds))
    assert served.result(60) == expected
    for talking in talks:
        talking.result(60)


BLOCKED = """
import {server} as servers, {client} as clients, signal, sys
listener = servers.create_server(({host!r}, 0))
client = clients.create_connection(listener.getsockname())
server, _ = listener.accept()
if {swap}:
    client, server = server, client
signal.signal(signal.SIGUSR1, lambda *_: (print("handled", flush=True), client.send(b"x")))
try:
    print("ready", flush=True)
    print({call}, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
CALLS = {
    "recv": "server.recv(1)",
    "recv with a time-out": "(server.settimeout(60), server.recv(1))[1]",
}
INTERRUPTED = {
    **CALLS,
    "accept": "listener.accept()",
    "sendall": "server.sendall(b'x' * 10**8)",
    "recv_into": "server.recv_into(bytearray(1))",
    "recvfrom": "(u := servers.socket(type=2)).bind((listener.getsockname()[0], 0))"
    " or u.recvfrom(1)",
    "makefile": "server.makefile('rb').read(1)",
}


@contextlib.contextmanager
def blocked(leg: Leg, call: str) -> Any:
    """A program that is inside of `call`, with the socket of the stack if one is the kernel's."""
    code = BLOCKED.format(
        client=leg.client.net.__name__,
        server=leg.server.net.__name__,
        host=leg.server.host,
        swap=leg.name == "connects" and "server" in call,
        call=call,
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=python_environment(), text=True
    )
    guard = threading.Timer(PATIENCE_SECONDS, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        wait_until_asleep(process.pid)
        yield process
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        guard.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("call", INTERRUPTED.values(), ids=INTERRUPTED)
def test_control_c_interrupts(leg: Leg, call: str) -> None:
    with blocked(leg, call) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_signal_handler_runs_and_the_call_goes_on(leg: Leg, call: str) -> None:
    with blocked(leg, call) as process:
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "handled\n"
        assert process.stdout.readline() == "b'x'\n"
