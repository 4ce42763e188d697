"""Signal handlers that wait for a moment.

The first socket of a process imports what the stack's sockets need. A handler that ran in the
middle of that, and used a socket itself, would find modules that are there by half; and if it
forks, so would the child.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, Final

_NOTHING_TO_DO: Final = "asyncio.unix_events"


@contextlib.contextmanager
def later() -> Iterator[None]:
    """The program's signal handlers run at the end of the block.

    They run in the main thread only, so there is nothing to do in another one.
    """
    came: list[tuple[Any, int, Any]] = []
    held: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        came.append((held[number], number, frame))

    try:
        # ValueError: this is not the main thread.
        with contextlib.suppress(ValueError):
            for number in range(1, signal.NSIG):
                handler = signal.getsignal(number)
                if callable(handler) and not _is_idle(handler):
                    held[number] = handler
                    signal.signal(number, note)
        yield
    finally:
        try:
            _put_back(held, note)
        finally:
            _run(came)


def _put_back(held: dict[int, Any], note: Any) -> None:
    """All of them, even if one that is back already raises: who is not would never run again."""
    try:
        while held:
            number = next(iter(held))
            if signal.getsignal(number) is note:
                # A signal that came before it raises from here, with nothing done.
                signal.signal(number, held[number])
            del held[number]
    finally:
        if held:
            _put_back(held, note)


def _is_idle(handler: Any) -> bool:
    """An event loop's, which learns of the signal by a descriptor.

    Not touched: that would undo what siginterrupt has made of the signal.
    """
    return getattr(handler, "__module__", None) == _NOTHING_TO_DO


def _run(came: list[tuple[Any, int, Any]]) -> None:
    """Calls each, whatever the others raise."""
    while came:
        handler, number, frame = came.pop(0)
        try:
            handler(number, frame)
        finally:
            _run(came)
