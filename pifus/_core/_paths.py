"""Where backends put their sockets, and how names become paths."""

import errno
import os
import re
import stat
from pathlib import Path

SYSTEM_DIR = Path("/run/pifus")
DEFAULT_NAME = "default"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# sun_path of the kernel, without the closing zero.
_PATH_BYTES_MAX = 107


def check_name(name: str) -> str:
    """Returns the name of a backend if it is one.

    Raises:
        ValueError: it has other characters than A-Z a-z 0-9 _ . - or not 1 to 64 of them.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"backend name {name!r}: allowed are 1 to 64 characters of A-Z a-z 0-9 _ . -"
        )
    return name


def check_path(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a UNIX socket if the kernel can bind it.

    Raises:
        ValueError: it is too long, or has a zero byte.
    """
    text = os.fspath(path)
    size = len(os.fsencode(text))
    if not 1 <= size <= _PATH_BYTES_MAX or "\0" in text:
        raise ValueError(
            f"socket path {text!r} has {size} bytes: allowed are 1 to {_PATH_BYTES_MAX}, none zero"
        )
    return Path(text)


def runtime_dir(create: bool = False) -> Path:
    """The directory for this user's backends.

    $PIFUS_RUNTIME_DIR if set; /run/pifus for root; $XDG_RUNTIME_DIR/pifus; /tmp/pifus-<uid>.

    Args:
        create: make it if it is missing, and refuse one that others could tamper with.

    Raises:
        PermissionError: it belongs to someone else, or others may write to it (or, for a
            directory of one user, look into it).
        OSError: it cannot be made.
    """
    own = os.environ.get("PIFUS_RUNTIME_DIR")
    if own:
        directory = Path(own)
    elif os.geteuid() == 0 and _usable_system_dir():
        directory = SYSTEM_DIR
    else:
        directory = _user_dir()
    if create:
        # Backends of root serve other users by the mode of their socket: the way there is open.
        _make(directory, 0o755 if directory == SYSTEM_DIR else 0o700)
    return directory


def socket_path(backend: str) -> Path:
    """The socket of a backend of this user: by name, or, with a "/" in it, by path.

    Raises:
        ValueError: neither a name nor a path of a socket.
    """
    if "/" in backend:
        return check_path(backend)
    return check_path(runtime_dir() / f"pifus-{check_name(backend)}.sock")


def candidates(backend: str) -> list[Path]:
    """Where a client looks for a backend: this user's directory, then the system's.

    Raises:
        ValueError: neither a name nor a path of a socket.
    """
    paths = [socket_path(backend)]
    # A service of the machine: its directory is root's, so nobody can pose as it.
    if "/" not in backend and not os.environ.get("PIFUS_RUNTIME_DIR"):
        system = SYSTEM_DIR / f"pifus-{backend}.sock"
        if system not in paths:
            paths.append(system)
    return paths


def _usable_system_dir() -> bool:
    if SYSTEM_DIR.is_dir():
        return os.access(SYSTEM_DIR, os.W_OK)
    return os.access(SYSTEM_DIR.parent, os.W_OK)


def _user_dir() -> Path:
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if xdg and Path(xdg).is_dir() and os.access(xdg, os.W_OK):
        return Path(xdg) / "pifus"
    return Path(f"/tmp/pifus-{os.geteuid()}")


def _make(directory: Path, mode: int) -> None:
    try:
        directory.mkdir(mode=mode)
        # Only what we have just made: the process's umask must not make it stricter or wider.
        directory.chmod(mode)
    except FileExistsError:
        pass
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(directory))
    if found.st_uid != os.geteuid():
        raise PermissionError(
            errno.EPERM,
            f"belongs to user {found.st_uid}, not to {os.geteuid()}: remove it, or set "
            "PIFUS_RUNTIME_DIR to a directory of your own",
            str(directory),
        )
    wider = stat.S_IMODE(found.st_mode) & ~mode
    if wider:
        raise PermissionError(
            errno.EPERM,
            f"has mode {stat.S_IMODE(found.st_mode):04o}, allowed is at most {mode:04o}: "
            f"chmod {mode:04o} it, or set PIFUS_RUNTIME_DIR to another directory",
            str(directory),
        )
