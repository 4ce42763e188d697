"""`pifus bench periodic`: a program that sends a registered block every millisecond, and the same
loop over kernel sockets; both over their loopback, sender and receiver in a process each."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import threading
import time
import tracemalloc
from array import array
from collections.abc import Callable
from typing import Any

from pifus.bench._run import Backend, Progress, Worker, take_turns
from pifus.bench._stats import Result, Row, Samples
from pifus.bench._worker import State

TITLE = "64 bytes every millisecond from Python: a registered block, and kernel sockets"
KINDS = ("kernel", "pifus")
MEASURES = ("cost", "late", "growth", "blocks")
ROWS = (*(f"{measure}.{kind}" for measure in MEASURES for kind in KINDS), "arena.pifus")
BYTES = 64
PERIOD_NS = 1_000_000
# Until caches, free lists and the interpreter's own tables are warm.
_WARM_PERIODS = 50
_TURN_SECONDS = 1.0

# Sends and sees the message off; its period is the argument.
Send = Callable[[int], object]


# ---- in the workers ----


def sink_of_the_kernel(state: State) -> int:
    """Reads what comes, for ever: the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    state["listening"] = listening

    def read() -> None:
        connection, _ = listening.accept()
        while connection.recv(65536):
            pass

    threading.Thread(target=read, daemon=True).start()
    return int(listening.getsockname()[1])


def sink_of_pifus(state: State, backend: str) -> int:
    """The same over the stack."""
    import pifus

    client = state["client"] = pifus.Client(backend, max_sockets=4)
    listening = client.socket()
    listening.bind(("127.0.0.1", 0), link=True)
    listening.listen(link=True)
    listening.accept()
    for _ in range(2):
        listening.wait(10).check()
    address = listening.local_address
    assert address is not None

    def read() -> None:
        accepted = listening.wait().check().accepted
        assert accepted is not None
        accepted.recv(65536, multishot=True)
        while accepted.wait().check().data:
            pass

    threading.Thread(target=read, daemon=True).start()
    return address[1]


def connect_kernel(state: State, port: int) -> None:
    """A connection of the kernel, and how a period goes over it."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    message = bytearray(BYTES)

    def send(number: int) -> None:
        message[0] = number & 0xFF
        connection.send(message)

    state["send"] = send


def connect_pifus(state: State, port: int, backend: str) -> None:
    """The same over the stack. A period ends with the acknowledgement of the one before."""
    import pifus

    client = pifus.Client(backend, max_sockets=4)
    sock = client.socket(priority=pifus.Priority.HIGH)
    sock.connect(("127.0.0.1", port))
    sock.wait(10).check()
    blocks = [client.register(BYTES) for _ in range(2)]

    def send(number: int) -> None:
        block = blocks[number & 1]
        block.view[0] = number & 0xFF
        while block.busy:
            sock.wait(1).check()
        sock.write_block(block)

    state["send"] = send
    state["client"] = client


def periods(state: State, seconds: float) -> dict[str, Any]:
    """Sends in each period: its cost, how late it began, and how memory grew."""
    send: Send = state["send"]
    count = max(int(seconds * 1e9) // PERIOD_NS, 1)
    cost, late = array("I", bytes(4 * count)), array("I", bytes(4 * count))
    clock = time.monotonic_ns
    for number in range(_WARM_PERIODS):
        send(number)
    held = _held(state)
    due = clock() + PERIOD_NS
    for number in range(count):
        time.sleep(max(due - clock(), 0) / 1e9)
        start = clock()
        send(number)
        cost[number] = clock() - start
        late[number] = max(start - due, 0)
        due += PERIOD_NS
        if due < start:  # whole periods were lost: they are not made up for
            due = start + PERIOD_NS
    more = {name: float(value - held[name]) for name, value in _held(state).items()}
    return {"cost": Samples.of(cost), "late": Samples.of(late), "growth": _growth(send), **more}


def _held(state: State) -> dict[str, int]:
    """The interpreter's memory blocks, and how much of the send arena is taken (below zero)."""
    gc.collect()
    held = {"blocks": sys.getallocatedblocks()}
    if "client" in state:
        held["arena"] = -state["client"].arena_free
    return held


def _growth(send: Send) -> float:
    """Bytes that the interpreter holds more after many periods than before: none, if none are kept.

    Apart from the timing, which the tracing would change.
    """
    gc.collect()
    tracemalloc.start()
    for number in range(_WARM_PERIODS):
        send(number)
    before = tracemalloc.get_traced_memory()[0]
    for number in range(20 * _WARM_PERIODS):
        send(number)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return float(grown)


# ---- the benchmark ----


def run(seconds: float, progress: Progress) -> Result:
    """Measures both, in turns."""
    result = Result("periodic", TITLE)
    with contextlib.ExitStack() as stack:
        progress("starting", 0.0)
        backend = stack.enter_context(Backend())
        receivers = {kind: stack.enter_context(Worker()) for kind in KINDS}
        senders = {kind: stack.enter_context(Worker()) for kind in KINDS}
        port = receivers["kernel"].call(sink_of_the_kernel)
        senders["kernel"].call(connect_kernel, port=port)
        port = receivers["pifus"].call(sink_of_pifus, backend=backend.path)
        senders["pifus"].call(connect_pifus, port=port, backend=backend.path)

        def turn(kind: str) -> Callable[[float], dict[str, Any]]:
            def measure(length: float) -> dict[str, Any]:
                found = senders[kind].call(periods, seconds=length)
                return {f"{name}.{kind}": values for name, values in found.items()}

            return measure

        found = take_turns({kind: turn(kind) for kind in KINDS}, seconds, progress, _TURN_SECONDS)
    for name in ROWS:
        if name in found.times:
            result.rows.append(Row.of_times(name, found.times[name]))
        else:
            unit = "blocks" if name.startswith("blocks") else "bytes"
            result.rows.append(Row.of_values(name, unit, found.values[name]))
    result.notes.append(
        "cost: of one period, in the program's thread; late: how long after its time it began; "
        "growth: of what the interpreter holds, over a thousand periods more; "
        "blocks, arena: what interpreter and send arena hold more at the end of a turn"
    )
    return result
