"""`pifus bench churn`: short connections over the drop-in, one after the other for as long as is
wanted, and whether anything grows while they come and go; then a thousand a second, whether each
was ready or not, and how late they are."""

from __future__ import annotations

import contextlib

from pifus.bench import _programs
from pifus.bench._run import Backend, Progress, Worker
from pifus.bench._stats import Result, Row, Samples
from pifus.bench.compat import workers

TITLE = "Connect, accept, close over the drop-in"
RATE = "connections"
OFFERED, LATE = "offered", "late"
OFFERED_RATE = 1000
_THREADS = 4
_PATIENCE = 20  # so many times as long as it should take, it may
# What is looked at, and its unit. TIME_WAIT is apart: it fills up for a minute, then stays.
_COUNTERS = ("pcbs", "sockets", "mirrors", "segments", "pbufs")
GROWTH = {
    **{f"{process}.rss": "KiB" for process in ("backend", "server", "client")},
    **{f"{process}.fds": "" for process in ("backend", "server", "client")},
    **dict.fromkeys(_COUNTERS, ""),
}
ROWS = (RATE, *GROWTH, "time-wait", OFFERED, LATE)
_TURNS_MIN = 5


def _look(backend: Backend, **workers: Worker) -> dict[str, float]:
    found: dict[str, float] = {}
    processes = {"backend": _programs.resources_of(backend.pid)}
    processes |= {name: worker.call(_programs.resources) for name, worker in workers.items()}
    for process, values in processes.items():
        found |= {f"{process}.{name}": value for name, value in values.items()}
    counters = backend.status()["statistics"]
    found |= {name: counters[name] for name in _COUNTERS}
    found["time-wait"] = counters["time_wait"]
    found["pcbs"] -= found["time-wait"]
    return found


def run(seconds: float, progress: Progress) -> Result:
    """Measures; a look at what might grow each second."""
    result = Result("churn", TITLE)
    values: dict[str, list[float]] = {name: [] for name in ROWS}
    turns = max(_TURNS_MIN, round(seconds))
    with contextlib.ExitStack() as stack:
        progress("starting", 0.0)
        backend = stack.enter_context(Backend())
        server, client = workers(stack, backend.path)
        address = ("127.0.0.1", server.call(_programs.serve_short))
        for turn in range(turns):
            progress(RATE, turn / turns / 2)
            rate = client.call(_programs.connections, address=address, seconds=seconds / turns)
            values[RATE].append(rate)
            for name, value in _look(backend, server=server, client=client).items():
                values[name].append(value)
        result.notes += _growth(values)
        progress(OFFERED, 0.5)
        address = ("127.0.0.1", server.call(_programs.serve_short, threads=_THREADS))
        before = _look(backend)
        client.start(
            _programs.offered,
            address=address,
            seconds=seconds,
            rate=OFFERED_RATE,
            threads=_THREADS,
        )
        done, late = client.result(_PATIENCE * (seconds + 1))
        values[OFFERED] += done
        result.notes.append(_held(seconds, done, before, _look(backend)))
        progress("", 1.0)
    result.rows = [
        Row.of_values(name, "1/s" if name in (RATE, OFFERED) else GROWTH.get(name, ""), found)
        for name, found in values.items()
        if name != LATE
    ]
    result.rows.append(Row.of_times(LATE, Samples.of(late)))
    return result


def _held(
    seconds: float, done: list[int], before: dict[str, float], after: dict[str, float]
) -> str:
    changes = [f"{name} {after[name] - before[name]:+.0f}" for name in before if name in GROWTH]
    slowest = f"in the slowest of the whole seconds {min(done[:-1] or done):,}"
    return (
        f"offered {OFFERED_RATE:,} a second for {seconds:g} s: {sum(done):,} connections in "
        f"{len(done)} s, {slowest}; {', '.join(changes)}"
    )


def _growth(values: dict[str, list[float]]) -> list[str]:
    """From the first fifth, in which everything is used for the first time, to the last."""
    fifth = max(len(values[RATE]) // 5, 1)
    changes = []
    for name, unit in GROWTH.items():
        change = max(values[name][-fifth:]) - max(values[name][:fifth])
        changes.append(f"{name} {change:+.0f}{' ' if unit else ''}{unit}")
    return [
        f"slowest turn: {min(values[RATE]):,.0f} connections a second",
        f"largest of the last fifth against largest of the first: {', '.join(changes)}",
    ]
