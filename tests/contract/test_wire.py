"""The peer is a socket of the kernel: on the loopback to the kernel's own, over TAP to the stack's.

`ours` is the socket under test, `theirs` is always the kernel's.
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import socket as names
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pifus.compat.socket
from pifus._compat import _current
from tests.conftest import launch_backend
from tests.contract.conftest import PATIENCE_SECONDS, await_events, errno_of, receive_exactly
from tests.integration.test_tap import Tap, may_make_devices, start_tap

IN, OUT, ERR, HUP, RDHUP = (
    select.POLLIN,
    select.POLLOUT,
    select.POLLERR,
    select.POLLHUP,
    select.POLLRDHUP,
)
ALL = IN | OUT | ERR | HUP | RDHUP
ABORT = struct.pack("ii", 1, 0)
BULK_BYTES = 8_000_000

Spawn = Callable[..., Future[Any]]
Closing = Callable[[Any], Any]
Ends = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Wire:
    """Where the socket under test lives, where its peer, and whether our side connects."""

    net: ModuleType
    ours: str
    theirs: str
    connects: bool


@pytest.fixture(scope="module")
def tap(runtime_dir: Path) -> Iterator[Tap]:
    """A backend on a TAP device."""
    if not may_make_devices():
        pytest.skip("making a TAP device needs CAP_NET_ADMIN and /dev/net/tun")
    started = []

    def start(name: str, *options: str) -> Any:
        started.append(launch_backend(name, *options))
        return started[-1]

    yield start_tap(start)
    for backend in started:
        assert backend.stop() == 0


@pytest.fixture(params=[True, False], ids=["connects", "accepts"])
def connects(request: pytest.FixtureRequest) -> bool:
    """Whether it is our side that connects."""
    return bool(request.param)


@pytest.fixture(params=["kernel", "IPv4", "IPv6"])
def wire(
    request: pytest.FixtureRequest, connects: bool, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Wire]:
    """The kernel's loopback, or the wire by one of the protocols."""
    if request.param == "kernel":
        yield Wire(names, "127.0.0.1", "127.0.0.1", connects)
        return
    tap: Tap = request.getfixturevalue("tap")
    monkeypatch.setenv("PIFUS_BACKEND", tap.backend.path)
    before, _current._session = _current._session, None
    places = (tap.stack4, tap.host4) if request.param == "IPv4" else (tap.stack6, tap.host6)
    yield Wire(pifus.compat.socket, *places, connects)
    ours, _current._session = _current._session, before
    if ours is not None:
        ours.close()


def family(host: str) -> int:
    return names.AF_INET6 if ":" in host else names.AF_INET


@pytest.fixture
def ends(wire: Wire, closing: Closing) -> Ends:
    """Two connected sockets: ours, theirs."""
    first, second = (wire.net, names) if wire.connects else (names, wire.net)
    place = wire.theirs if wire.connects else wire.ours
    listener = closing(second.create_server((place, 0), family=family(place)))
    listener.settimeout(PATIENCE_SECONDS)
    one = closing(first.create_connection(listener.getsockname()[:2], PATIENCE_SECONDS))
    other = closing(listener.accept()[0])
    other.settimeout(PATIENCE_SECONDS)
    return (one, other) if wire.connects else (other, one)


def test_both_sides_agree_about_the_names(ends: Ends, wire: Wire) -> None:
    ours, theirs = ends
    assert ours.getpeername() == theirs.getsockname()
    assert ours.getsockname() == theirs.getpeername()
    assert ours.getsockname()[0] == wire.ours


def test_bulk_and_half_close_both_ways(ends: Ends, spawn: Spawn) -> None:
    data = os.urandom(BULK_BYTES)

    def talk(sock: Any) -> str:
        sending = spawn(sock.sendall, data)
        got = receive_exactly(sock, BULK_BYTES)
        sending.result(PATIENCE_SECONDS)
        sock.shutdown(names.SHUT_WR)
        assert sock.recv(1) == b""
        return hashlib.sha256(got).hexdigest()

    results = [spawn(talk, sock).result for sock in ends]
    wanted = hashlib.sha256(data).hexdigest()
    assert [result(2 * PATIENCE_SECONDS) for result in results] == [wanted, wanted]


def test_who_does_not_read_stops_the_sender(ends: Ends) -> None:
    ours, theirs = ends
    ours.setblocking(False)
    sent = 0
    while True:
        try:
            sent += ours.send(b"x" * 65536)
        except BlockingIOError:
            # What is on its way yet makes room: only when it stays full is it full.
            if not select.select([], [ours], [], 0.5)[1]:
                break
    assert receive_exactly(theirs, sent) == b"x" * sent
    await_events(ours, OUT, ALL)
    assert ours.send(b"y") == 1
    assert theirs.recv(1) == b"y"


def test_small_messages_one_way_are_not_held_up(ends: Ends) -> None:
    """The sender's Nagle waits for the acknowledgement: of what nobody answers, it has to come."""
    ours, theirs = ends
    seconds = []
    for _ in range(100):
        begun = time.monotonic()
        theirs.sendall(b"small")
        assert receive_exactly(ours, 5) == b"small"
        seconds.append(time.monotonic() - begun)
    # A delayed acknowledgement takes 40 ms or more. A busy machine delays some, not most.
    assert statistics.median(seconds) < 0.04


TENTATIVE = 0x40


