"""A completion-mode echo server that holds 1,000 connections in one thread."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from examples.ported_apps import stage

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=20, help="of each connection")
    parser.add_argument("--bytes", type=int, default=256, help="of each message")
    options = parser.parse_args()
    with stage.Stage() as scene:
        server = scene.completing(str(HERE / "server.py"))
        load = scene.completing(str(HERE / "load.py"), server.line())
        load.line()
        found = load.ask(f"{options.connections} {options.messages} {options.bytes}")
        status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    facts = dict(line.split(":", 1) for line in status.splitlines())
    threads, memory = int(facts["Threads"]), int(facts["VmHWM"].split()[0]) / 1024
    print(
        f"{found['connections']} connections at once, {found['messages']} messages of "
        f"{options.bytes} bytes, each back as it was sent: "
        f"{found['messages'] / found['seconds']:,.0f} a second, "
        f"p50 {found['p50_us'] / 1000:.1f} ms, p99 {found['p99_us'] / 1000:.1f} ms"
    )
    print(f"the server has {threads} thread and used {memory:.0f} MB")
    whole = found["messages"] == options.connections * options.messages
    return 0 if whole and threads == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
