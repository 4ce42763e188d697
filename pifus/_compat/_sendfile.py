"""os.sendfile to a stack socket: its descriptor takes no data, so they are read and sent here."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from pifus._compat import _table

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint

_PIECE: Final = 262144
# The kernel moves no more in one call.
_MOST: Final = 0x7FFFF000


def guarded(original: Callable[..., int]) -> Callable[..., int]:
    """os.sendfile that knows stack sockets."""

    @wraps(original)
    def sendfile(*args: Any, **kwargs: Any) -> int:
        out_fd = args[0] if args else kwargs.get("out_fd")
        endpoint = _table.endpoints.get(out_fd)  # type: ignore[arg-type]
        if endpoint is None:
            return original(*args, **kwargs)
        return _to_stack(endpoint, *args, **kwargs)

    return sendfile


def _to_stack(endpoint: Endpoint, out_fd: int, in_fd: int, offset: int | None, count: int) -> int:
    """Bytes of a file to a stack socket, as the kernel's sendfile: how many were sent.

    Raises:
        OSError: what reading the file or sending raises, if nothing was sent before.
    """
    if in_fd in _table.endpoints or count < 0 or (offset is not None and offset < 0):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    from pifus._compat import _stream

    timeout = None if os.get_blocking(out_fd) else 0.0
    start = os.lseek(in_fd, 0, os.SEEK_CUR) if offset is None else offset
    left, sent = min(count, _MOST), 0
    while left:
        data = os.pread(in_fd, min(left, _PIECE), start + sent)
        if not data:
            break
        try:
            part = _stream.send(endpoint, data, 0, timeout)
        except OSError:
            if sent:
                break
            raise
        sent += part
        left -= part
        if timeout == 0:
            break
    if offset is None:
        os.lseek(in_fd, start + sent, os.SEEK_SET)
    return sent


def refuse(module: Any) -> None:
    """Makes `socket.sendfile` of a module whose os.sendfile is the kernel's send by itself."""
    original = module.socket._sendfile_use_sendfile
    give_up = module._GiveupOnSendfile

    def _sendfile_use_sendfile(
        self: Any, file: Any, offset: int = 0, count: int | None = None
    ) -> Any:
        if self.fileno() in _table.endpoints:
            raise give_up
        return original(self, file, offset, count)

    module.socket._sendfile_use_sendfile = _sendfile_use_sendfile
