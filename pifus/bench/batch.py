"""`pifus bench batch`: sixteen operations that do nothing, one by one and together."""

from __future__ import annotations

import contextlib
import time
from array import array

from pifus.bench._run import Backend, Progress, Turn, Worker, processors, take_turns
from pifus.bench._stats import Result, Row, Samples
from pifus.bench._worker import State

TITLE = "Sixteen NOPs of sixteen sockets, one by one and together"
# How they are submitted and taken.
_WAYS = ("each", "taken-together", "batch")
_PLACES = ("spin", "same-core")
ROWS = tuple(f"{place}.{way}" for place in _PLACES for way in _WAYS)
_COUNT = 16
# So many rounds between two looks at the time.
_ROUNDS = 16


def attach(state: State, backend: str, spin: bool) -> None:
    """Makes the client and its sockets."""
    import pifus

    client = pifus.Client(backend, max_sockets=_COUNT)
    if not spin:
        client.set_spin(0)
    state["client"] = client
    state["sockets"] = [client.socket(priority=pifus.Priority.HIGH) for _ in range(_COUNT)]


def sixteen(state: State, way: str, seconds: float) -> Samples:
    """From before the first is submitted until the last is taken, again and again."""
    client, socks = state["client"], state["sockets"]

    def each() -> None:
        for sock in socks:
            sock.nop()
        for _ in socks:
            client.wait_any()

    def taken_together() -> None:
        for sock in socks:
            sock.nop()
        take()

    def batch() -> None:
        with client.batch():
            for sock in socks:
                sock.nop()
        take()

    def take() -> None:
        left = _COUNT
        while left:
            left -= len(client.wait_many())

    run = {"each": each, "taken-together": taken_together, "batch": batch}[way]
    clock = time.perf_counter_ns
    end = clock() + int(seconds * 1e9)
    times = array("I")
    now = 0
    while now < end:
        for _ in range(_ROUNDS):
            start = clock()
            run()
            now = clock()
            times.append(now - start)
    return Samples.of(times)


def run(seconds: float, progress: Progress) -> Result:
    """Measures."""
    cpu = processors()[0]
    with contextlib.ExitStack() as stack:
        variants: dict[str, Turn] = {}

        def add(worker: Worker, place: str, way: str) -> None:
            name = f"{place}.{way}"
            variants[name] = lambda turn: {name: worker.call(sixteen, way=way, seconds=turn)}

        progress("starting", 0.0)
        spinning = stack.enter_context(Backend("--profile", "latency"))
        pinned = stack.enter_context(Backend("--profile", "powersave", "--cpu", str(cpu)))
        for place, backend in (("spin", spinning), ("same-core", pinned)):
            on = cpu if backend is pinned else None
            worker = stack.enter_context(Worker(cpu=on))
            worker.call(attach, backend=backend.path, spin=backend is spinning)
            for way in _WAYS:
                add(worker, place, way)
        found = take_turns(variants, seconds, progress)
    result = Result("batch", TITLE)
    result.rows = [Row.of_times(name, found.times[name]) for name in ROWS]
    return result
