"""A test run that is killed leaves nothing behind: processes, devices, limits, files."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import guard, network

SECONDS = 60.0
ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
# Of a network that no run has set up.
LIMITS = {"ipv4/icmp_ratelimit": "500", "ipv6/icmp/ratelimit": "600"}


@pytest.fixture
def other_limits() -> Iterator[None]:
    """A change of them would be seen; where they are the machine's, they are not touched."""
    settings = [Path("/proc/sys/net", name) for name in LIMITS]
    before = {
        path: path.read_text() for path in settings if network.own and os.access(path, os.W_OK)
    }
    for path, value in zip(before, LIMITS.values(), strict=False):
        path.write_text(value)
    yield
    for path, value in before.items():
        path.write_text(value)


def surroundings(run: int) -> dict[str, object]:
    """What a run could leave changed; what may be other programs' is left out."""
    devices = [name for _, name in socket.if_nameindex() if name.startswith(f"pft{run % 100000}n")]
    shared = [path.name for path in Path("/dev/shm").iterdir() if "pifus" in path.name]
    found: dict[str, object] = {"devices": devices, "shared memory": shared}
    for name in network.SETTINGS if network.own else ():
        with contextlib.suppress(OSError):  # a kernel without IPv6
            found[name] = Path("/proc/sys/net", name).read_text(encoding="ascii")
    return found


def test_nothing_is_left(other_limits: None, tmp_path: Path) -> None:
    command = [*RUN, f"--basetemp={tmp_path / 'run'}", "tests/integration/killed_run.py"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        before = surroundings(run.pid)
        assert run.stdout is not None
        told = next((line for line in run.stdout if line.startswith("{")), "{}")
        found = json.loads(told)
        assert set(found) == {"directory", "guard", "processes"}
        waiting = {name: os.pidfd_open(pid) for name, pid in found["processes"].items()}
        guarding = os.pidfd_open(found["guard"])
        run.kill()
        ended = guard.ended(guarding, SECONDS)
        alive = [name for name, pidfd in waiting.items() if not guard.ended(pidfd, 0)]
        for pidfd in (*waiting.values(), guarding):
            os.close(pidfd)
    assert not alive
    assert ended
    assert not Path(found["directory"]).exists()
    assert surroundings(run.pid) == before
