"""Every script runs twice, unmodified, in a process of its own: over the kernel, and over pifus."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Certificates, make
from tests.conftest import BackendProcess
from tests.contract.conftest import launcher, python_environment

SCRIPTS = Path(__file__).parent / "scripts"
SECONDS = 100

Program = Callable[..., str]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and what it issued."""
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["kernel", "pifus"])
def program(
    request: pytest.FixtureRequest,
    backend: BackendProcess,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Program:
    """Runs a script of this directory to its end, which has to be a good one; its output."""
    monkeypatch.setenv("PIFUS_BACKEND", backend.path)

    def run(name: str, *arguments: object) -> str:
        command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
        if request.param == "pifus":
            command = launcher(*command)
        done = subprocess.run(
            command,
            env=python_environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if request.param == "pifus":
            assert "pifus run:" not in done.stderr, done.stderr
        return done.stdout

    return run
