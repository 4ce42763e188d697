"""Tells when a program imports a module, so that nothing is imported only to be patched."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

# What executes the module in the place of its loader: it is given the loader's own way to do so.
Execute = Callable[[ModuleType], None]
Around = Callable[[ModuleType, Execute], None]

_watched: dict[str, Around] = {}


def watch(name: str, around: Around) -> None:
    """When `name` is imported, `around` is called to execute it; once."""
    _watched[name] = around
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def forget(name: str) -> None:
    """Undoes `watch`."""
    _watched.pop(name, None)
    if not _watched and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def imported(name: str) -> ModuleType | None:
    """The module, if it has been executed to its end."""
    module = sys.modules.get(name)
    if module is None or getattr(module.__spec__, "_initializing", False):
        return None
    return module


class _Finder:
    """Finds the watched modules as everybody else does, and steps between at their execution."""

    def __init__(self) -> None:
        self._busy: set[str] = set()

    def find_spec(  # as of importlib.abc.MetaPathFinder
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _watched or name in self._busy:
            return None
        from importlib.util import find_spec

        self._busy.add(name)
        try:
            spec = find_spec(name)
        finally:
            self._busy.discard(name)
        if spec is not None and spec.loader is not None:
            _step_between(name, spec.loader)
        return spec


def _step_between(name: str, loader: Any) -> None:
    execute: Execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        if module.__name__ != name:  # some loaders are there for many modules
            execute(module)
            return
        del loader.exec_module
        around = _watched.get(name)
        if around is None:
            execute(module)
            return
        forget(name)
        around(module, execute)

    loader.exec_module = exec_module


_finder: Any = _Finder()
