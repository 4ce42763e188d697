"""A 1 kHz control loop over Modbus/TCP beside a bulk download, with priorities and without."""

from __future__ import annotations

import sys
from pathlib import Path

from examples.ported_apps import plots, stage
from pifus.bench._stats import quantile

HERE = Path(__file__).parent
ALONE = "alone"
WITH = "bulk download LOW, loop HIGH"
WITHOUT = "bulk download, no priorities"
SETPOINT = 20_000  # of controller.py


def main() -> int:
    options = stage.parser(__doc__, seconds=12).parse_args()
    stage.tell_scheduling()
    with stage.Stage(*stage.realtime_options()) as scene:
        ports = scene.completing(str(HERE / "plant.py"), realtime=True).line().split()
        controller = scene.completing(str(HERE / "controller.py"), *ports, realtime=True)
        controller.line()
        low, medium = (stage.serve_bulk(scene, priority) for priority in ("low", "medium"))
        found: dict[str, list[int]] = {ALONE: [], WITH: [], WITHOUT: []}
        missed = dict.fromkeys(found, 0)
        busy = dict.fromkeys(found, 0.0)
        rates: list[float] = []
        level = 0

        def turn(name: str, priority: str) -> None:
            nonlocal level
            before = scene.stack_seconds()
            answer = controller.ask(f"{priority} {options.seconds / options.rounds}")
            busy[name] += (scene.stack_seconds() - before) / options.seconds
            found[name] += answer["times"]
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
                rates.append(download["gbit_s"])
    tell(found, missed, busy)
    rate = sorted(rates)[len(rates) // 2]
    print(f"the download: {rate:.1f} Gbit/s (median); the tank's level at the end: {level}")
    path = options.out / "modbus_loop.png"
    due = (1000, "the next period is due")
    plots.panels(path, "Modbus/TCP control loop of 1 kHz", found, "due until answered", due)
    print(f"plot: {path}")
    return 0 if abs(level - SETPOINT) < SETPOINT / 100 else 1


def tell(found: dict[str, list[int]], missed: dict[str, int], busy: dict[str, float]) -> None:
    """The table of what was measured."""
    print("due until answered, us         periods     p50     p99   p99.9     max  missed   stack")
    for name, times in found.items():
        ordered = sorted(times)
        figures = [quantile(ordered, share) / 1000 for share in (0.5, 0.99, 0.999, 1)]
        shown = "".join(f"{figure:8.0f}" for figure in figures)
        print(f"{name:30}{len(times):8}{shown}{missed[name]:8}{busy[name]:8.0%}")
    tails = {name: quantile(sorted(times), 0.999) for name, times in found.items()}
    for name in (WITH, WITHOUT):
        print(f"p99.9, {name}: {tails[name] / tails[ALONE]:.2f} x that alone")


if __name__ == "__main__":
    sys.exit(main())
