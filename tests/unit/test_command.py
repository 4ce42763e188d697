"""Which Python program a command line starts, and how a blind interpreter is reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from pifus import _command


@pytest.mark.parametrize(
    ("words", "kind", "target", "blind"),
    [
        (["python", "a.py", "-I"], "script", "a.py", False),
        (["/usr/bin/python3.12", "-I", "a.py"], "script", "a.py", True),
        (["python3", "-m", "http.server", "-E"], "-m", "http.server", False),
        (["python3", "-mhttp.server"], "-m", "http.server", False),
        (["python3", "-Ebc", "code", "x"], "-c", "code", True),
        (["python3", "-W", "error", "-X", "dev", "-S", "a.py"], "script", "a.py", True),
        (["python3", "-Werror", "-XIdev", "a.py"], "script", "a.py", False),
        (["python3", "-WE", "a.py"], "script", "a.py", False),
        (["python3", "-uc", "code"], "-c", "code", False),
        (["python3", "-I"], "", "", True),
        (["python3", "-"], "", "-", False),
    ],
)
def test_python_commands(words: list[str], kind: str, target: str, blind: bool) -> None:
    python = _command.understand(words)
    assert python is not None
    assert (python.kind, python.target, python.is_blind) == (kind, target, blind)


def test_other_commands(tmp_path: Path) -> None:
    assert _command.understand(["sh", "-c", "python x"]) is None
    assert _command.understand([]) is None
    assert _command.understand(["/no/such/thing"]) is None
    script = tmp_path / "tool"
    script.write_text("#!/usr/bin/env -S python3 -I\n")
    script.chmod(0o755)
    python = _command.understand([str(script), "x"])
    assert python is not None
    assert (python.interpreter, python.target, python.arguments) == ("python3", str(script), ("x",))
    changed = _command.reachable([str(script), "x"])
    assert changed[:2] == ["python3", "-I"]
    assert Path(changed[2]).name == "boot.py"
    assert changed[3:] == [str(script), "x"]
    assert _command.reachable(["python3", "a.py"]) == ["python3", "a.py"]
