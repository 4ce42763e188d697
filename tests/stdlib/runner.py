"""Runs modules of CPython's own tests, each test against a clock.

A test that takes too long is ended with a dump of all stacks and counts as a failure; the rest of
its module runs on in a fresh process.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pifus._launcher import environment
from pifus._policy import Policy

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("child.py")
TEST_SECONDS = 30.0
MODULE_SECONDS = 900.0
# An aborted process writes its stacks; this long, then it is killed.
DUMP_SECONDS = 5.0
RESTARTS_MAX = 25


@dataclass(slots=True)
class Outcome:
    """How one test ended: pass, fail, error, skip, hang or crash; and the words about it."""

    outcome: str
    words: str = ""
    sockets: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class ModuleRun:
    """One module over one kind of sockets."""

    tests: dict[str, Outcome] = field(default_factory=dict)
    fixtures: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    def passed(self) -> set[str]:
        return {name for name, test in self.tests.items() if test.outcome == "pass"}

    def only(self, job: Job) -> ModuleRun:
        """What the patterns of the job choose of it."""
        skip = job.skip or "(?!)"
        chosen = {
            name: test
            for name, test in self.tests.items()
            if re.search(job.select, name) and not re.search(skip, name)
        }
        return ModuleRun(chosen, self.fixtures, self.problem)

    def stored(self) -> dict[str, object]:
        rows = {
            name: [test.outcome, test.words, test.sockets, round(test.seconds, 3)]
            for name, test in self.tests.items()
        }
        return {"tests": rows, "fixtures": self.fixtures, "problem": self.problem}

    @classmethod
    def restored(cls, stored: dict[str, dict[str, list[object]]]) -> ModuleRun:
        tests = {name: Outcome(*row) for name, row in stored["tests"].items()}  # type: ignore[arg-type]
        return cls(tests, dict(stored["fixtures"]), str(stored["problem"]))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Job:
    """What to run: a module below `test`, and patterns that choose among its tests."""

    module: str
    select: str = "."
    skip: str | None = None


@contextmanager
def backend(directory: Path) -> Iterator[str]:
    """A loopback backend for one module; its socket's path."""
    name = f"stdlib-{os.getpid()}"
    environ = {**os.environ, "PIFUS_RUNTIME_DIR": str(directory)}
    command = [sys.executable, "-m", "pifus.backend", "--name", name, "--log-level", "error"]
    process = subprocess.Popen(command, env=environ, cwd=ROOT)
    path = directory / f"pifus-{name}.sock"
    try:
        end = time.monotonic() + TEST_SECONDS
        while not path.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the backend did not start")
            time.sleep(0.01)
        yield str(path)
    finally:
        process.terminate()
        process.wait()


def child_environment(backend_path: str | None) -> dict[str, str]:
    """The kernel's run has nothing of pifus; the stack's has what `pifus run` gives."""
    base = {name: value for name, value in os.environ.items() if not name.startswith("PIFUS_")}
    base.pop("PYTHONPATH", None)
    base["PYTHONUNBUFFERED"] = "1"
    return base if backend_path is None else environment(base, backend_path, Policy())


def run(python: str, job: Job, kind: str, log: Path) -> ModuleRun:
    """Runs one module over "kernel" or "pifus", which gets a backend of its own."""
    if kind == "kernel":
        return run_module(python, job, None, log)
    # Not the usual place: the path of a UNIX socket has to be short.
    with (
        tempfile.TemporaryDirectory(prefix="pifus-", dir="/tmp") as directory,
        backend(Path(directory)) as path,
    ):
        return run_module(python, job, path, log)


def run_module(
    python: str,
    job: Job,
    backend_path: str | None,
    log: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> ModuleRun:
    """Runs one module: over the stack if there is a backend, else over the kernel.

    Args:
        python: the interpreter whose tests they are.
        job: the module, and which of its tests.
        backend_path: the socket of the backend.
        log: gets the output of the tests and the dumps of stacks.
        progress: called with each test that is about to run.
    """
    result = ModuleRun()
    end = time.monotonic() + MODULE_SECONDS
    with log.open("wb") as output:
        for _ in range(RESTARTS_MAX):
            if _Process(python, job, backend_path, output, result, end, progress).run():
                return result
            if time.monotonic() > end:
                result.problem = f"the module's time of {MODULE_SECONDS:.0f} s was up"
                return result
    result.problem = result.problem or f"{RESTARTS_MAX} processes were not enough"
    return result


class _Process:
    """One child process: it ends when the module is through, or when one test takes too long."""

    def __init__(
        self,
        python: str,
        job: Job,
        backend_path: str | None,
        output: object,
        result: ModuleRun,
        end: float,
        progress: Callable[[str], None],
    ) -> None:
        self._python = python
        self._job = job
        self._environ = child_environment(backend_path)
        self._output = output
        self._result = result
        self._end = end
        self._progress = progress
        self._current = ""
        self._since = time.monotonic()
        self._finished = False

    def run(self) -> bool:
        """True: nothing is left to run."""
        before = len(self._result.tests)
        with tempfile.TemporaryDirectory(prefix="pifus-stdlib-") as directory:
            done = Path(directory) / "done.json"
            done.write_text(json.dumps(list(self._result.tests)), encoding="utf-8")
            work = Path(directory) / "work"
            work.mkdir()
            reader, writer = os.pipe()
            job = self._job
            command = [self._python, str(CHILD), job.module, job.select, job.skip or "(?!)"]
            process = subprocess.Popen(
                [*command, str(writer), str(done)],
                stdin=subprocess.DEVNULL,
                stdout=self._output,  # type: ignore[arg-type]
                stderr=self._output,  # type: ignore[arg-type]
                env=self._environ,
                cwd=work,
                pass_fds=[writer],
                start_new_session=True,
            )
            os.close(writer)
            try:
                slow = self._read(reader)
                self._end_process(process, slow)
            finally:
                os.close(reader)
                _kill_group(process)
        if self._finished:
            return True
        if not self._current and len(self._result.tests) == before:
            self._result.problem = f"the process ended with {process.returncode} before any test"
            return True
        return False

    def _end_process(self, process: subprocess.Popen[bytes], slow: bool) -> None:
        if slow:
            process.send_signal(signal.SIGABRT)
        try:
            status = process.wait(DUMP_SECONDS)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
        if self._current:
            kind = "hang" if slow else "crash"
            seconds = time.monotonic() - self._since
            words = f"after {seconds:.0f} s" if slow else f"the process ended with {status}"
            self._result.tests[self._current] = Outcome(kind, words, 0, seconds)

    def _read(self, reader: int) -> bool:
        """Takes up what the child tells; True: a test took too long."""
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(reader, selectors.EVENT_READ)
            while True:
                limit = min(self._since + TEST_SECONDS, self._end)
                if not selector.select(max(limit - time.monotonic(), 0)):
                    return True
                data = os.read(reader, 65536)
                if not data:
                    return False
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))

    def _take(self, told: dict[str, object]) -> None:
        now = time.monotonic()
        event, name = told["event"], str(told.get("test", ""))
        if event == "start":
            self._current = name
            self._progress(name)
        elif event == "end":
            self._current = ""
            self._result.tests[name] = Outcome(
                str(told["outcome"]),
                str(told["words"]),
                int(told["sockets"]),  # type: ignore[call-overload]
                now - self._since,
            )
        elif event == "fixture":
            self._result.fixtures[name] = f"{told['outcome']}: {told['words']}"
        else:
            self._finished = True
        self._since = now


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Whatever the tests left running goes with them."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
