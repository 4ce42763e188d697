"""The session of this process's drop-in sockets."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

from pifus._core._protocol import SOCKETS_MAX
from pifus._core._session import Session
from pifus._core._settings import Settings

_session: Session | None = None
_session_lock = threading.RLock()
# The backend of the parent process: inherited sockets are there.
_home: str | None = None
_settings: Settings | None = None


def session() -> Session:
    """The session of this process's drop-in sockets; a lost one is replaced.

    Raises:
        BackendUnavailable: there is no backend, and none could be started.
        OSError: the backend refused.
        ValueError: $PIFUS_MAX_SOCKETS is no number of sockets.
    """
    known = _session
    return known if known is not None and known.lives() else session_showing(None)[0]


def session_showing(fd: int | None) -> tuple[Session, int]:
    """The same, and a ticket for the mirror descriptor `fd`, or 0: it is still to be shown.

    Raises:
        BackendUnavailable: there is no backend, and none could be started.
        OSError: the backend refused.
    """
    global _session
    with _session_lock:
        # Looked at once: a signal handler that forks takes it away in the child.
        current = _session
        if current is not None and current.lives():
            return current, 0
        opened = _open(fd)
        current = _session
        if current is not None and current.lives():
            # A signal handler, in the middle of that, needed one, and its sockets are there.
            opened.close()
            return current, 0
        _session = opened
        return opened, opened.ticket


def descriptors() -> set[int]:
    """The process's descriptors that are neither the program's nor of a socket: of the session."""
    current = _session
    return set() if current is None or current.handle is None else current.descriptors()


def _open(shown: int | None) -> Session:
    global _settings
    if _home is not None and _settings is not None:
        with contextlib.suppress(OSError):
            return Session.join(_home, _settings, shown)
    name = Path(sys.argv[0] if sys.argv and sys.argv[0] else "python").name[:64]
    _settings = Settings(name=name or "python", max_sockets=_max_sockets())
    return Session.open(settings=_settings)


def _max_sockets() -> int:
    text = os.environ.get("PIFUS_MAX_SOCKETS", "4096")
    with contextlib.suppress(ValueError):
        if 1 <= (number := int(text)) <= SOCKETS_MAX:
            return number
    raise ValueError(f"$PIFUS_MAX_SOCKETS is {text!r}: allowed is 1 to {SOCKETS_MAX}")


def _in_child() -> None:
    global _home, _session, _session_lock
    _home = _home if _session is None else _session.path
    _session = None
    _session_lock = threading.RLock()


os.register_at_fork(after_in_child=_in_child)
