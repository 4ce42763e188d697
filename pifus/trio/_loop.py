"""The hub of a client in a run of trio: a system task that waits for its bell."""

from __future__ import annotations

from typing import Final

import trio

from pifus._async._loop import Loop, Signal
from pifus._core._hub import Hub
from pifus.completion import Client

_NAP_SECONDS: Final = 0.01
# Of clients made here, for whole programs.
_QUEUE_DEPTH: Final = 256
_MAX_SOCKETS: Final = 4096

_loops: trio.lowlevel.RunVar[dict[Client | None, TrioLoop]] = trio.lowlevel.RunVar("pifus_loops")


class TrioLoop(Loop):
    """See Loop."""

    async def before(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()

    async def after(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def park(self, signal: Signal) -> None:
        task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            signal.wake = None
            return trio.lowlevel.Abort.SUCCEEDED

        signal.wake = lambda: trio.lowlevel.reschedule(task)
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def nap(self) -> None:
        await trio.sleep(_NAP_SECONDS)

    def busy(self, text: str) -> Exception:
        return trio.BusyResourceError(text)

    def closed(self, text: str) -> Exception:
        return trio.ClosedResourceError(text)

    async def run(self, ours: bool) -> None:
        """The system task. `ours`: the client is closed with the run."""
        try:
            while True:
                while self.hub.dispatch():
                    await trio.lowlevel.checkpoint()
                if self.hub.ended:
                    break
                await trio.lowlevel.wait_readable(self.hub.fileno())
                self.hub.drain()
        finally:
            self.hub.close()
            if ours:
                self.hub.client.close()


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
        trio.lowlevel.spawn_system_task(loop.run, client is None, name="pifus completions")
    return loop
