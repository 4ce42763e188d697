"""Real programs over the kernel and over the stack; `./dev programs` runs all of the table."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
from pathlib import Path

from tests.programs.table import PROGRAMS, Program
from tests.programs.worlds import Worlds, worlds

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "PROGRAMS.md"
# The last rows of each program, by the interpreter: the page can be written after several runs.
ROWS = ROOT / "build" / "programs.json"
Rows = dict[str, dict[str, dict[str, str]]]
INTRODUCTION = """\
# Programs over the stack

Written by `./dev programs --write-docs`. Each is a script of `tests/programs/scripts` that runs
packages as they are on PyPI, and checks what they did. It runs twice: over the kernel's sockets,
and under `pifus run --strict`, which refuses whatever would go past the stack; besides, the frames
of the stack are counted.

Ends: *loopback* is both ends over the stack, in processes of their own where the program has a
command of its own. A server's name is that server in the kernel, over a TAP device; it tells that
its clients have the stack's address. Chromium is a client in the kernel.

{runs}

| packages | what is done | ends | result |
|---|---|---|---|
"""


def main() -> int:
    arguments = parse()
    rows: Rows = {}
    if arguments.rows.exists():
        rows = json.loads(arguments.rows.read_text(encoding="utf-8"))
    ours = rows.setdefault(platform.python_version(), {})
    failed = []
    with worlds() as places:
        for number, program in enumerate(chosen(arguments.programs), 1):
            print(f"[{number}] {program.script} ...", flush=True)
            result = attempt(places, program, arguments.repeat, arguments.verbose)
            print(f"    {result}", flush=True)
            if result != "all well":
                failed.append(program.script)
            ours[program.script] = {"packages": packages(program), "result": result}
            arguments.rows.write_text(json.dumps(rows), encoding="utf-8")
    print(f"failed or not run: {', '.join(failed)}" if failed else "all well")
    if arguments.write_docs:
        PAGE.write_text(page(rows), encoding="utf-8")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev programs", description=__doc__)
    parser.add_argument("programs", nargs="*", metavar="SCRIPT", help="default: all")
    parser.add_argument("--repeat", type=int, default=1, metavar="TIMES", help="over the stack")
    parser.add_argument("--verbose", action="store_true", help="show what the programs write")
    parser.add_argument(
        "--rows", type=Path, default=ROWS, metavar="FILE", help="where runs are noted"
    )
    parser.add_argument("--write-docs", action="store_true", help="write docs/PROGRAMS.md")
    return parser.parse_args()


def chosen(names: list[str]) -> list[Program]:
    """The programs of these names; without one, all."""
    known = {program.script: program for program in PROGRAMS}
    if unknown := set(names) - set(known):
        sys.exit(f"no such program: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] or list(PROGRAMS)


def attempt(places: Worlds, program: Program, times: int, verbose: bool) -> str:
    """Runs one over both; says how that went."""
    if obstacle := places.obstacle(program):
        return f"not run: {obstacle}"
    for over in ["kernel", *["pifus"] * times]:
        run = places.run(program, over)
        told = f", {run.frames} frames" if over == "pifus" else ""
        print(f"    {over}: {run.seconds:.1f} s{told}", flush=True)
        if run.problem or verbose:
            print(run.output)
        if run.problem:
            return f"{over}: {run.problem}"
    return "all well"


def packages(program: Program) -> str:
    """The program's packages, as they are installed here."""
    named = (f"{name} {importlib.metadata.version(name)}" for name in program.packages)
    return ", ".join(named) or "the standard library"


def page(rows: Rows) -> str:
    """The page: the packages of the oldest interpreter, the results of all."""
    versions = sorted(rows, key=lambda version: [int(part) for part in version.split(".")])
    told = (f"{len(rows[version])} with CPython {version}" for version in versions)
    lines = [INTRODUCTION.format(runs=f"Programs run: {', '.join(told)}.")]
    for program in PROGRAMS:
        ran = {
            version: rows[version][program.script]
            for version in versions
            if program.script in rows[version]
        }
        if ran:
            first = next(iter(ran.values()))["packages"]
            ends = program.server or "loopback"
            lines.append(f"| {first} | {program.does} | {ends} | {outcome(ran)} |\n")
    return "".join(lines)


def outcome(ran: dict[str, dict[str, str]]) -> str:
    """What all interpreters have in common, or each result."""
    results = {version: row["result"] for version, row in ran.items()}
    if len(set(results.values())) == 1:
        return next(iter(results.values()))
    return "; ".join(f"{version}: {result}" for version, result in results.items())


if __name__ == "__main__":
    sys.exit(main())
