"""A 1 kHz control loop over Modbus/TCP beside a bulk download, with priorities and without."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from pathlib import Path

from examples.ported_apps import plots, stage
from examples.ported_apps.modbus_loop import held
from pifus.bench._stats import quantile

HERE = Path(__file__).parent
ALONE = "alone"
WITH = "bulk download LOW, loop HIGH"
WITHOUT = "bulk download, no priorities"
PERIOD_NS, SETPOINT = 1_000_000, 20_000  # of controller.py


def main() -> int:
    options = stage.parser(__doc__, seconds=12).parse_args()
    stage.tell_scheduling()
    with stage.Stage(*stage.realtime_options()) as scene:
        plant = scene.completing(str(HERE / "plant.py"), realtime=True)
        words = [*plant.line().split(), str(plant.process.pid), str(scene.backend_pid)]
        controller = scene.completing(str(HERE / "controller.py"), *words, realtime=True)
        controller.line()
        low, medium = (stage.serve_bulk(scene, priority) for priority in ("low", "medium"))
        found: dict[str, list[held.Period]] = {ALONE: [], WITH: [], WITHOUT: []}
        held_up: dict[str, dict[str, list[int]]] = {name: {} for name in found}
        clocks = scene.enter_context(held.Clocks())
        missed = dict.fromkeys(found, 0)
        busy = dict.fromkeys(found, 0.0)
        rates: dict[str, list[float]] = {WITH: [], WITHOUT: []}
        level = 0

        def turn(name: str, priority: str) -> None:
            nonlocal level
            before = scene.stack_seconds()
            with clocks.run() as gaps:
                answer = controller.ask(f"{priority} {options.seconds / options.rounds}")
            busy[name] += (scene.stack_seconds() - before) / options.seconds
            periods = list(itertools.starmap(held.Period, answer["periods"]))
            found[name] += periods
            late = (period for period in periods if period.late_ns > PERIOD_NS)
            for cause, times in held.causes(late, gaps).items():
                held_up[name].setdefault(cause, []).extend(times)
            missed[name] += answer["missed"]
            if priority == "high":  # the other may be late so often that the level is not held
                level = answer["level"]

        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            turn(ALONE, "high")
            for name, port, priority, ours in (
                (WITH, low, "low", "high"),
                (WITHOUT, medium, "medium", "medium"),
            ):
                with stage.bulk(scene, port, priority) as download:
                    turn(name, ours)
                rates[name].append(download["gbit_s"])
    times = {name: [period.late_ns for period in periods] for name, periods in found.items()}
    tell(times, missed, busy, held_up)
    tell_stages(found)
    for name, causes in held_up.items():
        tell_late(name, causes)
    if not clocks.any:
        print("what the host held up is among the others: this user may not have the clocks")
    for name, gbits in rates.items():
        rate = sorted(gbits)[len(gbits) // 2]
        print(f"{name}: the download had {rate:.1f} Gbit/s (median of {len(gbits)} turns)")
    print(f"the tank's level at the end: {level}")
    path = options.out / "modbus_loop.png"
    due = (PERIOD_NS // 1000, "the next period is due")
    plots.panels(path, "Modbus/TCP control loop of 1 kHz", times, "due until answered", due)
    print(f"plot: {path}")
    return 0 if abs(level - SETPOINT) < SETPOINT / 100 else 1


def tell(
    found: dict[str, list[int]],
    missed: dict[str, int],
    busy: dict[str, float],
    held_up: dict[str, dict[str, list[int]]],
) -> None:
    """The table of what was measured; the tails, also without what the host held up."""
    print("due until answered, us         periods     p50     p99   p99.9     max  missed   stack")
    for name, times in found.items():
        ordered = sorted(times)
        figures = [quantile(ordered, share) / 1000 for share in (0.5, 0.99, 0.999, 1)]
        shown = "".join(f"{figure:8.0f}" for figure in figures)
        print(f"{name:30}{len(times):8}{shown}{missed[name]:8}{busy[name]:8.0%}")
    tails = {name: quantile(sorted(times), 0.999) for name, times in found.items()}
    ours = {
        name: quantile(
            sorted((Counter(times) - Counter(held_up[name].get(held.HOST, []))).elements()), 0.999
        )
        for name, times in found.items()
    }
    for name in (WITH, WITHOUT):
        ratios = [of[name] / of[ALONE] for of in (tails, ours)]
        print(f"p99.9, {name}: {ratios[0]:.2f} x that alone; {ratios[1]:.2f} without the host's")


def tell_stages(found: dict[str, list[held.Period]]) -> None:
    """How long the stages of a period took: what the stack has a part in, and what it has not."""
    names = (ALONE, WITH)
    print(f"{'of which, us: p50, p99 and p99.9':42}" + "".join(f"{name:>30}" for name in names))
    stages = {name: list(zip(*(p.stages for p in found[name]), strict=True)) for name in names}
    for number, label in enumerate(held.STAGES):
        shown = ""
        for name in names:
            ordered = sorted(stages[name][number])
            figures = [quantile(ordered, share) / 1000 for share in (0.5, 0.99, 0.999)]
            shown += "".join(f"{figure:10.0f}" for figure in figures)
        print(f"  {label:40}{shown}")


def tell_late(name: str, causes: dict[str, list[int]]) -> None:
    """What held up the periods that were answered after the next was due."""
    print(f"late by more than a period, {name}: {sum(map(len, causes.values()))}")
    for cause, times in sorted(causes.items(), key=lambda item: -len(item[1])):
        print(f"{len(times):8} {cause}; the longest {max(times) / 1e6:.1f} ms")


if __name__ == "__main__":
    sys.exit(main())
