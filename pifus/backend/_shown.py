"""Descriptors that clients show: taken in, and let go of without risk."""

from __future__ import annotations

import array
import os
import socket
import stat
import threading
from typing import Final

from pifus._core import _protocol

_MAX: Final = 1


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One packet of a client, and the descriptors that came with it, which are the caller's.

    Raises:
        OSError: of the connection; BlockingIOError: there is none now.
    """
    fds = array.array("i")
    space = socket.CMSG_LEN(_MAX * fds.itemsize)
    size = _protocol.MESSAGE_BYTES_MAX + 1
    packet, ancillary, _, _ = connection.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, list(fds)


def close(fds: list[int]) -> None:
    """Closes descriptors of unknown kind.

    To close a file can take as long as its file system likes, which may be the client's own: only
    sockets, as mirrors are, are closed here and now.
    """
    for fd in fds:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.close(fd)
        else:
            threading.Thread(target=os.close, args=(fd,), daemon=True).start()