def link_local(device: str) -> str:
    """The kernel's address of this kind on a device, when the kernel is sure that it is its own."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, *_, scope, flags, name = line.split()
            if name == device and scope == "20" and not int(flags, 16) & TENTATIVE:
                return names.inet_ntop(names.AF_INET6, bytes.fromhex(digits))
    return pytest.fail(f"{device} has no link-local address")


@pytest.mark.parametrize("connects", [True], indirect=True, ids=["connects"])
@pytest.mark.parametrize("wire", ["IPv6"], indirect=True)
@pytest.mark.parametrize("kind", [names.SOCK_STREAM, names.SOCK_DGRAM], ids=["TCP", "UDP"])
def test_link_local_addresses(
    wire: Wire, tap: Tap, closing: Closing, kind: names.SocketKind
) -> None:
    """A link is named by the number that the kernel gives its device."""
    scope = names.if_nametoindex(tap.device)
    theirs = closing(names.socket(names.AF_INET6, kind))
    theirs.bind((link_local(tap.device), 0, 0, scope))
    ours = closing(wire.net.socket(names.AF_INET6, kind))
    for sock in (ours, theirs):
        sock.settimeout(PATIENCE_SECONDS)
    if kind == names.SOCK_STREAM:
        theirs.listen()
    ours.connect(theirs.getsockname())
    assert ours.getpeername() == theirs.getsockname()
    assert ours.getsockname()[3] == scope
    ours.send(b"on this link")
    if kind == names.SOCK_STREAM:
        theirs, sender = theirs.accept()
        closing(theirs).settimeout(PATIENCE_SECONDS)
        assert theirs.recv(100) == b"on this link"
    else:
        data, sender = theirs.recvfrom(100)
        assert data == b"on this link"
        theirs.sendto(b"indeed", sender)
        assert ours.recvfrom(100) == (b"indeed", theirs.getsockname())
    assert sender == ours.getsockname()
    for net in (names, wire.net):
        for no_link, told in ((0, errno.EINVAL), (2**20, errno.ENETUNREACH)):
            nowhere = closing(net.socket(names.AF_INET6, kind))
            assert errno_of(nowhere.connect, (*ours.getpeername()[:3], no_link)) == told


def test_looks_and_waits(ends: Ends, spawn: Spawn) -> None:
    ours, theirs = ends
    theirs.sendall(b"first")
    await_events(ours, IN | OUT, ALL)
    assert ours.recv(3, names.MSG_PEEK) == b"fir"
    ours.settimeout(None)  # with a time-out, nothing waits for all
    got = spawn(ours.recv, 10, names.MSG_WAITALL)
    theirs.sendall(b"later")
    assert got.result(PATIENCE_SECONDS) == b"firstlater"
    assert errno_of(ours.recv, 1, names.MSG_DONTWAIT) == errno.EAGAIN


def test_events_of_a_peer_that_ends(ends: Ends) -> None:
    ours, theirs = ends
    await_events(ours, OUT, ALL)
    theirs.sendall(b"x")
    theirs.shutdown(names.SHUT_WR)
    await_events(ours, IN | OUT | RDHUP, ALL)
    assert (ours.recv(9), ours.recv(9)) == (b"x", b"")
    assert ours.send(b"answer") == 6
    assert theirs.recv(9) == b"answer"


def test_a_reset_by_the_peer(ends: Ends) -> None:
    ours, theirs = ends
    theirs.setsockopt(names.SOL_SOCKET, names.SO_LINGER, ABORT)
    theirs.close()
    await_events(ours, ALL, ALL)
    assert errno_of(ours.recv, 9) == errno.ECONNRESET
    assert ours.recv(9) == b""
    assert errno_of(ours.send, b"x") == errno.EPIPE
    assert errno_of(ours.getpeername) == errno.ENOTCONN


def test_a_reset_by_us(ends: Ends) -> None:
    ours, theirs = ends
    ours.setsockopt(names.SOL_SOCKET, names.SO_LINGER, ABORT)
    ours.close()
    assert errno_of(theirs.recv, 9) == errno.ECONNRESET


def test_a_close_with_unread_bytes_resets(ends: Ends) -> None:
    ours, theirs = ends
    theirs.sendall(b"never read")
    await_events(ours, IN | OUT, ALL)
    ours.close()
    assert errno_of(theirs.recv, 9) == errno.ECONNRESET


def test_bytes_before_a_close_arrive(ends: Ends) -> None:
    ours, theirs = ends
    ours.sendall(b"z" * 300_000)
    ours.close()
    assert receive_exactly(theirs, 300_001) == b"z" * 300_000


@pytest.mark.parametrize("connects", [True], indirect=True, ids=["connects"])
def test_a_connect_that_does_not_wait(wire: Wire, closing: Closing) -> None:
    listener = closing(names.create_server((wire.theirs, 0), family=family(wire.theirs)))
    address = listener.getsockname()
    sock = closing(wire.net.socket(family(wire.ours)))
    sock.setblocking(False)
    assert sock.connect_ex(address) == errno.EINPROGRESS
    await_events(sock, OUT, ALL)
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == 0
    assert sock.connect_ex(address) == 0
    assert sock.connect_ex(address) == errno.EISCONN


@pytest.mark.parametrize("connects", [True], indirect=True, ids=["connects"])
def test_a_refusal(wire: Wire, closing: Closing) -> None:
    with names.create_server((wire.theirs, 0), family=family(wire.theirs)) as dead:
        address = dead.getsockname()
    sock = closing(wire.net.socket(family(wire.ours)))
    sock.setblocking(False)
    assert sock.connect_ex(address) == errno.EINPROGRESS
    await_events(sock, ALL, ALL)
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == errno.ECONNREFUSED
    assert sock.getsockopt(names.SOL_SOCKET, names.SO_ERROR) == 0
    assert sock.connect_ex(address) == errno.ECONNABORTED
    blocking = closing(wire.net.socket(family(wire.ours)))
    assert errno_of(blocking.connect, address) == errno.ECONNREFUSED
