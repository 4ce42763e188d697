"""`pifus bench nop`: the round trip of an operation that does nothing (thesis, Table 6.1)."""

from __future__ import annotations

import contextlib
import time
from array import array

from pifus.bench import _native
from pifus.bench._bench import lib
from pifus.bench._run import Backend, Progress, Turn, Worker, processors, take_turns
from pifus.bench._stats import Result, Row, Samples
from pifus.bench._worker import State

TITLE = "NOP round trip (thesis, Table 6.1)"
ROWS = (
    "pifus.c.spin",
    "pifus.python.spin",
    "pifus.c.block.same-core",
    "pifus.c.block.free",
    "floor.spin",
    "floor.futex.same-core",
    "floor.futex.free",
)
_FLOORS = {"spin": lib.pf_floor_spin, "futex": lib.pf_floor_futex}
# What a round of a floor may take, before anything is known.
_FIRST_ROUND_NS = 50_000.0
_COUNT_MAX = 10_000
# So many rounds between two looks at the time, in Python.
_BATCH = 64


# ---- in the workers ----


def attach(state: State, backend: str, spin_ns: int) -> None:
    """Makes the C client and its socket."""
    client = _native.NativeClient(backend, spin_ns=spin_ns, max_sockets=4)
    state["client"], state["slot"] = client, client.socket("high")


def c_nops(state: State, seconds: float) -> Samples:
    """The loop in C."""
    client: _native.NativeClient = state["client"]
    return client.nop(state["slot"], seconds)


def attach_python(state: State, backend: str) -> None:
    """Makes the client of the public API and its socket."""
    import pifus

    client = pifus.Client(backend, max_sockets=4)
    state["client"] = client
    state["socket"] = client.socket(pifus.TCP, priority=pifus.Priority.HIGH)


def python_nops(state: State, seconds: float) -> Samples:
    """The loop of a program in Python: submit, wait."""
    sock = state["socket"]
    clock = time.perf_counter_ns
    end = clock() + int(seconds * 1e9)
    times = array("I")
    now = 0
    while now < end:
        for _ in range(_BATCH):
            start = clock()
            sock.nop()
            sock.wait()
            now = clock()
            times.append(now - start)
    return Samples.of(times)


def floor(state: State, kind: str, cpus: tuple[int, int], seconds: float) -> Samples:
    """The same without pifus: see native/bench/floors.h.

    They run for a number of rounds, not for a time: few at once, because a round may suddenly take
    as long as a time slice.
    """
    key = f"round {kind} {cpus}"
    found = Samples()
    end = time.monotonic_ns() + int(seconds * 1e9)
    while (left := end - time.monotonic_ns()) > 0:
        count = int(left / state.get(key, _FIRST_ROUND_NS))
        samples = _native.floor(_FLOORS[kind], min(max(count, 100), _COUNT_MAX), *cpus)
        state[key] = samples.sum_ns / samples.total + 20
        found.add(samples)
    return found


# ---- the benchmark ----


def run(seconds: float, progress: Progress) -> Result:
    """Measures."""
    cpu = processors()[0]
    with contextlib.ExitStack() as stack:
        variants: dict[str, Turn] = {}

        def add(name: str, worker: Worker) -> None:
            function = python_nops if "python" in name else c_nops
            variants[name] = lambda turn: {name: worker.call(function, seconds=turn)}

        def add_floor(name: str, worker: Worker, kind: str, cpus: tuple[int, int]) -> None:
            variants[name] = lambda turn: {
                name: worker.call(floor, kind=kind, cpus=cpus, seconds=turn)
            }

        def client(backend: Backend, spin_ns: int, cpu: int | None = None) -> Worker:
            worker = stack.enter_context(Worker(cpu=cpu))
            worker.call(attach, backend=backend.path, spin_ns=spin_ns)
            return worker

        progress("starting", 0.0)
        spinning = stack.enter_context(Backend("--profile", "latency"))
        pinned = stack.enter_context(Backend("--profile", "powersave", "--cpu", str(cpu)))
        blocking = stack.enter_context(Backend("--profile", "powersave"))
        in_python = stack.enter_context(Worker())
        in_python.call(attach_python, backend=spinning.path)
        floors = stack.enter_context(Worker())
        add("pifus.c.spin", client(spinning, -1))
        add("pifus.python.spin", in_python)
        add("pifus.c.block.same-core", client(pinned, 0, cpu))
        add("pifus.c.block.free", client(blocking, 0))
        add_floor("floor.spin", floors, "spin", (-1, -1))
        add_floor("floor.futex.same-core", floors, "futex", (cpu, cpu))
        add_floor("floor.futex.free", floors, "futex", (-1, -1))
        found = take_turns(variants, seconds, progress)
    result = Result("nop", TITLE)
    result.rows = [Row.of_times(name, found.times[name]) for name in ROWS]
    if len(processors()) == 1:
        result.notes.append("one processor only: nothing can spin, the spin rows show time slices")
    return result
