"""`pifus bench sockets`: many sockets at once, against lwIP's own netconn API (Figure 6.3)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from pifus.bench import _native, _netconn
from pifus.bench._bench import lib
from pifus.bench._run import Backend, Progress, Turn, Worker, take_turns
from pifus.bench._stats import Result, Row, Samples
from pifus.bench._worker import State

TITLE = "64-byte echo on n sockets at once (thesis, Table 6.4, Figure 6.3)"
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# The series of the figure: lwIP's API; the same program over pifus, a thread for each socket; and
# one thread with completions for all.
SERIES = ("netconn", "pifus.threads", "pifus.completion")
MESSAGE_BYTES = 64
_SETTINGS = {"max_sockets": 1100, "queue_depth": 8, "rx_bytes": 4096, "arena_bytes": 4 << 20}
# Some turns in any case, but with 1,024 threads each needs its time to begin and end.
_TURN_SECONDS = 0.5


def serve(state: State, backend: str) -> int:
    """In the server: listens; returns the port. `echo` serves."""
    client = _native.NativeClient(backend, **_SETTINGS)
    state["client"] = client
    state["listener"], port = client.listen_for_echo()
    return port


def echo(state: State, connections: int) -> None:
    """In the server: echoes so many connections to their end."""
    client: _native.NativeClient = state["client"]
    result = lib.pf_bench_echo_server(client.handle, state["listener"], connections)
    _native.check(result, "server")


def connect(state: State, backend: str, port: int, count: int) -> None:
    """In a client: makes as many connections."""
    if "client" not in state:
        state["client"] = _native.NativeClient(backend, **_SETTINGS)
    client: _native.NativeClient = state["client"]
    address = ("127.0.0.1", port)
    state["slots"] = [client.connect(client.socket(), address) for _ in range(count)]


def play(state: State, threads: bool, seconds: float) -> tuple[Samples, int]:
    """In a client: the echo on all of them; times, and how many sockets got one."""
    client: _native.NativeClient = state["client"]
    return client.sockets(state["slots"], MESSAGE_BYTES, seconds, threads=threads)


def disconnect(state: State) -> None:
    """In a client: ends the connections."""
    client: _native.NativeClient = state["client"]
    for slot in state.pop("slots"):
        client.release(slot)


class Contest:
    """pifus with one server and one client process; and how many sockets got nothing."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.backend = stack.enter_context(Backend())
        self.server = stack.enter_context(Worker())
        self.client = stack.enter_context(Worker())
        self.port = self.server.call(serve, backend=self.backend.path)
        self.idle: dict[str, int] = {}

    def pifus(self, name: str, count: int, threads: bool, seconds: float) -> Mapping[str, Samples]:
        """One turn over pifus, with fresh connections, as the netconn program has them."""
        self.server.start(echo, connections=count)
        self.client.call(connect, backend=self.backend.path, port=self.port, count=count)
        samples, active = self.client.call(play, threads=threads, seconds=seconds)
        self.client.call(disconnect)
        self.server.result()
        return self.note(name, samples, count - active)

    def note(self, name: str, samples: Samples, idle: int) -> Mapping[str, Samples]:
        """Notes how many sockets got nothing in a turn, and returns its finding."""
        self.idle[name] = max(self.idle.get(name, 0), idle)
        return {name: samples}


def run(seconds: float, progress: Progress) -> Result:
    """Measures."""
    result = Result("sockets", TITLE)
    program = None
    progress("building the netconn program", 0.0)
    try:
        program = _netconn.build()
    except _netconn.Unavailable as error:
        result.notes.append(f"no rows netconn: {error}")
    with contextlib.ExitStack() as stack:
        contest = Contest(stack)
        variants: dict[str, Turn] = {}

        def add(name: str, kind: str, count: int) -> None:
            def over_netconn(turn: float) -> Mapping[str, Samples]:
                assert program is not None
                samples, active = _netconn.measure(program, count, turn)
                return contest.note(name, samples, count - active)

            if kind == "netconn":
                variants[name] = over_netconn
            else:
                threads = kind == "pifus.threads"
                variants[name] = lambda turn: contest.pifus(name, count, threads, turn)

        for count in COUNTS:
            for kind in SERIES:
                if kind != "netconn" or program is not None:
                    add(f"{kind}.{count}", kind, count)
        found = take_turns(variants, seconds, progress, _TURN_SECONDS)
        # Without any time, there is nothing to tell.
        times = {name: samples for name, samples in found.times.items() if samples.total}
    result.rows = [Row.of_times(name, times[name]) for name in variants if name in times]
    for name, idle in contest.idle.items():
        if idle:
            result.notes.append(f"{name}: in one of the turns {idle} sockets got no answer at all")
    return result
