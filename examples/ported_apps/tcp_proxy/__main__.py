"""The same TCP proxy by readiness, by completions and with trio, compared over the stack."""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from pathlib import Path
from typing import Any

from examples.ported_apps import stage

HERE = Path(__file__).parent
ENDS = HERE.parent / "echo_1000"
# Name: connections, bytes of a message, share of --messages.
LOADS = {"1 connection, 64 B": (1, 64, 4), "50 connections, 64 B": (50, 64, 0.2)}
BULK = "4 connections, 256 KiB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=500, help="about: of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each proxy")
    options = parser.parse_args()
    with stage.Stage() as scene:
        target = scene.completing(str(ENDS / "server.py")).line()
        proxies = {
            "none (direct)": target,
            "readiness (selectors)": scene.unmodified(str(HERE / "readiness.py"), target).line(),
            "completions": scene.completing(str(HERE / "completions.py"), target).line(),
            "trio": scene.unmodified(str(HERE / "trio_streams.py"), target).line(),
        }
        if importlib.util.find_spec("pifus.trio"):
            native = scene.completing(str(HERE / "trio_streams.py"), target, "--native")
            proxies["trio (pifus.trio)"] = native.line()
        loads = {
            name: scene.completing(str(ENDS / "load.py"), port) for name, port in proxies.items()
        }
        for load in loads.values():
            load.line()
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for _ in range(options.rounds):
            for what, (count, size, share) in kinds().items():
                for name, load in loads.items():
                    messages = max(round(options.messages * share), 1)
                    told = load.ask(f"{count} {messages} {size}")
                    if told["messages"] != count * messages:
                        return 1
                    found.setdefault((what, name), []).append(told)
    for what, (_, size, _) in kinds().items():
        print(f"\n{what:28}  p50, us   p99, us  messages/s   Gbit/s")
        for name in proxies:
            print(f"  {name:26}" + figures(found[what, name], size))
    return 0


def kinds() -> dict[str, tuple[int, int, float]]:
    return {**LOADS, BULK: (4, 1 << 18, 0.1)}


def figures(rounds: list[dict[str, Any]], size: int) -> str:
    """Medians over the rounds."""
    p50, p99 = (statistics.median(each[key] for each in rounds) for key in ("p50_us", "p99_us"))
    rate = statistics.median(each["messages"] / each["seconds"] for each in rounds)
    return f"{p50:10,.0f}{p99:10,.0f}{rate:12,.0f}{rate * size * 8 / 1e9:9.2f}"


if __name__ == "__main__":
    sys.exit(main())
