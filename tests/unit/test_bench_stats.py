"""The figures of the benchmarks: quantiles, rounds put together, rows."""

from __future__ import annotations

import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pifus.bench import _report
from pifus.bench._run import Collected, take_turns
from pifus.bench._stats import STATISTICS, Result, Row, Samples, quantile, summarize

TIMES = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200)


def test_quantile_is_one_of_the_values() -> None:
    values = list(range(1, 1001))
    assert quantile(values, 0.25) == 250
    assert quantile(values, 0.5) == 500
    assert quantile(values, 0.99) == 990
    assert quantile(values, 0.999) == 999
    assert quantile([7], 0.999) == 7
    assert quantile([1, 2], 0.0) == 1


def test_no_sample_no_statistics() -> None:
    assert Samples().summary() == {}
    assert Samples.of([]).summary() == {}
    assert summarize([]) == {}


@given(TIMES)
def test_summary_agrees_with_the_standard_library(times: list[int]) -> None:
    summary = Samples.of(times).summary(unit_ns=1)
    assert tuple(summary) == STATISTICS
    assert summary["n"] == len(times)
    assert summary["min"] == min(times)
    assert summary["max"] == max(times)
    assert summary["mean"] == pytest.approx(statistics.fmean(times))
    # From sums of squares, which lose digits where all values are nearly the same.
    assert summary["stdev"] == pytest.approx(
        statistics.pstdev(times), rel=1e-6, abs=1e-6 * max(times) + 1e-9
    )
    assert summary["min"] <= summary["p25"] <= summary["p50"] <= summary["p75"]
    assert summary["p75"] <= summary["p99"] <= summary["p999"] <= summary["max"]


@given(TIMES, TIMES)
def test_adding_rounds_is_as_one_round(first: list[int], second: list[int]) -> None:
    together = Samples.of(first)
    together.add(Samples.of(second))
    assert together.summary() == pytest.approx(Samples.of(first + second).summary())


def test_adding_thins_to_the_greater_stride() -> None:
    thinned = Samples.of([10, 30, 50])
    thinned.stride, thinned.total = 2, 6
    whole = Samples.of([1, 2, 3, 4, 5])
    whole.add(thinned)
    assert list(whole.stored) == [1, 3, 5, 10, 30, 50]
    assert whole.stride == 2
    assert whole.total == 11
    thinned.add(Samples.of([1, 2, 3, 4, 5]))
    assert list(thinned.stored) == [10, 30, 50, 1, 3, 5]


def test_adding_nothing_changes_nothing() -> None:
    samples = Samples.of([4, 5])
    samples.add(Samples())
    assert samples.summary() == Samples.of([4, 5]).summary()
    empty = Samples()
    empty.add(Samples.of([4, 5]))
    assert empty.min_ns == 4


def test_rates_are_summarized_without_being_times() -> None:
    summary = summarize([1.0, 2.0, 4.0])
    assert summary["p50"] == 2.0
    assert summary["mean"] == pytest.approx(7 / 3)
    assert summary["stdev"] == pytest.approx(statistics.pstdev([1.0, 2.0, 4.0]))


def test_variants_take_turns() -> None:
    order: list[str] = []
    shares: list[float] = []

    def variant(name: str) -> dict[str, Samples | float]:
        order.append(name)
        return {name: Samples.of([1000]), f"rate.{name}": 2.0}

    found: Collected = take_turns(
        {"a": lambda _: variant("a"), "b": lambda _: variant("b")},
        1.0,
        lambda _, share: shares.append(share),
        turn_seconds=0.25,
    )
    assert order == ["a", "b"] * 4
    assert found.times["a"].total == 4
    assert found.values["rate.b"] == [2.0] * 4
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_json_has_the_promised_shape() -> None:
    result = Result("nop", "title", [Row.of_times("pifus.c.spin", Samples.of([100, 200, 300]))])
    result.rows.append(Row.of_values("rate", "Mop/s", [1.5]))
    text = _report.as_json(result)
    assert "\n" not in text
    found = json.loads(text)
    assert set(found) == {"bench", "machine", "rows"}
    assert list(found["rows"][0]) == ["name", "unit", *STATISTICS]
    assert found["rows"][0]["p50"] == 0.2
    assert found["rows"][0]["unit"] == "us"
    assert found["rows"][1]["unit"] == "Mop/s"
    assert all(math.isfinite(found["rows"][0][name]) for name in STATISTICS)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123, "0.12"), (9.99, "9.99"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_figures_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert _report.figure(value) == text
