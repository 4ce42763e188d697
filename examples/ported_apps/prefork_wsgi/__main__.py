"""gunicorn, unmodified: its workers inherit the listener, one dies, and nobody else notices."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from examples.ported_apps import stage

HERE = Path(__file__).parent
WORKERS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=300)
    options = parser.parse_args()
    with stage.Stage() as scene:
        words = ["-m", "gunicorn", "--chdir", str(HERE), "--workers", str(WORKERS)]
        words += ["--bind", "127.0.0.1:0", "--error-logfile", "-", "app:application"]
        print("pifus run -- gunicorn --workers", WORKERS, "app:application")
        server = scene.unmodified(*words, stderr=subprocess.STDOUT)
        while not (found := re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", server.line())):
            pass
        server.drop_output()
        visitors = scene.unmodified(str(HERE / "visitors.py"), found[1], str(options.visits))
        told = json.loads(visitors.finish())
        frames = scene.frames()
    print(f"{told['workers']} workers answered {told['rate']:.0f} requests a second")
    print(f"{told['died']} died in a request; {told['new']} took its place; all sums were right")
    print(f"{frames} frames through the stack")
    well = told["workers"] == WORKERS and told["died"] == told["new"] == 1 and frames
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
