"""Users of one backend: what many applications of one take, those of another still find."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pifus
from pifus.cli import read_status
from tests.conftest import BackendProcess

StartBackend = Callable[..., BackendProcess]

NOBODY = 65534
SOCKETS = 200
SECONDS = 60.0
# Attaches many times, makes sockets each time until it gets no more, says how many, and keeps them.
GREEDY = f"""
import errno, os, sys
import pifus

def open_one(client):
    sock = client.socket(pifus.UDP)
    sock.bind(("127.0.0.1", 0))
    sock.wait({SECONDS}).check()

with pifus.Client(sys.argv[1]) as client:
    open_one(client)  # everything is loaded: other users may not be able to read it
os.setgid({NOBODY})
os.setuid({NOBODY})
clients = []
had = 0
while len(clients) < 12:
    clients.append(pifus.Client(sys.argv[1], max_sockets={SOCKETS}, arena_bytes=1 << 20))
    try:
        while True:
            open_one(clients[-1])
            had += 1
    except OSError as error:
        assert error.errno == errno.ENOBUFS, error
print(had, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Where other users come to, too."""
    with tempfile.TemporaryDirectory(prefix="pifus-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_many_applications_of_one_user_leave_room_for_another(
    open_directory: Path, start_backend: StartBackend
) -> None:
    path = str(open_directory / "socket")
    options = ("--max-pcbs", str(SOCKETS), "--socket", path, "--mode", "0666")
    start_backend("users", *options)
    with subprocess.Popen(
        [sys.executable, "-c", GREEDY, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as greedy:
        assert greedy.stdin is not None
        assert greedy.stdout is not None
        had = int(greedy.stdout.readline())
        assert had > SOCKETS * 3 // 4  # as much as one application alone, and more
        with pifus.Client(path) as client:
            for _ in range(8):
                sock = client.socket(pifus.UDP)
                sock.bind(("127.0.0.1", 0))
                sock.wait(SECONDS).check()
        assert read_status(path)["statistics"]["refused"] >= 12
        greedy.stdin.close()
