"""The drop-in's socket options for sockets of the completion API: the same table, the same answers.

The functions that act on the table know an endpoint of the drop-in; this is as much of one as they
ask for.
"""

from __future__ import annotations

import errno
import socket as _names
from typing import TYPE_CHECKING, Any

from pifus._compat import _options
from pifus._core import _errors, _now
from pifus._core._ops import Protocol, SocketState

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from pifus._core._client import CData
    from pifus._core._socket import Socket


class OptionView:
    """What was set on one socket, and what the option functions have to know of it."""

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self.options: dict[tuple[int, int], int] = {}
        self.requested: dict[tuple[int, int], bytes] = {}
        self.reached: set[object] = set()
        self.lingers = (0, 0)
        self.low_water = 1
        self.receive_patience: float | None = None
        self.send_patience: float | None = None
        self.device = b""
        self.wants_kernel = False
        self.priority = 0
        self.priority_chosen = False
        self.datagram = sock.protocol is Protocol.UDP
        self.family = sock.family
        self.proto = int(sock.protocol)
        self.type = _names.SOCK_DGRAM if self.datagram else _names.SOCK_STREAM

    def take_after(self, listener: OptionView) -> None:
        """What an accepted connection has of its listener, as in the kernel."""
        self.options.update(listener.options)
        self.lingers = listener.lingers
        self.low_water = listener.low_water
        self.receive_patience = listener.receive_patience
        self.send_patience = listener.send_patience
        self.priority_chosen = listener.priority_chosen

    @property
    def slot(self) -> int:
        """Of the socket, in its client."""
        return self.sock._slot

    @property
    def connected(self) -> bool:
        """As its backend says."""
        return SocketState.CONNECTED in self.sock.state

    @property
    def listening(self) -> bool:
        """As its backend says."""
        return SocketState.LISTENING in self.sock.state

    def is_fresh(self) -> bool:
        """True before any bind, connect or listen."""
        return self.sock.local_address is None

    def enter(self) -> CData:
        """The handle of the client. Raises: OSError, EBADF after close; ClientClosed."""
        return _now.handle_of(self.sock)

    def leave(self) -> None:
        """Nothing is to be undone."""

    def call(
        self,
        handle: CData,
        opcode: int,
        *,
        flags: int = 0,
        token: int = 0,
        offset: int = 0,
        length: int = 0,
        addr: CData | None = None,
        done: CData | None = None,
    ) -> int:
        """Submits an operation that is answered at once: its result, 0 or more, or -errno."""
        del handle
        return _now.answer(
            self.sock,
            opcode,
            flags=flags,
            token=token,
            offset=offset,
            length=length,
            addr=addr,
            done=done,
        )

    def get(self, level: int, name: int, size: int) -> int | bytes:
        """`socket.getsockopt`; `size` 0: as a number."""
        endpoint: Any = self
        return _options.getsockopt(endpoint, level, name, size)

    def set(
        self, level: int, name: int, value: int | ReadableBuffer | None, length: int | None
    ) -> None:
        """`socket.setsockopt`."""
        endpoint: Any = self
        _options.setsockopt(endpoint, level, name, value, length)
        if self.wants_kernel:
            # The drop-in would make it a socket of the kernel, which cannot be done here.
            self.wants_kernel, self.device = False, b""
            raise _errors.os_error(errno.ENODEV)
