"""A session: one attachment to one backend, from attach to detach, fork included."""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from pifus._core import _discovery, _errors, _protocol
from pifus._core._channel import Channel, close_all
from pifus._core._client import ffi, lib
from pifus._core._settings import Settings
from pifus.errors import BackendGone, BackendUnavailable, PifusError

if TYPE_CHECKING:
    from pifus._core._client import CData

_ERROR_BYTES = 512
_MIRROR_BATCH = 16
# Given back and not taken again yet; with a batch, the most that a session has without a socket.
_MIRRORS_KEPT = 32
_DAEMON_SECONDS = 0.5
# FD_SETSIZE: a batch that was made while many sockets were open has high numbers.
_SELECT_MAX = 1024
# A private backend may end between our finding it and our attaching: then the next one is tried.
_ATTEMPTS = 3


class Owner(Protocol):
    """Who holds `Session.handle` in an attribute of its own, and so must let go of it."""

    def _session_ended(self) -> None:
        """Forget the handle, now: after close, and in a forked child."""


class Session:
    """An attachment to a backend.

    The C client in `handle` is unmapped when the last reference to `handle` goes, not at close: a
    thread that is still inside a C call holds one. So whoever keeps `handle` registers with
    `add_owner` and drops it when told.

    Attributes:
        handle: the `struct pf_client *` for calls into the C core; None after close.
        number: the backend's number of the session.
        ticket: for the descriptor that was shown when it was opened; 0: there was none.
        path: the backend's socket.
        forked: it is the parent process's, and was closed here by the fork.
    """

    def __init__(self, channel: Channel, settings: Settings, shown: int | None = None) -> None:
        """Attaches over a fresh control connection, which the session owns if this succeeds.

        Args:
            channel: the connection.
            settings: what is wanted.
            shown: a mirror descriptor, of which `ticket` then is what `show` would return.

        Raises:
            OSError: the backend refused (a limit, a permission): its errno and its sentence.
            BackendGone, BackendUnavailable, ProtocolError: see `Channel.request`.
        """
        packet = settings.packet()
        reply, fds = channel.request(packet, "attached", _protocol.ATTACH_FDS, shown)
        if channel.fileno() < 0:
            close_all(fds)  # a signal handler forked: they are the parent's
            raise _closed_meanwhile()
        number = reply.get("session")
        if len(fds) != _protocol.ATTACH_FDS or type(number) is not int:
            close_all(fds)
            raise BackendUnavailable(errno.EPROTO, "the backend's answer lacks what was asked for")
        error = ffi.new("char[]", _ERROR_BYTES)
        c2b, b2c, public, doorbell = fds
        raw = lib.pf_client_attach(
            channel.fileno(), c2b, b2c, public, doorbell, error, _ERROR_BYTES
        )
        if not raw:
            close_all(fds)
            text = ffi.string(error).decode(errors="replace")
            raise BackendUnavailable(errno.EPROTO, f"cannot attach to {channel.path}: {text}")
        handle = ffi.gc(raw, lib.pf_client_detach)
        _handles.add(weakref.ref(handle, _handles.discard))
        self.handle: CData | None = handle
        self.number: int = number
        ticket = reply.get("ticket")
        self.ticket: int = ticket if type(ticket) is int else 0
        self.path = channel.path
        self._channel = channel
        self._doorbell = doorbell
        self.forked = False
        # Taken by the one call that closes; a lock would stop a signal handler that closes as well.
        self._unclosed: list[None] = [None]
        self._owners: list[weakref.ref[Owner]] = []
        self._mirrors: list[tuple[int, int]] = []
        self._mirror_lock = threading.RLock()
        _sessions.add(weakref.ref(self, _sessions.discard))
        if channel.fileno() < 0 and not self.forked:
            ffi.gc(handle, None)
            lib.pf_client_forked(handle)
            self._in_child()
            raise _closed_meanwhile()

    @classmethod
    def open(
        cls,
        backend: str | os.PathLike[str] | None = None,
        driver: Sequence[str] | None = None,
        settings: Settings | None = None,
    ) -> Session:
        """Finds or starts a backend (see `_discovery.connect`) and attaches to it.

        Raises:
            BackendUnavailable: there is none, or it could not be started.
            OSError: it refused: the errno and the sentence are its own.
            ValueError: a setting is out of its range.
        """
        wanted = settings or Settings()
        wanted.request()  # told before a process is started for nothing
        for attempt in range(_ATTEMPTS):
            try:
                return cls._over(lambda: _discovery.connect(backend, driver), wanted)
            except BackendGone as error:
                if backend is not None or driver is not None or attempt == _ATTEMPTS - 1:
                    raise BackendUnavailable(errno.ECONNREFUSED, str(error.strerror)) from None
        raise AssertionError("the last attempt returns or raises")

    @classmethod
    def join(cls, path: str, settings: Settings, shown: int | None) -> Session:
        """Attaches to the backend of the parent process, with as little as a child can do.

        Raises:
            OSError: nobody is there any more; else as __init__.
        """
        return cls._over(lambda: Channel.connect(path), settings, shown)

    @classmethod
    def open_named(cls, path: str, settings: Settings) -> Session:
        """Attaches to the backend at a path that somebody else has named.

        Raises:
            PermissionError: it belongs to another user than root and this one: what it maps here
                could end this process.
            OSError: see `open`.
        """

        def connect() -> Channel:
            channel = _discovery.connect_to(path)
            owner = channel.peer_uid()
            if owner in (0, os.geteuid()):
                return channel
            channel.close()
            raise PermissionError(
                errno.EPERM, f"the backend at {path} belongs to user {owner}, who is not trusted"
            )

        return cls._over(connect, settings)

    @classmethod
    def _over(
        cls, connect: Callable[[], Channel], settings: Settings, shown: int | None = None
    ) -> Session:
        """Attaches over a new control connection.

        A signal handler may fork in the middle. What was begun is then the parent's, who reads the
        answer: the child begins anew.
        """
        while True:
            forks = _forks
            channel = connect()
            try:
                if forks == _forks:
                    session = cls(channel, settings, shown)
                    if forks == _forks:
                        return session
            except BaseException as error:
                channel.close()
                if forks == _forks or not isinstance(error, OSError):
                    raise
            channel.close()

    def add_owner(self, owner: Owner) -> None:
        """Tells `owner` (weakly held) when the handle must not be used any more."""
        self._owners.append(weakref.ref(owner, self._owners.remove))

    @property
    def closed(self) -> bool:
        """True after close, and in a forked child."""
        return self.handle is None

    def lives(self) -> bool:
        """Not closed, and the backend has not ended it."""
        handle = self.handle
        return handle is not None and not lib.pf_client_ended(handle)

    def failure(self) -> PifusError:
        """Why calls into the core end with -EPIPE: closed, forked, or the backend is gone."""
        handle = self.handle
        if handle is None:
            if _exiting and threading.current_thread() is not threading.main_thread():
                # With the kernel's sockets a daemon thread ends with the process, inside of its
                # call. Not for ever: it may hold a lock that the end of the process needs.
                threading.Event().wait(_DAEMON_SECONDS)
                raise SystemExit  # ends the thread without a word
            return _errors.client_closed(self.forked)
        return _errors.backend_gone(lib.pf_client_ended(handle))

    def take_mirror(self) -> tuple[int, int]:
        """A fresh mirror: its id for pf_mirror_attach, and the descriptor, which is the caller's.

        Raises:
            OSError: the backend or this process has none left (EMFILE), or the backend is gone.
        """
        while True:
            # Without the lock, which is about fetching: each is taken once. What a signal handler,
            # in the middle of this, takes and gives is right as well.
            try:
                number, fd = self._mirrors.pop()
            except IndexError:
                with self._mirror_lock:
                    if not self._mirrors:
                        self._fetch_mirrors()
            else:
                return number, fd if fd < _SELECT_MAX else _lowest(fd)

    def _fetch_mirrors(self) -> None:
        try:
            reply, fds = self._ask(_protocol.Mirrors(_MIRROR_BATCH), "mirrors", _MIRROR_BATCH)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            # The last descriptors that this process may have go one by one.
            reply, fds = self._ask(_protocol.Mirrors(1), "mirrors", 1)
        first = reply.get("first")
        if type(first) is not int or not fds:
            close_all(fds)
            raise BackendUnavailable(errno.EPROTO, "the backend sent no mirrors")
        # Taken from the end: the lowest id first.
        self._mirrors[:0] = [(first + i, fd) for i, fd in enumerate(fds)][::-1]

    def give_mirror(self, number: int, fd: int) -> bool:
        """Takes back a mirror that was never attached, and of which there is no other descriptor.

        To the backend it is as good as new, and cheaper by a round trip and seven system calls.

        Args:
            number: its id.
            fd: its descriptor: blocking, not inheritable, and known to nobody.

        Returns:
            False: it is not wanted, and to be closed. Never waits, as it may be the garbage
            collector who closes a socket, in a thread that has a lock which another waits for.
        """
        if not self._mirror_lock.acquire(blocking=False):
            return False
        try:
            handle = self.handle
            if handle is None or len(self._mirrors) >= _MIRRORS_KEPT or lib.pf_client_ended(handle):
                return False
            self._mirrors.append((number, fd))
            return True
        finally:
            self._mirror_lock.release()

    def descriptors(self) -> set[int]:
        """What it needs of the process's descriptors, and no program knows of."""
        with self._mirror_lock:
            return {self._channel.fileno(), self._doorbell, *(fd for _, fd in list(self._mirrors))}

    def take_bell(self) -> int:
        """The bell: one descriptor for the completions of all sockets, which is the caller's.

        An earlier one hangs up. How to wait by it: pf_bell_arm of native/client/client.h.

        Raises:
            OSError: no descriptors are left, or the backend is gone.
        """
        _, fds = self._ask(_protocol.Bell(), "bell", 1)
        if len(fds) != 1:
            raise BackendUnavailable(errno.EPROTO, "the backend sent no bell")
        return fds[0]

    def show(self, fd: int) -> int:
        """Shows the backend a mirror descriptor: the ticket by which its socket can be claimed.

        Raises:
            OSError: it is none, or the backend is gone.
        """
        reply, _ = self._ask(_protocol.Show(), "shown", shown=fd)
        ticket = reply.get("ticket")
        if type(ticket) is not int:
            raise BackendUnavailable(errno.EPROTO, "the backend gave no ticket")
        return ticket

    def _ask(
        self,
        request: _protocol.Request,
        expected: str,
        descriptors: int = 0,
        shown: int | None = None,
    ) -> tuple[_protocol.Message, list[int]]:
        """See `Channel.request`; `failure` if the session is closed, or is so meanwhile."""
        if self.handle is None:
            raise self.failure()
        try:
            reply, fds = self._channel.request(request, expected, descriptors, shown)
        except BackendGone:
            if self.handle is None:
                raise self.failure() from None
            raise
        if self.handle is None:
            close_all(fds)
            raise self.failure()
        return reply, fds

    def close(self) -> None:
        """Ends the session: blocked calls return with an error, all sockets close gracefully.

        Raises nothing of its own; twice is no error. A private backend of which this was the last
        client ends.
        """
        try:
            self._unclosed.pop()
        except IndexError:
            return
        remaining = -1
        try:
            handle, self.handle = self.handle, None
            if handle is not None:
                lib.pf_client_abandon(handle)
            self._let_go()
            # The backend may be gone, or hang: then all there is to do is to hang up.
            with contextlib.suppress(OSError):
                reply, _ = self._channel.request(_protocol.Detach(), "detached")
                remaining = int(reply.get("remaining", -1))
        finally:  # also when a signal handler raised
            self._channel.close()
        _discovery.released(self.path, remaining)

    def _let_go(self) -> None:
        for known in list(self._owners):
            owner = known()
            if owner is not None:
                owner._session_ended()
        with self._mirror_lock, contextlib.suppress(IndexError):
            while True:  # without the lock, whoever takes one may be faster
                os.close(self._mirrors.pop()[1])

    def _in_child(self) -> None:
        """The regions are not mapped here, and locks may be held by threads that do not exist."""
        self.handle = None
        self.forked = True
        self._mirror_lock = threading.RLock()
        self._unclosed.clear()
        # Also of one that another thread of the parent is just closing: these are copies of the
        # parent's descriptors, and held they would keep a dead parent's session alive.
        self._let_go()
        self._channel.close()


