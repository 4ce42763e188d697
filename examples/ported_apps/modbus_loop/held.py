"""What held up a late period: the host of a virtual machine, a busy processor, or the rest.

The host's part is what no counter tells well (steal, in /proc/stat, has ticks of 10 ms and knows
of a part), so each processor has a clock of the kernel that ticks in an interrupt, whatever a
program or the kernel may be at: a tick that comes late means that the processor did not run.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HOST = "the host did not run a processor of this machine"
PROCESSOR = "stack, plant or controller waited for a processor"
STACK = "else: the stack, its queues, or what no counter shows"

TICK_NS = 500_000
_GAP_NS = TICK_NS * 3 // 2
_ON_TIME_NS = 60_000
_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}.get(os.uname().machine)
_TYPE_SOFTWARE, _CPU_CLOCK = 1, 0
_SAMPLE_TIME = 1 << 2
_DISABLED, _USE_CLOCKID = 1 << 0, 1 << 25
_CLOCK_MONOTONIC = 1
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQQQQIiQ")  # of VER4
_ENABLE, _DISABLE = 0x2400, 0x2401
_HEADER = struct.Struct("=IHH")
_SAMPLE, _HEAD, _TAIL, _WRAP = 9, 1024, 1032, 4096  # the ring's page, as in linux/perf_event.h


class Late(NamedTuple):
    """A period that was answered after the next was due."""

    due_ns: int
    late_ns: int
    waited_ns: int


class Gap(NamedTuple):
    """A time in which a processor did not run."""

    from_ns: int
    to_ns: int


class Waits:
    """How long threads were ready to run and did not."""

    def __init__(self, processes: Iterable[int]) -> None:
        """Of the processes; of one that has real-time threads, of these alone."""
        self._threads = [
            os.open(f"/proc/{process}/task/{thread}/schedstat", os.O_RDONLY)
            for process in processes
            for thread in _threads(process)
        ]
        self._before = self._look()

    def grown(self) -> int:
        """By how many ns since it was last asked, of all threads together."""
        before, self._before = self._before, self._look()
        return self._before - before

    def _look(self) -> int:
        return sum(int(os.pread(thread, 64, 0).split()[1]) for thread in self._threads)


def _threads(process: int) -> list[int]:
    found = [int(path.name) for path in Path(f"/proc/{process}/task").iterdir()]
    realtime = [thread for thread in found if os.sched_getscheduler(thread) == os.SCHED_FIFO]
    return realtime or found


class Clocks(contextlib.ExitStack):
    """A clock of each processor that we may use; of none, if the kernel lets us have none."""

    def __init__(self, seconds: float) -> None:
        """Clocks that remember so many seconds."""
        super().__init__()
        size = _WRAP
        while size < seconds * 1e9 / TICK_NS * 16:
            size *= 2
        self._rings: list[tuple[int, mmap.mmap]] = []
        with contextlib.suppress(PermissionError):
            for processor in sorted(os.sched_getaffinity(0)):
                clock = _open_clock(processor)
                self.callback(os.close, clock)
                ring = self.enter_context(contextlib.closing(mmap.mmap(clock, _WRAP + size)))
                self._rings.append((clock, ring))

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._rings)

    @contextlib.contextmanager
    def run(self) -> Iterator[list[Gap]]:
        """Lets them tick; at the end of the block, what they missed is in the list."""
        found: list[Gap] = []
        for clock, _ in self._rings:
            fcntl.ioctl(clock, _ENABLE)
        yield found
        for clock, ring in self._rings:
            fcntl.ioctl(clock, _DISABLE)
            found += gaps(_ticks(ring))


def _open_clock(processor: int) -> int:
    if _SYS_PERF_EVENT_OPEN is None:
        raise PermissionError(f"its number on {os.uname().machine} is not known here")
    words = [_TYPE_SOFTWARE, _ATTRIBUTES.size, _CPU_CLOCK, TICK_NS, _SAMPLE_TIME, 0]
    words += [_DISABLED | _USE_CLOCKID, 0, 0, 0, 0, 0, 0, 0, _CLOCK_MONOTONIC, 0]
    attributes = _ATTRIBUTES.pack(*words)
    libc = ctypes.CDLL(None, use_errno=True)
    clock = int(libc.syscall(_SYS_PERF_EVENT_OPEN, attributes, -1, processor, -1, 8))
    if clock < 0:
        raise OSError(ctypes.get_errno(), "perf_event_open")
    return clock


def _ticks(ring: mmap.mmap) -> list[int]:
    """The times that it remembers; they are forgotten."""
    (head,), (tail,) = (struct.unpack_from("=Q", ring, place) for place in (_HEAD, _TAIL))
    size = len(ring) - _WRAP
    found = []
    while tail < head:
        kind, _, length = _HEADER.unpack_from(ring, _WRAP + tail % size)
        if kind == _SAMPLE:  # of 16 bytes: none is cut in two by the ring's end
            found.append(struct.unpack_from("=Q", ring, _WRAP + (tail + 8) % size)[0])
        tail += length
    struct.pack_into("=Q", ring, _TAIL, head)
    return found


def gaps(ticks: Sequence[int]) -> list[Gap]:
    """Where a clock's tick came late. Where it came in time some before are not there, which
    happens, and is no proof: so a few gaps are missed that end just then."""
    pairs = itertools.pairwise(ticks)
    return [Gap(first, second) for first, second in pairs if _is_late(second - first)]


def _is_late(ns: int) -> bool:
    return ns > _GAP_NS and (ns + _ON_TIME_NS) % TICK_NS > 2 * _ON_TIME_NS


def causes(late: Iterable[Sequence[int]], missing: Sequence[Gap]) -> dict[str, list[int]]:
    """By what held them up for the better half: how late the periods were, in ns. Of each: what
    `Late` has."""
    found: dict[str, list[int]] = {HOST: [], PROCESSOR: [], STACK: []}
    for period in itertools.starmap(Late, late):
        end = period.due_ns + period.late_ns
        overlaps = (min(end, gap.to_ns) - max(period.due_ns, gap.from_ns) for gap in missing)
        if 2 * max(overlaps, default=0) > period.late_ns:
            cause = HOST
        else:
            cause = PROCESSOR if 2 * period.waited_ns > period.late_ns else STACK
        found[cause].append(period.late_ns)
    return found
