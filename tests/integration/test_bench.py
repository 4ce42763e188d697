"""`pifus bench`: each benchmark runs, tells its rows, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pifus import bench
from pifus.bench import (
    _netconn,
    _run,
    batch,
    churn,
    compat,
    nop,
    periodic,
    priority,
    sockets,
    tasks,
    tcp,
    wire,
)
from pifus.bench._stats import STATISTICS

NO_TAP = _run.privilege_missing()
needs_tap = pytest.mark.skipif(bool(NO_TAP), reason=f"a TAP device cannot be made: {NO_TAP}")
MISSING = "CAP_NET_ADMIN is missing: run it as root"

Bench = Callable[..., dict[str, Any]]


@pytest.fixture
def run_bench(capsys: pytest.CaptureFixture[str]) -> Bench:
    """Runs one benchmark and checks what holds for all."""

    def run(name: str, *options: str) -> dict[str, Any]:
        assert bench.main([name, "--json", "--seconds", "0.15", *options]) == 0
        captured = capsys.readouterr()
        found: dict[str, Any] = json.loads(captured.out)
        assert set(found) == {"bench", "machine", "rows"}
        assert found["bench"] == name
        for row in found["rows"]:
            assert list(row) == ["name", "unit", *STATISTICS]
            assert row["n"] > 0
            assert row["min"] <= row["p50"] <= row["p999"] <= row["max"]
        found["notes"] = captured.err
        return found

    return run


def names(found: dict[str, Any]) -> list[str]:
    return [row["name"] for row in found["rows"]]


def left_behind(pid: int) -> list[str]:
    """Measuring processes that `pid` started, and its devices."""
    devices = [name for _, name in socket.if_nameindex()]
    found = [name for name in devices if re.fullmatch(f"pf[tvw]{pid:06x}....", name)]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"pifus.bench._worker" in words and str(pid).encode() in words:
            found.append(path.parent.name)
    return found


def test_nop(run_bench: Bench) -> None:
    found = run_bench("nop")
    assert names(found) == list(nop.ROWS)
    assert {row["unit"] for row in found["rows"]} == {"us"}
    assert left_behind(os.getpid()) == []


def test_batch(run_bench: Bench) -> None:
    found = run_bench("batch")
    assert names(found) == list(batch.ROWS)
    assert left_behind(os.getpid()) == []


def test_priority(run_bench: Bench) -> None:
    found = run_bench("priority")
    assert names(found) == list(priority.ROWS)


def test_periodic(run_bench: Bench) -> None:
    found = run_bench("periodic")
    assert names(found) == list(periodic.ROWS)
    grown = {row["name"]: row["max"] for row in found["rows"] if row["unit"] == "bytes"}
    assert max(grown.values()) < 4096
    assert grown["arena.pifus"] == 0
    assert left_behind(os.getpid()) == []


@needs_tap
def test_wire(run_bench: Bench) -> None:
    assert names(run_bench("wire")) == list(wire.ROWS)
    assert left_behind(os.getpid()) == []


def test_wire_without_privilege_says_what_is_missing(
    run_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "privilege_missing", lambda: MISSING)
    found = run_bench("wire")
    assert found["rows"] == []
    assert MISSING in " ".join(found["notes"].split())


def test_sockets(run_bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sockets, "COUNTS", (1, 2, 20))
    picture = tmp_path / "sockets.png"
    found = run_bench("sockets", "--plot", str(picture))
    wanted = [f"{kind}.{count}" for count in (1, 2, 20) for kind in sockets.SERIES]
    assert names(found) == wanted
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_sockets_without_a_compiler(run_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise _netconn.Unavailable("no source here")

    monkeypatch.setattr(_netconn, "build", refuse)
    monkeypatch.setattr(sockets, "COUNTS", (1,))
    found = run_bench("sockets")
    assert names(found) == ["pifus.threads.1", "pifus.completion.1"]
    assert "no source here" in found["notes"]


def test_tasks(run_bench: Bench) -> None:
    found = run_bench("tasks")
    assert names(found) == list(tasks.ROWS)
    assert all(row["n"] > 0 and row["min"] > 0 for row in found["rows"])


def test_compat(run_bench: Bench) -> None:
    found = run_bench("compat")
    assert names(found) == list(compat.ROWS)
    for text in (
        "round trip",
        "asyncio server",
        "connect, accept and close",
        "ForkingTCPServer",
        "bulk",
    ):
        assert text in found["notes"]
    assert left_behind(os.getpid()) == []


def test_churn(run_bench: Bench) -> None:
    found = run_bench("churn")
    assert names(found) == list(churn.ROWS)
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["sockets"]["min"] == rows["pcbs"]["max"] == 1  # the listener
    # The close of an ended connection rings once in sixteen times: the others wait to be seen.
    assert rows["sockets"]["max"] <= 1 + 16
    assert rows["late"]["n"] == round(rows["offered"]["mean"] * rows["offered"]["n"]) > 0
    assert "largest of the last fifth" in found["notes"]
    assert f"offered {churn.OFFERED_RATE:,} a second" in found["notes"]
    assert left_behind(os.getpid()) == []


@needs_tap
def test_tcp(run_bench: Bench) -> None:
    found = run_bench("tcp")
    rows = {row["name"]: row for row in found["rows"]}
    for mode in ("spin", "block"):
        for client in ("c", "python", "completion"):
            assert rows[f"rtt.pifus.{client}.{mode}"]["unit"] == "us"
    for name in ("loopback", "veth"):
        assert f"rtt.kernel.python.{name}" in rows
    for name in ("loopback", "veth", "veth-no-offload"):
        for direction in tcp.DIRECTIONS:
            assert rows[f"bulk.kernel.python.{name}.{direction}"]["unit"] == "Gbit/s"
    assert left_behind(os.getpid()) == []


def test_tcp_without_privilege_measures_what_it_can(
    run_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "privilege_missing", lambda: MISSING)
    found = run_bench("tcp")
    assert names(found) == [
        "rtt.pifus.c.stack-loopback.spin",
        "rtt.kernel.python.loopback",
        "rtt.kernel.c.loopback",
        "bulk.kernel.python.loopback.send",
        "bulk.kernel.python.loopback.receive",
    ]
    assert MISSING in " ".join(found["notes"].split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_benchmark_leaves_nothing(number: signal.Signals) -> None:
    name = "priority" if NO_TAP else "wire"
    command = [sys.executable, "-m", "pifus.cli", "bench", name, "--seconds", "60"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 20
    while len(left_behind(process.pid)) < 3 and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in error
    # The kernel takes a device away only after its holder is gone.
    end = time.monotonic() + 5
    while left_behind(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert left_behind(process.pid) == []


def test_a_killed_benchmark_takes_all_with_it() -> None:
    command = [sys.executable, "-m", "pifus.cli", "bench", "nop", "--seconds", "60"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 20
    while len(left_behind(process.pid)) < 4 and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.wait()
    end = time.monotonic() + 5
    while left_behind(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert left_behind(process.pid) == []


def test_without_a_name_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in bench.BENCHES)


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["nop", "--seconds", "0"], ["nop", "--plot", "x.pdf"]]
)
def test_wrong_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        bench.main(arguments)
    assert error.value.code == 2
    assert "pifus bench" in capsys.readouterr().err
