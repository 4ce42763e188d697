"""Finding a backend, or starting a private one."""

import atexit
import errno
import itertools
import os
import secrets
import site
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pifus._core import _paths
from pifus._core._channel import START_SECONDS, Channel
from pifus.errors import BackendUnavailable

# How long a process that let go of its private backend waits to see it end, in seconds.
_END_SECONDS = 1.0


class PrivateBackend:
    """A backend that this process started; it ends by itself when its last client is gone.

    Attributes:
        path: its socket, for other processes of the same command.
        process: the process, None in a child that was forked from the one that started it.
    """

    def __init__(self, path: str, process: "subprocess.Popen[bytes] | None") -> None:
        self.path = path
        self.process = process

    def wait(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for its end. True: it has ended."""
        if self.process is None:
            return False
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True


# Re-entrant: the garbage collector may close a client while this thread starts a backend.
# Every private backend that this process started and has not reaped yet; the first one that runs is
# joined by further clients of this process.
_lock = threading.RLock()
_started: list[PrivateBackend] = []


def connect(backend: str | os.PathLike[str] | None, driver: Sequence[str] | None) -> Channel:
    """A control connection to the backend that a client is to use.

    In this order: the argument, a private backend if drivers are named, $PIFUS_BACKEND, a running
    backend named "default", the private backend that this process has already, a new private one.

    Args:
        backend: a name, or a path with a "/" in it.
        driver: options of a new private backend: driver names, or whole options ("--tap-ipv4", …).

    Raises:
        BackendUnavailable: the wanted backend does not run, or a private one could not be started.
        PermissionError: this user may not use the wanted backend.
        ValueError: `backend` is neither a name nor a path, or is given together with `driver`.
    """
    if backend is not None:
        if driver is not None:
            raise ValueError("driver is for a private backend: give either backend or driver")
        return connect_to(os.fspath(backend))
    if driver is not None:
        with _lock:
            private, channel = start_private(driver)
            _started.append(private)
            return channel
    wanted = os.environ.get("PIFUS_BACKEND")
    if wanted:
        return connect_to(wanted)
    return _connect_default() or _connect_private()


def connect_to(backend: str) -> Channel:
    """A control connection to a backend given by name or path.

    Raises: see `connect`.
    """
    paths = _paths.candidates(backend)
    denied: PermissionError | None = None
    for path in paths:
        try:
            return Channel.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            continue
        except PermissionError:
            denied = PermissionError(
                errno.EACCES,
                f"this user may not use the backend at {path}: ask for membership in the group of "
                "the socket, or start a backend of your own",
            )
    if denied is not None:
        raise denied
    what = f"backend named {backend!r}" if "/" not in backend else "backend"
    hint = f" (start one: pifus backend --name {backend})" if "/" not in backend else ""
    places = " or ".join(str(path) for path in paths)
    raise BackendUnavailable(errno.ECONNREFUSED, f"no {what} runs at {places}{hint}")


def _connect_default() -> Channel | None:
    for path in _paths.candidates(_paths.DEFAULT_NAME):
        try:
            return Channel.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, PermissionError):
            continue
    return None


def _connect_private() -> Channel:
    with _lock:
        for running in _started:
            try:
                return Channel.connect(running.path)
            except (FileNotFoundError, ConnectionRefusedError):
                continue
        private, channel = start_private(["loopback"])
        _started.append(private)
        return channel


def start_private(driver: Sequence[str]) -> tuple[PrivateBackend, Channel]:
    """Starts a private backend.

    Args:
        driver: driver names and options, as `pifus backend` takes them.

    Returns:
        The backend, and its first control connection. The backend ends when that and all later
        ones are closed. Whether it started well shows in the first answer.

    Raises:
        BackendUnavailable: the process could not be started.
    """
    parent = os.getpid()
    directory = _paths.runtime_dir(create=True)
    path = str(
        _paths.check_path(directory / f"pifus-private-{os.getpid()}-{secrets.token_hex(4)}.sock")
    )
    options: list[str] = []
    for before, word in itertools.pairwise(("", *driver)):
        # One that is none is refused by the backend, with the names that are.
        named = word in ("loopback", "tap") or not (before.startswith("-") or word.startswith("-"))
        options += ["--driver", word] if named else [word]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-P", "-m", "pifus.backend", "--private"]
        command += ["--control-fd", str(theirs.fileno()), "--socket", path, *options]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is for the program; its backend must outlive its clean-up.
                start_new_session=True,
                env=backend_environment(os.environ),
            )
        except OSError as error:
            ours.close()
            raise BackendUnavailable(
                errno.ECONNREFUSED, f"cannot start a private backend ({sys.executable}): {error}"
            ) from error
    private = PrivateBackend(path, process)
    if os.getpid() != parent:
        _give_up(private)  # a signal handler forked in the middle
    return private, Channel(ours, path, START_SECONDS)


def backend_environment(environment: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """The environment for a backend that this process starts.

    The settings for patched programs are left out: the backend must get the kernel's sockets.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith("PIFUS_") or name == "PIFUS_RUNTIME_DIR"
    }
    root = str(Path(__file__).resolve().parents[2])
    if root not in [*site.getsitepackages(), site.getusersitepackages()]:
        # A source tree: the new interpreter has to find the same pifus.
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH")]))
    return kept


def released(path: str, remaining: int) -> None:
    """Tells that a session with the backend at `path` has ended, leaving `remaining` others."""
    with _lock:
        for private in list(_started):
            last = private.path == path and remaining == 0
            if private.wait(_END_SECONDS if last else 0):
                _started.remove(private)


def _disown(private: PrivateBackend) -> None:
    # Popen complains about a process that nobody waited for; this one ends by itself.
    if private.process is not None and private.process.poll() is None:
        private.process.returncode = 0
    private.process = None


def _in_child() -> None:
    global _lock
    # Another thread of the parent may have held it.
    _lock = threading.RLock()
    for private in _started:
        _give_up(private)


def _give_up(private: PrivateBackend) -> None:
    """The child joins what its parent started, but it is not there to reap it."""
    if private.process is not None:
        private.process.returncode = 0
    private.process = None


def _at_exit() -> None:
    for private in _started:
        _disown(private)


os.register_at_fork(after_in_child=_in_child)
atexit.register(_at_exit)
