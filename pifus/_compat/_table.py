"""Which descriptors of this process are sockets of the stack.

A socket of the stack is known by the inode of its mirror descriptor: `dup`, `detach` and
`socket(fileno=…)` lead to the same one, however the descriptor came about.
"""

from __future__ import annotations

import _socket as _c
import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint

# How the backend's end of every mirror is called, up to its number and the backend's address.
MIRROR_NAME: Final = b"\0pifus-mirror:"

# pifus's own, when a descriptor gets another file or flag: not those that programs call.
replace_file = os.dup2
_set_blocking: Final = os.set_blocking

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
# Descriptors with two Python objects, of which one is about to let go: `ssl` wraps that way.
_shared: set[int] = set()
# Re-entrant: the garbage collector may close a socket while this thread holds it.
_lock = threading.RLock()
# Held while the backend is asked for mirrors, and before all other locks. Whoever closes a socket
# never waits for it: it may be the garbage collector, in a thread that has one of the others.
_forking = threading.RLock()


def no_fork() -> contextlib.AbstractContextManager[object]:
    """Other threads do not fork meanwhile: from the taking of a mirror to its `register`.

    A child would keep a copy that it does not know of, and the backend take the socket for shared.
    """
    return _forking


def register(fd: int, endpoint: Endpoint, *, detached: bool = False) -> None:
    """A new mirror descriptor stands for `endpoint`.

    Args:
        fd: the descriptor.
        endpoint: the socket.
        detached: a Python object will take it over in a moment: nobody has its number.
    """
    if _detached:
        sweep()
    inode = endpoint.inode = _inode(fd)
    with _lock:
        _by_inode[inode] = endpoint
        endpoints[fd] = endpoint
        endpoint.fds.append(fd)
        if detached:
            _detached.add(fd)


def adopt(fd: int) -> Endpoint | None:
    """The endpoint of a descriptor that gets a Python object, if it is one of ours."""
    if not _by_inode:
        return None
    try:
        endpoint = _by_inode.get(_inode(fd))
    except (OSError, TypeError, OverflowError):
        return None  # the constructor will complain
    with _lock:
        if endpoint is not None and fd in _detached and endpoints.get(fd) is endpoint:
            _detached.discard(fd)  # as every accept ends
            return endpoint
        if endpoint is not None and endpoints.get(fd) is endpoint and fd not in _detached:
            _shared.add(fd)
        _detached.discard(fd)
        if endpoint is None:
            forget(fd)
        elif fd not in endpoint.fds:
            last = _unlist(fd)
            if last is not None:
                last.finish()
            endpoints[fd] = endpoint
            endpoint.fds.append(fd)
            endpoint.moved()
    return endpoint


def known(fd: int) -> Endpoint | None:
    """The endpoint of a descriptor, if this process has it; nothing is done about it."""
    if not _by_inode:
        return None
    try:
        return _by_inode.get(_inode(fd))
    except (OSError, TypeError, OverflowError):
        return None


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
            last = _unlist(fd)
        if last is not None:
            last.finish()


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
        if fd in _shared:
            _shared.discard(fd)
            return
        endpoint = endpoints.get(fd)
        if endpoint is not None:
            _detached.add(fd)
    if endpoint is not None:
        endpoint.show()  # whoever gets the number may poll it, or pass it on


def detach_new(fd: int) -> None:
    """A descriptor that a Python object will take over in a moment: nobody has its number."""
    with _lock:
        _detached.add(fd)


def drop(fd: int) -> Endpoint | None:
    """`fd` is about to be closed.

    Returns:
        The endpoint of which it was the last descriptor: `finish` it when `fd` is closed, so that
        the backend sees whether other processes hold it.
    """
    with _lock:
        _detached.discard(fd)
        return _unlist(fd)


def let_go(
    fd: int, sock: _c.socket, detach: Callable[[_c.socket], int], blocking: bool
) -> Endpoint | None:
    """The Python object with `fd` is closed: `drop`, and if the mirror can serve another socket,
    it is given back instead of being closed.

    Args:
        fd: the descriptor.
        sock: the object.
        detach: takes the descriptor away from the object.
        blocking: whether calls of the object wait.
    """
    lock = _forking  # a signal handler may fork meanwhile: the child has another
    if not lock.acquire(blocking=False):
        return drop(fd)
    try:
        endpoint = endpoints.get(fd)
        if endpoint is None or not endpoint.has_secret_mirror() or not _is_still(fd, endpoint):
            return drop(fd)
        # First: what another thread calls meanwhile must not reach the mirror.
        detach(sock)
        last = drop(fd)
        if not blocking:
            _set_blocking(fd, True)
        # Looked at once more: until it was dropped, others might still ask for the number.
        secret = last is not None and last.has_secret_mirror()
        if not secret or not endpoint.session.give_mirror(endpoint.mirror_id, fd):
            os.close(fd)
        return last
    finally:
        lock.release()


def _is_still(fd: int, endpoint: Endpoint) -> bool:
    """False: somebody has closed the number behind our back, as daemons do with all there are."""
    try:
        return _inode(fd) == endpoint.inode
    except OSError:
        return False


def close(fd: int) -> None:
    """Closes a descriptor, and the endpoint if it was the last one."""
    endpoint = drop(fd)
    try:
        os.close(fd)
    finally:
        if endpoint is not None:
            endpoint.finish()


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
            last = drop(fd)
            if last is not None:
                last.finish()


def _unlist(fd: int) -> Endpoint | None:
    endpoint = endpoints.pop(fd, None)
    _shared.discard(fd)
    if endpoint is None:
        return None
    try:  # noqa: SIM105 - at every close, and a fifth of the price
        endpoint.fds.remove(fd)
    except ValueError:
        pass
    if endpoint.fds:
        endpoint.moved()
        return None
    if _by_inode.get(endpoint.inode) is endpoint:
        del _by_inode[endpoint.inode]
    endpoint.close()
    return endpoint


def mirror_name(fd: int) -> bytes | None:
    """What the backend called its end of the descriptor; None: it is no mirror of any backend."""
    try:
        probe = _c.socket(_c.AF_UNIX, _c.SOCK_STREAM, 0, fd)
    except (OSError, OverflowError, ValueError):
        return None
    try:
        name = probe.getpeername()
    except OSError:
        return None
    finally:
        probe.detach()
    return name if isinstance(name, bytes) and name.startswith(MIRROR_NAME) else None


def _file_of(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


_inode: Callable[[int], tuple[int, int]] = _file_of


def identify_by(file_of: Callable[[int], tuple[int, int]]) -> None:
    """A faster way to tell the file of a descriptor, once the C core is loaded."""
    global _inode
    _inode = file_of


def _before_fork() -> None:
    # From here on there are no new ones.
    _forking.acquire()
    try:
        # Without the other lock: this may wait for a thread's claim, in which the garbage collector
        # closes a socket.
        known = list(endpoints.values())
        for endpoint in known:
            endpoint.identify()
        for endpoint in known:
            endpoint.settle()
    finally:
        # No other thread is in the middle of a change when the child's copy is made.
        _lock.acquire()


def _in_parent() -> None:
    _lock.release()
    _forking.release()


def _in_child() -> None:
    global _lock, _forking
    _lock = threading.RLock()
    _forking = threading.RLock()
    for endpoint in set(endpoints.values()):
        endpoint.inherit()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
