"""Which epolls of this process have a descriptor registered, so that it can stay so.

The kernel registers open files, not numbers: one that takes another's place under its number is
not registered. What was, /proc tells.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from pifus._core._client import lib

_LINE = re.compile(
    r"^tfd:\s*(?P<fd>\d+)\s+events:\s*(?P<events>[0-9a-f]+)\s+data:\s*(?P<data>[0-9a-f]+)"
    r"\s+pos:\s*\d+\s+ino:\s*(?P<inode>[0-9a-f]+)",
    re.MULTILINE,
)


class Registration(NamedTuple):
    """A descriptor in an epoll: what `epoll_ctl` was told."""

    epoll: int
    fd: int
    events: int
    data: int


def find(fd: int) -> list[Registration]:
    """Where the open file behind `fd` is registered under this number."""
    inode = os.fstat(fd).st_ino
    found = []
    for epoll in _epolls():
        with contextlib.suppress(OSError):
            text = Path(f"/proc/self/fdinfo/{epoll}").read_text(encoding="ascii")
            found += [
                Registration(epoll, fd, int(line["events"], 16), int(line["data"], 16))
                for line in _LINE.finditer(text)
                if int(line["fd"]) == fd and int(line["inode"], 16) == inode
            ]
    return found


def restore(found: list[Registration]) -> None:
    """Registers what now is behind the number."""
    for one in found:
        lib.pf_epoll_add(one.epoll, one.fd, one.events, one.data)


def _epolls() -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(link.readlink()) == "anon_inode:[eventpoll]":
                    found.append(int(link.name))
    return found
