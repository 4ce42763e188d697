"""Sizes and habits that keep the code readable at one sitting."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
C_FILE_LINES = 600
PYTHON_FILE_LINES = 460  # about 400, with some grace
FUNCTION_LINES = 70


def c_files() -> list[Path]:
    roots = (ROOT / "native", ROOT / "tests" / "native")
    return sorted(path for root in roots for path in root.rglob("*.[ch]"))


def python_files() -> list[Path]:
    roots = (ROOT / "pifus", ROOT / "tests", ROOT / "native")
    return sorted(path for root in roots for path in root.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", c_files(), ids=name_of)
def test_c_files_are_small(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= C_FILE_LINES
    start = 0
    for number, line in enumerate(lines, 1):
        # clang-format puts a function's opening line and its closing brace in the first column.
        if re.match(r"^[A-Za-z].*\)\s*\{$|^ {4,}[^ ].*\)\s*\{$", line) and not start:
            if re.match(r"^[A-Za-z]", line) or lines[number - 2][:1].isalpha():
                start = number
        elif line == "}" and start:
            assert number - start < FUNCTION_LINES, f"function at line {start} is too long"
            start = 0


@pytest.mark.parametrize("path", python_files(), ids=name_of)
def test_python_files_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= PYTHON_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} at line {node.lineno} is too long"


@pytest.mark.parametrize("path", [*c_files(), *python_files()], ids=name_of)
def test_nothing_is_left_unfinished(path: Path) -> None:
    if path == Path(__file__):
        return
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text(encoding="utf-8"))
