"""The legs of a contract test: where its sockets are, and where those of its peer.

A test that asks for a side, or for sockets of both (`pair`, `listener` …), runs four times:

- `kernel`: both sides are sockets of the kernel, on its loopback;
- `pifus`: both are the stack's, on its loopback;
- `connects`: over a TAP device; the client is the stack's, the server a socket of the kernel;
- `accepts`: the other way round.

A test that asks for `net` has sockets on one side only, and runs three times: over `kernel`,
`pifus`, and `tap`, where they are the stack's on the TAP device.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest

import pifus.compat.socket
from pifus._compat import _current
from pifus._core._session import Session
from tests.conftest import launch_backend
from tests.integration.test_tap import Tap, may_make_devices, start_tap

BOTH = ("kernel", "pifus")
ONE_SIDED = (*BOTH, "tap")
TWO_SIDED = (*BOTH, "connects", "accepts")
# Makes the sockets of both sides, or stands for one of them.
OF_TWO_SIDES = {"client_side", "server_side"}


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a test's connections: the module that makes its sockets, and its addresses."""

    net: ModuleType
    host: str
    host6: str
    device: str

    @property
    def index(self) -> int:
        """The number of its device."""
        return socket.if_nametoindex(self.device)

    def address(self, family: int) -> str:
        """Its address of AF_INET or AF_INET6."""
        return self.host6 if family == socket.AF_INET6 else self.host


@dataclass(frozen=True, slots=True)
class Leg:
    """Both sides of one run of a test."""

    name: str
    client: Side
    server: Side


@dataclass(slots=True)
class Wire:
    """A TAP device's backend, and this process's session with it."""

    tap: Tap
    session: Session | None = None


def choose(metafunc: pytest.Metafunc) -> None:
    """Gives a test the legs that it has."""
    if "leg" not in metafunc.fixturenames:
        return
    one_sided = "net" in metafunc.fixturenames
    if one_sided and OF_TWO_SIDES & set(metafunc.fixturenames):
        pytest.fail(f"{metafunc.definition.nodeid}: has two sides; which of them is `net`?")
    names = ONE_SIDED if one_sided else TWO_SIDED
    if marker := metafunc.definition.get_closest_marker("legs"):
        assert marker.kwargs["reason"]
        names = marker.args
    if marker := metafunc.definition.get_closest_marker("loopback_only"):
        assert marker.args[0]
        names = BOTH
    metafunc.parametrize("leg", names, indirect=True)


def started_wire() -> Iterator[Wire]:
    """A backend on a TAP device of its own; ends with the iteration."""
    if not may_make_devices():
        pytest.skip("making a TAP device needs CAP_NET_ADMIN and /dev/net/tun")
    started = []

    def start(name: str, *options: str) -> object:
        started.append(launch_backend(name, *options))
        return started[-1]

    wire = Wire(start_tap(start))
    yield wire
    if wire.session is not None:
        wire.session.close()
    (backend,) = started
    assert backend.stop() == 0


def loopback(name: str) -> Leg:
    """Both sides on one loopback."""
    net = socket if name == "kernel" else pifus.compat.socket
    side = Side(net, "127.0.0.1", "::1", "lo")
    return Leg(name, side, side)


def over(wire: Wire, name: str) -> Leg:
    """The sides of a leg over a TAP device."""
    ours = Side(pifus.compat.socket, wire.tap.stack4, wire.tap.stack6, wire.tap.device)
    theirs = Side(socket, wire.tap.host4, wire.tap.host6, wire.tap.device)
    if name == "tap":
        return Leg(name, ours, ours)
    return Leg(name, ours, theirs) if name == "connects" else Leg(name, theirs, ours)


def attached(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The drop-in of this process and of its children is on the TAP device for so long."""
    assert os.environ["PIFUS_BACKEND"]
    monkeypatch.setenv("PIFUS_BACKEND", wire.tap.backend.path)
    before, _current._session = _current._session, wire.session
    yield
    wire.session, _current._session = _current._session, before
