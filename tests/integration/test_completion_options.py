"""What a socket of the completion API is made with, and what can be changed later."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator

import pytest

import pifus
from tests.conftest import BackendProcess, Pair
from tests.integration.test_tap import SECONDS, StartBackend, Tap, needs_tap, start_tap

ETH_P_ALL = 3
ACK = "acknowledged"


def refused_at(sock: pifus.Socket) -> int:
    """How many receives the socket takes until its queue is full."""
    count = 0
    try:
        while True:
            sock.recv(1)
            count += 1
    except pifus.QueueFull as full:
        assert f"({sock.queue_depth} operations" in str(full)  # noqa: PT017 - it always comes
    return count


def test_queue_depth_of_a_socket(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    assert ours.queue_depth == client.queue_depth == 64
    ours.queue_depth = 3
    assert refused_at(ours) == 3
    ours.queue_depth = 5
    assert refused_at(ours) == 2
    ours.queue_depth = 1  # fewer than are under way: nothing is lost
    ours.close()
    theirs.close()
    assert [ours.wait(SECONDS).opcode for _ in range(6)][-1] is pifus.Opcode.CLOSE
    sock = client.socket(queue_depth=1, dscp=1, nodelay=False)
    with client.batch():
        sock.nop()
        with pytest.raises(pifus.QueueFull):
            sock.nop()
    sock.wait(SECONDS).check()
    sock.nop()


def test_the_smallest_queues_hold_all_options(backend: BackendProcess) -> None:
    with pifus.Client(backend.path, queue_depth=4) as client:
        sock = client.socket(queue_depth=4, nodelay=False, dscp=63, tx_bytes=1, rx_bytes=4096)
        with client.batch():
            ops = [sock.nop() for _ in range(4)]
        assert [sock.wait(SECONDS).check().op for _ in ops] == ops


def test_share_of_the_arena(client: pifus.Client, pair: Pair) -> None:
    ours, _ = pair
    assert ours.tx_bytes == 524288

    def fill() -> int:
        """Writes until nothing is acknowledged any more; how much of the arena it then holds."""
        while True:
            with contextlib.suppress(pifus.ArenaFull):
                while True:
                    ours.write(bytes(32768))
            try:
                ours.wait(0.3)
            except TimeoutError:
                return client.arena_bytes - client.arena_free

    for share in (131072, 262144):
        ours.tx_bytes = share
        assert fill() == share


def test_what_is_accepted_is_like_its_listener(client: pifus.Client) -> None:
    listener = client.socket(priority=pifus.Priority.LOW, queue_depth=2, tx_bytes=65536)
    listener.bind(("127.0.0.1", 0))
    listener.wait(SECONDS).check()
    listener.listen()
    listener.wait(SECONDS).check()
    listener.accept()
    ours = client.socket()
    ours.connect(listener.local_address)
    accepted = listener.wait(SECONDS).check().accepted
    assert accepted is not None
    assert (accepted.queue_depth, accepted.tx_bytes) == (2, 65536)
    assert accepted.priority is pifus.Priority.LOW


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"priority": 3}, r"priority=3: allowed is HIGH \(0\), MEDIUM \(1\), LOW \(2\)"),
        ({"rx_bytes": 5000}, "rx_bytes=5000: allowed is a power of two, 4096 to 262144"),
        ({"rx_bytes": 524288}, "rx_bytes=524288: allowed is"),
        ({"rx_bytes": 2048}, "rx_bytes=2048: allowed is"),
        ({"rx_bytes": -4096}, "rx_bytes=-4096: allowed is"),
        ({"tx_bytes": -1}, "tx_bytes=-1: allowed is 1 to 16777216, the client's arena_bytes"),
        ({"tx_bytes": 16777217}, "tx_bytes=16777217: allowed is 1 to"),
        ({"queue_depth": 65}, "queue_depth=65: allowed is 1 to 64, the client's queue_depth"),
        ({"queue_depth": -1}, "queue_depth=-1: allowed is"),
        ({"nodelay": 2}, "nodelay=2: allowed is True or False"),
        ({"nodelay": True, "protocol": pifus.UDP}, "nodelay=True: a datagram never waits"),
        ({"dscp": 64}, "dscp=64: allowed is 0 to 63"),
        ({"dscp": -1}, "dscp=-1: allowed is 0 to 63"),
    ],
)
def test_what_is_not_allowed(client: pifus.Client, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        client.socket(**arguments)  # type: ignore[arg-type]


def test_what_is_not_allowed_later(client: pifus.Client) -> None:
    sock, datagrams = client.socket(), client.socket(pifus.UDP)
    changes: list[tuple[Callable[[], object], str]] = [
        (lambda: sock.set_dscp(64), "dscp=64: allowed is 0 to 63"),
        (lambda: sock.set_nodelay(7), "nodelay=7: allowed is"),  # type: ignore[arg-type]
        (lambda: datagrams.set_nodelay(True), "of TCP sockets"),
        (lambda: sock.set_priority(9), "priority=9: allowed is"),  # type: ignore[arg-type]
        (lambda: setattr(sock, "queue_depth", 0), "queue_depth=0: allowed is 1 to 64"),
        (lambda: setattr(sock, "tx_bytes", 0), "tx_bytes=0: allowed is 1 to"),
        (lambda: sock.setopt(77, 1), "option=77: allowed are the members of pifus.Option"),  # type: ignore[arg-type]
    ]
    for change, message in changes:
        with pytest.raises(ValueError, match=message):
            change()
    with pytest.raises(TypeError, match="queue_depth must be int"):
        sock.queue_depth = "4"  # type: ignore[assignment]
    assert (sock.queue_depth, sock.tx_bytes) == (64, 524288)
    sock.release()
    with pytest.raises(OSError, match="closed") as caught:
        sock.queue_depth = 4
    assert caught.value.errno == errno.EBADF


def test_a_better_priority_than_the_client_may_have(backend: BackendProcess) -> None:
    with pifus.Client(backend.path, priority=pifus.Priority.MEDIUM) as client:
        sock = client.socket(priority=pifus.Priority.HIGH)
        assert sock.priority is pifus.Priority.MEDIUM
        sock.set_priority(pifus.Priority.HIGH)
        assert sock.wait(SECONDS).errno == errno.EPERM


# ---- on the wire ----


class Wire:
    """What the stack and the kernel send each other over the TAP device."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._sock.bind((tap.device, 0))
        self._sock.settimeout(SECONDS)

    def close(self) -> None:
        self._sock.close()

    def packet(self, port: int) -> tuple[bytes, bytes]:
        """The next IPv4 packet from or to a port of the stack: header, and what is behind it."""
        while True:
            frame = self._sock.recv(65536)
            header, rest = frame[14:34], frame[34:]
            ports = {int.from_bytes(rest[:2], "big"), int.from_bytes(rest[2:4], "big")}
            if frame[12:14] == b"\x08\x00" and port in ports:
                return header, rest[: int.from_bytes(header[2:4], "big") - 20]

    def from_stack(self, port: int) -> int:
        """The DSCP of the next packet that the stack sends from a port."""
        while True:
            header, _ = self.packet(port)
            if header[12:16] == socket.inet_aton(self.tap.stack4):
                return header[1] >> 2

    def segments(self, port: int, until: bytes) -> list[str]:
        """What the stack and the kernel send, up to the segment whose bytes are `until`."""
        found = []
        while True:
            header, segment = self.packet(port)
            data = segment[(segment[12] >> 4) * 4 :]
            if header[12:16] == socket.inet_aton(self.tap.stack4):
                found.append(data.decode())
                if data == until:
                    return found
            else:
                found.append(ACK)


