"""Plots of the examples, in the manner of pifus's own benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pifus.bench import _plot
from pifus.bench._stats import quantile

_FLOOR_US = 0.1  # what is less is drawn there


def panels(
    path: Path,
    title: str,
    found: Mapping[str, Sequence[int]],
    label: str,
    limit: tuple[float, str] | None = None,
) -> None:
    """On the left each measurement, in the order of time; on the right how many were longer.

    Args:
        path: of the PNG.
        title: of the figure.
        found: by condition: nanoseconds; what the others are compared with comes first.
        label: of what was measured, in microseconds.
        limit: microseconds that should not be exceeded, and why.
    """
    plt = _plot._matplotlib()
    figure = plt.figure(figsize=(11, 1.2 + 1.6 * len(found)), layout="constrained")
    grid = figure.add_gridspec(len(found), 2, width_ratios=(1.3, 1))
    conditions = {name: [max(t / 1000, _FLOOR_US) for t in times] for name, times in found.items()}
    low = min(min(us) for us in conditions.values())
    top = max(max(us) for us in conditions.values())
    alone = next(iter(conditions.values()))
    for index, (name, us) in enumerate(conditions.items()):
        axes = figure.add_subplot(grid[index, 0])
        color = plt.get_cmap("tab10")(index)
        places = [100 * place / len(us) for place in range(len(us))]
        axes.plot(places, us, ".", color=color, markersize=2, alpha=0.6)
        axes.set_yscale("log")
        axes.set_ylim(low * 0.8, top * 1.5)
        axes.set_xlim(0, 100)
        _plot._plain_numbers(axes.yaxis)
        heading = f"{name}: {_summary(us, alone if index else us)}"
        axes.set_title(heading, loc="left", fontsize=9, color=color, fontweight="bold")
        axes.tick_params(labelbottom=index == len(found) - 1)
        if limit:
            axes.axhline(limit[0], color="0.4", linewidth=0.8, linestyle="--")
    axes.set_xlabel("share of the measurement, %")
    axes = figure.add_subplot(grid[:, 1])
    _tails(plt, axes, conditions, label)
    if limit:
        axes.axvline(limit[0], color="0.4", linewidth=0.8, linestyle="--")
        axes.annotate(
            limit[1],
            (limit[0], 0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 3),
            textcoords="offset points",
            va="bottom",
            fontsize=8,
            color="0.3",
            rotation=90,
        )
    figure.suptitle(f"{title}: {label}, us\n", x=0.01, ha="left", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _summary(us: Sequence[float], alone: Sequence[float]) -> str:
    p50, p999 = (quantile(sorted(us), share) for share in (0.5, 0.999))
    text = f"p50 {p50:,.0f}, p99.9 {p999:,.0f}"
    if us is not alone:
        text += f" = {p999 / quantile(sorted(alone), 0.999):.2g} x alone"
    return text


def _tails(plt: Any, axes: Any, found: Mapping[str, Sequence[float]], label: str) -> None:
    for index, us in enumerate(found.values()):
        shares = [1 - place / len(us) for place in range(len(us))]
        axes.step(sorted(us), shares, color=plt.get_cmap("tab10")(index), linewidth=1.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.5 / max(len(us) for us in found.values()), 1.5)
    _plot._plain_numbers(axes.xaxis)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.6g} %")
    axes.set_xlabel(f"{label}, us")
    axes.set_title("share that was more", loc="left", fontsize=9)
