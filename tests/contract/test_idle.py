"""Who waits does not burn a processor: neither the program nor the backend."""

from __future__ import annotations

import os
import resource
import select

import pytest

from tests.conftest import BackendProcess
from tests.contract.conftest import Pair

WAIT_SECONDS = 1.0
# Spinning would use the whole of it. The kernel counts in ticks of up to 10 ms.
MOST_CPU_SECONDS = 0.25


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("how", ["recv", "poll"])
def test_waiting_costs_nothing(pair: Pair, leg_backend: BackendProcess, how: str) -> None:
    near, far = pair
    near.settimeout(None)
    assert select.select([near], [], [], 0)[0] == []  # from here on its descriptor is kept right
    far.send(b"x")
    assert near.recv(1) == b"x"
    near.settimeout(WAIT_SECONDS)
    before = cpu_seconds(leg_backend.pid), own_seconds()
    if how == "recv":
        with pytest.raises(TimeoutError):
            near.recv(1)
    else:
        assert select.select([near], [], [], WAIT_SECONDS)[0] == []
    assert cpu_seconds(leg_backend.pid) - before[0] < MOST_CPU_SECONDS
    assert own_seconds() - before[1] < MOST_CPU_SECONDS
