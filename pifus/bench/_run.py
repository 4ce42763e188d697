"""Starting and stopping what a measurement needs, and taking turns so that noise hits all alike."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from pifus._core import _discovery, _protocol
from pifus._core._channel import Channel
from pifus.bench._stats import Samples
from pifus.bench._worker import State, WorkerError

_Parameters = ParamSpec("_Parameters")
_Answer = TypeVar("_Answer")

_END_SECONDS = 10.0
_ANSWER_SECONDS = 120.0
# A turn of one variant: long enough to be in full swing, short enough for many turns.
_TURN_SECONDS = 0.25
_TURNS_MIN = 3


class Backend:
    """A private backend: it ends when this process ends, however that ends.

    Attributes:
        path: its socket.
    """

    def __init__(self, *options: str) -> None:
        """Starts it; options as of `pifus backend`, drivers by name.

        Raises:
            OSError: it cannot start; the text says why.
        """
        private, channel = _discovery.start_private(options or ["loopback"])
        self._private = private
        self._channel: Channel = channel
        self.path = private.path
        try:
            self.status()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def status(self) -> dict[str, Any]:
        """Its counters."""
        status, _ = self._channel.request(_protocol.Status(), "status")
        return status

    @property
    def pid(self) -> int:
        """Its process."""
        process = self._private.process
        return process.pid if process is not None else 0

    def close(self) -> None:
        """Ends it. Twice is no error."""
        self._channel.close()
        process = self._private.process
        if process is None or self._private.wait(_END_SECONDS):
            return
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Worker:
    """A process that runs functions for us: see `_worker`."""

    def __init__(
        self,
        *,
        cpu: int | None = None,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it.

        Args:
            cpu: the processor it stays on; None: any.
            prefix: a command that runs it, such as ("unshare", "--net").
            environment: variables to add.
        """
        ours, theirs = multiprocessing.Pipe()
        self._connection = ours
        self._busy = False
        variables = _discovery.backend_environment(os.environ) | dict(environment or {})
        command = [*prefix, sys.executable, "-P", "-m", "pifus.bench._worker"]
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=variables,
                start_new_session=True,
            )
        if cpu is not None:
            os.sched_setaffinity(self.process.pid, {cpu})

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(
        self,
        function: Callable[Concatenate[State, _Parameters], object],
        *args: _Parameters.args,
        **arguments: _Parameters.kwargs,
    ) -> None:
        """Begins a call of a function of a module; only keyword arguments."""
        assert not args
        assert not self._busy
        self._connection.send((function, arguments))
        self._busy = True

    def result(self, timeout: float = _ANSWER_SECONDS) -> Any:
        """Waits for the end of the call, and returns what it returned.

        Raises:
            WorkerError: it failed, or did not end in time.
        """
        if not self._connection.poll(timeout):
            raise WorkerError(f"a measuring process did not answer within {timeout:.0f} s")
        try:
            succeeded, answer = self._connection.recv()
        except EOFError:
            raise WorkerError("a measuring process died") from None
        self._busy = False
        if not succeeded:
            raise WorkerError(answer)
        return answer

    def call(
        self,
        function: Callable[Concatenate[State, _Parameters], _Answer],
        *args: _Parameters.args,
        **arguments: _Parameters.kwargs,
    ) -> _Answer:
        """Both of it."""
        self.start(function, *args, **arguments)
        answer: _Answer = self.result()
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        if not self._busy:
            try:
                self.process.wait(_END_SECONDS)
                return
            except subprocess.TimeoutExpired:
                pass
        self.process.kill()
        self.process.wait()


# ---- turns -------------------------------------------------------------------------------------

Turn = Callable[[float], Mapping[str, Samples | float]]
Progress = Callable[[str, float], None]


@dataclass(slots=True)
class Collected:
    """What all turns have brought: times are put together, other figures are listed."""

    times: dict[str, Samples] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)

    def take(self, found: Mapping[str, Samples | float]) -> None:
        """Takes in one turn."""
        for name, value in found.items():
            if isinstance(value, Samples):
                self.times.setdefault(name, Samples()).add(value)
            else:
                self.values.setdefault(name, []).append(value)


def take_turns(
    variants: Mapping[str, Turn],
    seconds: float,
    progress: Progress,
    turn_seconds: float = _TURN_SECONDS,
) -> Collected:
    """Runs the variants in rounds, A B C A B C …, each for `seconds` altogether.

    Args:
        variants: by name: what measures for so many seconds.
        seconds: for each of them.
        progress: told the name and the share of the work that is done.
        turn_seconds: about how long one turn takes.
    """
    collected = Collected()
    rounds = max(_TURNS_MIN, round(seconds / turn_seconds))
    done = 0
    for _ in range(rounds):
        for name, turn in variants.items():
            progress(name, done / (rounds * len(variants)))
            collected.take(turn(seconds / rounds))
            done += 1
    progress("", 1.0)
    return collected


def together(
    workers: Iterable[Worker],
    function: Callable[Concatenate[State, _Parameters], _Answer],
    *args: _Parameters.args,
    **arguments: _Parameters.kwargs,
) -> list[_Answer]:
    """The same call in all workers at once."""
    members = list(workers)
    for worker in members:
        worker.start(function, *args, **arguments)
    return [worker.result() for worker in members]


# ---- the machine -------------------------------------------------------------------------------


def processors() -> list[int]:
    """Those that we may use."""
    return sorted(os.sched_getaffinity(0))


def privilege_missing() -> str:
    """Why TAP devices and network namespaces cannot be made here; "": they can."""
    if not os.path.exists("/dev/net/tun"):  # noqa: PTH110 - of a device
        return "there is no /dev/net/tun (modprobe tun)"
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    # CAP_NET_ADMIN for the devices, CAP_SYS_ADMIN for the namespace.
    effective = int(lines["CapEff"], 16)
    if not effective >> 12 & 1:
        return "CAP_NET_ADMIN is missing: run it as root"
    return ""


@contextlib.contextmanager
def interruptible() -> Any:
    """SIGTERM ends us as Ctrl-C does: with everything cleaned up."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_tool(*command: str) -> None:
    """Runs a system program.

    Raises:
        OSError: it is missing, or failed; the text is its own.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    if done.returncode != 0:
        text = done.stderr.strip() or f"exit status {done.returncode}"
        raise OSError(errno.EIO, f"{' '.join(command)}: {text}")
