"""What wakes the backend, and what need not."""

from __future__ import annotations

import time
from collections.abc import Callable

import pifus
from pifus.cli import read_status
from tests.conftest import BackendProcess

StartBackend = Callable[..., BackendProcess]
OPENS = 50


def wakeups(backend: BackendProcess) -> int:
    return int(read_status(backend.path)["statistics"]["wakeups"])


def test_an_open_wakes_nobody(start_backend: StartBackend) -> None:
    """The backend hears of it with the first thing that is asked of the socket."""
    backend = start_backend("asleep")
    with pifus.Client(backend.path) as client:
        client.socket().nop()
        before = wakeups(backend)
        sockets = []
        for _ in range(OPENS):
            sockets.append(client.socket())
            time.sleep(0.001)  # it falls asleep again, of which nobody tells
        # Timers of its own wake it now and then.
        assert wakeups(backend) - before < OPENS // 2
        assert all(sock.error == 0 for sock in sockets)
