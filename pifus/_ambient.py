"""The priority of whatever sockets are opened in a part of a program."""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Literal

Name = Literal["high", "medium", "low"]

_NAMES = ("high", "medium", "low")
_ambient: ContextVar[str | None] = ContextVar("pifus_priority", default=None)


def current() -> str | None:
    """The priority of the innermost `with priority(…)` that is being executed, or None."""
    return _ambient.get()


class priority:  # noqa: N801 - read as a word of the language: with pifus.priority("high"):
    """A context in which every new drop-in socket has this priority.

    It holds for the sockets that are made in the `with` block, however deep in code that cannot be
    changed, and stays with them; it goes where context variables go: into coroutines and tasks
    started there, and `asyncio.to_thread`, not into threads of one's own. It counts more than
    `--priority` rules, and less than SO_PRIORITY set by the program itself.

    Args:
        name: "high", "medium" or "low"; the backend may grant less.

    Raises:
        ValueError: another name.
    """

    def __init__(self, name: Name) -> None:
        if name not in _NAMES:
            raise ValueError(f"priority {name!r}: allowed is {', '.join(_NAMES)}")
        self._name = name
        self._tokens: list[Token[str | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_ambient.set(self._name))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _ambient.reset(self._tokens.pop())
