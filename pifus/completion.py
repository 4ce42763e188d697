"""The completion API: submit operations to sockets of the user-space stack, take completions.

with pifus.Client() as client:
    sock = client.socket(pifus.TCP, priority=pifus.Priority.HIGH)
    sock.connect(("192.168.77.1", 5000))
    sock.wait(timeout=1.0).check()
    op = sock.write(b"…")
    done = sock.wait(timeout=1.0)
"""

from __future__ import annotations

import errno
import os
import socket as _socket
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pifus._core import _address, _errors, _limits, _ops
from pifus._core._block import Block
from pifus._core._client import lib
from pifus._core._ops import (
    Completion,
    Opcode,
    Option,
    Priority,
    Protocol,
    SocketState,
)
from pifus._core._session import Session
from pifus._core._settings import Settings
from pifus._core._socket import Socket
from pifus._core._taking import Taking
from pifus.errors import ClientClosed

if TYPE_CHECKING:
    from pifus._core._client import CData

__all__ = [
    "TCP",
    "UDP",
    "Address",
    "Block",
    "Client",
    "Completion",
    "Opcode",
    "Option",
    "Priority",
    "Protocol",
    "Socket",
    "SocketState",
]

TCP = Protocol.TCP
UDP = Protocol.UDP
# Of IPv4 (host, port), of IPv6 (host, port, flow information, scope); the host in numbers.
Address = _address.Address

Callback = Callable[[Completion], object]


