"""Audio as RTP over UDP, its gain set by OSC, beside a bulk download: how the packets come."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import pifus
from examples.ported_apps import plots, stage
from examples.ported_apps.audio_udp import wire
from pifus.bench._stats import quantile

HERE = Path(__file__).parent
ALONE = "alone"
WITH = "bulk download LOW, audio HIGH"
WITHOUT = "bulk download, no priorities"


def main() -> int:
    options = stage.parser(__doc__, seconds=12).parse_args()
    found: dict[str, list[int]] = {ALONE: [], WITH: [], WITHOUT: []}
    missing = dict.fromkeys(found, 0)
    well = True
    stage.tell_scheduling()
    with stage.Stage(*stage.realtime_options()) as scene:
        receiver = scene.completing(str(HERE / "receiver.py"), realtime=True)
        ports = receiver.line().split()
        sender = scene.completing(str(HERE / "sender.py"), *ports, realtime=True)
        console = scene.client.socket(pifus.UDP)
        control = ("127.0.0.1", int(sender.line()))
        low, medium = (stage.serve_bulk(scene, priority) for priority in ("low", "medium"))

        def turn(name: str, priority: str, gain: float) -> bool:
            """A stream, whose gain was set by OSC before; whether it was as loud as that."""
            console.sendto(wire.osc("/gain", gain), control)
            console.wait(10).check()
            sender.ask(f"{priority} {options.seconds / options.rounds}")
            heard = json.loads(receiver.line())
            times = heard["times"]
            found[name] += [after - before for before, after in pairwise(times)]
            missing[name] += heard["missing"]
            return bool(abs(heard["peaks"][1] - 32767 * gain) < 2)

        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            gain = 0.2 + 0.7 * number / options.rounds
            well &= turn(ALONE, "high", gain)
            with stage.bulk(scene, low, "low"):
                well &= turn(WITH, "high", gain + 0.02)
            with stage.bulk(scene, medium, "medium"):
                well &= turn(WITHOUT, "medium", gain + 0.04)
    tell(found, missing)
    print(
        "every stream was as loud as OSC had set it" if well else "the gain was not as set by OSC"
    )
    path = options.out / "audio_udp.png"
    plots.panels(
        path,
        "RTP packets, one each millisecond, at the receiver",
        {name: deviations(times) for name, times in found.items()},
        "deviation of their spacing from 1000 us",
    )
    print(f"plot: {path}")
    return 0 if well and not any(missing.values()) else 1


def deviations(spacing: list[int]) -> list[int]:
    """How far each is from a millisecond."""
    return [abs(each - 1_000_000) for each in spacing]


def tell(found: dict[str, list[int]], missing: dict[str, int]) -> None:
    """The table of what was measured."""
    print("deviation from 1000 us         packets     p50     p99   p99.9     max  missing")
    for name, spacing in found.items():
        ordered = sorted(deviations(spacing))
        figures = [quantile(ordered, share) / 1000 for share in (0.5, 0.99, 0.999, 1)]
        shown = "".join(f"{figure:8.0f}" for figure in figures)
        print(f"{name:30}{len(spacing):8}{shown}{missing[name]:9}")


if __name__ == "__main__":
    sys.exit(main())
