"""Executes a module of the standard library under another name, over another C module."""

import builtins
import importlib.machinery
import sys
from collections.abc import Mapping
from importlib.abc import InspectLoader
from types import CodeType, ModuleType
from typing import Any


def code_of(name: str) -> CodeType:
    """The code of a top-level module of the standard library.

    Raises:
        ImportError: this interpreter keeps it in a form that cannot be executed again.
    """
    original = sys.modules.get(name)
    spec = original.__spec__ if original is not None else None
    spec = spec or importlib.machinery.PathFinder.find_spec(name)
    loader = spec.loader if spec is not None else None
    code = loader.get_code(name) if isinstance(loader, InspectLoader) else None
    if code is None:
        raise ImportError(f"cannot find the code of the module {name!r}", name=name)
    return code


def run_over(module: ModuleType, below: ModuleType) -> None:
    """Executes the interpreter's socket.py in `module`, with `below` as its `_socket`.

    `module` has to stand in sys.modules already: the enums made there look it up by its name.
    """
    code = code_of("socket")
    before = sys.modules.get("_socket")
    # Only while it is executed: whoever imports _socket later gets the interpreter's own.
    sys.modules["_socket"] = below
    try:
        exec(code, module.__dict__)
    finally:
        if before is None:
            del sys.modules["_socket"]
        else:
            sys.modules["_socket"] = before


def run_with(module: ModuleType, name: str, instead: Mapping[str, ModuleType]) -> None:
    """Executes a module of the standard library in `module`.

    Args:
        name: of the standard library's module.
        instead: what its import statements find in the place of the modules of these names.
    """

    def replaced(name: str, *args: Any, **kwargs: Any) -> Any:
        return instead.get(name) or builtins.__import__(name, *args, **kwargs)

    names = vars(module)
    names["__builtins__"] = {**vars(builtins), "__import__": replaced}
    try:
        exec(code_of(name), names)
    finally:
        names["__builtins__"] = builtins
