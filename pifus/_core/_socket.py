"""The socket of the completion API: takes the completions of its operations."""

from __future__ import annotations

import errno
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final

from pifus._core import _errors, _ops
from pifus._core._client import ffi, lib
from pifus._core._lease import Held, Lease
from pifus._core._operations import Operations
from pifus._core._ops import FOREVER_NS, Completion, Opcode, Protocol

if TYPE_CHECKING:
    from pifus._core._client import CData

# Bound once: the way of an operation is a few hundred nanoseconds long.
_monotonic_ns = time.monotonic_ns
# Of these operations more is to be done here than to hand out the completion.
_SPECIAL: Final = bytes(
    opcode in (Opcode.ACCEPT, Opcode.RECV, Opcode.CLOSE) for opcode in range(lib.PF_OP_COUNT)
)
# The sender in a `struct pf_datagram`.
_SOURCE: Final = slice(
    ffi.offsetof("struct pf_datagram", "source"),
    ffi.offsetof("struct pf_datagram", "destination"),
)


class Socket(Operations):
    """A socket of a client, made by `Client.socket` or by an accept.

    Methods that submit an operation return its number at once; its completion comes from `poll`,
    `wait`, `Client.wait_any` or the client's callback. All methods are thread-safe; the bytes of
    several receives under way go to their completions in the order in which these are taken.

    A socket lives until its close completed, `release` is called or the client is closed. As a
    context manager it releases itself.

    Arguments of many methods:
        link: the next operation submitted to this socket starts only when this one has succeeded;
            if it fails (or is cancelled, or too late), that one ends with ECANCELED, and so does
            what that one is linked to. What is submitted behind a chain waits until the chain has
            come to its end, so the order stays; `cancel`, `cancel_all` and `close` do not wait, and
            a close cancels what has not started.
        timeout: in seconds from now, or
        deadline: the time of time.monotonic(), in seconds, by which it must be done. Else it ends
            with ETIMEDOUT (`check` raises DeadlineMissed), unless it cannot be taken back any more.

    Raised by every submitting method:
        QueueFull: as many operations as the queue is deep are under way.
        BackendGone, ClientClosed: the backend or this client has ended.
        OSError: EBADF after close.
    """

    __slots__ = ()

    def __enter__(self) -> Socket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    # ---- completions ----

    def poll(self) -> Completion | None:
        """The next completion of this socket, if there is one now.

        Raises:
            BackendGone, ClientClosed: the backend or this client has ended.
            RuntimeError: the client has a callback, which gets them.
        """
        handle = self._reap_handle
        if handle is None:
            raise self._closed_error()
        done = self._poll()
        if not isinstance(done, int):
            return self._finish(handle, done) if done._rest else done
        if done == 0:
            return None
        raise self._refusal(done)

    def wait(self, timeout: float | None = None) -> Completion:
        """Waits for the next completion of this socket.

        Args:
            timeout: in seconds; None: as long as it takes.

        Raises:
            TimeoutError: there was none in time.
            BackendGone, ClientClosed: the backend or this client has ended.
            RuntimeError: the client has a callback, which gets them.
        """
        handle = self._reap_handle
        if handle is None:
            raise self._closed_error()
        done = self._wait(timeout)
        if not isinstance(done, Completion):
            done = self._wait_on(done, timeout)
        return self._finish(handle, done) if done._rest else done

    def _wait_on(self, until: int | None, timeout: float | None) -> Completion:
        """Goes on waiting after a slice or a signal, until there is a completion."""
        if until is None:  # nothing of it has passed
            until = _monotonic_ns() + (FOREVER_NS if timeout is None else _ops.timeout_ns(timeout))
        while until > 0:
            # Back in the interpreter: signal handlers have run before this line.
            done = self._take(until)
            if isinstance(done, Completion):
                return done
            until = done
        raise _errors.nothing_came() if until == 0 else self._refusal(until)

    def _completion(self, handle: CData, raw: bytes) -> Completion:
        """The completion that the C core wrote, with what is left to do on this side done."""
        done = Completion()
        done._raw = raw
        done._sock = self
        return self._finish(handle, done)

    def _finish(self, handle: CData, done: Completion) -> Completion:
        """Does what is left to do on this side."""
        opcode = done._opcode
        if not _SPECIAL[opcode]:
            return done
        result = done._result
        if opcode == Opcode.CLOSE:
            self.release()
        elif result < 0:
            if opcode == Opcode.RECV:
                self._book.forget(done.op)
        elif opcode == Opcode.RECV and self._protocol == Protocol.UDP:
            if _ops.has_address(done._raw):
                self._take_datagram(handle, done, result)
            else:
                done._data = b""  # after a shutdown
        elif opcode == Opcode.RECV:
            got = self._book.take(self, handle, self._slot, done._op, result)
            if isinstance(got, Held):
                done._held = got
            else:
                done._data = got
        else:
            try:
                done._accepted = self._client._adopt(handle, done._token, self)
            except OSError as error:
                done._raw = _ops.with_result(done._raw, -(error.errno or errno.EIO))
        return done

    def lease(self, done: Completion) -> Lease:
        """The bytes of a receive that was submitted with `lease=True`, where they lie.

        With `with sock.lease(done) as view:` they are a read-only memoryview in the receive ring
        (or of a copy, when they lie across its end). At the end of the block the view is released
        and the ring has room for others: use no slice of it afterwards. Later receives get their
        bytes, but the room of these is kept until then; so lease every such completion, and soon.

        Raises:
            ValueError: there is nothing to lease, or it was leased before.
            ClientClosed, OSError: the client or the socket is closed.
        """
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        held = getattr(done, "_held", None)
        if held is None or done._sock is not self:
            raise ValueError(
                f"{done!r}: allowed is a completion, without an error, of this socket's "
                "recv(…, lease=True)"
            )
        return Lease(self._book, handle, self._slot, held)

    def poll_many(self, limit: int = 64) -> list[Completion]:
        """The completions of this socket that are there now, in one call.

        Args:
            limit: so many at most.

        Raises:
            ValueError: the limit is not positive.
            BackendGone, ClientClosed, RuntimeError: see `poll`.
        """
        handle = self._reap_handle
        if handle is None:
            raise self._closed_error()
        raws, result = self._client._take_many(handle, self._slot, limit)
        if not raws and result < 0:
            raise self._refusal(result)
        return [self._completion(handle, raw) for raw in raws]

    def _take_datagram(self, handle: CData, done: Completion, count: int) -> None:
        """Gives the next datagram of the ring to a receive of `count` of its bytes.

        Of two threads that take completions at the same time each gets one datagram, perhaps the
        other's: its bytes, its sender and its length belong together all the same.
        """
        buffer = ffi.new("char[]", max(count, 1))
        info = ffi.new("struct pf_datagram *")
        got = max(lib.pf_recvfrom(handle, self._slot, buffer, count, 0, 0, info), 0)
        done._data = ffi.buffer(buffer, got)[:]
        done._truncated = info.length > got
        done._raw = _ops.with_peer(_ops.with_result(done._raw, got), ffi.buffer(info)[_SOURCE])

    def release(self) -> None:
        """Lets go of the socket: closes it gracefully if it is open; completions are dropped.

        Never waits; bytes written before still reach the peer. Twice is no error.
        """
        handle = self._handle
        if handle is not None:
            self._client._forget(self)
            # EBADF: another thread was faster; EPIPE: the session ended, and all sockets with it.
            lib.pf_socket_release(handle, self._slot, lib.PF_CLOSE_GRACEFUL)
