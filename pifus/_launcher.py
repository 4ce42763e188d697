"""`pifus run`: a command whose Python processes use the stack."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pifus import _command, _policy
from pifus._core import _discovery, _protocol
from pifus._core._channel import Channel

# What a terminal, a supervisor or a user may send to the launcher and means for the command.
_FORWARDED: Final = tuple(
    number
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
        signal.SIGCONT,
        signal.SIGALRM,
    )
)
# siginfo.si_code of a signal that the kernel sent: the terminal sends to the whole group at once.
_SI_KERNEL: Final = 0x80
# Exit statuses of a shell.
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126


@dataclass(frozen=True, slots=True)
class Plan:
    """What `pifus run` is to do.

    Attributes:
        command: the program and its arguments.
        backend: name or path of the backend; None: as `pifus.Client` finds one.
        driver: drivers and options of a private backend; empty: none was asked for.
        policy: where sockets go, and their priorities.
        config: a TOML file with more rules.
    """

    command: Sequence[str]
    backend: str | None = None
    driver: Sequence[str] = field(default_factory=list)
    policy: _policy.Policy = field(default_factory=_policy.Policy)
    config: str | None = None


def environment(
    environ: Mapping[str, str], backend_path: str, policy: _policy.Policy
) -> dict[str, str]:
    """The environment that makes Python processes use the stack.

    Args:
        environ: what it is made of.
        backend_path: the socket of the backend.
        policy: where sockets go, their priorities, and who is asked for names.
    """
    package = Path(__file__).resolve().parent
    result = dict(environ)
    result["PIFUS_RUN"] = "1"
    result["PIFUS_PATH"] = os.pathsep.join(_places(package))
    result["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(package / "_site"), environ.get("PYTHONPATH")])
    )
    result["PIFUS_BACKEND"] = backend_path
    # All that was said, in one place: children must not read another file.
    result[_policy.RULES_VARIABLE] = str(policy)
    result.pop(_policy.CONFIG_VARIABLE, None)
    result["PIFUS_PRIORITY"] = policy.priority or "medium"
    return result


def _places(package: Path) -> list[str]:
    """Where an interpreter that has no pifus of its own finds it, and what it needs."""
    import _cffi_backend

    places = [str(package.parent)]
    if _cffi_backend.__file__:
        places.append(str(Path(_cffi_backend.__file__).resolve().parent))
    dnspython = importlib.util.find_spec("dns")
    if dnspython is not None and dnspython.origin:
        places.append(str(Path(dnspython.origin).resolve().parent.parent))
    return list(dict.fromkeys(places))


def run(plan: Plan) -> int:
    """Runs a command over the stack until it ends; a private backend ends with it.

    Returns:
        The exit status; of a command that a signal ended, 128 and the signal's number.

    Raises:
        OSError: the backend cannot be reached or started, or it refused.
        ValueError: the plan contradicts itself, or a rule is wrong.
    """
    policy = plan.policy
    if plan.config is not None:
        policy = policy.before(_policy.from_file(plan.config))
    policy = policy.before(_policy.from_environment())
    if policy.dns and importlib.util.find_spec("dns") is None:
        raise ValueError(_policy.NO_DNSPYTHON)
    channel = _discovery.connect(plan.backend, plan.driver or None)
    try:
        # Whether a private backend could start shows in its first answer.
        channel.request(_protocol.Status(), "status")
        command = _command.reachable(plan.command)
        return supervise(command, environment(os.environ, channel.path, policy))
    finally:
        _let_go(channel)


def _let_go(channel: Channel) -> None:
    remaining = -1
    # It may be gone already: then the end of the connection is all there is to do.
    with contextlib.suppress(OSError):
        reply, _ = channel.request(_protocol.Detach(), "detached")
        remaining = int(reply.get("remaining", -1))
    channel.close()
    _discovery.released(channel.path, remaining)


def supervise(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs a command until it ends, and passes signals on to it; its exit status."""
    # Blocked before the start: none must be lost, or end us, while the child comes up.
    awaited = {*_FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        try:
            child = subprocess.Popen(
                list(command),
                env=environ,
                # There is no other thread here.
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),  # noqa: PLW1509
            )
        except FileNotFoundError:
            print(f"pifus run: {command[0]}: command not found", file=sys.stderr)
            return _NOT_FOUND
        except OSError as error:
            print(f"pifus run: {command[0]}: {error.strerror}", file=sys.stderr)
            return _NOT_EXECUTABLE
        return _wait(child, awaited)
    finally:
        # One for us that came too late for the command must not end us before the clean-up.
        while signal.sigtimedwait(awaited, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(child: subprocess.Popen[bytes], awaited: set[signal.Signals]) -> int:
    while True:
        status = child.poll()
        if status is not None:
            return status if status >= 0 else 128 - status
        info = signal.sigwaitinfo(awaited)
        if info.si_signo == signal.SIGCHLD or info.si_code == _SI_KERNEL:
            continue
        if child.poll() is None:
            child.send_signal(info.si_signo)
