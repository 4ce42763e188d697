"""The control plane: the loop that attaches clients, notices their end, and answers questions."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable

from pifus._core import _errors, _protocol
from pifus._core._protocol import Attach, Bell, Detach, InvalidMessage, Mirrors, Show, Status
from pifus.backend import _core
from pifus.backend import _shown as shown
from pifus.backend._config import Config
from pifus.backend._core import Core, CoreError
from pifus.backend._listener import Listener
from pifus.backend._sessions import Peer, Record, Sessions

log = logging.getLogger("pifus.backend")

# Connections beside those of attached clients: tools, and clients that have not attached yet.
_SPARE_CONNECTIONS = 64
# How long a private backend goes on for the last bytes of its last client, in seconds.
_LINGER_SECONDS = 5.0
_PEERCRED = struct.Struct("3i")
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Connection:
    """A control connection and, once it has attached, its session."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        pid, uid, _ = _PEERCRED.unpack(credentials)
        self.peer = Peer(pid, uid)
        self.record: Record | None = None
        # Of the request that is being answered.
        self.id: int | None = None

    def send(self, message: _protocol.Message, fds: list[int] | None = None) -> bool:
        """Answers without waiting. False: the peer is gone, or does not read."""
        if self.id is not None:
            message["id"] = self.id
        packet = _protocol.encode(message)
        try:
            if fds:
                socket.send_fds(self.socket, [packet], fds)
            else:
                self.socket.send(packet)
        except OSError as error:
            log.debug("cannot answer process %d: %s", self.peer.pid, error)
            return False
        return True


