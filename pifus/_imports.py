"""What a Python program imports, found by reading it: nothing of it is executed."""

from __future__ import annotations

import ast
import importlib.machinery
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pifus import _natives

_MODULES_MAX: Final = 4000
# Methods of the socket class that somebody may take out of it.
_METHODS: Final = frozenset(
    (
        *("accept", "bind", "close", "connect", "connect_ex", "fileno", "listen", "shutdown"),
        *("recv", "recv_into", "recvfrom", "recvmsg", "send", "sendall", "sendmsg", "sendto"),
    )
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that may go past the stack.

    Attributes:
        what: the module, or the name.
        why: a sentence.
        chain: how it is reached, as file:line or module, from the program on.
        passes: True when it does go past the stack, False for what only a late patch misses.
    """

    what: str
    why: str
    chain: tuple[str, ...]
    passes: bool = True


@dataclass(slots=True)
class Survey:
    """The imports of a program.

    Attributes:
        modules: how many were read.
        findings: what may go past the stack.
        missing: what could not be found, and is not imported under a condition.
        complete: False when there were too many.
    """

    modules: int = 0
    findings: list[Finding] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    complete: bool = True


@dataclass(frozen=True, slots=True)
class _Module:
    name: str
    file: Path
    is_package: bool
    chain: tuple[str, ...]


def survey(target: Path | str, path: Sequence[str]) -> Survey:
    """Reads a program and all that it imports beside the standard library.

    Args:
        target: the file of a script, or the name of a module.
        path: where modules are looked for.

    Raises:
        FileNotFoundError: there is no such script or module.
    """
    result = Survey()
    if isinstance(target, Path):
        first = _Module("__main__", target, False, ())
        if not target.is_file():
            raise FileNotFoundError(f"no such file: {target}")
    else:
        found = _main_of(target, path)
        if found is None:
            raise FileNotFoundError(f"no module named {target!r}")
        first = found
    queue = deque([first])
    seen: set[str] = {first.name}
    told: set[str] = set()
    while queue:
        module = queue.popleft()
        if result.modules >= _MODULES_MAX:
            result.complete = False
            break
        result.modules += 1
        for name, place in _read(module, result):
            _follow(name, module, place, path, queue, seen, told, result)
    return result


def _main_of(name: str, path: Sequence[str]) -> _Module | None:
    found = _find(name, path, ())
    if found is not None and found.is_package:
        return _find(f"{name}.__main__", path, ()) or found
    return found


def _find(name: str, path: Sequence[str], chain: tuple[str, ...]) -> _Module | None:
    """A module that is a file, found without importing its packages."""
    places = list(path)
    parts = name.split(".")
    for index in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: index + 1]), places)
        if spec is None:
            return None
        if index == len(parts) - 1:
            if spec.origin is None or not Path(spec.origin).is_file():
                return None
            is_package = spec.submodule_search_locations is not None
            return _Module(name, Path(spec.origin), is_package, chain)
        places = list(spec.submodule_search_locations or ())
    return None


def _follow(
    name: str,
    importer: _Module,
    place: str,
    path: Sequence[str],
    queue: deque[_Module],
    seen: set[str],
    told: set[str],
    result: Survey,
) -> None:
    top = name.partition(".")[0]
    chain = (*importer.chain, place)
    if top == "_socket" and "_socket" not in told:
        told.add("_socket")
        why = "makes sockets of the interpreter's own class: they are the kernel's"
        result.findings.append(Finding("_socket", why, chain))
    if top in sys.stdlib_module_names or top == "pifus":
        return
    if top in _natives.KNOWN:
        if top not in told and _find(top, path, chain) is not None:
            told.add(top)
            result.findings.append(_known(top, chain))
        return
    parts = name.split(".")
    for index in range(1, len(parts) + 1):
        part = ".".join(parts[:index])
        if part in seen:
            continue
        seen.add(part)
        found = _find(part, path, chain)
        if found is not None:
            queue.append(found)
        elif index == 1:
            result.missing.setdefault(part, place)


def _known(name: str, chain: tuple[str, ...]) -> Finding:
    if name == "uvloop":
        why = "under pifus run asyncio's own loop takes its place"
        return Finding(name, why, chain, passes=False)
    return Finding(name, f"{_natives.KNOWN[name]} opens its own sockets", chain)


def _read(module: _Module, result: Survey) -> Iterator[tuple[str, str]]:
    """The names that a module imports, each with its place."""
    if module.file.suffix != ".py" and module.name != "__main__":
        library = _natives.opens_sockets(module.file) if module.file.suffix == ".so" else None
        if library is not None:
            why = f"native code: {library} calls socket() by itself"
            result.findings.append(Finding(module.name, why, module.chain))
        return
    try:
        tree = ast.parse(module.file.read_bytes(), str(module.file))
    except (SyntaxError, ValueError, OSError):
        return
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    for node in ast.walk(tree):
        place = f"{module.file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, place
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            if base:
                yield base, place
                for alias in node.names:
                    yield f"{base}.{alias.name}", place
        elif isinstance(node, ast.Assign) and _is_capture(node.value):
            text = ast.unparse(node.value)
            why = "taken out of the class: a later monkey.patch() does not find it everywhere"
            result.findings.append(Finding(text, why, (*module.chain, place), passes=False))


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _is_capture(value: ast.expr) -> bool:
    """`socket.socket.recv` as a value."""
    return (
        isinstance(value, ast.Attribute)
        and value.attr in _METHODS
        and ast.unparse(value.value) in ("socket.socket", "_socket.socket", "socket.SocketType")
    )
