"""`pifus bench tasks`: one byte there and back for trio and asyncio, over the kernel's sockets, the
drop-in, and pifus.trio and pifus.aio; over loopback, client and server in a process each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from pifus.bench import _programs, _tasks
from pifus.bench._run import Backend, Progress, Turn, Worker, take_turns
from pifus.bench._stats import Result, Row, Samples

TITLE = "One byte there and back for trio and asyncio, loopback"
KINDS = {
    "trio": ("kernel", "compat", "factory", "native"),
    "asyncio": ("kernel", "compat", "native"),
}
ROWS = tuple(f"{library}.{kind}" for library, kinds in KINDS.items() for kind in kinds)
_SERVE: dict[str, Callable[..., int]] = {
    "trio": _tasks.serve_trio,
    "asyncio": _tasks.serve_asyncio,
}
_TRIPS: dict[str, Callable[..., Samples]] = {
    "trio": _tasks.trio_round_trips,
    "asyncio": _tasks.asyncio_round_trips,
}


def _turn(stack: contextlib.ExitStack, backend: str, library: str, kind: str) -> Turn:
    environment = {} if kind == "kernel" else {"PIFUS_BACKEND": backend}
    server, client = (stack.enter_context(Worker(environment=environment)) for _ in range(2))
    if kind == "compat":
        for worker in (server, client):
            worker.call(_programs.over_stack)
    port = server.call(_SERVE[library], kind=kind)

    def turn(seconds: float) -> dict[str, Any]:
        found = client.call(_TRIPS[library], kind=kind, port=port, seconds=seconds)
        return {f"{library}.{kind}": found}

    return turn


def run(seconds: float, progress: Progress) -> Result:
    """Measures all, in turns."""
    result = Result("tasks", TITLE)
    with contextlib.ExitStack() as stack:
        progress("starting", 0.0)
        backend = stack.enter_context(Backend())
        turns = {
            f"{library}.{kind}": _turn(stack, backend.path, library, kind)
            for library, kinds in KINDS.items()
            for kind in kinds
        }
        found = take_turns(turns, seconds, progress)
    result.rows += [Row.of_times(name, found.times[name]) for name in ROWS]
    median = {row.name: row.statistics["p50"] for row in result.rows}
    for library in KINDS:
        native = median[f"{library}.native"]
        result.notes.append(
            f"{library}: native takes {native / median[f'{library}.compat']:.2f} times as long as "
            f"the drop-in, {native / median[f'{library}.kernel']:.2f} times as long as the kernel "
            "(medians)"
        )
    return result
