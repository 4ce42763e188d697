"""The UNIX socket of a backend: made safely, taken over from a dead backend, given by systemd."""

from __future__ import annotations

import errno
import fcntl
import grp
import logging
import os
import socket
from pathlib import Path

log = logging.getLogger("pifus.backend")

_BACKLOG = 4096
# What systemd hands over starts here: sd_listen_fds(3).
_LISTEN_FDS_START = 3


class ListenError(Exception):
    """A sentence for the user: why the backend cannot listen there."""


class Listener:
    """A listening socket and, if we have made it, its file and lock.

    Attributes:
        socket: listening, non-blocking.
        path: for clients.
    """

    def __init__(self, listening: socket.socket, path: Path, lock_fd: int = -1) -> None:
        self.socket = listening
        self.path = path
        self._lock_fd = lock_fd
        listening.setblocking(False)

    def close(self) -> None:
        """Stops listening, and removes the file if it is ours. Twice is no error."""
        if self._lock_fd >= 0:
            # The lock is held: nobody else can have put another socket there.
            self.path.unlink(missing_ok=True)
            _lock_path(self.path).unlink(missing_ok=True)
            os.close(self._lock_fd)
            self._lock_fd = -1
        self.socket.close()


def listen(path: Path, mode: int, group: str) -> Listener:
    """Makes the socket file and listens.

    Args:
        path: where; the directory exists.
        mode: of the file: who may write it may connect.
        group: owner group of the file; "": as the kernel chooses.

    Raises:
        ListenError: another backend runs there, or the file cannot be made.
    """
    lock_fd = _lock(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        _remove_stale(path)
        # The file gets the mode of the descriptor: at no moment is it open to others.
        os.fchmod(listening.fileno(), mode if not group else mode & 0o700)
        listening.bind(str(path))
        if group:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(mode)
        listening.listen(_BACKLOG)
    except ListenError:
        listening.close()
        os.close(lock_fd)
        raise
    except OSError as error:
        listening.close()
        os.close(lock_fd)
        raise ListenError(f"cannot listen at {path}: {error.strerror}") from None
    return Listener(listening, path, lock_fd)


def from_systemd() -> Listener | None:
    """The listening socket that systemd started this process with; None: it did not.

    Raises:
        ListenError: there is more than one, or it is of another kind.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "0")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if count == "0":
        return None
    if count != "1":
        raise ListenError(f"systemd gave {count} sockets: allowed is one, ListenSequentialPacket=")
    listening = socket.socket(fileno=_LISTEN_FDS_START)
    if listening.family != socket.AF_UNIX or listening.type != socket.SOCK_SEQPACKET:
        raise ListenError("the socket that systemd gave is none of ListenSequentialPacket=")
    listening.set_inheritable(False)
    return Listener(listening, Path(listening.getsockname()))


def notify(state: str) -> None:
    """Tells systemd, if it wants to know: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            # An abstract name is written with @ for the zero byte.
            target = "\0" + address[1:] if address.startswith("@") else address
            sender.sendto(state.encode(), target)
        except OSError as error:
            # Whoever wanted to know is gone: no reason for the backend to end.
            log.warning("cannot tell %r at %s: %s", state, address, error.strerror)


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _lock(path: Path) -> int:
    """Takes the lock of the socket file; held as long as the backend lives, however it ends."""
    lock_path = _lock_path(path)
    while True:
        try:
            fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ListenError(f"cannot make {lock_path}: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            who = f" (process {pid})" if pid else ""
            raise ListenError(f"a backend runs at {path} already{who}") from None
        # Its last holder may have removed the file between our open and our lock.
        try:
            ours = os.path.samestat(os.fstat(fd), lock_path.stat())
        except FileNotFoundError:
            ours = False
        if ours:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            return fd
        os.close(fd)


def _remove_stale(path: Path) -> None:
    """Removes the socket of a backend that died; we hold its lock.

    Raises:
        ListenError: somebody listens there (without our lock), or it is no socket.
    """
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise ListenError(f"{path} exists and is no socket: remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as probe:
        # A full queue of a living listener must not make us wait.
        probe.setblocking(False)
        answer = probe.connect_ex(str(path))
    if answer != errno.ECONNREFUSED:
        raise ListenError(f"another program listens at {path}")
    path.unlink(missing_ok=True)
