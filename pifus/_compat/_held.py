"""Methods that were taken out of the class `socket.socket` before it was patched.

trio does so when it is imported, for its own sockets: it keeps them in closures. They would read
the descriptor of a stack socket, in which there are no data. Found by the garbage collector, which
knows who refers to them; so it does not matter whose closures or global names these are.
"""

from __future__ import annotations

import _socket as _c
import gc
import sys
from collections.abc import Iterable, Iterator
from types import CellType
from typing import Any, Final

_OURS: Final = ("pifus", "_socket")


def taken(names: Iterable[str]) -> Iterator[tuple[Any, str, str]]:
    """Where methods of the C class are held.

    Args:
        names: of the methods.

    Yields:
        The module or the cell of a closure, the attribute of it, and the method's name.
    """
    methods = {
        name: vars(_c.socket)[name]
        for name in names
        if name in vars(_c.socket) and not name.startswith("__")
    }
    wanted = {id(method): name for name, method in methods.items()}
    spaces: set[int] = set()
    for holder in gc.get_referrers(*methods.values()):
        if isinstance(holder, CellType):
            name = wanted.get(id(holder.cell_contents))
            if name is not None:
                yield holder, "cell_contents", name
        elif isinstance(holder, dict):
            spaces.add(id(holder))
    for module in list(sys.modules.values()):
        space = getattr(module, "__dict__", None)
        if id(space) not in spaces or module.__name__.partition(".")[0] in _OURS:
            continue
        for attribute, value in list(vars(module).items()):
            name = wanted.get(id(value))
            if name is not None:
                yield module, attribute, name
