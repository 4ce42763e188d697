"""`pifus bench priority`: clients of three priorities at a saturated backend (Table 6.2)."""

from __future__ import annotations

import contextlib
import errno
import time
from typing import TYPE_CHECKING

from pifus.bench import _native
from pifus.bench._bench import ffi, lib
from pifus.bench._run import Backend, Progress, Turn, Worker, take_turns
from pifus.bench._stats import Result, Row, Samples
from pifus.bench._worker import State

if TYPE_CHECKING:
    from collections.abc import Sequence

TITLE = "Three priorities, NOPs in flight, saturated backend (thesis, Table 6.2)"
PRIORITIES = ("high", "medium", "low")
# With this many on their way the backend always has work of each of them.
IN_FLIGHT = 64
_QUEUE_DEPTH = 256
_MIN_SHARE_LOW = 5
_START_SECONDS = 0.02
_STALL_CHUNK = 65536
# Nothing has moved for so long: nothing will.
_STALL_SETTLED_NS = 50_000_000
_PROBES_MAX_BYTES = 4 * _STALL_CHUNK
ROWS = (
    "high.alone",
    *PRIORITIES,
    *(f"backend.{name}" for name in ("high.alone", *PRIORITIES)),
    *(f"min-share.{name}" for name in PRIORITIES),
    *(f"rate.{name}" for name in ("high.alone", *PRIORITIES)),
    *(f"rate.min-share.{name}" for name in PRIORITIES),
    "rate.peer-idle.medium",
    "rate.peer-idle.low",
    "rate.peer-stalled.medium",
    "rate.peer-stalled.low",
)

Found = dict[str, Samples | float]


# ---- in the workers ----


def attach(state: State, backend: str, priority: str) -> None:
    """Makes a client that never spins, and its socket."""
    client = _native.NativeClient(
        backend, spin_ns=0, max_sockets=8, queue_depth=_QUEUE_DEPTH, priority=priority
    )
    state["client"], state["slot"] = client, client.socket(priority)


def flood(state: State, start_ns: int, seconds: float) -> tuple[Samples, Samples]:
    """Keeps the NOPs in flight; begins at a moment that all clients were told."""
    client: _native.NativeClient = state["client"]
    time.sleep(max(start_ns - time.monotonic_ns(), 0) / 1e9)
    return client.flood(state["slot"], 0, IN_FLIGHT, start_ns + int(seconds * 1e9))


def open_stalling(state: State, backend: str) -> None:
    """Makes a HIGH connection within this client; at its other end somebody reads or not."""
    client = _native.NativeClient(backend, spin_ns=0, max_sockets=8)
    listener = client.socket("high")
    port = client.listen(listener, ("127.0.0.1", 0), 4)
    state["client"] = client
    state["writer"] = client.connect(client.socket("high"), ("127.0.0.1", port))
    state["reader"] = client.accept(listener, "high")


def fill(state: State) -> None:
    """Writes at HIGH until nothing goes any more."""
    while _send(state, _STALL_SETTLED_NS) > 0:
        pass


def wait_for_room(state: State, seconds: float) -> None:
    """A blocked write at HIGH: there is no room, but for what the probes of a full window carry."""
    end = _native.deadline(seconds)
    sent = 0
    while (left := end - time.monotonic_ns()) > 0:
        sent += _send(state, left)
    if sent > _PROBES_MAX_BYTES:
        raise RuntimeError(f"the peer that reads nothing has made room for {sent} bytes")


def wait_for_bytes(state: State, seconds: float) -> None:
    """A blocked read at HIGH: nothing comes."""
    client: _native.NativeClient = state["client"]
    buffer = ffi.new("char[]", 1)
    lib.pf_recv(client.handle, state["writer"], buffer, 1, 0, int(seconds * 1e9))


def empty(state: State) -> None:
    """Reads everything that was written."""
    client: _native.NativeClient = state["client"]
    buffer = ffi.new("char[]", _STALL_CHUNK)
    slot = state["reader"]
    while lib.pf_recv(client.handle, slot, buffer, _STALL_CHUNK, 0, _STALL_SETTLED_NS) > 0:
        pass


def _send(state: State, patience_ns: int) -> int:
    """The bytes that were taken within that time: 0 if there was no room."""
    client: _native.NativeClient = state["client"]
    data = bytes(_STALL_CHUNK)
    sent: int = lib.pf_send(client.handle, state["writer"], data, len(data), patience_ns)
    return 0 if sent == -errno.EAGAIN else _native.check(sent, "send")


# ---- the benchmark ----


class Contest:
    """A backend and one client of each priority, each in its own process."""

    def __init__(self, stack: contextlib.ExitStack, *options: str) -> None:
        self.backend = stack.enter_context(Backend(*options))
        self.clients = {name: stack.enter_context(Worker()) for name in PRIORITIES}
        for name, worker in self.clients.items():
            worker.call(attach, backend=self.backend.path, priority=name)

    def turn(self, names: Sequence[str], seconds: float) -> dict[str, tuple[Samples, Samples]]:
        """These clients at the same time: by name, the times until taken and until served."""
        start_ns = time.monotonic_ns() + int(_START_SECONDS * 1e9)
        for name in names:
            self.clients[name].start(flood, start_ns=start_ns, seconds=seconds)
        return {name: self.clients[name].result() for name in names}


def _rate(samples: Samples, seconds: float) -> float:
    return samples.total / seconds / 1e6


def run(seconds: float, progress: Progress) -> Result:
    """Measures."""
    with contextlib.ExitStack() as stack:
        progress("starting", 0.0)
        plain = Contest(stack, "--profile", "powersave")
        shared = Contest(stack, "--profile", "powersave", "--min-share-low", str(_MIN_SHARE_LOW))
        stalling = stack.enter_context(Worker())
        stalling.call(open_stalling, backend=plain.backend.path)

        def alone(turn: float) -> Found:
            taken, served = plain.turn(["high"], turn)["high"]
            return {
                "high.alone": taken,
                "backend.high.alone": served,
                "rate.high.alone": _rate(taken, turn),
            }

        def all_three(turn: float) -> Found:
            found: Found = {}
            for name, (taken, served) in plain.turn(PRIORITIES, turn).items():
                found |= {name: taken, f"backend.{name}": served}
                found[f"rate.{name}"] = _rate(taken, turn)
            return found

        def min_share(turn: float) -> Found:
            found: Found = {}
            for name, (taken, _) in shared.turn(PRIORITIES, turn).items():
                found[f"min-share.{name}"] = taken
                found[f"rate.min-share.{name}"] = _rate(taken, turn)
            return found

        def peer(turn: float, how: str) -> Found:
            stalled = how == "peer-stalled"
            if stalled:
                stalling.call(fill)
            wait = wait_for_room if stalled else wait_for_bytes
            stalling.start(wait, seconds=turn + 2 * _START_SECONDS)
            found = plain.turn(["medium", "low"], turn)
            stalling.result()
            if stalled:
                stalling.call(empty)
            return {f"rate.{how}.{name}": _rate(pair[0], turn) for name, pair in found.items()}

        variants: dict[str, Turn] = {
            "high alone": alone,
            "all": all_three,
            "minimum share": min_share,
            "peer idle": lambda turn: peer(turn, "peer-idle"),
            "peer stalled": lambda turn: peer(turn, "peer-stalled"),
        }
        found = take_turns(variants, seconds, progress)
    result = Result("priority", TITLE)
    for name in ROWS:
        if name in found.times:
            result.rows.append(Row.of_times(name, found.times[name]))
        else:
            result.rows.append(Row.of_values(name, "Mop/s", found.values[name]))
    return result
