"""`pifus doctor`: what it finds in real programs, and what it says of the system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pifus import _imports, _natives
from tests.contract.conftest import python_environment


def doctor(*words: str, place: Path | None = None, **extra: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "pifus.cli", "doctor", "--json", *words],
        env={**python_environment(), **extra},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def verdicts(checks: list[dict[str, str]]) -> dict[str, str]:
    return {check["topic"]: check["verdict"] for check in checks}


def test_the_system() -> None:
    status, report = doctor()
    assert status == 0
    found = verdicts(report["system"])
    assert found["backend"] == found["native core"] == found["rules"] == "good"
    assert "TAP devices" in found
    assert "kernel" in next(c["text"] for c in report["system"] if c["topic"] == "names")
    _, report = doctor(PIFUS_RULES="dns 192.0.2.1,192.0.2.2:54")
    told = next(c["text"] for c in report["system"] if c["topic"] == "names")
    assert told == "by the stack, of 192.0.2.1, 192.0.2.2:54"


def test_a_backend_that_is_not_there_and_wrong_rules() -> None:
    status, report = doctor("--backend", "no-such-backend")
    assert status == 1
    assert verdicts(report["system"])["backend"] == "bad"
    status, report = doctor(PIFUS_RULES="kernel somewhere")
    assert status == 1
    assert verdicts(report["system"])["rules"] == "bad"


def test_a_program_of_the_standard_library() -> None:
    status, report = doctor("-m", "http.server")
    assert (status, report["findings"]) == (0, [])


def test_what_a_program_imports_far_down(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from package import work\nimport uvloop\n")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "work.py").write_text("if True:\n    from . import deep\n")
    (package / "deep.py").write_text(
        "def late():\n    import zmq\nimport socket\nreceive = socket.socket.recv\n"
    )
    status, report = doctor("--", sys.executable, "app.py", "--option", place=tmp_path)
    assert status == 1
    found = {finding["what"]: finding for finding in report["findings"]}
    assert set(found) == {"zmq", "uvloop", "socket.socket.recv"}
    assert found["zmq"]["passes"]
    assert [Path(place).name for place in found["zmq"]["chain"]] == [
        *("app.py:1", "work.py:2", "deep.py:2")
    ]
    assert not found["uvloop"]["passes"]
    assert not found["socket.socket.recv"]["passes"]


def test_interpreters_that_look_at_no_path(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("print()\n")
    status, report = doctor("--", sys.executable, "-I", "app.py", place=tmp_path)
    assert status == 0
    texts = [check["text"] for check in report["program"] if check["verdict"] == "note"]
    assert len(texts) == 1
    assert "-I" in texts[0]


def test_what_is_no_program(tmp_path: Path) -> None:
    status, report = doctor("no_such_module_anywhere")
    assert status == 1
    assert verdicts(report["program"])["program"] == "bad"
    status, report = doctor("--", "true", "x")
    assert status == 0
    assert verdicts(report["program"])["program"] == "note"


def test_the_tables_name_everything() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pifus.cli", "doctor", "zmq"],
        env={**python_environment(), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "not everything goes through the stack" in done.stdout
    assert "libzmq" in done.stdout


# ---- native code ----


def library_of(module: str) -> Path:
    import importlib.util

    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def test_libraries_that_open_sockets() -> None:
    assert _natives.opens_sockets(library_of("uvloop.loop")) is not None
    bundled = _natives.opens_sockets(library_of("zmq.backend.cython._zmq"))
    assert bundled is not None
    assert bundled.startswith("libzmq")
    for module in ("_cffi_backend", "pifus._core._client"):
        assert _natives.opens_sockets(library_of(module)) is None


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 200, b"text"])
def test_what_is_no_library(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(content)
    assert _natives.opens_sockets(path) is None


def test_an_unknown_extension_is_found_by_what_it_calls(tmp_path: Path) -> None:
    (tmp_path / "native.so").write_bytes(library_of("uvloop.loop").read_bytes())
    (tmp_path / "app.py").write_text("import native\n")
    survey = _imports.survey(tmp_path / "app.py", [str(tmp_path)])
    (finding,) = survey.findings
    assert finding.what == "native"
    assert finding.passes
