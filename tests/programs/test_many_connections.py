"""500 connections of asyncio, and 200 threads with one each, at once: unmodified, over the loopback
and over TAP with the kernel's sockets at the other end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pifus.bench._net import Tap
from pifus.bench._run import privilege_missing
from tests.conftest import BackendProcess
from tests.contract.conftest import launcher, python_environment

SCRIPTS = Path(__file__).parent / "scripts"
SECONDS = 100
COUNTS = {"asyncio": 500, "threads": 200}
needs_tap = pytest.mark.skipif(bool(privilege_missing()), reason=privilege_missing())


def command(backend: str, kind: str, *arguments: object) -> tuple[list[str], dict[str, str]]:
    """The script's command line, over the stack if there is a backend; and its environment."""
    words = [sys.executable, str(SCRIPTS / "many.py"), kind, *map(str, arguments)]
    environment = {**python_environment(), "PIFUS_BACKEND": backend}
    return (launcher(*words) if backend else words), environment


@contextlib.contextmanager
def serving(backend: str, kind: str, host: str) -> Iterator[int]:
    """The server, and its port; its end has to be a good one."""
    words, environment = command(backend, kind, "serve", host)
    with subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
            _, errors = process.communicate("", SECONDS)
            assert (process.returncode, errors) == (0, "")
        finally:
            process.kill()


def connect(backend: str, kind: str, host: str, port: int) -> None:
    words, environment = command(backend, kind, "connect", host, port, COUNTS[kind])
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.stdout, done.stderr) == ("all well\n", "")
    assert done.returncode == 0


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("stack", ["kernel", "pifus"])
def test_at_once_over_the_loopback(backend: BackendProcess, kind: str, stack: str) -> None:
    path = backend.path if stack == "pifus" else ""
    with serving(path, kind, "127.0.0.1") as port:
        connect(path, kind, "127.0.0.1", port)


@needs_tap
@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("server", ["kernel", "pifus"])
def test_at_once_over_tap(kind: str, server: str) -> None:
    with Tap() as tap:
        paths = {"kernel": "", "pifus": tap.backend.path}
        hosts = {"kernel": tap.host, "pifus": tap.stack}
        client = "kernel" if server == "pifus" else "pifus"
        with serving(paths[server], kind, hosts[server]) as port:
            connect(paths[client], kind, hosts[server], port)
