"""Every error of the completion API tells what is wrong, with its value, and what to do."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest

import pifus
from pifus import Option
from tests.conftest import BackendProcess, Pair, connect_pair
from tests.integration.test_tap import StartBackend

SECONDS = 10.0
NOBODY = ("127.0.0.1", 1)
Call = Callable[["Scene"], object]


class Scene:
    """A client, and sockets of each kind."""

    def __init__(self, client: pifus.Client) -> None:
        self.client = client
        self.near, self.far = connect_pair(client)
        self.fresh = client.socket()
        self.udp = client.socket(pifus.UDP)
        self.released = client.socket()
        self.released.release()
        self.block = client.register(100)
        self.freed = client.register(100)
        self.freed.release()

    def lease_twice(self) -> None:
        self.far.write(b"bytes")
        self.near.recv(10, lease=True)
        done = self.near.wait(SECONDS)
        for _ in range(2):
            with self.near.lease(done):
                pass

    def lease_nothing(self) -> None:
        self.near.nop()
        with self.near.lease(self.near.wait(SECONDS)):
            pass

    def write_twice(self) -> None:
        for _ in range(2):
            with self.client.batch():
                self.near.write_block(self.block)
                self.near.write_block(self.block)


@pytest.fixture
def scene(client: pifus.Client) -> Scene:
    return Scene(client)


BAD_CALLS: list[tuple[type[Exception], str, Call]] = [
    # Times.
    (ValueError, "timeout=-1: allowed is a number", lambda s: s.near.wait(-1)),
    (ValueError, "timeout=nan: allowed is", lambda s: s.client.wait_any(float("nan"))),
    (
        TypeError,
        "timeout must be a number of seconds, or None, not str",
        lambda s: s.near.wait("1"),
    ),
    (ValueError, "seconds=-1: allowed is", lambda s: s.client.set_spin(-1)),
    (
        ValueError,
        "timeout=1 and deadline=2: give one",
        lambda s: s.near.drain(timeout=1, deadline=2),
    ),
    (
        ValueError,
        "deadline=inf: allowed is a time of",
        lambda s: s.near.drain(deadline=float("inf")),
    ),
    (TypeError, "deadline must be a time of .*, not str", lambda s: s.near.drain(deadline="1")),
    (TimeoutError, "still under way: wait again, or cancel", lambda s: s.near.wait(0)),
    (TimeoutError, "still under way: wait again, or cancel", lambda s: s.client.wait_any(0)),
    # Sizes.
    (ValueError, "limit=0: allowed is 1 to 4294967295", lambda s: s.near.recv(0)),
    (ValueError, "write.. of 0 bytes: at least one byte, or shutdown", lambda s: s.near.write(b"")),
    (OSError, "write.. of 2000000 bytes: at most", lambda s: s.near.write(bytes(2_000_000))),
    (OSError, "sendto.. of 70000 bytes: at most 65507", lambda s: s.udp.sendto(bytes(70_000))),
    (
        ValueError,
        "length=101: allowed is 1 to 100, the size",
        lambda s: s.near.write_block(s.block, 101),
    ),
    (ValueError, "length=0: allowed is 1 to 100", lambda s: s.near.write_block(s.block, 0)),
    (ValueError, "size=0: allowed is 1 to 1048576", lambda s: s.client.register(0)),
    (TypeError, "backlog must be int, not str", lambda s: s.near.listen("5")),
    (ValueError, "backlog=4294967296: allowed is", lambda s: s.near.listen(2**32)),
    # Blocks and leases.
    (ValueError, "released.* was released.*register one", lambda s: s.near.write_block(s.freed)),
    (pifus.BlockBusy, "take it first, or register a second", Scene.write_twice),
    (ValueError, "leased once: keep a copy", Scene.lease_twice),
    (ValueError, "NOP.*allowed is a completion", Scene.lease_nothing),
    (ValueError, "lease=True of a UDP socket", lambda s: s.udp.recv(1, lease=True)),
    (
        ValueError,
        "lease=True with multishot=True",
        lambda s: s.near.recv(1, lease=True, multishot=True),
    ),
    # What there is not.
    (ValueError, "option=99: allowed are the members", lambda s: s.near.setopt(99, 1)),
    (OverflowError, "value=-1 of TTL: allowed is 0 to", lambda s: s.near.setopt(Option.TTL, -1)),
    (OSError, "how=3: allowed is socket.SHUT_RD", lambda s: s.near.shutdown(3)),
    (OSError, "protocol 132: only TCP and UDP", lambda s: s.client.socket(132)),
    (OSError, "family 1: only AF_INET and AF_INET6", lambda s: s.client.socket(family=1)),
    (ValueError, "interface=-1: allowed is 0 to 255", lambda s: s.udp.join_group("239.1.1.1", -1)),
    # Addresses.
    (TypeError, "AF_INET address must be tuple, not str", lambda s: s.fresh.connect("host")),
    (TypeError, "must be a pair .host, port., not .'host',.", lambda s: s.fresh.connect(("host",))),
    (OverflowError, "port must be 0-65535, not 65536", lambda s: s.fresh.bind(("", 65536))),
    (TypeError, "port must be int, not str", lambda s: s.fresh.bind(("", "80"))),
    # What has ended.
    (OSError, "the socket is closed: make a new one", lambda s: s.released.nop()),
    (OSError, "the socket is closed: make a new one", lambda s: s.released.poll()),
    (OSError, "the socket is closed: make a new one", lambda s: s.released.state),
]


@pytest.mark.parametrize(
    ("kind", "message", "call"), BAD_CALLS, ids=[message for _, message, _ in BAD_CALLS]
)
def test_a_call_that_cannot_be(
    scene: Scene, kind: type[Exception], message: str, call: Call
) -> None:
    with pytest.raises(kind, match=message):
        call(scene)
    scene.near.nop()  # and nothing has come of it
    while scene.near.wait(SECONDS).opcode is not pifus.Opcode.NOP:
        pass


FAILURES: list[tuple[int, str, Call]] = [
    (errno.ENOTCONN, "RECV .*: connect the socket first", lambda s: s.fresh.recv(1)),
    (errno.EPIPE, "WRITE .*: it is not connected, or was shut", lambda s: s.fresh.write(b"x")),
    (errno.EOPNOTSUPP, "SENDTO .*: TCP sockets write", lambda s: s.fresh.sendto(b"x", NOBODY)),
    (errno.EDESTADDRREQ, "SENDTO .*: give an address", lambda s: s.udp.sendto(b"x")),
    (errno.EINVAL, "SETOPT .*Invalid argument", lambda s: s.fresh.setopt(Option.TTL, 0)),
    (
        errno.ENOPROTOOPT,
        "SETOPT .*: sockets of this protocol",
        lambda s: s.udp.setopt(Option.CORK, 1),
    ),
    (
        errno.ECONNREFUSED,
        r"CONNECT \(operation \d+\): Connection",
        lambda s: s.fresh.connect(NOBODY),
    ),
    (errno.ETIMEDOUT, "RECV .* was not done by its time-out", lambda s: s.near.recv(1, timeout=0)),
]


@pytest.mark.parametrize(
    ("code", "message", "call"), FAILURES, ids=[message for _, message, _ in FAILURES]
)
def test_an_operation_that_fails(scene: Scene, code: int, message: str, call: Call) -> None:
    call(scene)
    done = scene.client.wait_any(SECONDS)
    with pytest.raises(OSError, match=message) as caught:
        done.check()
    assert caught.value.errno == code


def test_what_others_stand_in_the_way_of(client: pifus.Client, pair: Pair) -> None:
    ours, _ = pair
    ours.recv(1, multishot=True)
    ours.recv(1)
    with pytest.raises(OSError, match="a multishot receive is under way: cancel it first"):
        ours.wait(SECONDS).check()
    ours.cancel_all()
    ends = [ours.wait(SECONDS) for _ in range(2)]
    with pytest.raises(OSError, match=r"by cancel\(\) or a close, or because"):
        next(done for done in ends if done.opcode is pifus.Opcode.RECV).check()
    other = client.socket()
    other.bind(ours.local_address)
    with pytest.raises(OSError, match="another socket has this address: take another port"):
        other.wait(SECONDS).check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queue_depth": 5}, "queue_depth is 5; allowed is a power of two, 4 to 4096"),
        ({"rx_bytes": 1000}, "rx_bytes is 1000; allowed is a power of two, 4096 to 8388608"),
        ({"arena_bytes": 65537}, "arena_bytes is 65537; allowed is a multiple of 65536"),
        ({"arena_bytes": 1}, "arena_bytes is 1; allowed is 65536 to 1073741824"),
        ({"max_sockets": 0}, "max_sockets is 0; allowed is 1 to 16384"),
        ({"priority": 5}, r"priority=5: allowed is HIGH \(0\)"),
        ({"name": "a\nb"}, "name is .* allowed are up to"),
    ],
)
def test_a_client_that_cannot_be(
    backend: BackendProcess, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pifus.Client(backend.path, **arguments)


def test_limits_of_a_client(backend: BackendProcess) -> None:
    with pifus.Client(backend.path, max_sockets=1, arena_bytes=65536, queue_depth=4) as client:
        sock = client.socket()
        with pytest.raises(OSError, match=r"all 1 sockets .* make the client with a greater max"):
            client.socket()
        with client.batch():
            for _ in range(4):
                sock.nop()
            with pytest.raises(pifus.QueueFull, match=r"\(4 operations .* a greater queue_depth"):
                sock.nop()
        block = client.register(65536)
        with pytest.raises(pifus.ArenaFull, match=r"65536 bytes .* a greater arena_bytes"):
            client.register(65536)
        block.release()
    for call in (client.socket, client.poll_any, sock.nop, lambda: client.register(1)):
        with pytest.raises(pifus.ClientClosed, match="the client is closed: make a new one"):
            call()
    with pifus.Client(backend.path, on_completion=lambda _: None) as client:
        for call in (client.poll_any, client.wait_any, client.poll_many, client.socket().poll):
            with pytest.raises(RuntimeError, match="make the client without one"):
                call()


def test_a_backend_that_ends(start_backend: StartBackend) -> None:
    backend = start_backend("ends")
    client = pifus.Client(backend.path)
    sock = client.socket()
    backend.stop()
    with pytest.raises(pifus.BackendGone, match=r"shut down.*Make a new client"):
        sock.wait(SECONDS)
    with pytest.raises(pifus.BackendUnavailable, match=backend.path.replace(".", r"\.")):
        pifus.Client(backend.path)
    assert sock.family == socket.AF_INET


def test_a_refused_send_lets_go_of_the_buffer(scene: Scene) -> None:
    data = bytearray(100)
    refused: list[Callable[[], object]] = [
        lambda: scene.near.write(data, deadline=float("nan")),
        lambda: scene.udp.sendto(data, ("", -1)),
        lambda: scene.udp.sendto(data, NOBODY, deadline=float("nan")),
        lambda: scene.released.write(data),
        lambda: scene.released.sendto(data, NOBODY),
    ]
    for call in refused:
        with pytest.raises((ValueError, OverflowError, OSError)) as caught:
            call()
        data.append(0)  # BufferError, if the traceback holds it
        assert caught.value is not None
