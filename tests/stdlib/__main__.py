"""CPython's own network tests over the kernel and over the stack, test by test."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.guard import Guard
from tests.stdlib import interpreters, report
from tests.stdlib.modules import JOBS
from tests.stdlib.runner import ROOT, Job, ModuleRun, run

OUT = ROOT / "build" / "stdlib"


def main() -> int:
    arguments = parse()
    python, version = interpreters.find(arguments.python)
    store = report.Store(OUT, version)
    for job in chosen(arguments.modules, arguments.select, arguments.skip):
        if not interpreters.has_module(python, job.module):
            continue
        with tempfile.TemporaryDirectory(prefix="pifus-", dir="/tmp") as place, Guard(Path(place)):
            run_both(python, job, store, arguments)
    failed = report.print_summary(store, [job.module for job in chosen(arguments.modules)])
    if arguments.write_docs:
        report.write_docs(OUT, ROOT / "docs" / "STDLIB_TESTS.md")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev stdlib-tests", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="as test_socket; default: all")
    parser.add_argument("--python", metavar="VERSION", help="3.11, 3.12, 3.13, or a path")
    parser.add_argument("--select", help="a pattern: only these tests; results are not kept")
    parser.add_argument("--skip", help="a pattern: leaves these tests out; results are not kept")
    parser.add_argument(
        "--reuse-kernel", action="store_true", help="compare with the last run over the kernel"
    )
    parser.add_argument("--write-docs", action="store_true", help="write docs/STDLIB_TESTS.md")
    return parser.parse_args()


def chosen(names: list[str], select: str | None = None, skip: str | None = None) -> list[Job]:
    """The jobs for these names; a package's name stands for all of it."""
    jobs = [
        replace(job, select=select or job.select, skip=skip)
        for job in JOBS
        if not names or any(job.module == n or job.module.startswith(n + ".") for n in names)
    ]
    if not jobs:
        there = ", ".join(job.module for job in JOBS)
        sys.exit(f"no such module: {', '.join(names)}; there are {there}")
    return jobs


def run_both(python: str, job: Job, store: report.Store, arguments: argparse.Namespace) -> None:
    """One module over the kernel, then over the stack."""
    OUT.mkdir(parents=True, exist_ok=True)
    runs: dict[str, ModuleRun] = {}
    partial = arguments.select is not None or arguments.skip is not None
    for kind in ("kernel", "pifus"):
        old = store.load(job.module, kind)
        if kind == "kernel" and arguments.reuse_kernel and old:
            runs[kind] = old.only(job)
            continue
        print(f"{job.module} over {kind} ...", flush=True)
        runs[kind] = run(python, job, kind, OUT / f"{store.version}-{job.module}-{kind}.log")
        if not partial:
            store.save(job.module, kind, runs[kind])
    report.print_comparison(job.module, store.version, runs["kernel"], runs["pifus"])


if __name__ == "__main__":
    sys.exit(main())
