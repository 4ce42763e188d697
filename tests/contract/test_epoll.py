"""epoll in all its ways, select and poll, with sockets, pipes and kernel sockets in one set."""

from __future__ import annotations

import os
import select
import selectors
import socket as names
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import ModuleType
from typing import Any

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, Pair

IN, OUT, ERR, HUP, RDHUP = (
    select.EPOLLIN,
    select.EPOLLOUT,
    select.EPOLLERR,
    select.EPOLLHUP,
    select.EPOLLRDHUP,
)
ET, ONESHOT, EXCLUSIVE = select.EPOLLET, select.EPOLLONESHOT, select.EPOLLEXCLUSIVE

Spawn = Callable[..., Future[Any]]
Closing = Callable[[Any], Any]


@pytest.fixture
def poller() -> Iterator[select.epoll]:
    """An epoll."""
    with select.epoll() as made:
        yield made


@pytest.fixture
def ends(pair: Pair) -> Pair:
    """Two connected sockets that never block."""
    for sock in pair:
        sock.setblocking(False)
    return pair


def events(poller: select.epoll, seconds: float = 0) -> dict[int, int]:
    return dict(poller.poll(seconds))


def one(poller: select.epoll) -> int:
    """The mask of the one descriptor that becomes ready."""
    ((_, mask),) = poller.poll(PATIENCE_SECONDS)
    return mask


def test_level(ends: Pair, poller: select.epoll) -> None:
    client, server = ends
    poller.register(server, IN)
    assert events(poller) == {}
    client.send(b"abc")
    for _ in range(3):
        assert one(poller) == IN
    server.recv(2)
    assert one(poller) == IN
    server.recv(2)
    assert events(poller) == {}
    poller.modify(server, IN | OUT)
    assert one(poller) == OUT
    poller.modify(server, 0)
    client.send(b"d")
    client.close()
    assert events(poller) == {}
    poller.modify(server, IN | RDHUP)
    assert one(poller) & IN
    poller.unregister(server)
    assert events(poller) == {}


def test_edge(ends: Pair, poller: select.epoll) -> None:
    client, server = ends
    poller.register(server, IN | ET)
    assert events(poller) == {}
    client.send(b"abc")
    assert one(poller) == IN
    # Once, though it is still there.
    assert events(poller) == {}
    assert server.recv(100) == b"abc"
    assert events(poller) == {}
    for _ in range(100):
        client.send(b"again")
        assert one(poller) == IN
        assert server.recv(100) == b"again"
    client.close()
    assert one(poller) == IN
    assert server.recv(100) == b""


def test_edge_of_what_was_there_before(ends: Pair, poller: select.epoll) -> None:
    client, server = ends
    client.send(b"abc")
    assert select.select([server], [], [], PATIENCE_SECONDS)[0]
    poller.register(server, IN | OUT | ET)
    assert one(poller) == IN | OUT
    assert events(poller) == {}
    poller.modify(server, IN | ET)
    assert one(poller) == IN


def test_edge_of_writing(ends: Pair, poller: select.epoll) -> None:
    client, server = ends
    poller.register(client, OUT | ET)
    assert one(poller) == OUT
    assert events(poller) == {}
    total = taken = 0
    # As much again as fits at once: each refusal is followed by an edge when there is room.
    while total < 20_000_000:
        try:
            total += client.send(b"x" * 65536)
        except BlockingIOError:
            while not (ready := events(poller)):
                if select.select([server], [], [], 0)[0]:
                    taken += len(server.recv(65536))
            assert ready == {client.fileno(): OUT}
    assert taken > 0


def test_one_shot(ends: Pair, poller: select.epoll) -> None:
    client, server = ends
    poller.register(server, IN | ONESHOT)
    client.send(b"a")
    assert one(poller) == IN
    client.send(b"b")
    assert events(poller) == {}
    poller.modify(server, IN | ONESHOT)
    assert one(poller) == IN
    got = b""
    while got != b"ab":  # the second may still be on its way
        assert select.select([server], [], [], PATIENCE_SECONDS)[0]
        got += server.recv(100)
    with pytest.raises(BlockingIOError):
        server.recv(100)
    poller.modify(server, IN | ONESHOT)
    assert events(poller) == {}
    client.send(b"c")
    assert one(poller) == IN


def test_nested(ends: Pair, poller: select.epoll) -> None:
    client, server = ends
    poller.register(server, IN)
    with select.epoll() as outer:
        outer.register(poller, IN)
        assert events(outer) == {}
        client.send(b"x")
        assert events(outer, PATIENCE_SECONDS) == {poller.fileno(): IN}
        assert events(poller) == {server.fileno(): IN}
        server.recv(1)
        assert events(poller) == {}
        assert events(outer) == {}


