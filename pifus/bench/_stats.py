"""Samples and what is told about them. No I/O."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

# In the order of the tables; those of a row of the JSON output.
STATISTICS = ("n", "min", "p25", "p50", "p75", "p99", "p999", "max", "mean", "stdev")
_QUANTILES = (("p25", 0.25), ("p50", 0.5), ("p75", 0.75), ("p99", 0.99), ("p999", 0.999))


@dataclass(slots=True)
class Samples:
    """Times in nanoseconds, as `struct pf_bench_samples` has them.

    Attributes:
        stored: every `stride`-th time.
        stride: a power of two.
        total: how many there were; the fields below are over all of them.
        squares: the sum of their squares.
    """

    stored: array[int] = field(default_factory=lambda: array("I"))
    stride: int = 1
    total: int = 0
    sum_ns: int = 0
    min_ns: int = 0
    max_ns: int = 0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Iterable[int]) -> Samples:
        """All of `values`, in nanoseconds."""
        stored = array("I", values)
        if not stored:
            return cls()
        return cls(
            stored=stored,
            total=len(stored),
            sum_ns=sum(stored),
            min_ns=min(stored),
            max_ns=max(stored),
            squares=float(sum(value * value for value in stored)),
        )

    def thinned(self, stride: int) -> array[int]:
        """Every `stride`-th time; a multiple of the samples' own stride."""
        return self.stored[:: max(stride // self.stride, 1)]

    def add(self, other: Samples) -> None:
        """Takes in the samples of another round: each time has the same weight."""
        if not other.total:
            return
        stride = max(self.stride, other.stride)
        self.stored = self.thinned(stride) + other.thinned(stride)
        self.stride = stride
        self.min_ns = min(self.min_ns, other.min_ns) if self.total else other.min_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.total += other.total
        self.sum_ns += other.sum_ns
        self.squares += other.squares

    def summary(self, unit_ns: float = 1000.0) -> dict[str, float]:
        """The statistics, in units of so many nanoseconds; empty without a sample."""
        if not self.total:
            return {}
        ordered = sorted(self.stored)
        mean = self.sum_ns / self.total
        variance = max(self.squares / self.total - mean * mean, 0.0)
        result = {name: quantile(ordered, share) / unit_ns for name, share in _QUANTILES}
        result |= {"n": self.total, "min": self.min_ns / unit_ns, "max": self.max_ns / unit_ns}
        result |= {"mean": mean / unit_ns, "stdev": math.sqrt(variance) / unit_ns}
        return {name: result[name] for name in STATISTICS}


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the values that at least this share of them does not exceed."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def summarize(values: Sequence[float]) -> dict[str, float]:
    """The statistics of a few figures that are no times, such as the rates of the rounds."""
    if not values:
        return {}
    ordered = sorted(values)
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    result = {name: quantile(ordered, share) for name, share in _QUANTILES}
    result |= {"n": len(values), "min": ordered[0], "max": ordered[-1]}
    result |= {"mean": mean, "stdev": math.sqrt(variance)}
    return {name: result[name] for name in STATISTICS}


@dataclass(slots=True)
class Row:
    """A line of a table.

    Attributes:
        name: what was measured.
        unit: of all figures but `n`.
        statistics: by the names in STATISTICS.
        samples: for the plot, if they are times.
        values: for the plot, otherwise.
    """

    name: str
    unit: str
    statistics: dict[str, float]
    samples: Samples | None = None
    values: Sequence[float] = ()

    @classmethod
    def of_times(cls, name: str, samples: Samples) -> Row:
        """A row of times, in microseconds."""
        return cls(name, "us", samples.summary(), samples=samples)

    @classmethod
    def of_values(cls, name: str, unit: str, values: Sequence[float]) -> Row:
        """A row of other figures, one for each round."""
        return cls(name, unit, summarize(values), values=values)

    def as_json(self) -> dict[str, str | float]:
        """The row in the JSON output."""
        rounded = {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in self.statistics.items()
        }
        return {"name": self.name, "unit": self.unit, **rounded}


@dataclass(slots=True)
class Result:
    """What a benchmark found.

    Attributes:
        bench: its name.
        title: for the table and the plot.
        rows: in the order of the table.
        notes: sentences: what could not be measured and why, and what to know when reading.
    """

    bench: str
    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
