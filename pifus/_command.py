"""Command lines: which interpreter a command starts, with which flags, to run what."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PYTHON: Final = re.compile(r"(python|pypy)[0-9.]*")
# Short options of the interpreter that take an argument.
_WITH_ARGUMENT: Final = "WX"
# With these it does not look at PYTHONPATH, or does not import site.
_BLIND: Final = frozenset("IES")
_BOOT: Final = Path(__file__).resolve().parent / "_site" / "boot.py"
_SHEBANG_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class PythonCommand:
    """A command that starts a Python interpreter.

    Attributes:
        interpreter: the program.
        flags: its options before what it runs.
        kind: "script", "-m", "-c", or "" when it runs nothing (interactive, from stdin).
        target: the script, the module or the code.
        arguments: of the program.
    """

    interpreter: str
    flags: tuple[str, ...]
    kind: str
    target: str
    arguments: tuple[str, ...]

    @property
    def is_blind(self) -> bool:
        """True when sitecustomize on PYTHONPATH does not reach it."""
        return any(
            flag[0] == "-" and flag[1:2] != "-" and _BLIND & set(_letters(flag[1:]))
            for flag in self.flags
        )


def _letters(word: str) -> str:
    """The options of a word such as IsWerror: up to one with an argument."""
    for index, letter in enumerate(word):
        if letter in _WITH_ARGUMENT:
            return word[:index]
    return word


def understand(command: Sequence[str]) -> PythonCommand | None:
    """The Python program that a command starts, directly or by a shebang line; else None."""
    if not command:
        return None
    if _PYTHON.fullmatch(Path(command[0]).name):
        return _of_python(command[0], list(command[1:]))
    found = shutil.which(command[0])
    line = _shebang(found) if found else []
    if line and Path(line[0]).name == "env":
        line = [word for word in line[1:] if word != "-S" and "=" not in word]
    if found is None or not line or not _PYTHON.fullmatch(Path(line[0]).name):
        return None
    return _of_python(line[0], [*line[1:], found, *command[1:]])


def _shebang(path: str) -> list[str]:
    try:
        with Path(path).open("rb") as file:
            first = file.readline(_SHEBANG_BYTES)
    except OSError:
        return []
    return os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []


def _of_python(interpreter: str, words: list[str]) -> PythonCommand:
    flags: list[str] = []
    while words:
        word = words[0]
        if not word.startswith("-") or word == "-":
            kind = "" if word == "-" else "script"
            return PythonCommand(interpreter, tuple(flags), kind, word, tuple(words[1:]))
        for index, letter in enumerate(word[1:], 1):
            if word.startswith("--") or (letter in _WITH_ARGUMENT and word[index + 1 :]):
                break
            if letter in "cm":
                rest = [word[index + 1 :]] if word[index + 1 :] else []
                rest += words[1:]
                flags += [word[:index]] if index > 1 else []
                kind = f"-{letter}" if rest else ""
                target = rest[0] if rest else ""
                return PythonCommand(interpreter, tuple(flags), kind, target, tuple(rest[1:]))
            if letter in _WITH_ARGUMENT and len(words) > 1:
                flags.append(words.pop(0))
                break
        flags.append(words.pop(0))
    return PythonCommand(interpreter, tuple(flags), "", "", ())


def reachable(command: Sequence[str]) -> list[str]:
    """The command, so changed that an interpreter that ignores PYTHONPATH is patched as well."""
    python = understand(command)
    if python is None or not python.kind or not python.is_blind:
        return list(command)
    mode = [] if python.kind == "script" else [python.kind]
    boot = [python.interpreter, *python.flags, str(_BOOT), *mode]
    return [*boot, python.target, *python.arguments]
