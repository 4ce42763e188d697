"""The session of this process's drop-in sockets."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

from pifus._core._client import lib
from pifus._core._session import Session, Settings

_session: Session | None = None
_session_lock = threading.Lock()
# The backend of the parent process: inherited sockets are there.
_home: str | None = None


def session() -> Session:
    """The session of this process's drop-in sockets; a lost one is replaced.

    Raises:
        BackendUnavailable: there is no backend, and none could be started.
        OSError: the backend refused.
    """
    global _session
    with _session_lock:
        current = _session
        if current is not None:
            handle = current.handle
            if handle is not None and not lib.pf_client_ended(handle):
                return current
        name = Path(sys.argv[0] if sys.argv and sys.argv[0] else "python").name[:64]
        wanted = int(os.environ.get("PIFUS_MAX_SOCKETS", "4096"))
        settings = Settings(name=name or "python", max_sockets=wanted)
        _session = _open(settings)
        return _session


def _open(settings: Settings) -> Session:
    if _home is not None:
        with contextlib.suppress(OSError):
            return Session.open(_home, settings=settings)
    return Session.open(settings=settings)


def _in_child() -> None:
    global _home, _session, _session_lock
    _home = _home if _session is None else _session.path
    _session = None
    _session_lock = threading.Lock()


os.register_at_fork(after_in_child=_in_child)
