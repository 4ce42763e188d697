"""Real programs, unmodified: the quick ones; `./dev programs` runs all of the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.certificates import Certificates
from tests.conftest import BackendProcess
from tests.programs import runner
from tests.programs.table import PROGRAMS, Program

QUICK = [program for program in PROGRAMS if program.quick]


@pytest.mark.parametrize("over", ["kernel", "pifus"])
@pytest.mark.parametrize("program", QUICK, ids=lambda program: program.script)
def test_program(
    program: Program, over: str, backend: BackendProcess, certificates: Certificates, tmp_path: Path
) -> None:
    arguments = (certificates.authority, certificates.server)
    path = backend.path if over == "pifus" else None
    run = runner.run(program, arguments, tmp_path, path)
    assert not run.problem, run.output


def test_every_program_is_there_and_says_what_it_does() -> None:
    assert all(program.path.exists() and program.does for program in PROGRAMS)
    assert len({program.script for program in PROGRAMS}) == len(PROGRAMS)