@pytest.fixture
def wire(start_backend: StartBackend) -> Iterator[Wire]:
    found = Wire(start_tap(start_backend))
    yield found
    found.close()


def port_of(sock: pifus.Socket) -> int:
    address = sock.local_address
    assert address is not None
    return address[1]


def bind(sock: pifus.Socket, host: str) -> int:
    sock.bind((host, 0))
    sock.wait(SECONDS).check()
    return port_of(sock)


@needs_tap
def test_dscp_of_datagrams(wire: Wire) -> None:
    with (
        pifus.Client(wire.tap.backend.path) as client,
        socket.socket(type=socket.SOCK_DGRAM) as peer,
    ):
        peer.bind((wire.tap.host4, 0))
        sock = client.socket(pifus.UDP, dscp=46)
        port = bind(sock, wire.tap.stack4)
        for dscp in (46, 10, 0):
            sock.sendto(b"x", peer.getsockname())
            sock.wait(SECONDS).check()
            assert wire.from_stack(port) == dscp
            sock.set_dscp({46: 10, 10: 0, 0: 0}[dscp])
            sock.wait(SECONDS).check()


@needs_tap
def test_dscp_of_connections_made_and_accepted(wire: Wire) -> None:
    tap = wire.tap
    with pifus.Client(tap.backend.path) as client, socket.create_server((tap.host4, 0)) as peer:
        sock = client.socket(dscp=34)
        port = bind(sock, tap.stack4)
        sock.connect(peer.getsockname())
        sock.wait(SECONDS).check()
        assert wire.from_stack(port) == 34  # already the SYN
        listener = client.socket(dscp=8, nodelay=False)
        port = bind(listener, tap.stack4)
        listener.listen()
        listener.wait(SECONDS).check()
        listener.accept()
        with socket.create_connection((tap.stack4, port)):
            accepted = listener.wait(SECONDS).check().accepted
            assert accepted is not None
            assert wire.from_stack(port) == 8
            accepted.write(b"x")
            assert wire.from_stack(port) == 8


@needs_tap
def test_nagle(wire: Wire) -> None:
    tap = wire.tap
    with pifus.Client(tap.backend.path) as client, socket.create_server((tap.host4, 0)) as peer:
        for nodelay in (True, False):
            sock = client.socket(nodelay=nodelay)
            port = bind(sock, tap.stack4)
            sock.connect(peer.getsockname())
            sock.wait(SECONDS).check()
            connection, _ = peer.accept()
            with connection:
                # The kernel acknowledges after 40 ms from now on, where it would at once.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
                with client.batch():
                    sock.write(b"first")
                    sock.write(b"second")
                found = wire.segments(port, b"second")
                between = found[found.index("first") + 1 : -1]
                assert between == ([] if nodelay else [ACK])
                sock.set_nodelay(not nodelay)
                for _ in range(3):
                    sock.wait(SECONDS).check()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
                with client.batch():
                    sock.write(b"third")
                    sock.write(b"fourth")
                found = wire.segments(port, b"fourth")
                between = found[found.index("third") + 1 : -1]
                assert between == ([ACK] if nodelay else [])
