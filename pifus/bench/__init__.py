"""`pifus bench`: what pifus costs, beside the floors of the machine and beside its rivals.

bench/README.md tells what each figure means.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from pifus.bench._run import Progress
    from pifus.bench._stats import Result

# Name, what it shows, and seconds for each variant unless --seconds says otherwise.
BENCHES = {
    "nop": ("round trip of an operation that does nothing, beside its floors", 5.0),
    "batch": ("sixteen operations that do nothing, one by one and together", 3.0),
    "priority": ("three priorities at a saturated backend; a peer that stops reading", 10.0),
    "wire": ("writers of three priorities over TAP, until acknowledged, until read", 10.0),
    "sockets": ("1 to 1,024 sockets, against lwIP's own netconn API", 4.0),
    "compat": ("the drop-in against the kernel's sockets, same script, over loopback", 5.0),
    "churn": ("short connections over the drop-in, how many and how late, and what grows", 60.0),
    "periodic": ("64 bytes every millisecond from Python, against kernel sockets", 10.0),
    "tasks": ("trio and asyncio: the kernel's sockets, the drop-in, pifus.trio and pifus.aio", 4.0),
    "tcp": ("1-byte round trip and bulk over TAP, against the kernel's sockets", 5.0),
}
_SECONDS_MIN, _SECONDS_MAX = 0.05, 3600.0


def main(argv: Sequence[str] | None = None) -> int:
    """The command `pifus bench`; returns the exit status."""
    options = _parse(argv)
    if not options.names:
        _print_list()
        return 0
    from rich.console import Console

    from pifus.bench import _plot, _report, _run
    from pifus.bench._worker import WorkerError

    messages = Console(stderr=True, highlight=False)
    plain = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    try:
        if options.plot:
            _plot.require()
        if not options.json:
            _report.print_machine(plain)
        with _run.interruptible():
            for name in options.names:
                result = _measure(name, options.seconds, messages)
                if options.json:
                    # Not through rich, which would break the line.
                    print(_report.as_json(result), flush=True)
                    for note in result.notes:
                        messages.print(f"note: {note}")
                else:
                    _report.print_tables(result, plain)
                if options.plot:
                    path = _plot_path(options.plot, name, len(options.names))
                    _plot.draw(result, path)
                    messages.print(f"plot: {path}")
    except (_plot.PlotError, WorkerError) as error:
        messages.print(f"pifus bench: {error}", markup=False)
        return 1
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="pifus bench",
        description="Measures. Without a name: lists the benchmarks.",
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--seconds", type=float, metavar="S", help="of measuring, for each variant")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it, too")
    options = parser.parse_args(argv)
    for name in options.names:
        if name not in BENCHES:
            parser.error(f"no benchmark {name!r}: known are {', '.join(BENCHES)}")
    if options.seconds is not None and not _SECONDS_MIN <= options.seconds <= _SECONDS_MAX:
        parser.error(f"--seconds: allowed is {_SECONDS_MIN} to {_SECONDS_MAX:.0f}")
    if options.plot and options.plot.suffix.lower() != ".png":
        parser.error("--plot: the file has to end in .png")
    return options


def _print_list() -> None:
    print("usage: pifus bench NAME… [--seconds S] [--json] [--plot FILE.png]\n")
    for name, (text, _) in BENCHES.items():
        print(f"  {name:9} {text}")


def _plot_path(path: Path, name: str, count: int) -> Path:
    return path if count == 1 else path.with_stem(f"{path.stem}-{name}")


def _measure(name: str, seconds: float | None, messages: Console) -> Result:
    module = importlib.import_module(f"pifus.bench.{name}")
    with _progress(name, messages) as progress:
        result: Result = module.run(BENCHES[name][1] if seconds is None else seconds, progress)
    return result


@contextlib.contextmanager
def _progress(name: str, messages: Console) -> Iterator[Progress]:
    """A bar on a terminal; otherwise a line now and then."""
    if not messages.is_terminal:
        yield _lines(name, messages)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    place = TextColumn("{task.fields[at]}")
    columns = (TextColumn(name), BarColumn(), TimeRemainingColumn(), place)
    # Redrawn only when a turn ends: a thread that draws would be noise.
    with Progress(*columns, console=messages, transient=True, auto_refresh=False) as bars:
        task = bars.add_task(name, total=1.0, at="")

        def tell(at: str, share: float) -> None:
            bars.update(task, completed=share, at=at, refresh=True)

        yield tell


def _lines(name: str, messages: Console) -> Progress:
    every_seconds = 10.0
    last = 0.0

    def tell(at: str, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_seconds and at:
            last = now
            messages.print(f"{name}: {share:.0%} ({at})")

    return tell