class ControlPlane:
    """Runs until a signal, or, when private, until the last client is gone.

    Args:
        config: the configuration.
        core: the started stack; freed at the end.
        listener: the socket for clients; closed at the end.
        first: the control connection that a private backend was started with.
    """

    def __init__(
        self, config: Config, core: Core, listener: Listener, first: socket.socket | None
    ) -> None:
        self._config = config
        self._core = core
        self._listener = listener
        self._sessions = Sessions(config)
        self._connections: dict[int, Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._stopping = 0
        self._accepting = False
        self._linger_until: float | None = None
        self._started = time.monotonic()
        self._selector.register(core.event_fd(), selectors.EVENT_READ, self._core_event)
        self._resume_accepting()
        if first is not None:
            self._add(first)

    def run(self) -> None:
        """The loop. On return the backend is gone: sessions ended, socket file removed."""
        reader, writer = socket.socketpair()
        with reader, writer:
            reader.setblocking(False)
            writer.setblocking(False)
            signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            before = {number: signal.signal(number, self._on_signal) for number in _STOP_SIGNALS}
            self._selector.register(reader, selectors.EVENT_READ, lambda: drain(reader))
            try:
                while not self._stopping and not self._finished():
                    for key, _ in self._selector.select(self._timeout()):
                        handler: Callable[[], None] = key.data
                        handler()
            finally:
                self._close()
                for number, handler_before in before.items():
                    signal.signal(number, handler_before)
                signal.set_wakeup_fd(-1)

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        self._stopping = number

    def _close(self) -> None:
        if self._stopping:
            log.info("ending: %s", signal.Signals(self._stopping).name)
        # First the name, so that nobody attaches to what is ending; then the clients are told.
        self._listener.close()
        self._selector.close()
        self._core.free()
        for connection in self._connections.values():
            connection.socket.close()
        log.info("ended after %.1f s", time.monotonic() - self._started)

    # ---- the end of a private backend ----

    def _finished(self) -> bool:
        if not self._config.private or self._connections:
            self._linger_until = None
            return False
        # A process may hold a descriptor of ours, and come for its socket.
        if self._sessions.ending or self._core.orphans():
            return False
        if self._linger_until is None:
            # Somebody may have connected meanwhile.
            self._accept()
            if self._connections:
                return False
            # Nobody can hear the last bytes over loopback; over a network somebody may.
            network = self._config.drivers != ["loopback"]
            self._linger_until = time.monotonic() + (_LINGER_SECONDS if network else 0)
        return not self._sessions.lingering or time.monotonic() >= self._linger_until

    def _timeout(self) -> float | None:
        if self._linger_until is None:
            return None
        return max(self._linger_until - time.monotonic(), 0)

    # ---- connections ----

    def _resume_accepting(self) -> None:
        if not self._accepting:
            self._accepting = True
            self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of descriptors or memory: look again when something was given back, instead
                # of being woken for the same connection without end.
                log.warning("cannot accept clients for now: %s", error.strerror)
                if self._accepting:
                    self._accepting = False
                    self._selector.unregister(self._listener.socket)
                return
            self._add(sock)

    def _add(self, sock: socket.socket) -> None:
        connection = Connection(sock)
        if len(self._connections) >= self._config.max_clients + _SPARE_CONNECTIONS:
            text = f"{len(self._connections)} connections are open: try again later"
            connection.send(_protocol.refusal(errno.EUSERS, text))
            sock.close()
            return
        self._connections[sock.fileno()] = connection
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._readable(connection))

    def _drop(self, connection: Connection, reason: int = _core.ENDED_CLOSED) -> None:
        """Closes a connection; what was attached by it ends."""
        if self._connections.pop(connection.socket.fileno(), None) is None:
            return
        self._selector.unregister(connection.socket)
        connection.socket.close()
        record = connection.record
        if record is not None and record.attached:
            self._sessions.detach(record)
            self._core.end(record.number, reason)
            log.info("session %d ended: %r closed", record.number, record.granted.name)
        self._resume_accepting()

    def _readable(self, connection: Connection) -> None:
        try:
            packet, fds = shown.receive(connection.socket)
        except BlockingIOError:
            return
        except OSError:
            packet, fds = b"", []
        try:
            if packet:
                self._serve(connection, packet, fds)
            else:
                self._drop(connection)
        finally:
            shown.close(fds)

    def _serve(self, connection: Connection, packet: bytes, fds: list[int]) -> None:
        connection.id = None
        try:
            message = _protocol.decode(packet)
            connection.id = _protocol.take_id(message)
            done = self._answer(connection, _protocol.decode_request(message), fds)
        except InvalidMessage as error:
            log.info("process %d: refused: %s", connection.peer.pid, error)
            done = connection.send(_protocol.refusal(error.code, str(error)))
            done = done and not error.fatal
        except CoreError as error:
            log.warning("process %d: failed: %s", connection.peer.pid, error)
            done = connection.send(_protocol.refusal(error.code, str(error)))
        if not done:
            self._drop(connection)

    def _answer(self, connection: Connection, request: _protocol.Request, fds: list[int]) -> bool:
        """Answers a request. False: the connection is to be closed.

        Raises:
            InvalidMessage, CoreError: it is refused.
        """
        if isinstance(request, Attach):
            return self._attach(connection, request, fds)
        if isinstance(request, Mirrors):
            return self._mirrors(connection, request)
        if isinstance(request, Bell):
            return self._bell(connection)
        if isinstance(request, Show):
            return self._show(connection, fds)
        if isinstance(request, Status):
            return connection.send(self._status(request))
        if isinstance(request, Detach):
            remaining = len(self._connections) - 1
            connection.send({"type": "detached", "remaining": remaining})
        return False

    def _attach(self, connection: Connection, request: Attach, shown: list[int]) -> bool:
        if connection.record is not None:
            raise InvalidMessage(
                f"this connection is session {connection.record.number} already", errno.EISCONN
            )
        priority = self._sessions.check(request, connection.peer)
        best = _protocol.PRIORITIES.index(priority)
        peer = connection.peer
        raw = self._config.may_have_raw(peer.uid)
        number, fds = self._core.create(request, best, peer.uid, peer.pid, raw)
        record = self._sessions.add(number, connection.peer, request, priority)
        connection.record = record
        log.info(
            "session %d: %r attached (process %d, user %d, %d sockets, best priority %s)",
            *(number, request.name, connection.peer.pid, connection.peer.uid),
            *(request.max_sockets, priority),
        )
        reply: _protocol.Message = {"type": "attached", "session": number}
        if shown:
            # A forked child, most likely: it is spared the second round trip. What is no mirror
            # gets no ticket; if the client insists, "show" tells why.
            with contextlib.suppress(CoreError):
                reply["ticket"] = self._core.show(number, shown[0])
        return send_and_close(connection, reply, fds)

    def _mirrors(self, connection: Connection, request: Mirrors) -> bool:
        record = connection.record
        if record is None or not record.attached:
            raise InvalidMessage("mirrors are for an attached client: attach first", errno.ENOTCONN)
        first, fds = self._core.mirrors(record.number, request.count)
        reply: _protocol.Message = {"type": "mirrors", "first": first, "count": len(fds)}
        return send_and_close(connection, reply, fds)

    def _bell(self, connection: Connection) -> bool:
        record = connection.record
        if record is None or not record.attached:
            raise InvalidMessage("a bell is for an attached client: attach first", errno.ENOTCONN)
        fd = self._core.bell(record.number)
        return send_and_close(connection, {"type": "bell"}, [fd])

    def _show(self, connection: Connection, fds: list[int]) -> bool:
        record = connection.record
        if record is None or not record.attached:
            raise InvalidMessage("show is for an attached client: attach first", errno.ENOTCONN)
        if len(fds) != 1:
            raise InvalidMessage("show needs one descriptor", errno.EBADF)
        ticket = self._core.show(record.number, fds[0])
        return connection.send({"type": "shown", "ticket": ticket})

    def _status(self, request: Status) -> _protocol.Message:
        page, more = self._sessions.page(request.after)
        config = self._config
        return {
            "type": "status",
            "name": config.name,
            "path": str(self._listener.path),
            "pid": os.getpid(),
            "private": config.private,
            "drivers": config.drivers,
            "links": config.links,
            "profile": config.profile,
            "spin_ns": self._core.spin_ns(),
            "seconds": round(time.monotonic() - self._started, 3),
            "clients": self._sessions.attached,
            "lingering": self._sessions.lingering,
            "limits": {
                "max_clients": config.max_clients,
                "max_clients_per_user": config.max_clients_per_user,
                "max_sockets": config.max_sockets,
                "max_pcbs": config.max_pcbs,
                "max_held_bytes": config.max_held_bytes,
                "max_held_bytes_per_user": config.held_bytes_per_user,
                "max_client_bytes": config.max_client_bytes,
            },
            "statistics": self._core.statistics(),
            "after": request.after,
            "sessions": page,
            "more": more,
        }

    # ---- news from the C core ----

    def _core_event(self) -> None:
        for ended in self._core.ended():
            if ended.freed:
                self._sessions.freed(ended.session)
                continue
            record = self._sessions.get(ended.session)
            if record is not None:
                record.ended = True
            if record is None or not record.attached:
                continue  # we ended it ourselves
            self._sessions.detach(record)
            text = _errors.ENDED_REASONS.get(ended.reason, f"reason {ended.reason}")
            log.warning(
                "session %d of %r (process %d): %s",
                *(record.number, record.granted.name, record.peer.pid, text),
            )
            for connection in list(self._connections.values()):
                if connection.record is record:
                    self._drop(connection)


def send_and_close(connection: Connection, message: _protocol.Message, fds: list[int]) -> bool:
    """Sends an answer with descriptors and closes ours. False: see `Connection.send`."""
    try:
        return connection.send(message, fds)
    finally:
        for fd in fds:
            os.close(fd)


def drain(reader: socket.socket) -> None:
    """Takes the bytes that signals left; their handlers have run by now."""
    try:
        while reader.recv(512):
            pass
    except BlockingIOError:
        return
