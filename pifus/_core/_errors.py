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
        f"the submission queue is full ({depth} operations are under way): take completions "
        "first, or make the client, or the socket, with a greater queue_depth",
    )


def batch_full(limit: int) -> QueueFull:
    """For a submission to a batch that holds `limit` already."""
    return QueueFull(
        _errno.EAGAIN, f"a batch holds at most {limit} operations: end it, and begin another"
    )


def batch_waits() -> RuntimeError:
    """For a wait of the thread that is in a batch, for what it keeps back itself."""
    return RuntimeError(
        "only what this batch() block keeps back could complete, and it is under way only after "
        "its end: wait behind the block"
    )


def arena_full(wanted: int, free: int) -> ArenaFull:
    """For a write of `wanted` bytes that found no room; `free` bytes of the arena are free."""
    return ArenaFull(
        _errno.ENOBUFS,
        f"no room for {wanted} bytes in the send arena ({free} bytes are free, and one socket may "
        "hold its tx_bytes, and half of what is free): take completions of writes first, or make "
        "the client with a greater arena_bytes",
    )


def block_busy() -> BlockBusy:
    """For a registered block whose previous write is under way."""
    return BlockBusy(
        _errno.EBUSY,
        "a write of this block is under way, or its completion was not taken: take it first, or "
        "register a second block and use them in turn",
    )


# What a failure means here, where the system's sentence does not tell what to do.
_HINTS = {
    _errno.EALREADY: "a multishot receive is under way: cancel it first",
    _errno.EDESTADDRREQ: "give an address, or connect the socket first",
    _errno.ENOTCONN: "connect the socket first, or take the completion of its connect",
    _errno.EPERM: "the client may not have it: its `priority` is the best of its sockets",
    _errno.EPIPE: "it is not connected, or was shut down for writing",
    _errno.EADDRINUSE: "another socket has this address: take another port, or 0 for any",
    _errno.ECANCELED: "by cancel() or a close, or because what it was linked to did not succeed",
    _errno.ENOPROTOOPT: "sockets of this protocol have no such option",
    _errno.EOPNOTSUPP: "TCP sockets write(), UDP sockets sendto()",
}


def failed(name: str, op: int, code: int) -> OSError:
    """For the operation `op`, of the opcode `name`, that ended with an errno."""
    hint = _HINTS.get(code)
    return OSError(
        code, f"{name} (operation {op}): {os.strerror(code)}{f': {hint}' if hint else ''}"
    )


def deadline_missed(name: str, op: int) -> DeadlineMissed:
    """For an operation that ended because of its time-out or deadline."""
    return DeadlineMissed(
        _errno.ETIMEDOUT, f"{name} (operation {op}) was not done by its time-out or deadline"
    )


def nothing_came() -> TimeoutError:
    """For a wait that took as long as it might."""
    return TimeoutError(
        _errno.ETIMEDOUT,
        "no completion came in time; what was submitted is still under way: wait again, or cancel",
    )


def has_callback() -> RuntimeError:
    """For taking the completions of a client in callback mode."""
    return RuntimeError(
        "the completions of this client go to its on_completion callback: to take them, make the "
        "client without one"
    )


def backend_gone(reason: int) -> BackendGone:
    """For a session that ended by itself; `reason` is an enum pf_ended."""
    text = ENDED_REASONS.get(reason, f"the backend ended this client (reason {reason})")
    return BackendGone(_errno.ECONNRESET, f"{text}. Make a new client")


def client_closed(forked: bool = False) -> ClientClosed:
    """For a use after close, or (`forked`) of the parent's client in a forked child."""
    if forked:
        return ClientClosed(
            _errno.EBADF,
            "this client belongs to the parent process: after a fork, make a new one in the child",
        )
    return ClientClosed(_errno.EBADF, "the client is closed: make a new one")
