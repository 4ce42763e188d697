"""`pifus demo` shows what it promises and ends by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pifus import demo
from pifus.bench import _run

NO_TAP = _run.privilege_missing()


def run_demo(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pifus.cli", "demo", "--seconds", "0.6", "--out", "out"]
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=180
    )


def test_demo(tmp_path: Path) -> None:
    done = run_demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SHA-256 equal") == (2 if NO_TAP else 6)
    for name in (demo.QUIET, demo.HIGH, demo.LOW):
        assert name in done.stdout
    assert (tmp_path / "out" / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_demo_without_privilege(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = "CAP_NET_ADMIN is missing: run it as root"
    monkeypatch.setattr(demo, "privilege_missing", lambda: missing)
    assert demo.main(["--seconds", "0.6", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert missing in text
    assert "both ends: urllib and http.server over the stack: 100 MB" in text
