"""lwIP's own netconn API, measured by the program in native/bench/netconn."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from array import array
from pathlib import Path
from types import ModuleType

from pifus.bench._stats import Samples

_ROOT = Path(__file__).resolve().parents[2]
_SOURCE = _ROOT / "native" / "bench" / "netconn"
_PROGRAM = _ROOT / "build" / "bench" / "netconn_bench"
_BUILD_SECONDS = 300
_EXTRA_SECONDS = 180


class Unavailable(Exception):  # noqa: N818 - a sentence for the notes
    """The program cannot be built here; the text says why."""


def build() -> Path:
    """Builds the program from the same lwIP source that pifus was built from, unless it is there.

    Raises:
        Unavailable: there is no source tree, or the compiler failed.
    """
    script = _SOURCE / "build.sh"
    if not script.exists():
        raise Unavailable("lwIP's netconn API is measured from the source tree only")
    native = _load(_ROOT / "native" / "build.py")
    try:
        lwip = Path(native.lwip_directory())
    except native.BuildError as error:
        raise Unavailable(f"no lwIP source for the netconn program: {error}") from None
    record = _PROGRAM.with_suffix(".source")
    newest = max(path.stat().st_mtime for path in _SOURCE.rglob("*"))
    if (
        _PROGRAM.exists()
        and record.exists()
        and record.read_text() == str(lwip)
        and _PROGRAM.stat().st_mtime > newest
    ):
        return _PROGRAM
    _PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    fresh = _PROGRAM.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        ["sh", str(script), str(lwip), str(fresh)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_SECONDS,
    )
    if done.returncode != 0:
        raise Unavailable(f"the netconn program does not build: {done.stderr.strip()[-500:]}")
    fresh.replace(_PROGRAM)
    record.write_text(str(lwip))
    return _PROGRAM


def measure(program: Path, sockets: int, seconds: float) -> tuple[Samples, int]:
    """One run: times, and how many sockets got one.

    Raises:
        OSError: the program failed.
    """
    command = [str(program), "--sockets", str(sockets), "--seconds", f"{max(seconds, 0.1):.3f}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=seconds + _EXTRA_SECONDS
    )
    if done.returncode != 0:
        raise OSError(f"netconn_bench: {done.stderr.strip() or done.returncode}")
    found = json.loads(done.stdout)
    stored = array("I", found["samples_ns"])
    total = int(found["n"])
    # The program tells an even selection and the true total: the stride is about their ratio.
    stride = 1
    while stride * 2 * len(stored) <= total:
        stride *= 2
    samples = Samples(
        stored=stored,
        stride=stride,
        total=total,
        sum_ns=round(found["mean_ns"] * total),
        min_ns=int(found["min_ns"]),
        max_ns=int(found["max_ns"]),
        squares=sum(float(time) * time for time in stored) / max(len(stored), 1) * total,
    )
    return samples, int(found["active"])


def _load(path: Path) -> ModuleType:
    name = "pifus_native_build"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their own module up there.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
