"""What held up a late period: the host of a virtual machine, a busy processor, or which stage.

The host's part is what no counter tells well (steal, in /proc/stat, has ticks of 10 ms and knows
of a part), so each processor has clocks of the kernel that tick in an interrupt, whatever a
program or the kernel may be at: a tick that comes late means that the processor did not run.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import fcntl
import itertools
import mmap
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HOST = "the host did not run a processor of this machine"
PROCESSOR = "stack, plant or controller waited for a processor"

STAGES = (  # of a period: from one of the times in `Period` to the next
    "due until the controller ran",
    "until it had submitted the request",
    "until the stack took that up",
    "through the stack, to the plant",
    "until the plant took it",
    "until the plant had the answer",
    "through the stack, to the controller",
    "until the controller took it",
    "until it was ready",
)

# Two clocks: there are few times at which neither is late. Slow ones: a tick costs an exit to the
# host, which at times takes half a millisecond.
TICKS_NS = (2_000_000, 3_100_000)
_LATE_NS = 60_000
_SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}.get(os.uname().machine)
_TYPE_SOFTWARE, _CPU_CLOCK = 1, 0
_SAMPLE_TIME = 1 << 2
_DISABLED, _SAMPLE_ID_ALL, _USE_CLOCKID, _SWITCHES = 1 << 0, 1 << 18, 1 << 25, 1 << 26
_CLOCK_MONOTONIC = 1
_ATTRIBUTES = struct.Struct("=IIQQQQQIIQQQQIiQ")  # of VER4
_ENABLE, _DISABLE = 0x2400, 0x2401
_HEADER = struct.Struct("=IHH")
_SAMPLE, _SWITCH = 9, 15
_HEAD, _TAIL, _WRAP = 1024, 1032, 4096  # the ring's page, as in linux/perf_event.h
_RING = 1 << 21  # for the switches of a second or two


class Period(NamedTuple):
    """A period: the times between its stages, in ns, and for how long threads waited in it."""

    times: Sequence[int]
    waited_ns: int

    @property
    def due_ns(self) -> int:
        return self.times[0]

    @property
    def late_ns(self) -> int:
        return self.times[-1] - self.times[0]

    @property
    def stages(self) -> list[int]:
        """How long each took. None is below zero: what follows is at times seen earlier."""
        return [max(later - time, 0) for time, later in itertools.pairwise(self.times)]


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


class Clock(NamedTuple):
    """What a clock of a processor remembers."""

    file: int
    ring: mmap.mmap
    tick_ns: int


class Clocks(contextlib.ExitStack):
    """Clocks of each processor that we may use; none, if the kernel lets us have none."""

    def __init__(self) -> None:
        super().__init__()
        self._processors: list[list[Clock]] = []
        with contextlib.suppress(PermissionError):
            for processor in sorted(os.sched_getaffinity(0)):
                self._processors.append([self._clock(processor, tick) for tick in TICKS_NS])

    def _clock(self, processor: int, tick_ns: int) -> Clock:
        file = _open_clock(processor, tick_ns)
        self.callback(os.close, file)
        ring = self.enter_context(contextlib.closing(mmap.mmap(file, _WRAP + _RING)))
        return Clock(file, ring, tick_ns)

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._processors)

    @contextlib.contextmanager
    def run(self) -> Iterator[list[Gap]]:
        """Lets them tick; at the end of the block, the list has when processors did not run."""
        found: list[Gap] = []
        for clock in itertools.chain(*self._processors):
            fcntl.ioctl(clock.file, _ENABLE)
        yield found
        for clocks in self._processors:
            ticks, switches = {}, []
            for clock in clocks:
                fcntl.ioctl(clock.file, _DISABLE)
                ticks[clock.tick_ns], switched = _remembered(clock.ring)
                switches += switched
            found += gaps(ticks, switches)


def _open_clock(processor: int, tick_ns: int) -> int:
    if _SYS_PERF_EVENT_OPEN is None:
        raise PermissionError(f"its number on {os.uname().machine} is not known here")
    flags = _DISABLED | _SAMPLE_ID_ALL | _USE_CLOCKID
    flags |= _SWITCHES if tick_ns == TICKS_NS[0] else 0
    words = [_TYPE_SOFTWARE, _ATTRIBUTES.size, _CPU_CLOCK, tick_ns, _SAMPLE_TIME, 0, flags]
    words += [0, 0, 0, 0, 0, 0, 0, _CLOCK_MONOTONIC, 0]
    attributes = _ATTRIBUTES.pack(*words)
    libc = ctypes.CDLL(None, use_errno=True)
    clock = int(libc.syscall(_SYS_PERF_EVENT_OPEN, attributes, -1, processor, -1, 8))
    if clock < 0:
        raise OSError(ctypes.get_errno(), "perf_event_open")
    return clock


def _remembered(ring: mmap.mmap) -> tuple[list[int], list[int]]:
    """The times of ticks and of switches between threads; they are forgotten."""
    (head,), (tail,) = (struct.unpack_from("=Q", ring, place) for place in (_HEAD, _TAIL))
    found: dict[int, list[int]] = {_SAMPLE: [], _SWITCH: []}
    while tail < head:
        kind, _, length = _HEADER.unpack_from(ring, _WRAP + tail % _RING)
        tail += length
        if kind in found:  # the last word is the time; records may be cut in two by the ring's end
            found[kind].append(struct.unpack_from("=Q", ring, _WRAP + (tail - 8) % _RING)[0])
    struct.pack_into("=Q", ring, _TAIL, head)
    return found[_SAMPLE], found[_SWITCH]


def gaps(ticks: Mapping[int, Sequence[int]], switches: Iterable[int]) -> list[Gap]:
    """When a processor did not run, by the ticks of its clocks and its other signs of life.

    A tick that comes late proves that nothing ran until then, not even an interrupt, since it was
    due; and since the first that is missing before, behind the last sign. A tick that is missing
    proves nothing by itself: an idle processor does not remember all of them.
    """
    signs = sorted(itertools.chain(switches, *ticks.values()))
    grids = {tick_ns: _grid(times, tick_ns) for tick_ns, times in ticks.items() if times}
    found = []
    for tick_ns, grid in grids.items():
        for tick in ticks[tick_ns]:
            late = (tick - grid) % tick_ns
            if _LATE_NS < late < tick_ns - _LATE_NS:
                place = bisect.bisect_left(signs, tick - _LATE_NS)
                sign = (signs[place - 1] if place else tick) + _LATE_NS  # a tick is not due again
                due = (sign + (grid - sign) % tick_ns for tick_ns, grid in grids.items())
                found.append(Gap(min(tick - late, *due), tick))
    return found


def _grid(times: Sequence[int], tick_ns: int) -> int:
    """When most of the ticks are due: a time at which one is."""
    bin_ns = _LATE_NS // 3
    counts = Counter(time % tick_ns // bin_ns for time in times)
    return counts.most_common(1)[0][0] * bin_ns


def causes(late: Iterable[Period], missing: Sequence[Gap]) -> dict[str, list[int]]:
    """By what held them up for the better half: how late the periods were, in ns. Of others, by the
    longest of STAGES."""
    found: dict[str, list[int]] = {}
    for period in late:
        if 2 * _covered(period, missing) > period.late_ns:
            cause = HOST
        elif 2 * period.waited_ns > period.late_ns:
            cause = PROCESSOR
        else:
            cause = STAGES[max(range(len(STAGES)), key=period.stages.__getitem__)]
        found.setdefault(cause, []).append(period.late_ns)
    return found


def _covered(period: Period, missing: Sequence[Gap]) -> int:
    """For how long of the period some processor did not run."""
    covered, until = 0, period.times[0]
    for gap in sorted(missing):
        end = min(gap.to_ns, period.times[-1])
        covered += max(end - max(gap.from_ns, until), 0)
        until = max(until, end)
    return covered
