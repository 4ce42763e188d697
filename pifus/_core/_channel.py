"""The client's end of the control connection: requests, answers, and descriptors with them."""

import _socket
import array
import errno
import os
import socket
import struct
import threading

from pifus._core import _protocol
from pifus.errors import BackendGone, BackendUnavailable

# The control plane answers within a millisecond; this is for one that was stopped or hangs.
ANSWER_SECONDS = 10.0
# A private backend first has to start: a Python process on a machine that may be busy.
START_SECONDS = 60.0
# No session has so high a number: see `Channel._catch_up`.
_MARKS = 2**62


class Channel:
    """A control connection. Thread-safe: one request at a time.

    Args:
        connection: the connected socket; the channel owns it from now on.
        path: where other processes can reach the same backend.
        timeout: how long to wait for the first answer, in seconds.
    """

    def __init__(self, connection: _socket.socket, path: str, timeout: float) -> None:
        # The C class, whatever a program (gevent, eventlet) has made of `socket.socket`.
        self._connection = _socket.socket(fileno=connection.detach())
        self._lock = threading.Lock()
        # False: a request may have been sent whose answer nobody has taken.
        self._in_step = True
        self._mark = _MARKS
        self.path = path
        self._connection.settimeout(timeout)

    @classmethod
    def connect(cls, path: str) -> "Channel":
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
                if not self._in_step:
                    self._catch_up()
                packet = (
                    request if isinstance(request, bytes) else _protocol.encode_request(request)
                )
                self._in_step = False
                if shown is None:
                    self._connection.sendall(packet)
                else:
                    socket.send_fds(
                        self._connection,  # type: ignore[arg-type]
                        [packet],
                        [shown],
                    )
                packet, fds = _receive(self._connection, descriptors)
                self._in_step = True
                self._connection.settimeout(ANSWER_SECONDS)
            if not packet:
                raise ConnectionResetError
            return _protocol.decode_reply(packet, expected), fds
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
        except BaseException:
            close_all(fds)
            raise

    def _catch_up(self) -> None:
        """Drops the answers to requests that were given up: by a time-out, or by an exception of a
        signal handler. Whether there are any is not known, but they come before that to another
        request, and of those one is recognised."""
        self._mark += 1
        self._connection.sendall(_protocol.encode_request(_protocol.Status(self._mark)))
        while True:
            packet, fds = _receive(self._connection, _protocol.MIRRORS_MAX)
            close_all(fds)
            if not packet:
                raise ConnectionResetError
            if _protocol.decode(packet).get("after") == self._mark:
                self._in_step = True
                return

    def close(self) -> None:
        """Ends the connection, and so the client, if it was attached. Twice is no error."""
        self._connection.close()


def _receive(connection: _socket.socket, descriptors: int) -> tuple[bytes, list[int]]:
    """One packet, and its descriptors closed on exec: socket.recv_fds ignores its flags."""
    fds = array.array("i")
    space = socket.CMSG_LEN(descriptors * fds.itemsize)
    size = _protocol.MESSAGE_BYTES_MAX + 1
    packet, ancillary, _, _ = connection.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, list(fds)


def close_all(descriptors: list[int]) -> None:
    """Closes descriptors that nobody took over."""
    for fd in descriptors:
        os.close(fd)
