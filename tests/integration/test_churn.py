"""Connections that come and go: nothing stays behind, not in the stack and in no process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from pifus.bench import _programs
from pifus.bench.compat import workers
from pifus.cli import read_status
from tests.conftest import BackendProcess

StartBackend = Callable[..., BackendProcess]
SECONDS = 20.0
# A client fetches mirrors in batches; those that nobody was shown are used again.
SPARE_MIRRORS = 64
RESIDENT_KIB = 4096


def counters(backend: BackendProcess) -> dict[str, int]:
    """What has to return to where it was. Connections in TIME_WAIT are no longer anybody's."""
    found = read_status(backend.path)["statistics"]
    maps = Path(f"/proc/{backend.pid}/maps").read_text(encoding="utf-8")
    names = ("sockets", "sessions", "mirrors", "segments", "pbufs", "orphans")
    return {
        **{name: found[name] for name in names},
        "pcbs": found["pcbs"] - found["time_wait"],
        "regions": maps.count("/memfd:pifus-"),
        "fds": _programs.resources_of(backend.pid)["fds"],
    }


def awaited(backend: BackendProcess, wanted: dict[str, int]) -> dict[str, int]:
    """The counters, once they are what is wanted, or after the last try."""
    end = time.monotonic() + SECONDS
    while (found := counters(backend)) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_short_connections_leave_nothing(start_backend: StartBackend) -> None:
    backend = start_backend("churn")
    before = awaited(backend, counters(backend))
    with contextlib.ExitStack() as stack:
        server, client = workers(stack, backend.path)
        address = ("127.0.0.1", server.call(_programs.serve_short))
        processes = {"server": server.process.pid, "client": client.process.pid}
        processes["backend"] = backend.pid

        def resources() -> dict[str, dict[str, int]]:
            return {name: _programs.resources_of(pid) for name, pid in processes.items()}

        # The first second touches what is touched once: queues of the slots, tables.
        assert client.call(_programs.connections, address=address, seconds=1.0) > 0
        early = resources()
        assert client.call(_programs.connections, address=address, seconds=2.5) > 0
        late = resources()
        # The close of a connection that had ended both ways waits for the backend's next wake-up.
        end = time.monotonic() + SECONDS
        while (during := counters(backend))["sockets"] != 1 and time.monotonic() < end:
            time.sleep(0.05)
        assert during["sockets"] == 1  # the listener
        assert during["pcbs"] == 1
        assert during["mirrors"] <= SPARE_MIRRORS
        assert during["segments"] == during["pbufs"] == 0
        for name, values in late.items():
            assert values["rss"] <= early[name]["rss"] + RESIDENT_KIB, name
            assert values["fds"] <= early[name]["fds"] + SPARE_MIRRORS, name
    assert awaited(backend, before) == before
