"""`pifus bench compat`: one script over the kernel's sockets and over the drop-in, both over their
loopback, client and server in a process each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from pifus.bench import _clients, _peer, _programs
from pifus.bench._run import Backend, Progress, Turn, Worker, take_turns
from pifus.bench._stats import Result, Row
from pifus.bench._worker import State

TITLE = "The same script over the kernel's sockets and over the drop-in, loopback"
KINDS = ("kernel", "compat")
# Name of the rows, unit, and what is said of their ratio.
MEASURES = {
    "rtt": ("us", "1-byte round trip"),
    "requests": ("1/s", "requests to a small asyncio server"),
    "connections": ("1/s", "connect, accept and close"),
    "forks": ("1/s", "connections to a ForkingTCPServer"),
    "bulk.send": ("Gbit/s", "bulk, sending"),
    "bulk.receive": ("Gbit/s", "bulk, receiving"),
}
ROWS = tuple(f"{measure}.{kind}" for measure in MEASURES for kind in KINDS)
# A bulk transfer must be longer than its slow start.
_TURN_SECONDS = 0.5


def workers(stack: contextlib.ExitStack, backend: str) -> tuple[Worker, Worker]:
    """A server and a client; over the stack if there is a backend."""
    pair = tuple(
        stack.enter_context(Worker(environment={"PIFUS_BACKEND": backend})) for _ in range(2)
    )
    if backend:
        for worker in pair:
            worker.call(_programs.over_stack)
    return pair[0], pair[1]


def _turns(kind: str, server: Worker, client: Worker) -> dict[str, Turn]:
    peer = ("127.0.0.1", server.call(_peer.serve, address="127.0.0.1"))
    http = ("127.0.0.1", server.call(_programs.serve_http))
    short = ("127.0.0.1", server.call(_programs.serve_short))
    forking = ("127.0.0.1", server.call(_programs.serve_forking))

    def turn(name: str, function: Callable[..., Any], **arguments: Any) -> Turn:
        return lambda seconds: {
            f"{name}.{kind}": client.call(
                _call, of=function, with_={"seconds": seconds, **arguments}
            )
        }

    script = {"module": "socket", "address": peer}
    return {
        "rtt": turn("rtt", _clients.script_round_trips, **script),
        "requests": turn("requests", _programs.requests, address=http),
        "connections": turn("connections", _programs.connections, address=short),
        "forks": turn("forks", _programs.forks, address=forking),
        "bulk.send": turn("bulk.send", _clients.script_bulk, direction="send", **script),
        "bulk.receive": turn("bulk.receive", _clients.script_bulk, direction="receive", **script),
    }


def _call(state: State, of: Callable[..., Any], with_: dict[str, Any]) -> Any:
    return of(state, **with_)


def run(seconds: float, progress: Progress) -> Result:
    """Measures both, in turns."""
    result = Result("compat", TITLE)
    with contextlib.ExitStack() as stack:
        progress("starting", 0.0)
        backend = stack.enter_context(Backend())
        turns = {
            kind: _turns(kind, *workers(stack, backend.path if kind == "compat" else ""))
            for kind in KINDS
        }
        variants = {
            f"{measure}.{kind}": turns[kind][measure] for measure in MEASURES for kind in KINDS
        }
        found = take_turns(variants, seconds, progress, _TURN_SECONDS)
    for name in ROWS:
        unit = MEASURES[name.rsplit(".", 1)[0]][0]
        if name in found.times:
            result.rows.append(Row.of_times(name, found.times[name]))
        else:
            result.rows.append(Row.of_values(name, unit, found.values[name]))
    result.notes += _ratios(result.rows)
    return result


def _ratios(rows: list[Row]) -> list[str]:
    median = {row.name: row.statistics["p50"] for row in rows}
    return [
        f"{text}: the drop-in has {median[f'{name}.compat'] / median[f'{name}.kernel']:.2f} times "
        f"the {unit} of the kernel (medians)"
        for name, (unit, text) in MEASURES.items()
    ]
