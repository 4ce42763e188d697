"""pyOpenSSL over stack sockets: its connections give a descriptor to OpenSSL, which reads it in C.

A connection over a stack socket works in memory, and what is in its two buffers is moved here: by
number, so that the descriptor says whether to wait, as it does for OpenSSL. One record at a time is
taken from the socket, so that polling it sees what is not decrypted yet.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, Final

from pifus._compat import _late, _raw

_MODULE: Final = "OpenSSL.SSL"
_CALLS: Final = ("do_handshake", "send", "sendall", "recv", "recv_into", "shutdown")
_READS: Final = ("recv", "recv_into")
_ALIASES: Final = {"write": "send", "read": "recv"}
_HEADER: Final = 5
_MOST: Final = 65536
_PUMP: Final = "_pifus_pump"

Replace = Callable[[Any, str, Any], None]


class _Pump:
    """Moves bytes between a connection's memory and its socket."""

    def __init__(self, ssl: Any, connection: Any) -> None:
        self._ssl = ssl
        self._connection = connection
        self._unsent = b""
        self._header = b""
        self._missing = 0
        # By name what a call has done already, whose bytes the socket has not taken yet: until it
        # is made again, whatever else is called, or tried in vain, meanwhile.
        self._owed: dict[str, Any] = {}

    def call(self, name: str, original: Callable[[Any], Any]) -> Any:
        """One call of the connection, as it is over a socket."""
        self._flush()
        if name in self._owed:
            return self._owed.pop(name)
        while True:
            try:
                result = original(self._connection)
                break
            except self._ssl.WantReadError:
                self._flush()
                self._feed()
        try:
            self._flush()
        except self._ssl.WantWriteError:
            if name not in _READS:
                self._owed[name] = result
                raise
        return result

    def _flush(self) -> None:
        while True:
            if not self._unsent:
                try:
                    self._unsent = self._connection.bio_read(_MOST)
                except self._ssl.WantReadError:
                    return
            sent = self._io(os.write, self._unsent, self._ssl.WantWriteError)
            self._unsent = self._unsent[sent:]

    def _feed(self) -> None:
        """Takes what is missing of a record, or a part of it."""
        data = self._io(
            os.read, self._missing or _HEADER - len(self._header), self._ssl.WantReadError
        )
        if not data:
            self._connection.bio_shutdown()
            return
        if self._missing:
            self._missing -= len(data)
        else:
            self._header += data
            if len(self._header) == _HEADER:
                self._missing = int.from_bytes(self._header[3:], "big")
                self._header = b""
        self._connection.bio_write(data)

    def _io(self, call: Callable[[int, Any], Any], what: Any, want: Any) -> Any:
        try:
            return call(self._connection.fileno(), what)
        except BlockingIOError:
            raise want from None
        except OSError as error:
            code = error.errno or 0
            raise self._ssl.SysCallError(code, errno.errorcode.get(code)) from None


def wire(replace: Replace) -> None:
    """From now on connections over stack sockets work, also when the module is imported later.

    Args:
        replace: sets an attribute, and remembers what was there.
    """
    module = _late.imported(_MODULE)
    if module is not None:
        _wire(module, replace)
        return

    def execute(late: ModuleType, original: _late.Execute) -> None:
        original(late)
        _wire(late, replace)

    _late.watch(_MODULE, execute)


def unwire() -> None:
    """Undoes a `wire` for whose module nobody has asked."""
    _late.forget(_MODULE)


def _wire(module: Any, replace: Replace) -> None:
    cls = module.Connection
    original = cls.__init__

    @wraps(original)
    def __init__(self: Any, context: Any, socket: Any = None) -> None:  # noqa: N807
        if socket is None or _raw.find(socket.fileno()) is None:
            original(self, context, socket)
            return
        original(self, context)
        self._socket = socket
        vars(self)[_PUMP] = _Pump(module, self)

    replace(cls, "__init__", __init__)
    calls = {name: _pumped(name, vars(cls)[name]) for name in _CALLS}
    for name, call in {**calls, **{alias: calls[name] for alias, name in _ALIASES.items()}}.items():
        replace(cls, name, call)


def _pumped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        pump = vars(self).get(_PUMP)
        if pump is None:
            return original(self, *arguments, **named)
        return pump.call(name, lambda it: original(it, *arguments, **named))

    return call
