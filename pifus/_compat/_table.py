"""Which descriptors of this process are sockets of the stack.

A socket of the stack is known by the inode of its mirror descriptor: `dup`, `detach` and
`socket(fileno=…)` lead to the same one, however the descriptor came about.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint

# By descriptor: read on every call of every socket, without the lock.
endpoints: dict[int, Endpoint] = {}
_by_inode: dict[tuple[int, int], Endpoint] = {}
# Descriptors without a Python object: whoever closes them with os.close does not tell us.
_detached: set[int] = set()
# A late patch: kernel sockets that are not bound or connected yet become the stack's.
taking_over = False
# Inodes of the kernel's INET sockets that Python code has: whoever else has one goes past us.
_known: set[tuple[int, int]] = set()
_KNOWN_MAX = 65536
# Re-entrant: the garbage collector may close a socket while this thread holds it.
_lock = threading.RLock()


def register(fd: int, endpoint: Endpoint) -> None:
    """A new mirror descriptor stands for `endpoint`."""
    sweep()
    with _lock:
        endpoint.inode = _inode(fd)
        _by_inode[endpoint.inode] = endpoint
        endpoints[fd] = endpoint
        endpoint.fds.append(fd)


def adopt(fd: int) -> Endpoint | None:
    """The endpoint of a descriptor that gets a Python object, if it is one of ours."""
    if not _by_inode:
        return None
    try:
        endpoint = _by_inode.get(_inode(fd))
    except (OSError, TypeError, OverflowError):
        return None  # the constructor will complain
    with _lock:
        _detached.discard(fd)
        last = None
        if endpoint is None or fd not in endpoint.fds:
            last = _unlist(fd)
        if endpoint is not None and fd not in endpoint.fds:
            endpoints[fd] = endpoint
            endpoint.fds.append(fd)
            endpoint.moved()
    _close(last)
    return endpoint


def forget(fd: int) -> None:
    """The number `fd` now is a descriptor of the kernel's."""
    if fd in endpoints:
        with _lock:
            last = _unlist(fd)
        _close(last)


def know(fd: int) -> None:
    """Python code has this socket of the kernel."""
    if len(_known) < _KNOWN_MAX:
        with contextlib.suppress(OSError):
            _known.add(_inode(fd))


def keep_known(alive: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Which of these sockets are known; the others that were are gone."""
    _known.intersection_update(alive)
    return set(_known)


def detach(fd: int) -> None:
    """The Python object let go of `fd`, which stays open."""
    with _lock:
        if fd in endpoints:
            _detached.add(fd)


def drop(fd: int) -> None:
    """`fd` is about to be closed: with its last descriptor an endpoint closes."""
    with _lock:
        _detached.discard(fd)
        last = _unlist(fd)
    _close(last)


def sweep() -> None:
    """Closes what was detached and then closed with os.close."""
    if not _detached:
        return
    with _lock:
        for fd in list(_detached):
            endpoint = endpoints.get(fd)
            with contextlib.suppress(OSError):
                if endpoint is not None and _inode(fd) == endpoint.inode:
                    continue
            drop(fd)


def _unlist(fd: int) -> Endpoint | None:
    """Takes `fd` out; the endpoint, if that was its last one: to be closed without the lock."""
    endpoint = endpoints.pop(fd, None)
    if endpoint is None:
        return None
    with contextlib.suppress(ValueError):
        endpoint.fds.remove(fd)
    if endpoint.fds:
        endpoint.moved()
        return None
    if _by_inode.get(endpoint.inode) is endpoint:
        del _by_inode[endpoint.inode]
    return endpoint


def _close(endpoint: Endpoint | None) -> None:
    # Not under the lock: SO_LINGER may make it wait.
    if endpoint is not None:
        endpoint.close()


def _inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _in_child() -> None:
    global _lock
    # Another thread of the parent may have held it.
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_in_child)
