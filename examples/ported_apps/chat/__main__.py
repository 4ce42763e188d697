"""An asyncio chat server and its guests, unmodified, over the kernel and over the stack."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from examples.ported_apps import stage

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guests", type=int, default=60)
    options = parser.parse_args()
    expected = options.guests * (options.guests - 1) * 10
    with stage.Stage() as scene:
        for over, start in (("kernel", scene.kernel), ("pifus", scene.unmodified)):
            port = start(str(HERE / "server.py")).line()
            guests = start(str(HERE / "guests.py"), port, str(options.guests))
            found = json.loads(guests.finish())
            print(
                f"{over:7} {options.guests} guests, {found['lines']} lines heard in "
                f"{found['seconds']:.2f} s, under way {found['p50_ms']:.1f} ms (p50)"
            )
            if found["lines"] != expected:
                print(f"{expected} lines were to be heard")
                return 1
        print(f"{scene.frames()} frames through the stack")
        return 0 if scene.frames() else 1


if __name__ == "__main__":
    sys.exit(main())
