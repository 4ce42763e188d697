"""Tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

import pifus
from pifus.bench._run import processors
from pifus.bench._stats import STATISTICS, Result


def machine() -> dict[str, str | int | float]:
    """What the figures hold for."""
    return {
        "model": _model(),
        "processors": len(processors()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pifus": pifus.__version__,
        "load": round(os.getloadavg()[0], 2),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def as_json(result: Result) -> str:
    """The whole result on one line."""
    return json.dumps(
        {
            "bench": result.bench,
            "machine": machine(),
            "rows": [row.as_json() for row in result.rows],
        }
    )


def figure(value: float) -> str:
    """A figure with about three digits that mean something."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def print_tables(result: Result, console: Console) -> None:
    """One table for each unit, then the notes."""
    for unit in dict.fromkeys(row.unit for row in result.rows):
        table = Table(box=box.SIMPLE, title=f"{result.title}; {unit}", pad_edge=False)
        table.add_column("")
        for name in STATISTICS:
            table.add_column(name, justify="right", no_wrap=True)
        for row in result.rows:
            if row.unit == unit and row.statistics:
                figures = [figure(row.statistics[name]) for name in STATISTICS[1:]]
                table.add_row(row.name, f"{row.statistics['n']:,}", *figures)
        console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", highlight=False)


def print_machine(console: Console) -> None:
    """One line about the machine."""
    about = machine()
    console.print(
        f"{about['processors']} processors, {about['model']}; Linux {about['kernel']}, "
        f"Python {about['python']}; load {about['load']} before",
        highlight=False,
    )