class Client(Taking):
    """An attachment to a backend, and the sockets made over it.

    Poll mode: completions are taken with `Socket.poll`, `Socket.wait`, `poll_any`, `wait_any`.
    Callback mode (with `on_completion`): a thread of pifus calls it with each completion.

    All methods are thread-safe. A forked child cannot use its parent's client and makes its own.
    """

    def __init__(
        self,
        backend: str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        max_sockets: int = 1024,
        queue_depth: int = 64,
        rx_bytes: int = 262144,
        arena_bytes: int = 16777216,
        priority: Priority = Priority.HIGH,
        driver: str | Sequence[str] | None = None,
        on_completion: Callback | None = None,
        stamp_reaped: bool = False,
    ) -> None:
        """Attaches.

        Args:
            backend: the name of a backend, or the path of its socket. None: $PIFUS_BACKEND, else
                the running backend named "default", else a private one, which ends with its last
                client.
            name: shown by `pifus status`; None: the name of the program.
            max_sockets: sockets at once.
            queue_depth: operations under way per socket; a power of two.
            rx_bytes: the greatest receive ring of a socket; a power of two.
            arena_bytes: shared memory for bytes to send, over all sockets; a multiple of 64 KiB.
            priority: the best priority that sockets of this client may have.
            driver: start a private backend with these drivers ("loopback", "tap") and options.
            on_completion: called with each completion, from pifus's own thread; what it raises goes
                to threading.excepthook.
            stamp_reaped: completions say when they were taken (`Completion.reaped_ns`); a look at
                the clock for each, some 25 ns. The other times are always there, for nothing.

        Raises:
            BackendUnavailable: there is no such backend, or a private one could not be started.
            OSError: the backend refused: the errno and the message say why.
            ValueError: a size is out of its range; the message says what is allowed.
        """
        self.name = Path(sys.argv[0] or "python").name if name is None else name
        self.on_completion = on_completion
        Taking.__init__(self)
        self._blocks: weakref.WeakSet[Block] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        settings = Settings(
            name=self.name,
            max_sockets=max_sockets,
            queue_depth=queue_depth,
            rx_bytes=rx_bytes,
            arena_bytes=arena_bytes,
            priority=_limits.priority(priority).name.lower(),
        )
        words = [driver] if isinstance(driver, str) else driver
        self._session = Session.open(backend, words, settings)
        self._handle: CData | None = self._session.handle
        self._batch.start(self._require())
        self._session.add_owner(self)
        lib.pf_client_stamp_reaped(self._require(), stamp_reaped)
        # One block of the arena holds a write: a power of two.
        self.max_write_bytes = min(lib.PF_MAX_WRITE_BYTES, 1 << (arena_bytes.bit_length() - 1))
        self.queue_depth = queue_depth
        self.rx_bytes = rx_bytes
        self.arena_bytes = arena_bytes
        # The interpreter's exit and a client that nobody refers to any more end the session.
        self._finalizer = weakref.finalize(self, self._session.close)
        if on_completion is not None:
            self._thread = threading.Thread(
                target=self._dispatch, name=f"pifus-{self._session.number}", daemon=True
            )
            self._thread.start()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"session {self._session.number}"
        return f"<pifus.Client {self.name!r} {state} at {self.backend}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- sockets ----

    def socket(
        self,
        protocol: Protocol = Protocol.TCP,
        *,
        family: int = _socket.AF_INET,
        priority: Priority = Priority.MEDIUM,
        rx_bytes: int = 0,
        tx_bytes: int = 0,
        queue_depth: int = 0,
        nodelay: bool | None = None,
        dscp: int = 0,
    ) -> Socket:
        """Makes a socket; nothing is waited for.

        Sockets that it accepts have its priority, `tx_bytes`, `queue_depth`, `nodelay` and `dscp`.

        Args:
            protocol: pifus.TCP or pifus.UDP.
            family: socket.AF_INET or socket.AF_INET6.
            priority: how urgent its work is. Better than the client's own best is clamped to that.
                Later: `Socket.set_priority`.
            rx_bytes: its receive ring, a power of two; 0: as great as the client allows. It stays
                so; what the peer may send ahead can be changed: `Option.RCVBUF`.
            tx_bytes: the most that its unacknowledged writes hold of the send arena; 0: 512 KiB.
                Later: `Socket.tx_bytes`.
            queue_depth: operations under way; 0: as many as the client allows. Later:
                `Socket.queue_depth`.
            nodelay: of TCP: False is Nagle's algorithm, small writes wait for the acknowledgement
                of those before; None: True. Later: `Socket.set_nodelay`.
            dscp: the class of service that its packets are marked with, 0 to 63. Later:
                `Socket.set_dscp`.

        Raises:
            ValueError: an argument is not allowed; the message says what is.
            OSError: EMFILE, all sockets of the client are in use; EAFNOSUPPORT, EPROTONOSUPPORT.
            BackendGone, ClientClosed: the backend or this client has ended.
        """
        if protocol not in (Protocol.TCP, Protocol.UDP):
            raise OSError(
                errno.EPROTONOSUPPORT, f"protocol {protocol!r}: only TCP and UDP are supported"
            )
        handle = self._require()
        native = _address.native_family(family)
        wanted = _limits.priority(priority)
        kind = Protocol(protocol)
        _limits.ring_bytes(rx_bytes, self.rx_bytes)
        options = {Option.TOS: _limits.tos_of(dscp)} if dscp else {}
        if nodelay is not None:
            options[Option.NODELAY] = _limits.nodelay(nodelay, kind)
        depth = queue_depth and _limits.depth(queue_depth, self.queue_depth)
        share = tx_bytes and _limits.share(tx_bytes, self.arena_bytes)
        make = lib.pf_datagram_open if kind == Protocol.UDP else lib.pf_socket_open
        slot = make(handle, native, wanted, rx_bytes)
        sock = self._register(handle, slot, family, wanted, kind)
        if depth:
            sock.queue_depth = depth
        if share:
            sock.tx_bytes = share
        for option, value in options.items():
            sock._set_at_once(option, value)
        return sock

    def _adopt(self, handle: CData, token: int, listener: Socket) -> Socket:
        priority = listener.priority
        slot = lib.pf_socket_adopt(handle, token, priority)
        if slot < 0:
            lib.pf_accept_reject(handle, listener._slot, token)
        sock = self._register(handle, slot, listener.family, priority)
        sock.queue_depth = listener.queue_depth
        sock.tx_bytes = listener.tx_bytes
        return sock

    def _register(
        self,
        handle: CData,
        slot: int,
        family: int,
        priority: Priority,
        protocol: Protocol = Protocol.TCP,
    ) -> Socket:
        if slot == -errno.EMFILE:
            count = lib.pf_client_max_sockets(handle)
            raise OSError(
                errno.EMFILE,
                f"all {count} sockets of this client are in use: release some, or make the client "
                "with a greater max_sockets",
            )
        if slot == -errno.EPIPE:
            raise self._failure()
        if slot < 0:
            raise _errors.os_error(-slot)
        sock = Socket(self, handle, slot, family, priority, protocol)
        self._sockets[slot] = sock
        if self._handle is None:
            # Closed meanwhile by another thread, which may have missed this socket.
            sock._end()
            raise self._failure()
        return sock

    def _forget(self, sock: Socket) -> None:
        # Before the slot is released: from then on another socket may get it.
        if self._sockets.get(sock._slot) is sock:
            del self._sockets[sock._slot]
        sock._end()

    def register(self, size: int) -> Block:
        """Makes a block of the send arena, to be written in place and sent again and again.

        Args:
            size: in bytes, `max_write_bytes` at most.

        Raises:
            ValueError: the size is not allowed.
            ArenaFull: no room now in the send arena.
            BackendGone, ClientClosed: the backend or this client has ended.
        """
        handle = self._require()
        if not 0 < size <= self.max_write_bytes:
            raise ValueError(f"{size=}: allowed is 1 to {self.max_write_bytes} bytes")
        block = Block(handle, size)
        self._blocks.add(block)
        return block

    def _dispatch(self) -> None:
        """The thread of callback mode."""
        handle = self._handle
        callback = self.on_completion
        if handle is None or callback is None:
            return
        while True:
            try:
                done = self._wait_any(handle, None)
            except ClientClosed:
                return
            except OSError as error:
                self._report(error)
                return
            try:
                callback(done)
            except Exception as error:  # noqa: BLE001 - whatever a callback raises
                self._report(error)
            # The next completion may be long in coming: do not hold this one.
            del done

    def _report(self, error: BaseException) -> None:
        threading.excepthook(
            threading.ExceptHookArgs((type(error), error, error.__traceback__, self._thread))
        )

    # ---- the client itself ----

    def close(self) -> None:
        """Ends the session: all sockets close gracefully, blocked calls end with ClientClosed.

        In callback mode the thread has ended on return, unless it is the caller. Twice is no
        error.
        """
        self._finalizer()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    @property
    def closed(self) -> bool:
        """True after close, and in a forked child."""
        return self._handle is None

    @property
    def backend(self) -> str:
        """The path of the backend's socket: other processes can join it by this."""
        return self._session.path

    @property
    def session(self) -> int:
        """The number of this client in `pifus status`."""
        return self._session.number

    @property
    def max_sockets(self) -> int:
        """How many sockets there can be at once."""
        return lib.pf_client_max_sockets(self._require())

    @property
    def arena_free(self) -> int:
        """Bytes of the send arena that are free now."""
        return lib.pf_client_arena_free(self._require())

    def set_spin(self, seconds: float | None) -> None:
        """How long a wait looks for news before it sleeps; 0: not at all; None: as the backend
        says.

        Raises:
            ValueError: negative.
        """
        handle = self._require()
        spin = -1 if seconds is None else _ops.timeout_ns(seconds, "seconds")
        lib.pf_client_set_spin(handle, spin)

    # ---- inside ----

    def _session_ended(self) -> None:
        self._handle = None
        self._batch._shut()
        for sock in list(self._sockets.values()):
            sock._end()
        self._sockets.clear()
        for block in list(self._blocks):
            block._end()
