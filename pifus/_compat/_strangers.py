"""Programs that are not Python, and get a stack socket as their standard input or output.

However they are started: by `subprocess`, in the place of this process by os.exec…, by os.system or
by os.posix_spawn. What they get, and what carries the bytes, is in `_relay`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, Final

from pifus._compat import _files, _late, _relay

# Where Popen._execute_child has what: the command, and the descriptors of the child.
_ARGS, _EXECUTABLE, _SHELL = 0, 1, 9
_HANDLES: Final = (10, 13, 15)
# What is meant for the program when it is sent to the process that stands in for it.
_PASSED_ON: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

# By process, of those that posix_spawn has started and nobody has waited for yet.
_spawned: dict[int, list[_relay.Relay]] = {}


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
        for places, relay, far in _relay.pairs(standard):
            for place in places:
                words[place] = far.fileno()
            relays.append(relay)
            ends.append(far)
        try:
            return original(self, *words)
        finally:
            for end in ends:
                end.close()
            _relay.start(relays)
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


# ---- posix_spawn ----


def _spawn(
    original: Callable[..., int], find: Callable[[Any], Any] = lambda path: path
) -> Callable[..., int]:
    @wraps(original)
    def spawn(path: Any, argv: Any, env: Any, /, **options: Any) -> int:
        actions = [tuple(action) for action in options.get("file_actions") or ()]
        standard = _after(actions)
        if not any(map(_files.is_ours, standard.values())) or not _is_a_stranger(find(path), argv):
            return original(path, argv, env, **options)
        # Above all numbers that the actions name, so that none of them is in the way.
        named = (number for action in actions for number in _numbers(action))
        above = 1 + max(named, default=2)
        relays, ends = [], []
        try:
            for places, relay, far in _relay.pairs(standard):
                relays.append(relay)
                with far:
                    ends.append(fcntl.fcntl(far, fcntl.F_DUPFD_CLOEXEC, above))
                actions += [(os.POSIX_SPAWN_DUP2, ends[-1], place) for place in places]
            pid = original(path, argv, env, **{**options, "file_actions": actions})
            _spawned[pid] = relays
            return pid
        finally:
            for end in ends:
                os.close(end)
            _relay.start(relays)

    return spawn


def _waited(original: Callable[..., Any]) -> Callable[..., Any]:
    """A wait for children: who is told of the end of one finds its output sent."""

    @wraps(original)
    def wait(*arguments: Any, **options: Any) -> Any:
        result = original(*arguments, **options)
        if _spawned:
            for relay in _spawned.pop(result[0], ()):
                relay.catch_up()
        return result

    return wait


def _numbers(action: tuple[Any, ...]) -> tuple[int, ...]:
    return action[1:3] if action[0] == os.POSIX_SPAWN_DUP2 else action[1:2]


def _after(actions: list[tuple[Any, ...]]) -> dict[int, int]:
    """Which descriptors of this process are the standard ones of the new one, after the actions."""
    held: dict[int, int] = {}
    for action in actions:
        if action[0] == os.POSIX_SPAWN_DUP2:
            held[action[2]] = held.get(action[1], action[1])
        else:
            held[action[1]] = -1  # closed, or another file
    return {number: held.get(number, number) for number in range(3)}


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
    pairs = list(_relay.pairs({number: number for number in range(3)}))
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


def _accompany(program: int, relays: list[_relay.Relay]) -> int:
    """Until the program has ended; its exit status."""
    _relay.keep_only(relays)
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(program, number))
    _carry(relays)
    _, status = os.waitpid(program, 0)
    for relay in relays:
        relay.catch_up()
    # What the program has left behind may still use the connection.
    _relay.leave_to_others([relay for relay in relays if not relay.is_over()])
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    return os.waitstatus_to_exitcode(status)


def _carry(relays: list[_relay.Relay]) -> None:
    for relay in relays:
        threading.Thread(target=relay.run, daemon=True).start()


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
    replace(os, "posix_spawn", _spawn(os.posix_spawn))
    for name in ("wait", "wait3", "wait4", "waitpid"):
        replace(os, name, _waited(getattr(os, name)))
    replace(os, "posix_spawnp", _spawn(os.posix_spawnp, shutil.which))
    module = sys.modules.get("subprocess")
    if module is None:
        _late.watch("subprocess", _subprocess)
    else:
        _wire_popen(module, replace)


def unwire() -> None:
    """Nobody waits for `subprocess` any more."""
    _late.forget("subprocess")
