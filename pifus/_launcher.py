"""`pifus run`: a command, the backend it uses, and the environment that tells it so."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from pifus._core import _discovery, _paths, _protocol
from pifus._core._channel import Channel
from pifus.errors import BackendUnavailable

# What the shell answers when a command cannot be run, and when it is not there.
_CANNOT_RUN = 126
_NOT_FOUND = 127
# How long a private backend may take for the last bytes of the command, in seconds.
_END_SECONDS = 6.0
# Passed on to the command; those that a terminal makes reach it without us.
_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_SI_KERNEL = 0x80


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and over what.

    Attributes:
        command: the program and its arguments.
        backend: name or path of a running backend; None: as `pifus.Client` finds one.
        driver: options of a private backend ("loopback", "tap", "--tap-ipv4", …); empty: none
            is asked for.
        priority: of the sockets of the command: "high", "medium" or "low".
        strict: refuse what would bypass the stack.
    """

    command: Sequence[str]
    backend: str | None = None
    driver: Sequence[str] = field(default_factory=tuple)
    priority: str = "medium"
    strict: bool = False


def run(plan: Plan) -> int:
    """Runs the command over a backend. Does not return if the backend runs already.

    Returns:
        The exit status of the command; 126 or 127 if it cannot be run. A signal that ended it ends
        this process too.

    Raises:
        BackendUnavailable: there is no such backend, or a private one could not be started.
        OSError: it refused: the errno and the sentence are its own.
    """
    environment = dict(os.environ)
    environment["PIFUS_PRIORITY"] = plan.priority
    environment["PIFUS_RUN"] = "1"
    environment.pop("PIFUS_STRICT", None)
    if plan.strict:
        environment["PIFUS_STRICT"] = "1"
    path = None if plan.driver else _running(plan.backend)
    if path is not None:
        environment["PIFUS_BACKEND"] = path
        return _replace(plan.command, patch_environment(environment))
    private, channel = _discovery.start_private(plan.driver or ["loopback"])
    try:
        # The answer tells that it has started, or why not.
        channel.request(_protocol.Status(), "status")
        environment["PIFUS_BACKEND"] = private.path
        status = _spawn_and_wait(plan.command, patch_environment(environment))
    finally:
        _end(private, channel)
    return _pass_on(status)


def patch_environment(environment: dict[str, str]) -> dict[str, str]:
    """Adds what makes Python programs use the stack in place of the kernel's sockets.

    The part of `pifus.monkey`, which knows how to get into a starting interpreter.
    """
    try:
        from pifus import _site
    except ImportError:
        return environment
    prepare = getattr(_site, "prepare_environment", None)
    return environment if prepare is None else dict(prepare(environment))


def _running(backend: str | None) -> str | None:
    """The path of the backend to join; None: a private one has to be started."""
    wanted = backend or os.environ.get("PIFUS_BACKEND")
    try:
        channel = _discovery.connect_to(wanted or _paths.DEFAULT_NAME)
    except (BackendUnavailable, PermissionError):
        if wanted:
            raise
        return None
    path = channel.path
    channel.close()
    return path


def _replace(command: Sequence[str], environment: dict[str, str]) -> int:
    try:
        os.execvpe(command[0], list(command), environment)
    except OSError as error:
        return _cannot_run(command[0], error)


def _cannot_run(program: str, error: OSError) -> int:
    print(f"pifus run: {program}: {error.strerror}", file=sys.stderr)
    return _NOT_FOUND if error.errno == errno.ENOENT else _CANNOT_RUN


def _spawn_and_wait(command: Sequence[str], environment: dict[str, str]) -> int:
    """Runs the command to its end, passing signals on. Returns the status as of os.waitpid."""
    watched = {*_FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    try:
        child = os.posix_spawnp(
            command[0],
            list(command),
            environment,
            setsigmask=before,
            # Python ignores these; the command is to find them as any other would.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _cannot_run(command[0], error) << 8
    try:
        while True:
            info = signal.sigwaitinfo(watched)
            if info.si_signo == signal.SIGCHLD:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid == child:
                    return status
            elif info.si_code != _SI_KERNEL:
                # Not from the terminal, which tells the whole group.
                os.kill(child, info.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(private: _discovery.PrivateBackend, channel: Channel) -> None:
    channel.close()
    if private.wait(_END_SECONDS) or private.process is None:
        return
    # What the command left running in the background still holds it.
    private.process.terminate()
    try:
        private.process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        private.process.kill()
        private.process.wait()


def _pass_on(status: int) -> int:
    """The exit status for a wait status; a signal that ended the command ends us likewise."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    number = -code
    # One core dump, that of the command, is enough.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number
