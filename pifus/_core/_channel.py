"""The client's end of the control connection: requests, answers, and descriptors with them."""

from __future__ import annotations

import _socket
import array
import contextlib
import errno
import itertools
import os
import socket
import struct
import threading
import weakref

from pifus._core import _protocol
from pifus.errors import BackendGone, BackendUnavailable, ProtocolError

# The control plane answers within a millisecond; this is for one that was stopped or hangs.
ANSWER_SECONDS = 10.0
# A private backend first has to start: a Python process on a machine that may be busy.
START_SECONDS = 60.0
# It asks for nothing: the statistics, without any session.
_WAKE = _protocol.Status(2**63 - 1)


class Channel:
    """A control connection. Thread-safe: one request at a time.

    A signal handler, or the garbage collector, may make a request while its own thread is in the
    middle of one, of which nobody knows whether it was sent. So requests are numbered, and who
    takes an answer that an outer request awaits keeps it for that one; answers to requests that
    were given up, by a time-out or an exception, are dropped.

    Args:
        connection: the connected socket; the channel owns it from now on.
        path: where other processes can reach the same backend.
        timeout: how long to wait for the first answer, in seconds.
    """

    def __init__(self, connection: _socket.socket, path: str, timeout: float) -> None:
        # The C class, whatever a program (gevent, eventlet) has made of `socket.socket`.
        self._connection = _socket.socket(fileno=connection.detach())
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        # The requests that this thread is in, one within the other.
        self._awaited: set[int] = set()
        # What came for the outer ones.
        self._early: dict[int, tuple[_protocol.Message, list[int]]] = {}
        self.path = path
        self._connection.settimeout(timeout)
        _channels.add(weakref.ref(self, _channels.discard))

    @classmethod
    def connect(cls, path: str) -> Channel:
        """Connects to the backend at `path`.

        Raises:
            OSError: nobody listens there (FileNotFoundError, ConnectionRefusedError), or this user
                may not connect (PermissionError).
        """
        connection = _socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(path)
        except BaseException:
            connection.close()
            raise
        return cls(connection, path, ANSWER_SECONDS)

    def peer_uid(self) -> int:
        """The user whose process listens, as the kernel says."""
        size = struct.calcsize("3i")
        packed = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        uid: int = struct.unpack("3i", packed)[1]
        return uid

    def fileno(self) -> int:
        """The descriptor, -1 after close."""
        return self._connection.fileno()

    def request(
        self,
        request: _protocol.Request | bytes,
        expected: str,
        descriptors: int = 0,
        shown: int | None = None,
    ) -> tuple[_protocol.Message, list[int]]:
        """Sends a request and waits for its answer.

        Args:
            request: what to ask, or its packet.
            expected: the type of the answer.
            descriptors: how many descriptors may come with it at most.
            shown: a descriptor to send with the request.

        Returns:
            The answer, and the descriptors, which belong to the caller.

        Raises:
            OSError: the backend refused: its errno and its sentence.
            BackendGone: the connection closed.
            BackendUnavailable: no answer came in time.
            ProtocolError: the answer is not understood.
        """
        fds: list[int] = []
        try:
            with self._lock:
                reply, fds = self._exchange(request, shown)
                self._connection.settimeout(ANSWER_SECONDS)
            if len(fds) > descriptors:
                raise ProtocolError(errno.EPROTO, f"{len(fds)} descriptors came with the answer")
            return _protocol.check_reply(reply, expected), fds
        except (BrokenPipeError, ConnectionResetError):
            close_all(fds)
            raise BackendGone(
                errno.ECONNRESET, f"the backend at {self.path} closed the connection"
            ) from None
        except TimeoutError:
            close_all(fds)
            raise BackendUnavailable(
                errno.ETIMEDOUT, f"the backend at {self.path} does not answer: is it stopped?"
            ) from None
        except OSError as error:
            close_all(fds)
            if error.errno != errno.EBADF or self.fileno() >= 0:
                raise
            # By a signal handler, or another thread, in the middle of this.
            raise BackendGone(
                errno.ECONNRESET, "the connection to the backend was closed"
            ) from None
        except BaseException:
            close_all(fds)
            raise

    def _exchange(
        self, request: _protocol.Request | bytes, shown: int | None
    ) -> tuple[_protocol.Message, list[int]]:
        number = next(self._numbers)
        self._awaited.add(number)
        try:
            if isinstance(request, bytes):
                packet = request
            else:
                packet = _protocol.encode_request(request, number)
            if shown is None:
                self._send(packet)
            else:
                socket.send_fds(
                    self._connection,  # type: ignore[arg-type]
                    [packet],
                    [shown],
                )
            while number not in self._early:
                answer, fds = self._receive()
                of = answer.pop("id", number)
                if of == number:
                    return answer, fds
                if of in self._awaited:
                    self._early[of] = answer, fds
                else:
                    close_all(fds)
            return self._early.pop(number)
        finally:
            self._awaited.discard(number)
            if number in self._early:
                close_all(self._early.pop(number)[1])
            if self._early:
                # The outer request may be inside of its system call, where nothing else comes.
                with contextlib.suppress(OSError):
                    self._send(_protocol.encode_request(_WAKE, next(self._numbers)))

    def _send(self, packet: bytes) -> None:
        self._connection.sendall(packet)

    def _receive(self) -> tuple[_protocol.Message, list[int]]:
        packet, fds, cut = _receive(self._connection)
        if not packet:
            raise ConnectionResetError
        try:
            answer = _protocol.decode_reply(packet)
        except BaseException:
            close_all(fds)
            raise
        if cut:
            close_all(fds)
            refusal = _protocol.refusal(errno.EMFILE, os.strerror(errno.EMFILE))
            return {**answer, **refusal}, []
        return answer, fds

    def close(self) -> None:
        """Ends the connection, and so the client, if it was attached. Twice is no error."""
        self._connection.close()


# Not a WeakSet, as a forked child would have to copy more pages.
_channels: set[weakref.ref[Channel]] = set()


def _in_child() -> None:
    """Whatever comes over them is for the parent.

    Also if a signal handler forked in the middle of a request, which goes on in the child as well.
    """
    for known in list(_channels):
        channel = known()
        if channel is not None:
            channel.close()
    _channels.clear()


os.register_at_fork(after_in_child=_in_child)


def _receive(connection: _socket.socket) -> tuple[bytes, list[int], bool]:
    """One packet, its descriptors, and whether some were cut off.

    They are closed on exec: socket.recv_fds ignores its flags.
    """
    fds = array.array("i")
    space = socket.CMSG_LEN(_protocol.MIRRORS_MAX * fds.itemsize)
    size = _protocol.MESSAGE_BYTES_MAX + 1
    packet, ancillary, flags, _ = connection.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    # Room there is for all that may come: it is this process that may have no more of them.
    return packet, list(fds), bool(flags & socket.MSG_CTRUNC)


def close_all(descriptors: list[int]) -> None:
    """Closes descriptors that nobody took over."""
    for fd in descriptors:
        os.close(fd)
