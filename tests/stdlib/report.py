"""What came out: kept in build/, compared, printed, and written as a page of the documentation."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.stdlib.modules import JOBS
from tests.stdlib.runner import ModuleRun

INTRODUCTION = """\
# CPython's own tests over the stack

Written by `./dev stdlib-tests --write-docs`. Each module of the interpreter's test suite runs twice
on one machine: over the kernel's sockets, and over a loopback backend, patched before the module is
imported. A cell says how many of the tests that pass over the kernel pass over the stack; in
brackets, how many of them made sockets of the stack. A test that takes more than 30 s is ended and
counts as a failure. Tests of VSOCK are left out."""
EXPECTATIONS = Path(__file__).with_name("expectations.toml")


class Store:
    """Results of one version of Python, by module and kind ("kernel" or "pifus")."""

    def __init__(self, directory: Path, version: str) -> None:
        self.version = version
        self._path = directory / f"results-{version}.json"
        self._all: dict[str, dict[str, object]] = {}
        if self._path.exists():
            self._all = json.loads(self._path.read_text(encoding="utf-8"))

    def load(self, module: str, kind: str) -> ModuleRun | None:
        stored = self._all.get(module, {}).get(kind)
        return ModuleRun.restored(stored) if stored else None  # type: ignore[arg-type]

    def save(self, module: str, kind: str, run: ModuleRun) -> None:
        self._all.setdefault(module, {})[kind] = run.stored()
        self._path.write_text(json.dumps(self._all, indent=0), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Score:
    """Of the tests that pass over the kernel: how many pass over the stack, and which do not."""

    kernel: int
    pifus: int
    with_sockets: int
    failed: dict[str, str]

    @property
    def percent(self) -> float:
        return 100.0 * self.pifus / self.kernel if self.kernel else 100.0


def expectations(version: str) -> dict[str, str]:
    """Tests that are known to fail over the stack, with the reasons."""
    with EXPECTATIONS.open("rb") as file:
        rows = tomllib.load(file).get("failure", [])
    return {
        test: row["reason"]
        for row in rows
        if version in row.get("versions", [version])
        for test in row["tests"]
    }


def compare(kernel: ModuleRun, pifus: ModuleRun) -> Score:
    """The score of one module."""
    wanted, got = kernel.passed(), pifus.passed()
    failed = {}
    for name in sorted(wanted - got):
        test = pifus.tests.get(name)
        failed[name] = f"{test.outcome}: {test.words}" if test else "missing: it did not run"
    sockets = sum(1 for name in wanted if (test := pifus.tests.get(name)) and test.sockets)
    return Score(len(wanted), len(wanted & got), sockets, failed)


def print_comparison(module: str, version: str, kernel: ModuleRun, pifus: ModuleRun) -> None:
    """Says what failed, and how."""
    score = compare(kernel, pifus)
    known = expectations(version)
    for name, words in score.failed.items():
        mark = "known" if name in known else "FAILED"
        last = words.strip().splitlines()
        print(f"  {mark} {name.removeprefix('test.')}: {last[0][:40]} {last[-1][:160]}")
    for name in sorted(set(known) & (pifus.passed() & kernel.passed())):
        print(f"  passes, though expected to fail: {name}")
    for run, kind in ((kernel, "kernel"), (pifus, "pifus")):
        for name, words in run.fixtures.items():
            if not words.startswith("skip"):
                print(f"  {kind}: {name}: {words.strip().splitlines()[-1][:160]}")
        if run.problem:
            print(f"  {kind}: {run.problem}")
    print(f"{module}: {score.pifus} of {score.kernel} ({score.percent:.1f} %)", flush=True)


def print_summary(store: Store, modules: list[str]) -> bool:
    """The score over all of them; True: something failed that was not expected to."""
    unexpected = False
    total = passed = 0
    known = expectations(store.version)
    for module in modules:
        kernel, pifus = store.load(module, "kernel"), store.load(module, "pifus")
        if kernel and pifus:
            score = compare(kernel, pifus)
            total += score.kernel
            passed += score.pifus
            unexpected |= bool(set(score.failed) - set(known)) or bool(pifus.problem)
    if total:
        print(f"Python {store.version}: {passed} of {total} ({100 * passed / total:.2f} %)")
    return unexpected


def write_docs(directory: Path, page: Path) -> None:
    """Writes the table of all versions whose results are there."""
    versions = sorted(
        (path.stem.removeprefix("results-") for path in directory.glob("results-*.json")),
        key=lambda version: [int(part) for part in version.split(".")],
    )
    stores = [Store(directory, version) for version in versions]
    lines = [*INTRODUCTION.splitlines(), ""]
    lines += ["| module | " + " | ".join(versions) + " |", "|---|" + "---:|" * len(versions)]
    totals = [[0, 0] for _ in stores]
    failures: dict[str, list[str]] = {}
    for job in JOBS:
        cells = []
        for store, sums in zip(stores, totals, strict=True):
            kernel, pifus = store.load(job.module, "kernel"), store.load(job.module, "pifus")
            if not kernel or not pifus:
                cells.append("")
                continue
            score = compare(kernel, pifus)
            sums[0] += score.pifus
            sums[1] += score.kernel
            cells.append(f"{score.pifus} of {score.kernel} ({score.with_sockets})")
            for name in score.failed:
                failures.setdefault(name, []).append(store.version)
        if any(cells):
            lines.append(f"| {job.module} | " + " | ".join(cells) + " |")
    sums_row = [f"{good} of {all_} = {100 * good / max(all_, 1):.2f} %" for good, all_ in totals]
    lines += ["| **all** | " + " | ".join(sums_row) + " |", ""]
    lines += _failures(failures)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _failures(failures: dict[str, list[str]]) -> list[str]:
    if not failures:
        return ["Nothing fails."]
    lines = ["## What fails, and why", "", "| test | versions | reason |", "|---|---|---|"]
    for name, versions in sorted(failures.items()):
        reasons = {expectations(version).get(name, "not looked into") for version in versions}
        short = name.removeprefix("test.")
        lines.append(f"| {short} | {', '.join(versions)} | {'; '.join(sorted(reasons))} |")
    return lines
