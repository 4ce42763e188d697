"""os.sendfile into a mirror descriptor: data do not go that way, so they are read and sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from pifus._compat import _table

# One call sends so much at most: it is copied on its way.
_CHUNK = 65536


def guarded(original: Callable[..., int]) -> Callable[..., int]:
    """os.sendfile that knows stack sockets: what it sends there it reads first."""

    @wraps(original)
    def sendfile(
        out_fd: int, in_fd: int, offset: int | None, count: int, *more: Any, **kwargs: Any
    ) -> int:
        endpoint = _table.endpoints.get(out_fd)
        if endpoint is None:
            return original(out_fd, in_fd, offset, count, *more, **kwargs)
        from pifus._compat import _stream

        place = os.lseek(in_fd, 0, os.SEEK_CUR) if offset is None else offset
        data = os.pread(in_fd, min(count, _CHUNK), place)
        if not data:
            return 0
        # As the kernel: the descriptor says whether to wait, not the time-out of a socket object.
        sent = _stream.send(endpoint, data, 0, None if os.get_blocking(out_fd) else 0)
        if offset is None:
            os.lseek(in_fd, place + sent, os.SEEK_SET)
        return sent

    return sendfile


def refuse(module: Any, replace: Callable[[Any, str, Any], None]) -> None:
    """Makes `socket.sendfile` of a socket module send by itself what goes to a stack socket."""
    original = module.socket._sendfile_use_sendfile
    give_up = module._GiveupOnSendfile

    def _sendfile_use_sendfile(
        self: Any, file: Any, offset: int = 0, count: int | None = None
    ) -> Any:
        if self.fileno() in _table.endpoints:
            raise give_up
        return original(self, file, offset, count)

    replace(module.socket, "_sendfile_use_sendfile", _sendfile_use_sendfile)
