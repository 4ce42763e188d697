"""Completions of the completion API, awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pifus._async._loop import Loop, Signal
from pifus._core import _now

if TYPE_CHECKING:
    from pifus._core._ops import Completion
    from pifus._core._socket import Socket


async def completed(loop: Loop, sock: Socket, op: int) -> Completion:
    """Waits for the next completion of an operation; cancelled, it is kept for the next wait."""
    signal = Signal()
    outcome: list[bytes | None] = []

    def deliver(raw: bytes | None) -> None:
        outcome.append(raw)
        signal.fire()

    await loop.before()
    if loop.hub.is_expected(sock, op):
        raise loop.busy("another task is waiting for this operation")
    loop.hub.expect(sock, op, deliver)
    try:
        while not outcome:
            await loop.park(signal)
    except BaseException:
        loop.hub.forget(sock, op)
        for raw in outcome:
            if raw is not None:
                loop.hub.give_back(sock, raw)
        raise
    raw = outcome[0]
    if raw is None:
        raise _now.ended(sock)
    return _now.completion(sock, raw)
