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
# Descriptors with two Python objects, of which one is about to let go: `ssl` wraps that way.
_shared: set[int] = set()
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
        if endpoint is not None and endpoints.get(fd) is endpoint and fd not in _detached:
            _shared.add(fd)
        _detached.discard(fd)
        if endpoint is None:
            forget(fd)
        elif fd not in endpoint.fds:
            _unlist(fd)
            endpoints[fd] = endpoint
            endpoint.fds.append(fd)
            endpoint.moved()
    return endpoint


def moved(endpoint: Endpoint) -> None:
    """Another mirror descriptor stands for `endpoint`, under the same numbers."""
    with _lock:
        if _by_inode.get(endpoint.inode) is endpoint:
            del _by_inode[endpoint.inode]
        endpoint.inode = _inode(endpoint.fds[0])
        _by_inode[endpoint.inode] = endpoint


def forget(fd: int) -> None:
    """The number `fd` now is a descriptor of the kernel's."""
    if fd in endpoints:
        with _lock:
            _unlist(fd)


def detach(fd: int) -> None:
    """The Python object let go of `fd`, which stays open."""
    with _lock:
        if fd in _shared:
            _shared.discard(fd)
        elif fd in endpoints:
            _detached.add(fd)


def drop(fd: int) -> None:
    """`fd` is about to be closed: with its last descriptor an endpoint closes."""
    with _lock:
        _detached.discard(fd)
        _unlist(fd)


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


def _unlist(fd: int) -> None:
    endpoint = endpoints.pop(fd, None)
    _shared.discard(fd)
    if endpoint is None:
        return
    with contextlib.suppress(ValueError):
        endpoint.fds.remove(fd)
    if endpoint.fds:
        endpoint.moved()
    else:
        if _by_inode.get(endpoint.inode) is endpoint:
            del _by_inode[endpoint.inode]
        endpoint.close()


def _inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _in_child() -> None:
    global _lock
    # Another thread of the parent may have held it.
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_in_child)
