"""Clears up after a test run that was killed: `guard.py PIDFD MARK DIRECTORY`.

A run that ends by itself, be it by Ctrl-C, ends its backends and removes its files. One that is
killed cannot; this program, a process of its own, waits for that and does it. Only the standard
library is used, and nothing of the tests: it is run by its path.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

# In the environment of what a run has started. Not PIFUS_…: some of that gets none of ours.
VARIABLE = "TEST_RUN_OF_PIFUS"
END_SECONDS = 20.0


class Guard:
    """The guard of this process, until the end of `with`."""

    def __init__(self, directory: Path) -> None:
        """Starts it; `directory` is what the run has of files, and its name is nobody else's."""
        mark = directory.name
        os.environ[VARIABLE] = mark
        # A fork without exec keeps the environment that /proc shows, which is older than the mark.
        self._held = os.memfd_create(mark)
        this = os.pidfd_open(os.getpid())
        # In a session of its own: Ctrl-C is not for it, and it is not of the run's process group.
        self.process = subprocess.Popen(
            [sys.executable, "-I", __file__, str(this), mark, str(directory)],
            pass_fds=[this],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(this)

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The run clears up by itself."""
        self.process.kill()
        self.process.wait()
        os.close(self._held)
        del os.environ[VARIABLE]


def belongs(process: Path, mark: str) -> bool:
    """Whether a process, by its directory in /proc, is of the run."""
    with contextlib.suppress(OSError):  # it has ended, or is somebody else's
        if f"{VARIABLE}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
            return True
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) == f"/memfd:{mark} (deleted)":
                    return True
    return False


def left_behind(mark: str) -> Iterator[int]:
    """A pidfd of each process of the run, but this one."""
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid() or not belongs(process, mark):
            continue
        with contextlib.suppress(ProcessLookupError):
            found = os.pidfd_open(int(process.name))
            # The number may be another process's by now.
            if belongs(process, mark):
                yield found
            os.close(found)


def ended(pidfd: int, seconds: float | None = None) -> bool:
    """Waits for the end of a process."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(None if seconds is None else seconds * 1000))


def main(pidfd: int, mark: str, directory: Path) -> int:
    """Returns when nothing is left; 1 if something does not go.

    What a run has beside its directory has a name that begins with the directory's.
    """
    ended(pidfd)
    found = True
    while found:  # one that was just killed may have started another
        found = False
        for process in left_behind(mark):
            found = True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            if not ended(process, END_SECONDS):
                return 1
    for path in directory.parent.glob(f"{directory.name}*"):
        shutil.rmtree(path, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
