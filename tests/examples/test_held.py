"""The control loop's example tells what held up a late period."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from examples.ported_apps.modbus_loop import held

MS = 1_000_000
PATIENCE_SECONDS = 20
SPIN = "import time\nprint(flush=True)\nwhile time.monotonic() < 1e9: pass"


def test_causes() -> None:
    ticks = [tick * held.TICK_NS for tick in range(200)]
    stolen = [tick for tick in ticks if not 10 * MS <= tick < 18 * MS]
    stolen[stolen.index(18 * MS)] += MS // 4  # the first after it is late
    missing = held.gaps(stolen)
    assert missing == [held.Gap(10 * MS - held.TICK_NS, 18 * MS + MS // 4)]
    assert held.gaps([tick for tick in ticks if not 10 * MS <= tick < 18 * MS]) == []
    late = [
        held.Late(10 * MS, 8 * MS, 0),
        held.Late(17 * MS, 3 * MS, 2 * MS),
        held.Late(40 * MS, 4 * MS, 3 * MS),
        held.Late(60 * MS, 5 * MS, MS),
    ]
    assert held.causes(late, missing) == {
        held.HOST: [8 * MS],
        held.PROCESSOR: [3 * MS, 4 * MS],
        held.STACK: [5 * MS],
    }


def test_waits() -> None:
    words = [sys.executable, "-c", SPIN]
    with contextlib.ExitStack() as stack:
        children = []
        for _ in range(2):
            child = stack.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE))
            stack.callback(child.kill)
            assert child.stdout is not None
            child.stdout.readline()
            os.sched_setaffinity(child.pid, {max(os.sched_getaffinity(0))})
            children.append(child.pid)
        waits = held.Waits(children)
        grown = 0
        while grown < 20 * MS:  # only one of them can run
            grown += waits.grown()


def all_ticked(clocks: held.Clocks) -> bool:
    words = struct.Struct("=QQ")
    seen = [words.unpack_from(ring, held._HEAD) for _, ring in clocks._rings]
    return all(head > tail for head, tail in seen)


def test_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Sequence[int]] = []
    gaps = held.gaps

    def look(ticks: Sequence[int]) -> list[held.Gap]:
        found.append(ticks)
        return gaps(ticks)

    monkeypatch.setattr(held, "gaps", look)
    with held.Clocks(1) as clocks:
        if not clocks.any:
            pytest.skip("this user may not have the kernel's clocks")
        for turn in (1, 2):  # the second begins with empty rings
            start = time.monotonic_ns()
            with clocks.run():
                # A host may keep a processor from running for all of that time.
                while time.monotonic_ns() < start + 100 * MS or not all_ticked(clocks):
                    assert time.monotonic_ns() < start + PATIENCE_SECONDS * 1000 * MS
            end = time.monotonic_ns()
            assert len(found) == turn * len(os.sched_getaffinity(0))
    for ticks in found[len(found) // 2 :]:
        assert list(ticks) == sorted(ticks)
        assert start < ticks[0] <= ticks[-1] < end
