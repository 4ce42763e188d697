"""Who may include or import whom: the rules of docs/ARCHITECTURE.md, enforced."""

from __future__ import annotations

import ast
import errno
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "native"
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)

# A directory may include from these directories of native/, and from its own.
ALLOWED_INCLUDES = {
    "shm": set(),
    "futex": {"shm"},
    "client": {"shm", "futex"},
    "backend": {"shm", "futex"},
    "lwip": {"shm", "futex", "backend"},
    "bench": {"shm", "futex", "client"},
    "python": {"shm", "client"},
}


def c_files() -> list[Path]:
    return sorted(path for part in ALLOWED_INCLUDES for path in (NATIVE / part).glob("*.[ch]"))


def python_files() -> list[Path]:
    return sorted(path for path in (ROOT / "pifus").rglob("*.py") if path.name != "_ffi_build.py")


@pytest.mark.parametrize("path", c_files(), ids=lambda path: str(path.relative_to(NATIVE)))
def test_c_includes_follow_the_layers(path: Path) -> None:
    part = path.parent.name
    for name in INCLUDE.findall(path.read_text(encoding="utf-8")):
        target = name.split("/")[0]
        if "/" in name and target in ALLOWED_INCLUDES and (NATIVE / name).exists():
            allowed = ALLOWED_INCLUDES[part] | {part}
            assert target in allowed, f"{path} includes {name}: {part} may use {sorted(allowed)}"
        if name.startswith("lwip/") and not (NATIVE / name).exists():
            assert part == "lwip", f"{path} includes {name}: only native/lwip may know lwIP"


@pytest.mark.parametrize("path", c_files(), ids=lambda path: str(path.relative_to(NATIVE)))
def test_dangerous_words_stay_in_their_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    name = str(path.relative_to(NATIVE))
    if name != "shm/atomics.h":
        assert "__atomic_" not in code, f"{name}: atomics belong in shm/atomics.h"
    if not name.startswith(("futex/", "bench/")):
        assert "SYS_futex" not in code, f"{name}: futex calls belong in native/futex"
    assert not re.search(r"\bvolatile\b", code.replace("__volatile__", "")), (
        f"{name}: volatile orders nothing; use shm/atomics.h"
    )


def imports_of(path: Path) -> set[str]:
    """Absolute names of everything a module imports, at any depth of its code."""
    package = path.relative_to(ROOT).with_suffix("").parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_python_imports_follow_the_layers(path: Path) -> None:
    names = imports_of(path)
    relative = path.relative_to(ROOT / "pifus").as_posix()
    in_backend = relative.startswith("backend/")
    command_line = relative in {"cli.py", "__main__.py"}
    for name in sorted(names):
        if name == "pifus.backend" or name.startswith("pifus.backend."):
            assert in_backend or command_line, f"{relative}: clients never import the backend"
        if name.startswith(("pifus._core._client", "pifus._core._lane")):
            assert relative.startswith(("_core/", "_compat/", "bench/", "completion.py")), (
                f"{relative}: only _core, _compat and completion.py touch the C client"
            )
        if name.split(".")[0] in {"trio", "asyncio"}:
            assert not relative.startswith(("_core/", "_async/")), f"{relative}: no event loop here"
        if relative.startswith("_async/") and name.startswith("pifus."):
            assert name.startswith(("pifus._async", "pifus._core")), (
                f"{relative}: may use _core only"
            )
        if in_backend:
            assert not name.startswith(("pifus.compat", "pifus.completion", "pifus.monkey")), (
                f"{relative}: the backend knows nothing of the client's API"
            )


@pytest.mark.parametrize("module", ["_client", "_lane"])
def test_a_client_never_contains_lwip(module: str) -> None:
    (library,) = (ROOT / "pifus" / "_core").glob(f"{module}*.so")
    symbols = subprocess.run(["nm", "-a", library], capture_output=True, text=True, check=True)
    assert " tcp_input" not in symbols.stdout
    assert " pf_submit" in symbols.stdout


def test_the_extension_modules_are_complete() -> None:
    """A Python extension links with undefined symbols; only an import finds them."""
    from pifus._core import _client, _lane
    from pifus.backend import _stack

    assert _lane.Lane()._nop() == -errno.EBADF
    assert _client.lib.PF_ABI_VERSION == _stack.lib.PF_ABI_VERSION
