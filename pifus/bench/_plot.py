"""PNG plots of the results, by matplotlib."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pifus.bench._stats import Result, Row, Samples, quantile

# Points of a curve: enough for the paper, few enough for the drawing.
_POINTS = 1500
_SERIES = re.compile(r"(.+)\.(\d+)")
_NAMED = {
    "netconn": "lwIP netconn, thread per socket",
    "pifus.threads": "pifus, thread per socket",
    "pifus.completion": "pifus, completions in one thread",
}
_GREY = "#8a8a8a"
_PRIORITY_COLORS = {"high": "#c0392b", "medium": "#e08e0b", "low": "#2e6da4"}
# Parts of names that make no other colour.
_MODES = ("send", "receive", "spin", "block")


class PlotError(Exception):
    """No plot can be drawn; the text says why."""


def require() -> None:
    """Checks that matplotlib is there, before anything is measured for nothing.

    Raises:
        PlotError: it is not.
    """
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        raise PlotError("--plot needs matplotlib: pip install 'pifus[bench]'") from None


def draw(result: Result, path: Path) -> None:
    """Draws what suits the benchmark.

    Raises:
        PlotError: there is nothing to draw.
    """
    if not result.rows:
        raise PlotError(f"{result.bench}: nothing was measured that could be drawn")
    plt = _matplotlib()
    if result.bench == "sockets":
        figure = _lines(plt, result)
    elif result.bench == "nop":
        figure = _distributions(plt, result)
    else:
        figure = _boxes(plt, result)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _matplotlib() -> Any:
    require()
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e4e4e4",
            "axes.axisbelow": True,
            "legend.frameon": False,
        }
    )
    return plt


def _plain_numbers(axis: Any) -> None:
    """1, 10, 100 in place of powers."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _times_us(row: Row) -> list[float]:
    assert row.samples is not None
    return [time / 1000 for time in sorted(row.samples.stored)]


def _color(plt: Any, index: int) -> Any:
    return plt.get_cmap("tab10")(index % 10)


def _distributions(plt: Any, result: Result) -> Any:
    """Which share of the round trips took at most so long; floors are dashed."""
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for index, row in enumerate(result.rows):
        times = _times_us(row)
        shares = [(point + 0.5) / _POINTS for point in range(_POINTS)]
        style = "--" if row.name.startswith("floor.") else "-"
        label = f"{row.name}  (p50 {row.statistics['p50']:.2g} us)"
        places = [max(quantile(times, share), 0.01) for share in shares]
        axes.plot(places, shares, style, color=_color(plt, index), label=label, linewidth=1.6)
    axes.set_xscale("log")
    highest = max(row.statistics["p999"] for row in result.rows)
    axes.set_xlim(0.05, max(highest * 2, 10))
    axes.set_ylim(0, 1)
    axes.set_xlabel("round trip, us")
    axes.set_ylabel("share of round trips")
    axes.set_title(result.title, loc="left")
    _plain_numbers(axes.xaxis)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.set_size_inches(10.5, 4.6)
    return figure


def _boxes(plt: Any, result: Result) -> Any:
    """A panel for each unit: boxes p25 to p75, whiskers to p99, for other figures bars."""
    units = list(dict.fromkeys(row.unit for row in result.rows))
    by_unit = {unit: [row for row in result.rows if row.unit == unit] for unit in units}
    heights = [len(rows) + 1.5 for rows in by_unit.values()]
    figure, panels = plt.subplots(
        len(units),
        1,
        figsize=(9, 0.3 * sum(heights) + 0.6),
        layout="constrained",
        height_ratios=heights,
        squeeze=False,
    )
    for axes, (unit, rows) in zip(panels[:, 0], by_unit.items(), strict=True):
        if unit == "us":
            _box_panel(plt, axes, rows)
        else:
            _bar_panel(plt, axes, rows, unit)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    figure.suptitle(result.title, x=0.01, ha="left", fontsize=10)
    return figure


def _row_colors(plt: Any, rows: Sequence[Row]) -> list[Any]:
    """By priority where a row has one; else grey for the kernel, one colour for each kind."""
    kinds = list(dict.fromkeys(_kind(row.name) for row in rows))
    return [_row_color(plt, row.name, kinds) for row in rows]


