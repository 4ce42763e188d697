"""What the sockets here need of an event-loop library, and where tasks wait."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType

from pifus._core._hub import Hub


class Signal:
    """Where one task waits. It keeps no state: who is woken looks for itself what has changed."""

    __slots__ = ("wake",)

    def __init__(self) -> None:
        self.wake: Callable[[], None] | None = None

    def fire(self) -> None:
        """Wakes the task that waits, if one does."""
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()


class Loop(ABC):
    """A running event loop with the hub of one client in it."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    @abstractmethod
    async def before(self) -> None:
        """At the start of a call, before it has had any effect, or looked at anything that another
        task may change meanwhile: may be cancelled."""

    @abstractmethod
    async def turn(self) -> None:
        """Lets others have their turn, before what is there is taken: may be cancelled."""

    @abstractmethod
    async def after(self) -> None:
        """After a call that had its effect without waiting: is not cancelled."""

    @abstractmethod
    async def park(self, signal: Signal) -> None:
        """Waits until the signal fires."""

    @abstractmethod
    async def nap(self) -> None:
        """Waits for some milliseconds: for what nobody tells of."""

    @abstractmethod
    def busy(self, text: str) -> Exception:
        """The library's exception for a resource that another task is using."""

    @abstractmethod
    def closed(self, text: str) -> Exception:
        """The library's exception for a resource that this side has closed."""


class Side:
    """One direction of a socket: one task at a time uses it (`with side:`)."""

    __slots__ = ("_doing", "_loop", "_taken", "signal")

    def __init__(self, loop: Loop, doing: str) -> None:
        self.signal = Signal()
        self._loop = loop
        self._doing = doing
        self._taken = False

    def __enter__(self) -> None:
        if self._taken:
            raise self._loop.busy(f"another task is {self._doing} this socket")
        self._taken = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._taken = False
