"""The exceptions of pifus.

Whatever the network or the peer does is a plain `OSError` with the errno (and so the subclass) that
the kernel's sockets would give: `ConnectionRefusedError`, `ConnectionResetError`, `TimeoutError`…
The classes here are about pifus itself: its queues, its client, its backend.
"""

__all__ = [
    "ArenaFull",
    "BackendGone",
    "BackendUnavailable",
    "BlockBusy",
    "ClientClosed",
    "DeadlineMissed",
    "PifusError",
    "ProtocolError",
    "QueueFull",
]


class PifusError(Exception):
    """Everything that only pifus raises."""


class QueueFull(PifusError, BlockingIOError):  # noqa: N818 - named as what it says
    """The submission queue of the socket is full (errno EAGAIN): take completions first."""


class ArenaFull(PifusError, BlockingIOError):  # noqa: N818
    """No room for the bytes in the send arena (errno ENOBUFS): take completions of writes first."""


class BlockBusy(PifusError, BlockingIOError):  # noqa: N818
    """A write of the registered block is under way (errno EBUSY): take its completion first."""


class DeadlineMissed(PifusError, TimeoutError):  # noqa: N818
    """The time-out or deadline given to the operation passed first (errno ETIMEDOUT)."""


class ClientClosed(PifusError, OSError):  # noqa: N818
    """The client was closed, or belongs to the process this one was forked from (errno EBADF)."""


class BackendGone(PifusError, ConnectionResetError):  # noqa: N818
    """The backend ended, or ended this client (errno ECONNRESET); the message says why."""


class BackendUnavailable(PifusError, ConnectionRefusedError):  # noqa: N818
    """There is no backend to attach to, it could not be started, or it refused."""


class ProtocolError(PifusError, OSError):
    """A message on the control connection is not what the protocol allows (errno EPROTO)."""
