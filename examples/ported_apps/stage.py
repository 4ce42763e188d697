"""What the examples share: a private backend, programs over it, and how they tell what they found.

A program prints one line when it is ready, and what it found as JSON in its last line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pifus
from pifus.cli import read_status

HERE = Path(__file__).parent
REALTIME = 10
_SECONDS = 120.0


class Program:
    """A program that runs over the stack, in a process of its own."""

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], stderr: int | None
    ) -> None:
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        self._reader: threading.Thread | None = None

    def line(self) -> str:
        """The next line that it prints.

        Raises:
            RuntimeError: it ended, or is silent for two minutes.
        """
        assert self.process.stdout is not None
        timer = threading.Timer(_SECONDS, self.process.kill)
        timer.start()
        try:
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended early or is silent")
        return line.rstrip("\n")

    def ask(self, request: str) -> Any:
        """Gives it a line, and returns the JSON of the line that it answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        return json.loads(self.line())

    def drop_output(self) -> None:
        """Reads and forgets what it prints from now on, so that it need not wait for a reader."""
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self.process.stdout.read)
        self._reader.start()

    def finish(self) -> str:
        """Ends its input, and returns what it still prints until it ends.

        Raises:
            RuntimeError: its exit status is not 0.
        """
        output, _ = self.process.communicate(timeout=_SECONDS)
        if self.process.returncode != 0:
            raise RuntimeError(f"{self.process.args!r}: exit status {self.process.returncode}")
        return output

    def close(self) -> None:
        """Ends it, if it still runs."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        if self._reader is not None:
            self._reader.join()
        self.process.__exit__(None, None, None)


class Stage(contextlib.ExitStack):
    """A private backend and the programs over it; all of it ends with the block.

    Attributes:
        backend: the path of the backend's socket.
        backend_pid: its process.
        client: our own attachment to it.
    """

    def __init__(self, *driver: str) -> None:
        """Starts the backend; drivers and options as of `pifus backend`.

        Raises:
            OSError: it does not start; the text says why.
        """
        super().__init__()
        self.client = self.enter_context(pifus.Client(driver=driver or "loopback"))
        self.backend = self.client.backend
        self.backend_pid = read_status(self.backend)["pid"]

    def unmodified(
        self,
        *command: str,
        priority: str = "medium",
        stderr: int | None = None,
        background: bool = False,
    ) -> Program:
        """Starts `pifus run -- python COMMAND …`.

        Args:
            command: a script with its arguments, or "-m" and so on.
            priority: of all its sockets.
            stderr: as of subprocess; None: ours.
            background: real-time programs go before it: it keeps off the processor of a real-time
                stack; where there can be none, it has only the time that nobody else wants.
        """
        run = [sys.executable, "-m", "pifus.cli", "run", "--backend", self.backend]
        words = [*run, "--priority", priority, "--", sys.executable, *command]
        program = self._start(words, dict(os.environ), stderr)
        pid = program.process.pid
        processors = os.sched_getaffinity(0)
        if background and not realtime_allowed():
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        elif background and len(processors) > 1:
            # On the stack's processor it would have the stack's rests, and nothing else.
            os.sched_setaffinity(pid, processors - {max(processors)})
        return program

    def kernel(self, *command: str) -> Program:
        """Starts `python COMMAND …` over the kernel's sockets."""
        return self._start([sys.executable, *command], dict(os.environ), None)

    def completing(self, *command: str, realtime: bool = False) -> Program:
        """Starts `python COMMAND …`, a program of the completion API.

        Args:
            command: a script with its arguments.
            realtime: SCHED_FIFO, if that is allowed here.
        """
        words = [sys.executable, *command]
        program = self._start(words, {**os.environ, "PIFUS_BACKEND": self.backend}, None)
        if realtime and realtime_allowed():
            parameters = os.sched_param(REALTIME)
            os.sched_setscheduler(program.process.pid, os.SCHED_FIFO, parameters)
        return program

    def frames(self) -> int:
        """How many frames have gone through the stack."""
        return int(read_status(self.backend)["statistics"]["frames_in"])

    def stack_seconds(self) -> float:
        """How much processor time the backend has taken so far."""
        text = Path(f"/proc/{self.backend_pid}/stat").read_text(encoding="ascii")
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _start(
        self, command: Sequence[str], environment: dict[str, str], stderr: int | None
    ) -> Program:
        environment["PYTHONUNBUFFERED"] = "1"
        program = Program(command, environment, stderr)
        self.callback(program.close)
        return program


@contextlib.contextmanager
def bulk(stage: Stage, port: int, priority: str) -> Iterator[dict[str, float]]:
    """Somebody downloads from `bulk.py serve` at `port`, over several connections, in full swing.

    At the end of the block the yielded dictionary has its rate, "gbit_s".
    """
    program = stage.unmodified(
        str(HERE / "bulk.py"), "fetch", str(port), priority=priority, background=True
    )
    program.line()
    found: dict[str, float] = {}
    yield found
    found.update(json.loads(program.finish()))


def serve_bulk(stage: Stage, priority: str) -> int:
    """Starts what `bulk` downloads from; returns its port."""
    server = stage.unmodified(str(HERE / "bulk.py"), "serve", priority=priority, background=True)
    return int(server.line())


def realtime_allowed() -> bool:
    """Whether this user may use SCHED_FIFO."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        return False
    os.sched_setscheduler(0, *before)
    return True


def realtime_options() -> tuple[str, ...]:
    """Driver and options of a backend whose stack thread is a real-time one, if that is allowed."""
    if not realtime_allowed():
        return ("loopback",)
    # A processor of its own: real-time programs and the rest go to the others.
    last = str(max(os.sched_getaffinity(0)))
    return ("loopback", "--realtime", str(2 * REALTIME), "--cpu", last)


def tell_scheduling() -> None:
    """Says who has which share of the processors."""
    allowed = realtime_allowed()
    ours = f"SCHED_FIFO {2 * REALTIME} and {REALTIME}" if allowed else "normal (no right to FIFO)"
    print(f"stack and real-time programs: {ours}; the download: {'normal' if allowed else 'idle'}")


def parser(text: str | None, seconds: float) -> argparse.ArgumentParser:
    """The options that all examples with a measurement have."""
    result = argparse.ArgumentParser(description=text)
    result.add_argument(
        "--seconds", type=float, default=seconds, help=f"of each condition (default {seconds:g})"
    )
    result.add_argument("--rounds", type=int, default=12, help="turns of each condition")
    result.add_argument("--out", type=Path, default=Path("demo-out"), help="directory of the plot")
    return result
