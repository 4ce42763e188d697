"""Nothing bypasses silently: native code and captured classes that open INET sockets themselves.

Three ways to notice: modules that are known for it, when they are imported; Python code that makes
a socket of another class than the patched one, by its audit event; and everything else by looking
through this process's descriptors, now and then and at its end. Each is told once, on stderr; with
`--strict` it is refused.
"""

from __future__ import annotations

import _socket as _c
import atexit
import contextlib
import importlib.machinery
import os
import stat
import sys
import time
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

from pifus import _natives, _policy
from pifus._compat import _table

_INET: Final = (_c.AF_INET, _c.AF_INET6)
_PACKAGE: Final = str(Path(__file__).resolve().parents[1]) + os.sep
_STDLIB: Final = str(Path(os.__file__).parent) + os.sep
_SCAN_SECONDS: Final = 5.0
_DNS_PORT: Final = 53

_told: dict[str, None] = {}
_watching = False
_hooked = False
_strict = False
_next_scan = 0.0
# Sockets that were there before: inherited, or made before a late patch.
_before: set[tuple[int, int]] = set()


def told() -> list[str]:
    """What was noticed so far."""
    look()
    return list(_told)


def watch() -> None:
    """From now on. What is there already, and what was imported already, is told as well."""
    global _watching, _hooked, _strict
    _watching = True
    # A wrong rule is told when the first socket is made, not by a failed patch.
    with contextlib.suppress(ValueError, OSError):
        _strict = _policy.from_environment().strict
    _before.update(_sockets().values())
    sys.meta_path.insert(0, _finder)
    for name in _natives.KNOWN:
        if name in sys.modules:
            _note(f"{_natives.sentence(name)}; it was imported before the patch")
    if not _hooked:
        _hooked = True
        sys.addaudithook(_audit)
        atexit.register(look)


def unwatch() -> None:
    """The end of `watch`."""
    global _watching
    _watching = False
    with contextlib.suppress(ValueError):
        sys.meta_path.remove(_finder)


def _note(text: str) -> None:
    if text not in _told:
        _told[text] = None
        # One write: lines of several threads and processes stay whole.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"pifus: {text}\n")


def _where() -> str:
    """The line of the program that caused this: not of pifus or the standard library."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        inside = name.startswith(_STDLIB) and "site-packages" not in name
        if not inside and not name.startswith((_PACKAGE, "<frozen")):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "the interpreter"


# ---- known modules ----


class _Shim(Loader):
    """A stand-in for uvloop: the loops of asyncio, whose sockets are the stack's."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        del spec
        return None  # as usual

    def exec_module(self, module: ModuleType) -> None:
        import asyncio

        contents: dict[str, Any] = {
            "__version__": "0.0+pifus",
            "__all__": ["EventLoopPolicy", "Loop", "install", "new_event_loop", "run"],
            "EventLoopPolicy": asyncio.DefaultEventLoopPolicy,
            "Loop": asyncio.SelectorEventLoop,
            "install": lambda: None,
            "new_event_loop": asyncio.new_event_loop,
            "run": asyncio.run,
        }
        vars(module).update(contents)


class _Finder(MetaPathFinder):
    """Sees every import first; finds nothing itself but the stand-in for uvloop."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _natives.KNOWN or not _watching:
            return None
        real = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if real is None:
            return None  # not installed: an ImportError as always
        if fullname == "uvloop":
            _note(f"uvloop's sockets would go past the stack: asyncio's own loop runs ({_where()})")
            return importlib.machinery.ModuleSpec("uvloop", _Shim(), origin="pifus")
        text = f"{_natives.sentence(fullname)}: imported at {_where()}"
        if _strict:
            raise ImportError(f"pifus --strict: {text}", name=fullname)
        _note(text)
        return None


_finder: Final = _Finder()


# ---- Python code with another class ----


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "socket.__new__":
        _made(*arguments)
    elif event in ("subprocess.Popen", "os.exec", "os.posix_spawn"):
        _starts(arguments[0], arguments[1])


def _made(sock: Any, family: int, kind: int, protocol: int) -> None:
    del kind, protocol
    if family not in _INET or isinstance(sock, _ours()) or not _is_outside():
        return
    name = f"{type(sock).__module__}.{type(sock).__qualname__}"
    text = f"a socket of the class {name} goes past the stack: made at {_where()}"
    if _strict:
        raise PermissionError(f"pifus --strict: {text}")
    _note(text)


def _ours() -> tuple[type, ...]:
    from pifus._compat import _methods

    socket = sys.modules.get("socket")
    return (_methods.socket, *((socket.socket,) if socket is not None else ()))


def _is_outside() -> bool:
    """False for what pifus does itself."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return not frame.f_code.co_filename.startswith(_PACKAGE)


def _starts(executable: Any, command: Any) -> None:
    """A child interpreter that sitecustomize does not reach."""
    from pifus import _command

    with contextlib.suppress(TypeError, ValueError):
        words = [os.fsdecode(word) for word in ([command] if isinstance(command, str) else command)]
        words = [os.fsdecode(executable or words[0]), *words[1:]]
        python = _command.understand(words)
        if python is None or not python.is_blind or _is_boot(python):
            return
        flags = " ".join(python.flags)
        text = (
            f"a Python process with {flags} uses the kernel's sockets, as it looks at no "
            f"PYTHONPATH or sitecustomize: started at {_where()}"
        )
        if _strict:
            raise PermissionError(f"pifus --strict: {text}")
        _note(text)


def _is_boot(python: Any) -> bool:
    return Path(python.target).name == "boot.py" and _PACKAGE in str(python.target)


# ---- descriptors ----


def _sockets() -> dict[int, tuple[int, int]]:
    """Every socket descriptor of this process, with its device and inode."""
    found = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - strings will do
            with contextlib.suppress(OSError):
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    found[int(name)] = (status.st_dev, status.st_ino)
    return found


def glance() -> None:
    """When a socket is made: looks at the descriptors if the last time is a while ago.

    Raises:
        PermissionError: --strict, and native code has opened a socket.
    """
    global _next_scan
    if not _watching or time.monotonic() < _next_scan:
        return
    _next_scan = time.monotonic() + _SCAN_SECONDS
    found = look()
    if found and _strict:
        raise PermissionError(f"pifus --strict: {found[0]}")


def look() -> list[str]:
    """Looks at all descriptors, and tells of the INET sockets that nobody knows."""
    if not _watching:
        return []
    sockets = _sockets()
    known = _table.keep_known(set(sockets.values())) | _before
    found = []
    for fd, inode in sockets.items():
        if inode in known or fd in _table.endpoints:
            continue
        text = _describe(fd)
        if text is not None:
            _before.add(inode)
            found.append(text)
            _note(text)
    return found


def _describe(fd: int) -> str | None:
    try:
        sock = _c.socket(fileno=os.dup(fd))
    except OSError:
        return None  # closed meanwhile
    with contextlib.closing(sock):
        if sock.family not in _INET:
            return None
        kind = {_c.SOCK_STREAM: "TCP", _c.SOCK_DGRAM: "UDP"}.get(sock.type, "raw")
        place = ""
        with contextlib.suppress(OSError):
            host, port = sock.getpeername()[:2]
            if port == _DNS_PORT:
                return None  # the system's resolver
            place = f" to {host} port {port}"
        if not place:
            with contextlib.suppress(OSError):
                place = f" on port {sock.getsockname()[1]}"
    return f"a {kind} socket{place} goes past the stack: opened by {_natives.suspects()}"