def _lowest(fd: int) -> int:
    """A descriptor that select() can take, if there is such a number free now."""
    try:
        lower = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
    except OSError:
        return fd  # the last one that this process may have
    os.close(max(fd, lower))
    return min(fd, lower)


# Not WeakSets: going through one costs a forked child more pages than all that is done here.
_sessions: set[weakref.ref[Session]] = set()
# What is mapped, closed or not: whoever is inside of a call has a reference.
_handles: set[weakref.ref[CData]] = set()
_exiting = False
# How often this process, as a copy of its ancestors, was made by a fork.
_forks = 0


def _closed_meanwhile() -> BackendGone:
    return BackendGone(errno.ECONNRESET, "the connection to the backend was closed")


def _after_fork_in_child() -> None:
    global _forks
    _forks += 1
    for mapped in list(_handles):
        handle = mapped()
        if handle is not None:
            # Also of sessions that were closed: not unmapped, as by the time this is collected the
            # addresses may belong to something else, to the child's own client for one.
            ffi.gc(handle, None)
            # A signal handler may have forked in the middle of a call: it goes on with this handle.
            lib.pf_client_forked(handle)
    for known in list(_sessions):
        session = known()
        if session is not None:
            session._in_child()


def _at_exit() -> None:
    global _exiting
    _exiting = True
    for known in list(_sessions):
        session = known()
        if session is not None:
            session.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
