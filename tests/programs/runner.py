"""Runs a script in a process of its own: over the kernel, or unmodified under `pifus run`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pifus.cli import read_status
from tests.programs.table import Program

SECONDS = 100.0
# Aborted interpreters write where they were; then everything is killed.
DUMP_SECONDS = 5.0
# Far fewer than any script makes, far more than an idle backend.
FRAMES_LEAST = 20


@dataclass(frozen=True, slots=True)
class Run:
    """How a script ended: `problem` is empty if all was well."""

    problem: str
    seconds: float
    frames: int
    output: str


def run(
    program: Program, arguments: tuple[object, ...], directory: Path, backend: str | None
) -> Run:
    """Runs a script until it ends.

    Args:
        program: whose script.
        arguments: the script's.
        directory: where it runs.
        backend: the backend's socket; None: over the kernel.
    """
    command = [sys.executable, str(program.path), *map(str, arguments)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    environment.pop("PIFUS_RUN", None)
    before = 0
    if backend is not None:
        # Strict: what would go past the stack fails.
        options = ["run", "--backend", backend, "--strict", "--"]
        command = [sys.executable, "-m", "pifus.cli", *options, *command]
        before = _frames(backend)
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=SECONDS)
        problem = "" if process.returncode == 0 else f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        output, errors = _end(process)
        problem = f"not ended after {SECONDS:.0f} s"
    seconds = time.monotonic() - start
    frames = _frames(backend) - before if backend is not None else 0
    if not problem and output.splitlines()[-1:] != ["all well"]:
        problem = "it did not say that all was well"
    if not problem and backend is not None:
        problem = _bypassed(errors, program.tells, frames)
    return Run(problem, seconds, frames, output + errors)


def _frames(backend: str) -> int:
    return int(read_status(backend)["statistics"]["frames_in"])


def _bypassed(errors: str, tells: str, frames: int) -> str:
    told = [line for line in errors.splitlines() if line.startswith(("pifus:", "pifus run:"))]
    if frames < FRAMES_LEAST:
        return f"only {frames} frames went through the stack"
    if bool(told) != bool(tells) or not all(tells in line for line in told):
        return f"pifus told {told}"
    return ""


def _end(process: subprocess.Popen[str]) -> tuple[str, str]:
    os.killpg(process.pid, signal.SIGABRT)
    try:
        return process.communicate(timeout=DUMP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()
