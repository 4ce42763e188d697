"""The hub of a client in a loop of asyncio, which watches its bell."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Final

from pifus._async._loop import Loop, Signal
from pifus._core._hub import Hub
from pifus.completion import Client

_NAP_SECONDS: Final = 0.01
_CALLS: Final = 16
# Of clients made here, for whole programs.
_QUEUE_DEPTH: Final = 256
_MAX_SOCKETS: Final = 4096

_loops: dict[asyncio.AbstractEventLoop, dict[Client | None, AioLoop]] = {}
_lock = threading.Lock()


def _resolve(future: asyncio.Future[None]) -> None:
    # It may have been cancelled; or its event loop was closed while tasks were waiting.
    if not future.done() and not future.get_loop().is_closed():
        future.set_result(None)


class AioLoop(Loop):
    """See Loop. `ours`: the client ends with the event loop."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop, ours: bool) -> None:
        super().__init__(hub)
        self._loop = loop
        self._ours = ours
        self._calls = 0
        self._idling = False
        self._idle_calls = 0
        loop.add_reader(hub.fileno(), self._rung)
        self._pump()

    async def before(self) -> None:
        # As asyncio's own streams do not, most calls do not let others have their turn; but here
        # bytes come and go beside the event loop, so a task could go on and on.
        self._calls += 1
        if self._calls % _CALLS == 0:
            await asyncio.sleep(0)

    async def turn(self) -> None:
        return  # `before` sees to it, as often as it is needed

    async def after(self) -> None:
        # Nothing: what is awaited here could be cancelled.
        return

    async def park(self, signal: Signal) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        signal.wake = partial(_resolve, future)
        if not self._idling:
            self._idling = True
            self._loop.call_soon(self._idle)
        await future

    def _idle(self) -> None:
        """Behind everything that was to be run: spins, if no task has begun a call since, and there
        is no other client whose completions would have to wait for that."""
        calls, self._idle_calls = self._idle_calls, self._calls
        alone = len(_loops.get(self._loop, ())) == 1
        self._idling = calls != self._calls or (alone and self.hub.spin())
        if self._idling:
            self._pump()
            self._loop.call_soon(self._idle)

    async def nap(self) -> None:
        await asyncio.sleep(_NAP_SECONDS)

    def busy(self, text: str) -> Exception:
        return RuntimeError(text)

    def closed(self, text: str) -> Exception:
        return ConnectionAbortedError(text)

    def _rung(self) -> None:
        self.hub.drain()
        self._pump()

    def _pump(self) -> None:
        if self.hub.dispatch():
            self._loop.call_soon(self._pump)
        elif self.hub.ended:
            self.close()

    def close(self) -> None:
        """Lets go of the client. Twice is no error."""
        if not self._loop.is_closed() and self.hub.fileno() >= 0:
            self._loop.remove_reader(self.hub.fileno())
        try:
            self.hub.close()
        finally:
            if self._ours:
                self.hub.client.close()


def loop_of(client: Client | None) -> AioLoop:
    """The loop for a client in the running event loop; None: a client of the event loop's own.

    Raises:
        RuntimeError: no event loop is running; the client has a callback.
        BackendUnavailable, BackendGone, ClientClosed, OSError: see `Client`.
    """
    running = asyncio.get_running_loop()
    with _lock:
        for closed in [one for one in _loops if one.is_closed()]:
            for loop in _loops.pop(closed).values():
                loop.close()
        loops = _loops.setdefault(running, {})
        current = loops.get(client)
        if current is None or current.hub.ended:
            used = client or Client(max_sockets=_MAX_SOCKETS, queue_depth=_QUEUE_DEPTH)
            current = loops[client] = AioLoop(Hub(used), running, client is None)
        return current
