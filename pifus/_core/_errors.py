"""From the results of the C core (below zero: -errno) to exceptions."""

import errno as _errno
import os

from pifus.errors import (
    ArenaFull,
    BackendGone,
    BlockBusy,
    ClientClosed,
    DeadlineMissed,
    QueueFull,
)

# Why a session ended: enum pf_ended of native/shm/abi.h.
ENDED_REASONS = {
    1: "the connection to the backend closed: it was killed, or it crashed",
    2: "the backend ended this client because it broke the shared-memory protocol",
    3: "the backend shut down",
    4: "the backend ended this client on an operator's order or for a limit",
}


def os_error(code: int, what: str | None = None) -> OSError:
    """The exception for an errno.

    Args:
        code: an errno, > 0.
        what: what failed; put in front of the system's sentence.

    Returns:
        An OSError of the subclass that belongs to the errno.
    """
    text = os.strerror(code)
    return OSError(code, f"{what}: {text}" if what else text)


def queue_full(depth: int) -> QueueFull:
    """For a submission that found no free entry; `depth` is the size of the queue."""
    return QueueFull(
        _errno.EAGAIN,
        f"the submission queue is full ({depth} operations are under way or were not reaped): "
        "take completions first",
    )


def batch_full(limit: int) -> QueueFull:
    """For a submission to a batch that holds `limit` already."""
    return QueueFull(
        _errno.EAGAIN, f"a batch holds at most {limit} operations: end it, and begin another"
    )


def arena_full(wanted: int, free: int) -> ArenaFull:
    """For a write of `wanted` bytes that found no room; `free` bytes of the arena are free."""
    return ArenaFull(
        _errno.ENOBUFS,
        f"no room for {wanted} bytes in the send arena ({free} bytes are free, and one socket may "
        "hold a share only): take completions of writes first",
    )


def block_busy() -> BlockBusy:
    """For a registered block whose previous write is under way."""
    return BlockBusy(
        _errno.EBUSY,
        "a write of this block is under way, or its completion was not taken: take it first, or "
        "register a second block and use them in turn",
    )


def deadline_missed() -> DeadlineMissed:
    """For an operation that ended because of its time-out or deadline."""
    return DeadlineMissed(_errno.ETIMEDOUT, "the operation was not done by its deadline")


def backend_gone(reason: int) -> BackendGone:
    """For a session that ended by itself; `reason` is an enum pf_ended."""
    text = ENDED_REASONS.get(reason, f"the backend ended this client (reason {reason})")
    return BackendGone(_errno.ECONNRESET, text)


def client_closed(forked: bool = False) -> ClientClosed:
    """For a use after close, or (`forked`) of the parent's client in a forked child."""
    if forked:
        return ClientClosed(
            _errno.EBADF,
            "this client belongs to the parent process: after a fork, make a new one in the child",
        )
    return ClientClosed(_errno.EBADF, "the client is closed")
