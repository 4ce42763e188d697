"""A user's program is checked against the package as it is installed, with its py.typed marker."""

from __future__ import annotations

import ast
import os
import socket
import ssl
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from pifus import _reference

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("program.py")
PROGRAMS = sorted(path.parent.name for path in ROOT.glob("examples/ported_apps/*/__main__.py"))


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment into which pifus is installed, with all that a wheel of it has of Python."""
    place = tmp_path_factory.mktemp("user")
    venv.create(place, symlinks=True)
    (packages,) = (place / "lib").glob("python*/site-packages")
    build = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(packages)]
    egg = ["egg_info", "--egg-base", str(place)]
    subprocess.run([*build[:3], *egg, *build[3:]], cwd=ROOT, check=True, capture_output=True)
    assert (packages / "pifus" / "py.typed").exists()
    # trio, and what else the programs use.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return place


def mypy(user: Path, *arguments: str, cwd: Path | None = None) -> list[str]:
    """What mypy has to say."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    command += ["--no-pretty", "--python-executable", str(user / "bin" / "python")]
    command += ["--cache-dir", str(user / "cache")]
    done = subprocess.run(
        [*command, *arguments],
        cwd=cwd or user,
        env={**os.environ, "MYPYPATH": str(user)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def test_a_program_that_uses_every_name(user: Path) -> None:
    assert mypy(user, str(PROGRAM)) == []


def test_wrong_uses_are_found(user: Path) -> None:
    """So it is not all `Any`."""
    wrong = user / "wrong.py"
    lines = [
        "import pifus, pifus.aio, pifus.monkey, pifus.trio",
        "from pifus.compat import socket, ssl",
        "client = pifus.Client(queue_depth='8')",
        "client.socket(priority='high')",
        "client.socket(nodelay='no').write('text')",
        "client.poll_any().op",
        "pifus.monkey.patch(1)",
        "socket.socket().send('text')",
        "ssl.create_default_context(7)",
        "async def f() -> int: return await pifus.trio.open_tcp_stream('h', 1)",
        "async def g() -> int: return await pifus.aio.open_connection('h', 1)",
        "client.socket().queue_depth = None",
        "pifus.priority('urgent')",
    ]
    wrong.write_text("\n".join(lines), encoding="utf-8")
    found = {int(line.split(":")[1]) for line in mypy(user, str(wrong)) if ": error:" in line}
    assert found == set(range(3, len(lines) + 1))


def test_the_drop_in_has_the_types_of_the_interpreters_modules(user: Path) -> None:
    """Of every name that those have, mypy says the same of ours."""

    def types(source: str, names: list[str]) -> dict[str, str]:
        program = user / "drop_in.py"
        lines = [f"import {source} as it", *(f"reveal_type(it.{name})" for name in names)]
        program.write_text("\n".join(lines), encoding="utf-8")
        said: dict[str, str] = {}
        for line in mypy(user, str(program)):
            _, number, text = line.split(":", 2)
            said.setdefault(names[int(number) - 2], text.replace("pifus.compat.", ""))
        return said

    for module in (socket, ssl):
        names = [name for name in vars(module) if not name.startswith("_")]
        said = types(module.__name__, names)
        known = {name: text for name, text in said.items() if "error" not in text}
        assert len(known) > 100
        assert types(f"pifus.compat.{module.__name__}", list(known)) == known


def used_names(path: Path) -> set[str]:
    """Dotted names and attributes in a program."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            found |= {node.attr, ast.unparse(node)}
    return found


def test_the_program_uses_every_name() -> None:
    used = used_names(PROGRAM)
    missing = []
    modules = [*_reference.modules(), __import__("pifus.errors").errors]
    for module in modules:
        for name, value in _reference.public(module).items():
            if f"{module.__name__}.{name}" not in used:
                missing.append(f"{module.__name__}.{name}")
            if isinstance(value, type):
                members = _reference.members(value)
                missing += [f"{value}.{member}" for member in members if member not in used]
    assert missing == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_examples(user: Path, program: str) -> None:
    # Not from the source tree, where `pifus` is not the installed one.
    if not (user / "examples").exists():
        (user / "examples").symlink_to(ROOT / "examples")
    place = user / "examples" / "ported_apps" / program
    assert mypy(user, *(path.name for path in place.glob("*.py")), cwd=place) == []
