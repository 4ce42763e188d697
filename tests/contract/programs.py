"""Whole programs of several processes, over the kernel's sockets and over pifus."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pifus._core import _protocol
from pifus._core._channel import Channel
from tests.conftest import BackendProcess
from tests.contract.conftest import PATIENCE_SECONDS, launcher, python_environment
from tests.contract.legs import Leg

Run = Callable[..., str]

# From 3.12 on every fork of a program with threads is warned of, over the kernel as over pifus.
_QUIET = "ignore::ResourceWarning,ignore:This process:DeprecationWarning"
COUNTED = ("sockets", "mirrors", "sessions", "orphans", "pbufs", "segments")


@pytest.fixture
def run(leg: Leg, leg_backend: BackendProcess) -> Iterator[Run]:
    """Runs a program and returns its output; nothing of it may be left in the backend.

    What it binds to HOST, and what it connects to an address that it gave to `towards`, is of the
    sides of the leg.
    """
    over_pifus = leg.name != "kernel"
    sides = {"HOST": leg.server.host, "CLIENT": "kernel" if leg.name == "accepts" else ""}

    def program(code: str, *arguments: str) -> str:
        command = [sys.executable, "-X", "dev", "-c", code, *arguments]
        done = subprocess.run(
            launcher(*command) if over_pifus else command,
            env={**python_environment(), **sides, "PYTHONWARNINGS": _QUIET},
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr
        return done.stdout

    with counting(leg_backend):
        yield program


class counting:  # noqa: N801 - reads as what it does
    """At the end everything that the backend counts is again as it was."""

    def __init__(self, backend: BackendProcess) -> None:
        self._channel = Channel.connect(backend.path)
        self._before = self._counts()

    def _counts(self) -> dict[str, Any]:
        reply, _ = self._channel.request(_protocol.Status(2**63 - 1), "status")
        return {name: reply["statistics"][name] for name in COUNTED}

    def _more(self) -> dict[str, Any]:
        now = self._counts()
        return {name: now[name] for name in COUNTED if now[name] > self._before[name]}

    def __enter__(self) -> counting:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        try:
            # What earlier tests left may go meanwhile: only more is too much.
            while (more := self._more()) and time.monotonic() < end:
                time.sleep(0.05)  # nobody tells when the counters change
            assert kind is not None or not more
        finally:
            self._channel.close()


# Of every program: a child that fails must not look like one that did not.
HEAD = """
import os, sys, select, signal, socket, threading, traceback
HOST = os.environ.get("HOST", "127.0.0.1")
def fork(function, *arguments):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        function(*arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)
def ended(*pids):
    for pid in pids:
        status = os.waitpid(pid, 0)[1]
        assert status == 0, status
def exactly(sock, count):
    parts = []
    while count and (part := sock.recv(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
def towards(address):
    if os.environ.get("CLIENT") == "kernel":  # without a rule such an address is the stack's
        from pifus import _policy
        _policy.set_current(_policy.parse(["kernel %s:%d" % address]))
    return address
def connect(address):
    return socket.create_connection(towards(address), 20)
def pair():
    with socket.create_server((HOST, 0)) as listener:
        near = connect(listener.getsockname())
        far, _ = listener.accept()
        if os.environ.get("CLIENT") == "kernel":
            near, far = far, near  # the near one is the stack's, if one is
        near.settimeout(None)
        far.settimeout(None)
        return near, far
"""
