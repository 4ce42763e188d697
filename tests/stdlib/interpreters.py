"""Finds the interpreter whose tests are to run, and gives it what it needs to use pifus."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def find(wanted: str | None) -> tuple[str, str]:
    """An interpreter that can import its own tests, and cffi; and its version as "3.12".

    Args:
        wanted: a version, a path, or None: the running one. Of a version, $PIFUS_PYTHON, names on
            the PATH, and pyenv's versions are tried.
    """
    if wanted is None:
        version = _version(sys.executable)
        if version is None:
            sys.exit("this interpreter has no `test` package: give --python, or set PIFUS_PYTHON")
        return sys.executable, version
    if os.sep in wanted:
        places = [wanted]
    else:
        places = [os.environ.get("PIFUS_PYTHON", ""), f"python{wanted}", *_pyenv(wanted)]
    for place in places:
        path = shutil.which(place) if place else None
        version = _version(path) if path else None
        if path and version and (os.sep in wanted or version == wanted):
            return _with_cffi(path, version), version
    sys.exit(f"no Python {wanted} with the `test` package: set PIFUS_PYTHON to one")


def has_module(python: str, name: str) -> bool:
    """Whether this version has the test module."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('test.{name}') is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def _pyenv(version: str) -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted((root / "versions").glob(f"{version}.*/bin/python"))
    return [str(path) for path in reversed(found)]


def _version(path: str) -> str | None:
    code = "import sys, test.test_socket; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _with_cffi(path: str, version: str) -> str:
    """A virtual environment of the interpreter with cffi; our own modules are of the stable ABI."""
    place = ROOT / "build" / "stdlib" / f"venv-{version}"
    python = place / "bin" / "python"
    works = [str(python), "-c", "import _cffi_backend"]
    if python.exists() and subprocess.run(works, capture_output=True, check=False).returncode == 0:
        return str(python)
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([path, "-m", "venv", str(place)], check=True)
    install = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "cffi>=1.17"]
    subprocess.run([str(python), *install], check=True, stdin=subprocess.DEVNULL)
    return str(python)
