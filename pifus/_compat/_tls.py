"""TLS on a stack socket: the interpreter's own engine, fed by the stack instead of a descriptor.

The engine of `ssl` reads and writes a descriptor in C, and a mirror descriptor carries no data. So
it works on two buffers in memory here, and this module moves what is in them. From the socket it
takes exactly the record that the engine asks for, never a byte more, as OpenSSL does: what is not
decrypted yet stays in the socket, where select sees it and from where whoever comes after an
`unwrap` reads on; what is decrypted and not read yet `pending` tells.
"""

from __future__ import annotations

import _socket
import contextlib
import ssl
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pifus._compat import _stream, _table
from pifus._compat._tls_calls import (
    Call,
    Lock,
    closed,
    gone,
    retell,
    tls_error,
    want_read,
    want_write,
    wrap_descriptor,
)
from pifus._core._client import ffi

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from pifus._compat._endpoint import Endpoint

_HEADER: Final = 5
_RECORD_MAX: Final = 16384
# A blocking call encrypts so much before it sends.
_BATCH: Final = 4 * _RECORD_MAX
_SSL2_CLIENT_HELLO: Final = 1

_fileno = _socket.socket.fileno
_gettimeout = _socket.socket.gettimeout
# Buffers for what comes in; a record and its header say how long they are in 16 bits.
_pool: list[Any] = []
_BUFFER: Final = 65536