def test_exclusive(client_net: ModuleType, listener: Any, closing: Closing, spawn: Spawn) -> None:
    """Of several epolls with one listener, at least one wakes for each connection."""
    listener.setblocking(False)
    accepted: list[Any] = []
    done = threading.Event()

    def worker() -> None:
        with select.epoll() as mine:
            mine.register(listener, IN | EXCLUSIVE)
            while not done.is_set():
                if mine.poll(0.05):
                    try:
                        accepted.append(closing(listener.accept()[0]))
                    except BlockingIOError:
                        continue
                    if len(accepted) == 20:
                        done.set()

    workers = [spawn(worker) for _ in range(4)]
    try:
        for _ in range(20):
            closing(client_net.create_connection(listener.getsockname(), PATIENCE_SECONDS))
        assert done.wait(PATIENCE_SECONDS)
    finally:
        done.set()
        for thread in workers:
            thread.result(PATIENCE_SECONDS)
    assert len(accepted) == 20


def test_several_epolls_see_the_same(ends: Pair, poller: select.epoll) -> None:
    client, server = ends
    with select.epoll() as other:
        for each in (poller, other):
            each.register(server, IN | ET)
        client.send(b"x")
        assert one(poller) == IN
        assert one(other) == IN


def test_a_duplicate_is_its_own_registration(
    ends: Pair, poller: select.epoll, closing: Closing
) -> None:
    client, server = ends
    twin = closing(server.dup())
    poller.register(server, IN)
    poller.register(twin, IN)
    client.send(b"x")
    got: dict[int, int] = {}
    while len(got) < 2:
        got |= events(poller, PATIENCE_SECONDS)
    assert got == {server.fileno(): IN, twin.fileno(): IN}
    assert twin.recv(1) == b"x"
    assert events(poller) == {}


def test_closing_unregisters(ends: Pair, poller: select.epoll) -> None:
    client, server = ends
    poller.register(server, IN)
    server.close()
    client.setblocking(True)
    assert client.recv(1) == b""
    assert events(poller) == {}


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end of a pipe."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_all_kinds_at_once(
    ends: Pair, poller: select.epoll, pipe: tuple[int, int], closing: Closing
) -> None:
    client, server = ends
    ours, theirs = (closing(sock) for sock in names.socketpair())
    datagrams = closing(names.socket(names.AF_INET, names.SOCK_DGRAM))
    datagrams.bind(("127.0.0.1", 0))
    fds = [server.fileno(), ours.fileno(), datagrams.fileno(), pipe[0]]
    say = [
        lambda: client.send(b"x"),
        lambda: theirs.send(b"x"),
        lambda: datagrams.sendto(b"x", datagrams.getsockname()),
        lambda: os.write(pipe[1], b"x"),
    ]
    hear = [
        lambda: server.recv(10),
        lambda: ours.recv(10),
        lambda: datagrams.recv(10),
        lambda: os.read(pipe[0], 10),
    ]

    def ready() -> list[set[int]]:
        """By epoll, poll, and select."""
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        return [
            {fd for fd, _ in poller.poll(0)},
            {fd for fd, _ in poll.poll(0)},
            set(select.select(fds, [], [], 0)[0]),
        ]

    for fd in fds:
        poller.register(fd, IN)
    for number in (0, 1, 2, 3, 0, 2):
        assert ready() == [set()] * 3
        say[number]()
        ((fd, mask),) = poller.poll(PATIENCE_SECONDS)
        assert (fd, mask) == (fds[number], IN)
        assert ready() == [{fd}] * 3
        hear[number]()
    for number in range(4):
        say[number]()
    while len(poller.poll(PATIENCE_SECONDS)) < 4:
        pass
    for number in range(4):
        assert ready() == [set(fds[number:])] * 3
        hear[number]()


@pytest.mark.parametrize(
    "kind", [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector]
)
def test_waiting_ends_when_something_comes(
    kind: type[selectors.BaseSelector], ends: Pair, spawn: Spawn
) -> None:
    client, server = ends
    with kind() as selector:
        selector.register(server, selectors.EVENT_READ, "data")
        waiting = spawn(selector.select, PATIENCE_SECONDS)
        client.send(b"x")
        ((key, mask),) = waiting.result(PATIENCE_SECONDS)
        assert (key.fileobj, key.data, mask) == (server, "data", selectors.EVENT_READ)
        server.recv(1)
        assert selector.select(0) == []
        waiting = spawn(selector.select, PATIENCE_SECONDS)
        client.close()
        ((key, mask),) = waiting.result(PATIENCE_SECONDS)
        assert mask == selectors.EVENT_READ
        assert server.recv(1) == b""


def test_nothing_is_lost_among_many_rounds(ends: Pair, poller: select.epoll, spawn: Spawn) -> None:
    """A writer at full speed, a reader that sleeps in epoll whenever there is nothing."""
    client, server = ends
    poller.register(server, IN)
    rounds = 5000

    def write() -> None:
        with select.epoll() as mine:
            mine.register(client, OUT)
            for _ in range(rounds):
                assert mine.poll(PATIENCE_SECONDS)
                client.send(b"12345678")

    writing = spawn(write)
    total = 0
    while total < rounds * 8:
        assert poller.poll(PATIENCE_SECONDS), total
        while True:
            try:
                total += len(server.recv(64))
            except BlockingIOError:
                break
    writing.result(PATIENCE_SECONDS)
