"""No os.sendfile into a mirror descriptor: data do not go that way."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import wraps
from typing import Any

from pifus._compat import _table


def guarded(original: Callable[..., int]) -> Callable[..., int]:
    """os.sendfile that refuses stack sockets: asyncio then reads the file and sends it itself."""

    @wraps(original)
    def sendfile(out_fd: int, in_fd: int, *args: Any, **kwargs: Any) -> int:
        if out_fd in _table.endpoints:
            raise OSError(errno.EINVAL, "not into a socket of the user-space stack")
        return original(out_fd, in_fd, *args, **kwargs)

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
