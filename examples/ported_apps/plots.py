"""Plots of the examples, in the manner of pifus's own benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pifus.bench import _plot
from pifus.bench._stats import quantile


def panels(
    path: Path,
    title: str,
    found: Mapping[str, Sequence[int]],
    tails: Mapping[str, Sequence[int]],
    labels: tuple[str, str],
    log: bool = True,
) -> None:
    """On the left each measurement, in the order of time; on the right the rarest.

    Args:
        path: of the PNG.
        title: of the figure.
        found: by condition: nanoseconds.
        tails: the same of what is drawn on the right.
        labels: of the left axes and the right one; both are in microseconds.
        log: the left axes are logarithmic.
    """
    plt = _plot._matplotlib()
    figure = plt.figure(figsize=(11, 0.8 + 1.6 * len(found)), layout="constrained")
    grid = figure.add_gridspec(len(found), 2, width_ratios=(1.4, 1))
    top = max(max(times) for times in found.values()) / 1000
    low = min(min(times) for times in found.values()) / 1000
    for index, (name, times) in enumerate(found.items()):
        axes = figure.add_subplot(grid[index, 0])
        us = [time / 1000 for time in times]
        color = plt.get_cmap("tab10")(index)
        axes.plot(range(len(us)), us, ".", color=color, markersize=2, alpha=0.6)
        if log:
            axes.set_yscale("log")
        axes.set_ylim(low * 0.8, top * 1.2)
        _plot._plain_numbers(axes.yaxis)
        axes.set_title(f"{name}: {labels[0]}, us", loc="left", fontsize=9)
        axes.tick_params(labelbottom=index == len(found) - 1)
        if index == len(found) - 1:
            axes.set_xlabel("number of the period")
    _tails(plt, figure.add_subplot(grid[:, 1]), tails, labels[1])
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _tails(plt: Any, axes: Any, found: Mapping[str, Sequence[int]], label: str) -> None:
    for index, (name, times) in enumerate(found.items()):
        ordered = sorted(max(time / 1000, 0.1) for time in times)
        shares = [1 - place / len(ordered) for place in range(len(ordered))]
        p50, p999 = quantile(ordered, 0.5), quantile(ordered, 0.999)
        text = f"{name}\np50 {p50:,.0f}, p99.9 {p999:,.0f} us"
        color = plt.get_cmap("tab10")(index)
        axes.step(ordered, shares, color=color, linewidth=1.6, label=text)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.5 / max(len(times) for times in found.values()), 1.5)
    _plot._plain_numbers(axes.xaxis)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.6g} %")
    axes.set_xlabel(f"{label}, us")
    axes.set_ylabel("share that was more")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8)
