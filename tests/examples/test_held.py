"""The control loop's example tells what held up a late period."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

import pytest

from examples.ported_apps.modbus_loop import held

MS = 1_000_000
PATIENCE_SECONDS = 20
START = MS // 10
SPIN = "import time\nprint(flush=True)\nwhile time.monotonic() < 1e9: pass"


def ticking(tick_ns: int, start: int = 0) -> list[int]:
    """A tenth of a second of a clock whose ticks come a little late, as they do."""
    return [tick + tick % 7 * 1000 for tick in range(start, 100 * MS, tick_ns)]


def test_gaps() -> None:
    for end in range(18 * MS, 19 * MS, MS // 20):
        clocks = {}
        for tick_ns in held.TICKS_NS:
            missed = [tick for tick in ticking(tick_ns, START) if 10 * MS <= tick < end]
            clocks[tick_ns] = sorted(set(ticking(tick_ns, START)) - set(missed) | {end})
        # A switch that interrupts had to wait for may come before the tick.
        alive = [9 * MS, 10 * MS, end - MS // 50, end + MS // 100, 30 * MS]
        found = held.gaps(clocks, alive)
        # When both clocks are about to tick anyhow, nothing comes late.
        in_time = all((end - START + MS // 10) % each < MS // 5 for each in held.TICKS_NS)
        assert found or in_time
        assert all(10 * MS < gap.from_ns < 10 * MS + min(held.TICKS_NS) for gap in found)
        assert all(gap.to_ns == end for gap in found)


def test_no_gaps() -> None:
    clocks = {tick_ns: ticking(tick_ns) for tick_ns in held.TICKS_NS}
    assert held.gaps(clocks, []) == []
    # An idle processor does not remember all of them; that they are missing proves nothing.
    sparse = {tick_ns: ticks[:15] + ticks[25:] for tick_ns, ticks in clocks.items()}
    assert held.gaps(sparse, [20 * MS]) == []
    assert held.gaps({tick_ns: [] for tick_ns in held.TICKS_NS}, [MS]) == []
    # Late by itself: no longer than what it is late by, behind another sign of life.
    tick_ns = held.TICKS_NS[0]
    ticks = list(range(0, 30 * tick_ns, tick_ns))
    ticks[10] += MS // 4
    assert held.gaps({tick_ns: ticks}, []) == [held.Gap(10 * tick_ns, ticks[10])]


def period(due: int, late: int, waited: int, longest: int = 0) -> held.Period:
    steps = [0] * len(held.STAGES)
    steps[longest] = late
    times = itertools.accumulate(steps, initial=due)
    return held.Period(list(times), waited)


def test_causes() -> None:
    missing = [
        held.Gap(10 * MS, 14 * MS),
        held.Gap(12 * MS, 18 * MS + MS // 4),
        held.Gap(80 * MS, 81 * MS),
        held.Gap(82 * MS, 83 * MS),
    ]
    late = [
        period(10 * MS, 8 * MS, 0),
        period(17 * MS, 3 * MS, 2 * MS),
        period(40 * MS, 4 * MS, 3 * MS),
        period(60 * MS, 5 * MS, MS, longest=2),
        period(79 * MS, 5 * MS, 0, longest=3),
        period(5 * MS, 17 * MS, 0, longest=1),
    ]
    assert held.causes(late, missing) == {
        held.HOST: [8 * MS],
        held.PROCESSOR: [3 * MS, 4 * MS],
        held.STAGES[2]: [5 * MS],
        held.STAGES[3]: [5 * MS],  # two of five are not the better half
        held.STAGES[1]: [17 * MS],  # nor is what two processors missed at the same time
    }
    assert held.causes([period(80 * MS, 3 * MS, 0)], missing) == {held.HOST: [3 * MS]}


def test_stages() -> None:
    times = [5, 7, 8, 6, 20, 21, 22, 30, 31, 35]  # the stack looks at its clock once a step
    assert held.Period(times, 0).stages == [2, 1, 0, 14, 1, 1, 8, 1, 4]


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
    rings = [clock.ring for clock in itertools.chain(*clocks._processors)]
    seen = [words.unpack_from(ring, held._HEAD) for ring in rings]
    return all(head > tail for head, tail in seen)


def test_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[Mapping[int, Sequence[int]], list[int]]] = []
    gaps = held.gaps

    def look(ticks: Mapping[int, Sequence[int]], switches: Iterable[int]) -> list[held.Gap]:
        found.append((ticks, list(switches)))
        return gaps(*found[-1])

    monkeypatch.setattr(held, "gaps", look)
    with held.Clocks() as clocks:
        if not clocks.any:
            pytest.skip("this user may not have the kernel's clocks")
        for turn in (1, 2):  # the second begins with empty rings
            start = time.monotonic_ns()
            with clocks.run():
                os.sched_yield()
                # A host may keep a processor from running for all of that time.
                while time.monotonic_ns() < start + 100 * MS or not all_ticked(clocks):
                    time.sleep(0)
                    assert time.monotonic_ns() < start + PATIENCE_SECONDS * 1000 * MS
            end = time.monotonic_ns()
            assert len(found) == turn * len(os.sched_getaffinity(0))
    second = found[len(found) // 2 :]
    for ticks, switches in second:
        assert sorted(ticks) == sorted(held.TICKS_NS)
        for times in (*ticks.values(), switches):
            assert times == sorted(times)
            assert all(start < time < end for time in times)
        assert all(ticks.values())
    assert any(switches for _, switches in second)
