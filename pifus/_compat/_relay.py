"""A stack socket as the standard input or output of a program that is not Python.

`subprocess.Popen(stdin=connection)` and `os.dup2` with `os.exec…` give a child the descriptor, as
inetd and CGI servers do; a Python child finds the stack socket behind it, every other program would
read the bytes that show readiness. It gets one end of a UNIX socket pair instead, and what passes
through that is carried on: by a thread beside a `Popen`, and instead of an exec by the process
that was to become the program.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket as _names
import sys
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from pifus._compat import _files, _late, _raw

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint

_CHUNK: Final = 65536
_NOW: Final = int(_names.MSG_DONTWAIT)
_BROKEN: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL
# Where Popen._execute_child has what: the command, and the descriptors of the child.
_ARGS, _EXECUTABLE, _SHELL = 0, 1, 9
_HANDLES: Final = (10, 13, 15)
_DESCRIPTORS_END: Final = 1 << 20
# What is meant for the program when it is sent to the process that stands in for it.
_PASSED_ON: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


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
        if self._to_program and events & select.POLLOUT:
            self._to_program = self._to_program[self._far.send(self._to_program) :]
        if self._program_sends and not self._to_peer and events & (select.POLLIN | _BROKEN):
            self._to_peer = self._far.recv(_CHUNK)
            if not self._to_peer:
                self._program_sends = False


def _pairs(standard: dict[int, int]) -> Iterator[tuple[list[int], Relay, _names.socket]]:
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


def _is_reached(command: list[str]) -> bool:
    """Whether a command is a Python program that finds the stack's sockets itself."""
    from pifus import _command

    python = _command.understand(command)
    return python is not None and (not python.is_blind or "boot.py" in python.target)


# ---- subprocess ----


def _execute_child(original: Callable[..., Any]) -> Callable[..., Any]:
    def _execute_child(self: Any, *arguments: Any) -> Any:
        words = list(arguments)
        standard = {
            place: words[place] if words[place] != -1 else number
            for number, place in enumerate(_HANDLES)
        }
        if not any(map(_files.is_ours, standard.values())) or _reached(words):
            return original(self, *arguments)
        relays, ends = [], []
        for places, relay, far in _pairs(standard):
            for place in places:
                words[place] = far.fileno()
            relays.append(relay)
            ends.append(far)
        try:
            return original(self, *words)
        finally:
            for end in ends:
                end.close()
            # Not daemons: what a child wrote last must not be lost because its parent ends.
            for relay in relays:
                threading.Thread(target=relay.run, name="pifus relay").start()
            self._pifus_relays = relays

    return _execute_child


def _handle_exitstatus(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def _handle_exitstatus(self: Any, *arguments: Any, **options: Any) -> Any:
        result = original(self, *arguments, **options)
        for relay in getattr(self, "_pifus_relays", ()):
            relay.catch_up()
        return result

    return _handle_exitstatus


def _reached(words: list[Any]) -> bool:
    if words[_SHELL]:
        return False
    command = words[_ARGS]
    listed = [command] if isinstance(command, (str, bytes, os.PathLike)) else list(command)
    with contextlib.suppress(TypeError, ValueError, IndexError):
        texts = [os.fsdecode(word) for word in listed]
        return _is_reached([os.fsdecode(words[_EXECUTABLE] or texts[0]), *texts[1:]])
    return False


def _subprocess(module: ModuleType, execute: Callable[[ModuleType], None]) -> None:
    execute(module)
    _wire_popen(module, setattr)


def _wire_popen(module: Any, replace: Callable[[Any, str, Any], None]) -> None:
    cls = module.Popen
    replace(cls, "_execute_child", _execute_child(cls._execute_child))
    replace(cls, "_handle_exitstatus", _handle_exitstatus(cls._handle_exitstatus))


# ---- exec ----


def _exec(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def execute(path: Any, argv: Any, *environment: Any) -> Any:
        if any(map(_files.is_ours, range(3))) and _is_a_stranger(path, argv):
            _stand_in(lambda: original(path, argv, *environment))
        return original(path, argv, *environment)

    return execute


def _is_a_stranger(path: Any, argv: Any) -> bool:
    try:
        texts = [os.fsdecode(path), *(os.fsdecode(word) for word in list(argv)[1:])]
        # Not there: os.execvp tries one directory after the other.
        return os.access(texts[0], os.X_OK) and not _is_reached(texts)
    except (TypeError, ValueError):
        return False  # the call itself will complain


def _stand_in(become: Callable[[], Any]) -> None:
    """The program becomes a child of this process, which carries bytes and ends as it does.

    So whoever waits for this process finds in the connection all that the program wrote.

    Args:
        become: executes the program.

    Raises:
        OSError: it cannot be executed.
    """
    pairs = list(_pairs({number: number for number in range(3)}))
    relays = [relay for _, relay, _ in pairs]
    failed, failing = os.pipe()
    program = os.fork()
    if program == 0:
        try:
            for numbers, _, far in pairs:
                for number in numbers:
                    os.dup2(far.fileno(), number)
            become()
        except OSError as problem:
            os.write(failing, b"%d" % (problem.errno or 0))
        finally:
            os._exit(127)
    os.close(failing)
    for _, _, far in pairs:
        far.close()
    error = os.read(failed, 16)
    os.close(failed)
    if error:
        os.waitpid(program, 0)
        raise OSError(int(error), os.strerror(int(error)))
    status = 127
    try:
        status = _accompany(program, relays)
    finally:
        os._exit(status)


def _accompany(program: int, relays: list[Relay]) -> int:
    """Until the program has ended; its exit status."""
    kept = sorted(fd for relay in relays for fd in relay.descriptors())
    for low, high in zip([-1, *kept], [*kept, _DESCRIPTORS_END], strict=True):
        os.closerange(low + 1, high)
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(program, number))
    _carry(relays)
    _, status = os.waitpid(program, 0)
    for relay in relays:
        relay.catch_up()
    left = [relay for relay in relays if not relay.is_over()]
    if left and _forked_between_turns(left) == 0:
        # What the program has left behind may still use the connection.
        for thread in _carry([relay.again() for relay in left]):
            thread.join()
        return 0
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def _forked_between_turns(relays: list[Relay]) -> int:
    """os.fork while no relay is in the middle of carrying; in the parent none goes on."""
    for relay in relays:
        relay.pause()
    return os.fork()


def _carry(relays: list[Relay]) -> list[threading.Thread]:
    threads = [threading.Thread(target=relay.run, daemon=True) for relay in relays]
    for thread in threads:
        thread.start()
    return threads


# ---- system ----


def _system(original: Callable[[Any], int]) -> Callable[[Any], int]:
    @wraps(original)
    def system(command: Any) -> int:
        if not any(map(_files.is_ours, range(3))):
            return original(command)
        import subprocess

        status = subprocess.run(command, shell=True, check=False).returncode
        return -status if status < 0 else status << 8

    return system


def wire(replace: Callable[[Any, str, Any], None]) -> None:
    """Puts itself into `os`, and into `subprocess` when that is imported.

    Args:
        replace: sets an attribute, and remembers what was there.
    """
    replace(os, "execv", _exec(os.execv))
    replace(os, "execve", _exec(os.execve))
    replace(os, "system", _system(os.system))
    module = sys.modules.get("subprocess")
    if module is None:
        _late.watch("subprocess", _subprocess)
    else:
        _wire_popen(module, replace)


def unwire() -> None:
    """Nobody waits for `subprocess` any more."""
    _late.forget("subprocess")
