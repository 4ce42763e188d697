"""`pifus bench wire`: writers of three priorities to kernel readers over TAP (Table 6.3)."""

from __future__ import annotations

import contextlib
import time

from pifus.bench import _native, _peer
from pifus.bench._net import Tap
from pifus.bench._run import Progress, Turn, Worker, privilege_missing, take_turns
from pifus.bench._stats import Result, Row, Samples
from pifus.bench._worker import State

TITLE = "Three writers to a kernel reader over TAP (thesis, Table 6.3)"
PRIORITIES = ("high", "medium", "low")
# As the thesis: each keeps a certain number of writes under way.
IN_FLIGHT = 8
_START_SECONDS = 0.02
_NAMES = ("high.alone", *PRIORITIES)
ROWS = (
    *(f"ack.{name}" for name in _NAMES),
    *(f"arrival.{name}" for name in _NAMES),
)

Found = dict[str, Samples | float]


def attach(state: State, backend: str, priority: str) -> None:
    """In a worker: makes a client that does not spin."""
    state["client"] = _native.NativeClient(
        backend, spin_ns=0, max_sockets=8, priority=priority, arena_bytes=1 << 20
    )
    state["priority"] = priority


def write(state: State, address: tuple[str, int], start_ns: int, seconds: float) -> Samples:
    """In a worker: keeps writes under way, over a connection of its own."""
    client: _native.NativeClient = state["client"]
    slot = client.connect(client.socket(state["priority"]), address)
    client.send(slot, _peer.READER)
    time.sleep(max(start_ns - time.monotonic_ns(), 0) / 1e9)
    end = start_ns + int(seconds * 1e9)
    taken, _ = client.flood(slot, _peer.MESSAGE_BYTES, IN_FLIGHT, end)
    client.release(slot)
    return taken


def run(seconds: float, progress: Progress) -> Result:
    """Measures, if a TAP device can be made."""
    result = Result("wire", TITLE)
    missing = privilege_missing()
    if missing:
        result.notes.append(f"nothing was measured: a TAP device cannot be made: {missing}")
        return result
    with contextlib.ExitStack() as stack:
        progress("starting", 0.0)
        tap = stack.enter_context(Tap("--profile", "balanced"))
        writers = {name: stack.enter_context(Worker()) for name in PRIORITIES}
        readers = {name: stack.enter_context(Worker()) for name in PRIORITIES}
        ports = {name: readers[name].call(_peer.serve, address=tap.host) for name in PRIORITIES}
        for name, worker in writers.items():
            worker.call(attach, backend=tap.backend.path, priority=name)

        def turn(names: tuple[str, ...], suffix: str, turn_seconds: float) -> Found:
            start_ns = time.monotonic_ns() + int(_START_SECONDS * 1e9)
            for name in names:
                address = (tap.host, ports[name])
                writers[name].start(write, address=address, start_ns=start_ns, seconds=turn_seconds)
            found: Found = {f"ack.{name}{suffix}": writers[name].result() for name in names}
            for name in names:
                times = readers[name].call(_peer.arrivals, count=1)
                found[f"arrival.{name}{suffix}"] = times[0]
            return found

        variants: dict[str, Turn] = {
            "high alone": lambda seconds: turn(("high",), ".alone", seconds),
            "all": lambda seconds: turn(PRIORITIES, "", seconds),
        }
        found = take_turns(variants, seconds, progress)
    result.rows = [Row.of_times(name, found.times[name]) for name in ROWS]
    return result
