"""`pifus bench churn`: short connections over the drop-in, one after the other for as long as is
wanted, and whether anything grows while they come and go."""

from __future__ import annotations

import contextlib

from pifus.bench import _programs
from pifus.bench._run import Backend, Progress, Worker
from pifus.bench._stats import Result, Row
from pifus.bench.compat import workers

TITLE = "Connect, accept, close over the drop-in"
RATE = "connections"
# What is looked at, and its unit. TIME_WAIT is apart: it fills up for a minute, then stays.
_COUNTERS = ("pcbs", "sockets", "mirrors", "segments", "pbufs")
GROWTH = {
    **{f"{process}.rss": "KiB" for process in ("backend", "server", "client")},
    **{f"{process}.fds": "" for process in ("backend", "server", "client")},
    **dict.fromkeys(_COUNTERS, ""),
}
ROWS = (RATE, *GROWTH, "time-wait")
_TURNS_MIN = 5


def _look(backend: Backend, server: Worker, client: Worker) -> dict[str, float]:
    found: dict[str, float] = {}
    processes = {
        "backend": _programs.resources_of(backend.pid),
        "server": server.call(_programs.resources),
        "client": client.call(_programs.resources),
    }
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
            progress(RATE, turn / turns)
            rate = client.call(_programs.connections, address=address, seconds=seconds / turns)
            values[RATE].append(rate)
            for name, value in _look(backend, server, client).items():
                values[name].append(value)
        progress("", 1.0)
    result.rows = [
        Row.of_values(name, "1/s" if name == RATE else GROWTH.get(name, ""), values[name])
        for name in ROWS
    ]
    result.notes += _growth(values)
    return result


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
