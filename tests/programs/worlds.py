"""Where programs run: backends on the loopback and on a TAP device, and what is beside them."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import certificates
from tests.certificates import Certificates
from tests.conftest import BackendProcess, launch_backend
from tests.guard import Guard
from tests.integration.test_tap import Tap, may_make_devices, start_tap
from tests.programs import runner
from tests.programs.servers import SERVERS, Site
from tests.programs.table import Program


def may_have_raw_sockets() -> bool:
    """Whether the kernel gives us one."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    except PermissionError:
        return False
    return True


@dataclass(slots=True)
class Worlds:
    """The backends, started when they are needed.

    Attributes:
        directory: for files; each program gets one in it.
        certificates: an authority and what it issued.
        start: starts a backend, by its name and options.
    """

    directory: Path
    certificates: Certificates
    start: Callable[..., BackendProcess]
    _loopback: BackendProcess | None = None
    _tap: Tap | None = None

    def obstacle(self, program: Program) -> str:
        """Why a program cannot run here; "" if it can."""
        if program.raw and not may_have_raw_sockets():
            return "raw sockets need root (CAP_NET_RAW)"
        if not program.server:
            return ""
        if missing := SERVERS[program.server].missing():
            return f"{', '.join(missing)} is not installed"
        return "" if may_make_devices() else "a TAP device needs root (CAP_NET_ADMIN)"

    def run(self, program: Program, over: str) -> runner.Run:
        """Runs a program `over` "kernel" or "pifus"."""
        stack = over == "pifus"
        with tempfile.TemporaryDirectory(prefix=program.script, dir=self.directory) as place:
            directory = Path(place)
            directory.chmod(0o755)
            work = directory / "work"
            work.mkdir()
            if not program.server:
                if stack and self._loopback is None:
                    self._loopback = self.start("programs")
                files = (self.certificates.authority, self.certificates.server)
                backend = self._loopback.path if stack and self._loopback else None
                return runner.run(program, files, work, backend)
            if self._tap is None:
                self._tap = start_tap(self.start)
            site = Site(directory, self._tap.host4, self._tap.stack4, self.certificates)
            if not stack:
                site = Site(directory, self._tap.host4, self._tap.host4, self.certificates)
            with SERVERS[program.server].start(site) as arguments:
                backend = self._tap.backend.path if stack else None
                return runner.run(program, arguments, work, backend)


@contextlib.contextmanager
def worlds() -> Iterator[Worlds]:
    """For a command of its own; pytest has its fixtures."""
    with contextlib.ExitStack() as stack:
        # Short: paths of UNIX sockets have to be.
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pifus-", dir="/tmp")))
        stack.enter_context(Guard(place))
        place.chmod(0o755)  # servers that run as another user go through it
        sockets = place / "sockets"
        sockets.mkdir(mode=0o700)
        os.environ["PIFUS_RUNTIME_DIR"] = str(sockets)
        os.environ.pop("PIFUS_BACKEND", None)

        def start(name: str, *options: str) -> BackendProcess:
            backend = launch_backend(name, *options)
            stack.callback(backend.stop)
            return backend

        issued = place / "certificates"
        issued.mkdir()
        yield Worlds(place, certificates.make(issued), start)
