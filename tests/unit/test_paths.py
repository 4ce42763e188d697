"""pifus._core._paths: names, places, and directories that must not be trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pifus._core import _paths


@pytest.mark.parametrize("name", ["default", "a", "A.b-c_9", "x" * 64])
def test_names(name: str) -> None:
    assert _paths.check_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "ä", "a\n", "a/b", "*"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="allowed are 1 to 64"):
        _paths.check_name(name)


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIFUS_RUNTIME_DIR", "/some/where")
    assert _paths.socket_path("n") == Path("/some/where/pifus-n.sock")
    assert _paths.socket_path("./n.sock") == Path("n.sock")
    assert _paths.candidates("n") == [Path("/some/where/pifus-n.sock")]
    with pytest.raises(ValueError, match="allowed are 1 to 107"):
        _paths.socket_path("/" + "x" * 107)


def test_system_directory_is_looked_at_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PIFUS_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert _paths.candidates("n") == [
        tmp_path / "pifus" / "pifus-n.sock",
        Path("/run/pifus/pifus-n.sock"),
    ]
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert _paths.runtime_dir() == Path("/tmp/pifus-1000")


def test_made_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFUS_RUNTIME_DIR", str(tmp_path / "run"))
    directory = _paths.runtime_dir(create=True)
    assert directory.stat().st_mode & 0o7777 == 0o700
    assert _paths.runtime_dir(create=True) == directory


def test_refused_when_others_may_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o770)
    monkeypatch.setenv("PIFUS_RUNTIME_DIR", str(tmp_path / "run"))
    with pytest.raises(PermissionError, match="mode 0770, allowed is at most 0700"):
        _paths.runtime_dir(create=True)


def test_refused_when_a_link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path)
    monkeypatch.setenv("PIFUS_RUNTIME_DIR", str(tmp_path / "run"))
    with pytest.raises(NotADirectoryError):
        _paths.runtime_dir(create=True)


def test_refused_when_of_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("PIFUS_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match="belongs to user"):
        _paths.runtime_dir(create=True)