def _row_color(plt: Any, name: str, kinds: list[str]) -> Any:
    parts = name.split(".")
    for priority, color in _PRIORITY_COLORS.items():
        if priority in parts:
            return color
    return _GREY if "kernel" in parts else _color(plt, kinds.index(_kind(name)))


def _kind(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _MODES)


def _box_panel(plt: Any, axes: Any, rows: Sequence[Row]) -> None:
    for place, (row, color) in enumerate(zip(rows, _row_colors(plt, rows), strict=True)):
        figures = row.statistics
        low = max(figures["min"], 0.05)
        axes.plot([low, figures["p99"]], [place, place], color=color, linewidth=1)
        p25, p75 = max(figures["p25"], 0.05), max(figures["p75"], 0.05)
        axes.barh(place, p75 - p25, left=p25, height=0.55, color=color, alpha=0.55)
        axes.plot([figures["p50"]] * 2, [place - 0.28, place + 0.28], color="black", linewidth=1.6)
        axes.plot(figures["mean"], place, "D", color="white", mec="black", markersize=4)
        axes.annotate(
            f"{figures['p50']:.3g}",
            (figures["p99"], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xscale("log")
    _plain_numbers(axes.xaxis)
    axes.set_xlabel("us: box p25 to p75, line p50 (the number), diamond mean, whiskers min and p99")


def _bar_panel(plt: Any, axes: Any, rows: Sequence[Row], unit: str) -> None:
    for place, (row, color) in enumerate(zip(rows, _row_colors(plt, rows), strict=True)):
        figures = row.statistics
        axes.barh(place, figures["p50"], height=0.6, color=color, alpha=0.6)
        axes.plot([figures["min"], figures["max"]], [place, place], color="black", linewidth=1)
        axes.annotate(
            f"{figures['p50']:.3g}",
            (figures["max"], place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{unit}: median of the rounds; line: worst and best round")


def _lines(plt: Any, result: Result) -> Any:
    """Figure 6.3: mean with the band from p25 to p75, over the number of sockets."""
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    series: dict[str, list[tuple[int, Row]]] = {}
    for row in result.rows:
        match = _SERIES.fullmatch(row.name)
        if match:
            series.setdefault(match[1], []).append((int(match[2]), row))
    for index, (name, points) in enumerate(series.items()):
        points.sort(key=lambda point: point[0])
        counts = [count for count, _ in points]
        color = _color(plt, index)
        low = [row.statistics["p25"] for _, row in points]
        high = [row.statistics["p75"] for _, row in points]
        means = [row.statistics["mean"] for _, row in points]
        axes.fill_between(counts, low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot(counts, means, "o-", color=color, markersize=3.5, label=_NAMED.get(name, name))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    counts = sorted({count for points in series.values() for count, _ in points})
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    _plain_numbers(axes.yaxis)
    axes.set_xlabel("sockets, each with one 64-byte message under way")
    axes.set_ylabel("round trip, us (mean; band p25 to p75)")
    axes.set_title(result.title, loc="left")
    axes.legend()
    return figure


def draw_tails(title: str, found: Mapping[str, Samples], path: Path) -> None:
    """Which share of the times was longer than so long, down to the rarest, on log axes.

    Raises:
        PlotError: matplotlib is missing.
    """
    plt = _matplotlib()
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for index, (name, samples) in enumerate(found.items()):
        times = sorted(samples.stored)
        shares = [1 - position / len(times) for position in range(len(times))]
        label = f"{name}: p50 {quantile(times, 0.5) / 1000:.0f} us, p99 "
        label += f"{quantile(times, 0.99) / 1000:,.0f} us"
        axes.step(
            [time / 1000 for time in times],
            shares,
            color=_color(plt, index),
            label=label,
            linewidth=1.6,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes.xaxis)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.10%}".rstrip("0%").rstrip(".") + " %")
    axes.set_xlabel("round trip, us")
    axes.set_ylabel("share that took longer")
    axes.set_title(title, loc="left")
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=130)
    plt.close(figure)
