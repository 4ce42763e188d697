"""`pifus bench tcp`: one byte there and back, and bulk, to a kernel peer over TAP; and the kernel's
own sockets with the same script."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from pifus.bench import _clients, _peer
from pifus.bench._net import Tap, Veth
from pifus.bench._run import Backend, Progress, Turn, Worker, privilege_missing, take_turns
from pifus.bench._stats import Result, Row, Samples
from pifus.bench._worker import WorkerError

TITLE = "TCP: 1-byte round trip and bulk, 64 KiB chunks"
DROP_IN = "pifus.compat.socket"
KERNEL = "socket"
DIRECTIONS = ("send", "receive")
# A bulk transfer must be longer than its slow start.
_BULK_TURN_SECONDS = 0.5

Found = dict[str, Samples | float]


class Plan:
    """The variants, and the processes that they need."""

    def __init__(self, stack: contextlib.ExitStack, notes: list[str]) -> None:
        self.stack = stack
        self.notes = notes
        self.round_trips: dict[str, Turn] = {}
        self.bulk: dict[str, Turn] = {}

    def worker(self, backend: str = "") -> Worker:
        """A client process; `backend` is what the drop-in sockets use."""
        return self.stack.enter_context(Worker(environment={"PIFUS_BACKEND": backend}))

    def add_round_trips(
        self, name: str, worker: Worker, function: Callable[..., Samples], **arguments: Any
    ) -> None:
        """A variant of the round trip."""
        row = f"rtt.{name}"
        self.round_trips[row] = lambda turn: {row: worker.call(function, seconds=turn, **arguments)}

    def add_bulk(
        self, name: str, worker: Worker, function: Callable[..., float], **arguments: Any
    ) -> None:
        """A variant of the bulk transfer, both ways."""
        for direction in DIRECTIONS:
            row = f"bulk.{name}.{direction}"
            self.bulk[row] = _bulk_turn(row, worker, function, direction, arguments)

    # ---- the kernel's sockets ----

    def add_kernel(self, name: str, address: tuple[str, int], *, round_trips: bool = True) -> None:
        """The kernel's sockets on both ends."""
        script = {"module": KERNEL, "address": address}
        worker = self.worker()
        if round_trips:
            self.add_round_trips(
                f"kernel.python.{name}", worker, _clients.script_round_trips, **script
            )
            self.add_round_trips(
                f"kernel.c.{name}", worker, _clients.kernel_c_round_trips, address=address
            )
        self.add_bulk(f"kernel.python.{name}", worker, _clients.script_bulk, **script)

    def add_veth(self, name: str, *, offload: bool) -> None:
        """The same to a namespace, over a veth pair."""
        try:
            veth = self.stack.enter_context(Veth(offload=offload))
        except (OSError, WorkerError) as error:
            self.notes.append(f"no rows {name}: {error}")
            return
        port = veth.worker.call(_peer.serve, address=veth.far)
        self.add_kernel(name, (veth.far, port), round_trips=offload)

    # ---- pifus ----

    def add_tap(self, mode: str, profile: str, spin_ns: int, *, bulk: bool) -> None:
        """Clients in C and Python over a TAP device."""
        tap = self.stack.enter_context(Tap("--profile", profile))
        path = tap.backend.path
        peer = self.worker()
        address = (tap.host, peer.call(_peer.serve, address=tap.host))
        native, drop_in, completion = (self.worker(path) for _ in range(3))
        native.call(_clients.attach_c, backend=path, spin_ns=spin_ns)
        completion.call(_clients.attach_completion, backend=path)
        script = {"module": DROP_IN, "address": address}
        to_peer = {"address": address}
        self.add_round_trips(f"pifus.c.{mode}", native, _clients.c_round_trips, **to_peer)
        self.add_round_trips(f"pifus.python.{mode}", drop_in, _clients.script_round_trips, **script)
        self.add_round_trips(
            f"pifus.completion.{mode}", completion, _clients.completion_round_trips, **to_peer
        )
        if bulk:
            self.add_bulk("pifus.c", native, _clients.c_bulk, **to_peer)
            self.add_bulk("pifus.python", drop_in, _clients.script_bulk, **script)
            self.add_bulk("pifus.completion", completion, _clients.completion_bulk, **to_peer)

    def add_stack_loopback(self) -> None:
        """Two C clients over the stack's own loopback: needs no privilege."""
        backend = self.stack.enter_context(Backend("--profile", "latency"))
        server, client = self.worker(), self.worker()
        port = server.call(_clients.serve_pifus, backend=backend.path, spin_ns=-1)
        client.call(_clients.attach_c, backend=backend.path, spin_ns=-1)

        def turn(seconds: float) -> Found:
            server.start(_clients.echo_pifus)
            samples = client.call(
                _clients.loopback_round_trips, address=("127.0.0.1", port), seconds=seconds
            )
            server.result()
            return {"rtt.pifus.c.stack-loopback.spin": samples}

        self.round_trips["rtt.pifus.c.stack-loopback.spin"] = turn


def _bulk_turn(
    row: str,
    worker: Worker,
    function: Callable[..., float],
    direction: str,
    arguments: dict[str, Any],
) -> Turn:
    return lambda turn: {row: worker.call(function, seconds=turn, direction=direction, **arguments)}


def run(seconds: float, progress: Progress) -> Result:
    """Measures what it can."""
    result = Result("tcp", TITLE)
    with contextlib.ExitStack() as stack:
        plan = Plan(stack, result.notes)
        progress("starting", 0.0)
        missing = privilege_missing()
        if missing:
            result.notes.append(
                f"no rows over TAP and veth, only the loopbacks: they need privilege: {missing}"
            )
        else:
            plan.add_tap("spin", "latency", -1, bulk=True)
            plan.add_tap("block", "powersave", 0, bulk=False)
        plan.add_stack_loopback()
        peer = plan.worker()
        port = peer.call(_peer.serve, address="127.0.0.1")
        plan.add_kernel("loopback", ("127.0.0.1", port))
        if not missing:
            plan.add_veth("veth", offload=True)
            plan.add_veth("veth-no-offload", offload=False)
        found = take_turns(plan.round_trips, seconds, progress)
        rates = take_turns(plan.bulk, seconds, progress, _BULK_TURN_SECONDS)
    result.rows = [Row.of_times(name, found.times[name]) for name in plan.round_trips]
    result.rows += [Row.of_values(name, "Gbit/s", rates.values[name]) for name in plan.bulk]
    return result
