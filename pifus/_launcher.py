"""`pifus run`: a command whose Python processes use the stack."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

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


def environment(
    environ: Mapping[str, str], backend_path: str | None = None, priority: str | None = None
) -> dict[str, str]:
    """The environment that makes Python processes use the stack.

    Args:
        environ: what it is made of.
        backend_path: the socket of the backend; None: as `Client` finds one.
        priority: of the sockets, "high", "medium" or "low"; None: medium.
    """
    package = Path(__file__).resolve().parent
    result = dict(environ)
    result["PIFUS_RUN"] = "1"
    result["PIFUS_PATH"] = os.pathsep.join(_places(package))
    result["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(package / "_site"), environ.get("PYTHONPATH")])
    )
    if backend_path is not None:
        result["PIFUS_BACKEND"] = backend_path
    if priority is not None:
        result["PIFUS_PRIORITY"] = priority
    return result


def _places(package: Path) -> list[str]:
    """Where an interpreter that has no pifus of its own finds it, and what it needs."""
    import _cffi_backend

    places = [str(package.parent)]
    if _cffi_backend.__file__:
        places.append(str(Path(_cffi_backend.__file__).resolve().parent))
    return list(dict.fromkeys(places))


def run(
    command: Sequence[str],
    *,
    backend_path: str | None = None,
    priority: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Runs a command over the stack until it ends; signals are passed on to it.

    Args:
        command: the program and its arguments.
        backend_path: the socket of the backend; None: as `Client` finds one.
        priority: of the sockets, "high", "medium" or "low"; None: medium.
        environ: the environment; None: that of this process.

    Returns:
        The exit status; of a command that a signal ended, 128 and the signal's number.
    """
    base = os.environ if environ is None else environ
    # Blocked before the start: none must be lost, or end us, while the child comes up.
    awaited = {*_FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        try:
            child = subprocess.Popen(
                list(command),
                env=environment(base, backend_path, priority),
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),
            )
        except FileNotFoundError:
            print(f"pifus run: {command[0]}: command not found", file=sys.stderr)
            return _NOT_FOUND
        except OSError as error:
            print(f"pifus run: {command[0]}: {error.strerror}", file=sys.stderr)
            return _NOT_EXECUTABLE
        return _supervise(child, awaited)
    finally:
        # One for us that came too late for the command must not end us before the clean-up.
        while signal.sigtimedwait(awaited, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _supervise(child: subprocess.Popen[bytes], awaited: set[signal.Signals]) -> int:
    while True:
        status = child.poll()
        if status is not None:
            return status if status >= 0 else 128 - status
        info = signal.sigwaitinfo(awaited)
        if info.si_signo == signal.SIGCHLD or info.si_code == _SI_KERNEL:
            continue
        if child.poll() is None:
            child.send_signal(info.si_signo)
