"""A stack socket as the standard input or output of a program that is not Python.

`subprocess.Popen(stdin=connection)` and `os.dup2` with `os.exec…` give a child the descriptor, as
inetd and CGI servers do; a Python child finds the stack socket behind it, every other program would
read the bytes that show readiness. It gets one end of a UNIX socket pair instead, and what passes
through that is carried on: by a thread beside a `Popen`, and instead of an exec by the process
that was to become the program.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import socket as _names
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pifus._compat import _files, _raw

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint

_CHUNK: Final = 65536
_NOW: Final = int(_names.MSG_DONTWAIT)
_BROKEN: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


_DESCRIPTORS_END: Final = 1 << 20

# Those that have a thread of this process.
_running: list[Relay] = []
_watching_end = False


class Relay:
    """Carries bytes between a stack socket and a program, until the program has let go.

    Args:
        fd: a descriptor of the socket, the relay's own.
        far: a socket whose other end the program has.
    """

    def __init__(self, fd: int, far: _names.socket) -> None:
        self._fd = fd
        self._far = far
        self._to_program = b""
        self._to_peer = b""
        self._peer_sends = True
        self._program_sends = True
        self._turned = threading.Condition()
        self._blocked = False
        self._over = False

    def descriptors(self) -> tuple[int, int]:
        """What it needs."""
        return self._fd, self._far.fileno()

    def run(self) -> None:
        """Until the program has closed its end, and the peer has what it wrote; never raises."""
        try:
            with contextlib.suppress(OSError):
                while self._program_sends or self._to_peer:
                    self._turn()
        finally:
            with self._turned:
                self._over = True
                self._turned.notify_all()
                self._far.close()
            with contextlib.suppress(OSError):
                os.close(self._fd)
            with contextlib.suppress(ValueError):
                _running.remove(self)

    def is_over(self) -> bool:
        """Whether the program, and whoever else had its end, has let go."""
        with self._turned:
            return self._over

    def pause(self) -> None:
        """Lets it do nothing more in this process."""
        self._turned.acquire()

    def again(self) -> Relay:
        """The same in another process: the threads of this one are not there."""
        other = Relay(self._fd, self._far)
        other._to_program, other._to_peer = self._to_program, self._to_peer
        other._peer_sends, other._program_sends = self._peer_sends, self._program_sends
        return other

    def catch_up(self) -> None:
        """Waits until what the program has written so far is sent, or there is no room for it.

        So whoever has waited for the program's end finds its output before his own.
        """
        with self._turned:
            self._turned.wait_for(lambda: self._over or self._blocked or not self._is_behind())

    def _is_behind(self) -> bool:
        if not self._program_sends and not self._to_peer:
            return False
        poll = select.poll()
        poll.register(self._far, select.POLLIN)
        waiting = any(events & select.POLLIN for _, events in poll.poll(0))
        return bool(self._to_peer) or (self._program_sends and waiting)

    def _turn(self) -> None:
        endpoint = _raw.find(self._fd)
        if endpoint is None:
            raise OSError  # its backend has gone
        poll = select.poll()
        far = select.POLLIN if self._program_sends and not self._to_peer else 0
        far |= select.POLLOUT if self._to_program else 0
        near = select.POLLIN if self._peer_sends and not self._to_program else 0
        near |= select.POLLOUT if self._to_peer else 0
        if far:
            poll.register(self._far, far)
        if near:
            poll.register(self._fd, near)
        endpoint.show()
        ready = poll.poll()
        with self._turned:
            for fd, events in ready:
                with contextlib.suppress(BlockingIOError):
                    if fd == self._fd:
                        self._near(endpoint, events)
                    else:
                        self._other(events)
            self._push(endpoint)
            self._turned.notify_all()

    def _push(self, endpoint: Endpoint) -> None:
        """Sends what there is: most often there is room."""
        self._blocked = False
        try:
            if self._to_peer:
                sent = endpoint.io.send(endpoint, self._to_peer, _NOW, None)
                self._to_peer = self._to_peer[sent:]
        except BlockingIOError:
            self._blocked = True

    def _near(self, endpoint: Endpoint, events: int) -> None:
        if self._peer_sends and not self._to_program and events & (select.POLLIN | _BROKEN):
            self._to_program = endpoint.io.recv(endpoint, _CHUNK, _NOW, None)
            _raw.show(endpoint)
            if not self._to_program:
                self._peer_sends = False
                self._far.shutdown(_names.SHUT_WR)

    def _other(self, events: int) -> None:
        if self._to_program and events & (select.POLLOUT | _BROKEN):
            try:
                self._to_program = self._to_program[self._far.send(self._to_program) :]
            except (BrokenPipeError, ConnectionResetError):
                # It reads no further, and may have ended: what it said before is still to be sent.
                self._to_program, self._peer_sends = b"", False
        if self._program_sends and not self._to_peer and events & (select.POLLIN | _BROKEN):
            self._to_peer = self._far.recv(_CHUNK)
            if not self._to_peer:
                self._program_sends = False


def pairs(standard: dict[int, int]) -> Iterator[tuple[list[int], Relay, _names.socket]]:
    """For each stack socket among descriptors: which they are, a relay, the program's end.

    Args:
        standard: by the number that it has in the program, each descriptor.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for number, fd in standard.items():
        if _files.is_ours(fd):
            status = os.fstat(fd)
            found.setdefault((status.st_dev, status.st_ino), []).append(number)
    for numbers in found.values():
        near, far = _names.socketpair()
        near.setblocking(False)
        yield numbers, Relay(os.dup(standard[numbers[0]]), near), far


def start(relays: list[Relay]) -> None:
    """Carries on in threads, and when this process ends, in another one.

    So what a child wrote last is not lost because its parent ends, which need not wait for it.
    """
    global _watching_end
    if not _watching_end:
        _watching_end = True
        # At the end of the session there must be nothing left to do: the last of these is first.
        from pifus._core import _session  # noqa: F401

        atexit.register(_hand_over)
    for relay in relays:
        _running.append(relay)
        threading.Thread(target=relay.run, name="pifus relay", daemon=True).start()


def leave_to_others(relays: list[Relay]) -> None:
    """Each goes on in a process of its own; this one may end."""
    for relay in relays:
        relay.pause()
    for relay in relays:
        with warnings.catch_warnings():
            # Threads that are not there are none of the relay's.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if process == 0:
            try:
                keep_only([relay])
                relay.again().run()
            finally:
                os._exit(0)


def keep_only(relays: list[Relay]) -> None:
    """Closes all descriptors but those that relays need."""
    kept = sorted(fd for relay in relays for fd in relay.descriptors())
    for low, high in zip([-1, *kept], [*kept, _DESCRIPTORS_END], strict=True):
        os.closerange(low + 1, high)


def _hand_over() -> None:
    leave_to_others([relay for relay in _running if not relay.is_over()])


def _in_child() -> None:
    _running.clear()


os.register_at_fork(after_in_child=_in_child)
