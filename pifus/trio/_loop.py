"""The hub of a client in a run of trio: a system task that waits for its bell."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Final

import trio
from trio.lowlevel import Abort, current_task, reschedule, wait_task_rescheduled

from pifus._async._loop import Loop, Signal
from pifus._core._hub import Hub
from pifus.completion import Client

_NAP_SECONDS: Final = 0.01
# Of clients made here, for whole programs.
_QUEUE_DEPTH: Final = 256
_MAX_SOCKETS: Final = 4096

_loops: trio.lowlevel.RunVar[dict[Client | None, TrioLoop]] = trio.lowlevel.RunVar("pifus_loops")


def _abort(signal: Signal, _: object) -> Abort:
    signal.wake = None
    return Abort.SUCCEEDED


class _Pump(trio.abc.Instrument):
    """Hands completions out where trio looks for I/O: their tasks run a round of its loop earlier
    than if the system task did it, which does what is left to do. Where trio would sleep it spins
    first, if there is no other client whose completions would have to wait for that."""

    def __init__(self, hub: Hub, loops: dict[Client | None, TrioLoop]) -> None:
        self._hub = hub
        self._loops = loops

    def before_io_wait(self, timeout: float) -> None:
        if timeout > 0 and len(self._loops) == 1:
            self._hub.spin(timeout)

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's
        self._hub.poll()


class TrioLoop(Loop):
    """See Loop."""

    before = staticmethod(trio.lowlevel.checkpoint_if_cancelled)
    turn = staticmethod(trio.lowlevel.checkpoint)
    after = staticmethod(trio.lowlevel.cancel_shielded_checkpoint)

    # Ctrl-C between the two would leave a waker for a task that does not wait.
    @trio.lowlevel.enable_ki_protection
    async def park(self, signal: Signal) -> None:
        signal.wake = partial(reschedule, current_task())
        await wait_task_rescheduled(partial(_abort, signal))

    async def nap(self) -> None:
        await trio.sleep(_NAP_SECONDS)

    def busy(self, text: str) -> Exception:
        return trio.BusyResourceError(text)

    def closed(self, text: str) -> Exception:
        return trio.ClosedResourceError(text)

    async def run(self, ours: bool, loops: dict[Client | None, TrioLoop]) -> None:
        """The system task. `ours`: the client is closed with the run; `loops`: all of the run."""
        pump = _Pump(self.hub, loops)
        trio.lowlevel.add_instrument(pump)
        try:
            while True:
                while self.hub.dispatch():
                    await trio.lowlevel.checkpoint()
                if self.hub.ended:
                    break
                await trio.lowlevel.wait_readable(self.hub.fileno())
                self.hub.drain()
        finally:
            with contextlib.suppress(KeyError):  # trio lets go of one that has failed
                trio.lowlevel.remove_instrument(pump)
            self.hub.close()
            if ours:
                self.hub.client.close()


@trio.lowlevel.enable_ki_protection
def loop_of(client: Client | None) -> TrioLoop:
    """The loop for a client in this run of trio; None: a client of the run's own.

    Raises:
        RuntimeError: not called from inside of a run of trio; the client has a callback.
        BackendUnavailable, BackendGone, ClientClosed, OSError: see `Client`.
    """
    try:
        loops = _loops.get()
    except LookupError:
        loops = {}
        _loops.set(loops)
    loop = loops.get(client)
    if loop is None or loop.hub.ended:
        used = client or Client(max_sockets=_MAX_SOCKETS, queue_depth=_QUEUE_DEPTH)
        loop = loops[client] = TrioLoop(Hub(used))
        trio.lowlevel.spawn_system_task(loop.run, client is None, loops, name="pifus completions")
    return loop