class Engine:
    """What an `SSLSocket` of the stack has in the place of its `_ssl._SSLSocket`.

    Everything that moves bytes is here; all else (certificates, ciphers, sessions) is the
    engine's. Threads may read and write at once: the engine is never entered by two, and none
    waits for the network inside of it.
    """

    __slots__ = (
        "_body",
        "_encrypted",
        "_engine",
        "_fed",
        "_flushed",
        "_guard",
        "_header",
        "_incoming",
        "_outgoing",
        "_over",
        "_reading",
        "_sending",
        "_sent",
        "_shaken",
        "_sock",
        "_started",
        "_unsent",
        "_writing",
    )

    def __init__(
        self, context: Any, sock: Any, server_side: bool, hostname: str | None, **more: Any
    ) -> None:
        self._sock = weakref.ref(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._engine: Any = context._wrap_bio(
            self._incoming, self._outgoing, server_side, hostname, **more
        )
        self._started = False
        # The handshake is done; the last read told an end, an error, or that there is nothing.
        self._shaken = False
        self._over = False
        # The engine and its two buffers; a callback of the engine's may come back here.
        self._guard = threading.RLock()
        self._reading = Lock()
        self._sending = Lock()
        self._writing = Lock()
        # Pieces of ciphertext that the engine was given.
        self._fed = 0
        # Of the record that comes in: what is there of its header, what is missing of its body.
        self._header = bytearray()
        self._body = 0
        # Ciphertext out of the engine, and how much of it is sent.
        self._unsent = b""
        self._sent = 0
        # Of a write that did not end: how much was encrypted, how much of that was sent.
        self._encrypted = 0
        self._flushed = 0

    # ---- what does not move bytes ----

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def context(self) -> Any:
        """The context; another one may be set in a server-name callback."""
        return self._engine.context

    @context.setter
    def context(self, context: Any) -> None:
        self._engine.context = context

    @property
    def session(self) -> Any:
        """The session, for reuse."""
        return self._engine.session

    @session.setter
    def session(self, session: Any) -> None:
        self._engine.session = session

    @property
    def owner(self) -> Any:
        """The SSLSocket."""
        return self._engine.owner

    @owner.setter
    def owner(self, owner: Any) -> None:
        self._engine.owner = owner

    # ---- what does ----

    def do_handshake(self) -> None:
        """Shakes hands."""
        if (direct := self._start()) is not None:
            direct.do_handshake()
            return
        call = self._call("handshake")
        self._run(call, self._engine.do_handshake)
        try:
            self._send(call)
        except (ConnectionResetError, BrokenPipeError):
            # The session tickets come after the handshake: a client may be gone by then, and
            # what it sent before is still to be read.
            if not (self._engine.server_side and self._engine.version() == "TLSv1.3"):
                raise

    def read(self, size: int, *buffer: WriteableBuffer) -> Any:
        """Decrypted bytes, or their number if there is a buffer; none at the end."""
        if (direct := self._start()) is not None:
            return direct.read(size, *buffer)
        call = self._call("read")
        try:
            fed = self._fed
            if size > 0 and self._is_dry():
                # It would say that it wants to read: spared, an exception costs more than a look.
                self._send_what_fits()
                if not self._feed(call, fed):
                    raise want_read()
            got = self._run(call, self._engine.read, size, *buffer)
        except (ssl.SSLWantReadError, TimeoutError):
            raise
        except OSError as error:
            self._over = True
            retell(error)
            raise
        self._over = not got
        self._send_what_fits()
        return got

    def _is_dry(self) -> bool:
        """True: without more ciphertext the engine has nothing to tell."""
        if self._over or not self._shaken:
            return False
        with self._guard:
            return not (self._engine.pending() or self._incoming.pending)

    def write(self, data: ReadableBuffer) -> int:
        """Encrypts and sends all of `data`. After SSLWantWriteError, as OpenSSL: the same again."""
        if (direct := self._start()) is not None:
            return int(direct.write(data))
        call = self._call("write")
        if not self._writing.take(call):
            raise want_write()
        try:
            with memoryview(data) as view, view.cast("B") as octets:
                return self._write(call, octets)
        except OSError as error:
            retell(error)
            raise
        finally:
            self._writing.give()

    def _write(self, call: Call, data: memoryview) -> int:
        size = len(data)
        if size < self._flushed:
            raise tls_error("bad length", "BAD_LENGTH")
        if size < self._encrypted:
            raise tls_error("bad write retry", "BAD_WRITE_RETRY")
        batch = _RECORD_MAX if call.nowait else _BATCH
        self._send(call)
        self._flushed = self._encrypted
        while self._encrypted < size or not size:
            with data[self._encrypted : self._encrypted + batch] as piece:
                self._encrypted += self._run(call, self._engine.write, piece)
            self._send(call)
            self._flushed = self._encrypted
            if not size:
                break
        self._encrypted = self._flushed = 0
        return size

    def shutdown(self) -> Any:
        """Ends TLS in both directions; the socket, which goes on without."""
        if (direct := self._start()) is not None:
            return direct.shutdown()
        call = self._call("read")
        call.is_read = False
        self._run(call, self._engine.shutdown)
        self._send(call)
        return self._sock()

    # ---- inside ----

    def _start(self) -> Any:
        """Before the first bytes: None, or the engine for a socket that became the kernel's."""
        if self._started:
            return None
        sock: Any = self._sock()
        fd = -1 if sock is None else _fileno(sock)
        if fd >= 0 and fd not in _table.endpoints:
            old = self._engine
            direct = wrap_descriptor(
                old.context,
                sock,
                old.server_side,
                old.server_hostname,
                owner=sock,
                session=old.session,
            )
            sock._sslobj = direct
            return direct
        self._started = True
        return None

    def _call(self, what: str) -> Call:
        return Call(what, _gettimeout(self._alive()))

    def _alive(self) -> Any:
        sock = self._sock()
        if sock is None:
            raise gone()
        return sock

    def _endpoint(self) -> Endpoint:
        endpoint = _table.endpoints.get(_fileno(self._alive()))
        if endpoint is None:
            raise closed()
        return endpoint

    def _run(self, call: Call, operation: Callable[..., Any], *arguments: Any) -> Any:
        """Lets the engine work, and moves bytes as it asks, until it is done or fails."""
        while True:
            fed = self._fed
            try:
                with self._guard:
                    result = operation(*arguments)
                self._shaken = True
                return result
            except ssl.SSLWantReadError:
                pass  # what follows is not to look like its consequence
            except ssl.SSLError:
                self._send_what_fits()  # an alert, most likely
                raise
            if self._shaken and call.is_read:
                # A reader must not wait for the peer to take what a writer has under way.
                self._send_what_fits()
            else:
                self._send(call)
            if not self._feed(call, fed):
                raise want_read()

    def _feed(self, call: Call, fed: int) -> bool:
        """Gives the engine what is missing of a record's header or body; False: nothing is there.

        Args:
            fed: the count before the engine asked.
        """
        if not self._reading.take(call):
            return False
        try:
            if self._fed != fed:
                return True  # another thread was faster
            whole = not self._body
            try:
                self._receive(call.left())
            except BlockingIOError:
                return False
            except TimeoutError:
                raise call.late() from None
            if whole and self._body:
                # Most often the body is here already, and the engine is asked only once.
                with contextlib.suppress(BlockingIOError):
                    self._receive(0)
            return True
        finally:
            self._reading.give()

    def _receive(self, timeout: float) -> None:
        """Takes what the next part of the record misses from the socket, or as much as is there."""
        wanted = self._body or _HEADER - len(self._header)
        try:
            buffer = _pool.pop()
        except IndexError:
            buffer = ffi.new("char[]", _BUFFER)
        try:
            got = _stream.receive(self._endpoint(), buffer, wanted, 0, timeout)
            octets = ffi.buffer(buffer, got)[:]
        finally:
            _pool.append(buffer)
        with self._guard:
            if got:
                self._incoming.write(octets)
            else:
                self._incoming.write_eof()
                self._over = True
            self._fed += 1
        if self._body:
            self._body -= got
            return
        self._header += octets
        if len(self._header) == _HEADER:
            self._body = _body_length(self._header)
            self._header.clear()

    def _send(self, call: Call) -> None:
        """Sends what the engine wrote.

        Raises:
            SSLWantWriteError: it did not fit, and the call may not wait.
            TimeoutError: it did not fit in time.
        """
        while self._unsent or self._outgoing.pending:
            if not self._sending.take(call):
                raise want_write()
            try:
                self._drain(call)
            finally:
                self._sending.give()

    def _drain(self, call: Call) -> None:
        if not self._unsent:
            with self._guard:
                self._unsent = self._outgoing.read()
        while self._unsent:
            try:
                # Views are let go of at once: the collector of interpreters before 3.12.2 may
                # crash over one in a frame of a traceback.
                with memoryview(self._unsent) as whole, whole[self._sent :] as rest:
                    self._sent += _stream.send(self._endpoint(), rest, 0, call.left())
            except BlockingIOError:
                raise want_write() from None
            except TimeoutError:
                raise call.late() from None
            if self._sent == len(self._unsent):
                self._unsent, self._sent = b"", 0

    def _send_what_fits(self) -> None:
        """The engine's own answers (alerts, new keys): what does not fit goes with the next call.

        A thread that sends already takes them along.
        """
        if self._unsent or self._outgoing.pending:
            with contextlib.suppress(OSError):  # whoever sends next is told
                self._send(Call("write", 0))


def _body_length(header: bytearray) -> int:
    """How many bytes follow the first five of a record."""
    if header[0] & 0x80 and header[2] == _SSL2_CLIENT_HELLO:
        return max(((header[0] & 0x7F) << 8 | header[1]) + 2 - _HEADER, 0)
    return header[3] << 8 | header[4]
