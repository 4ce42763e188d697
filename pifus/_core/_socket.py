"""The socket of the completion API: submits operations, takes their completions."""

from __future__ import annotations

import errno
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final

from pifus._core import _address, _errors, _ops
from pifus._core._client import ffi, lib
from pifus._core._ops import SLICE_NS, Completion, Opcode, Option, Priority, Protocol
from pifus._core._slot import SocketBase, new_slate

if TYPE_CHECKING:
    from pifus._core._client import CData
    from pifus._core._slot import Slate

Address = _address.Address

# Bound once: the way of an operation is a few hundred nanoseconds long.
_nop = lib.pf_nop
_poll = lib.pf_poll
_wait = lib.pf_wait
_write = lib.pf_write
_sendto = lib.pf_sendto
_monotonic_ns = time.monotonic_ns
_QUEUE: Final = lib.PF_DELIVER_QUEUE
# Of these operations more is to be done here than to hand out the completion.
_SPECIAL: Final = bytes(
    opcode in (Opcode.ACCEPT, Opcode.RECV, Opcode.CLOSE) for opcode in range(lib.PF_OP_COUNT)
)
_OPCODE_AT: Final = _ops.OPCODE_AT
_BACKLOG_MAX: Final = 2**31 - 1
_SHUTDOWN_FLAGS: Final = (
    lib.PF_SHUT_READ,
    lib.PF_SHUT_WRITE,
    lib.PF_SHUT_READ | lib.PF_SHUT_WRITE,
)


class Socket(SocketBase):
    """A socket of a client, made by `Client.socket` or by an accept.

    Methods that submit an operation return its number at once; its completion comes from `poll`,
    `wait`, `Client.wait_any` or the client's callback. All methods are thread-safe; the bytes of
    several receives under way go to their completions in the order in which these are taken.

    A socket lives until its close completed, `release` is called or the client is closed. As a
    context manager it releases itself.

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

    # ---- operations ----

    def nop(self) -> int:
        """Submits an operation that does nothing but make the round trip."""
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        op = _nop(handle, self._slot)
        if op > 0:
            return op
        raise self._refusal(op)

    def bind(self, address: Address) -> int:
        """Submits a bind to a local address: ("", 0) is any address, any port.

        Raises:
            TypeError, OverflowError, OSError: the address is none, as of the kernel's sockets.
        """
        return self._submit(Opcode.BIND, addr=_address.to_native(self._family, address, "bind"))

    def listen(self, backlog: int = 128) -> int:
        """Submits a listen; `backlog` connections at most wait for an accept."""
        if not isinstance(backlog, int):
            raise TypeError(f"backlog must be int, not {type(backlog).__name__}")
        if abs(backlog) > _BACKLOG_MAX:
            raise OverflowError("backlog does not fit in a C int")
        return self._submit(Opcode.LISTEN, length=max(backlog, 0))

    def accept(self, multishot: bool = False) -> int:
        """Submits an accept; the completion's `accepted` is the new socket.

        Args:
            multishot: every connection makes a completion, with `more` set, until cancelled.
        """
        self._plain = False
        return self._submit(Opcode.ACCEPT, flags=lib.PF_SQE_MULTISHOT if multishot else 0)

    def connect(self, address: Address | None) -> int:
        """Submits a connect. Of a UDP socket it chooses the peer; None: none any more.

        Raises:
            TypeError, OverflowError, OSError: the address is none, as of the kernel's sockets.
        """
        if address is None and self._protocol == Protocol.UDP:
            return self._submit(Opcode.CONNECT)
        native = _address.to_native(self._family, address, "connect")
        return self._submit(Opcode.CONNECT, addr=native)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Submits a write of all of `data`, which is copied and may change at once.

        It completes when the peer acknowledged the bytes; the result is their number.

        Raises:
            ArenaFull: no room now in the send arena.
            OSError: EMSGSIZE, more than one write may have.
            ValueError: no bytes.
        """
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        if type(data) is bytes:
            size = len(data)
            source: bytes | CData = data
        else:
            source = ffi.from_buffer("char[]", data)
            size = memoryview(data).nbytes
        if not 0 < size <= self._client.max_write_bytes:
            raise self._bad_size(size)
        op = _write(handle, self._slot, source, size, _QUEUE)
        if op > 0:
            return op
        if op == -errno.ENOBUFS:
            raise _errors.arena_full(size, self._client.arena_free)
        raise self._refusal(op)

    def sendto(self, data: bytes | bytearray | memoryview, address: Address | None = None) -> int:
        """Submits the sending of one datagram, which is copied and may change at once.

        It completes when the datagram has been handed to the network; the result is its length.

        Args:
            data: up to 65,507 bytes (over IPv6 65,487), also none.
            address: where to; None: to the peer of a connected socket.

        Raises:
            ArenaFull: no room now in the send arena.
            TypeError, OverflowError, OSError: the address is none, as of the kernel's sockets;
                EMSGSIZE, the datagram is too long.
        """
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        source: CData = ffi.from_buffer("char[]", data)
        size = memoryview(data).nbytes
        if size > lib.PF_MAX_DATAGRAM_BYTES:
            raise _errors.os_error(errno.EMSGSIZE, f"sendto() of {size} bytes")
        to = ffi.NULL
        if address is not None:
            to = _address.to_native(self._family, address, "sendto")
        op = _sendto(handle, self._slot, source, size, to, 0, _QUEUE)
        if op > 0:
            return op
        if op == -errno.ENOBUFS:
            raise _errors.arena_full(size, self._client.arena_free)
        raise self._refusal(op)

    def join_group(self, group: str, interface: int = 0) -> int:
        """Submits joining a multicast group: its datagrams to the socket's port are received.

        Args:
            group: a multicast address of the socket's family.
            interface: index of the backend's interface (1 is its loopback); 0: the default one.

        Raises:
            OSError: EINVAL, `group` is no address.
        """
        return self._group(lib.PF_GROUP_JOIN, group, interface)

    def leave_group(self, group: str, interface: int = 0) -> int:
        """Submits leaving a group that was joined with the same arguments."""
        return self._group(lib.PF_GROUP_LEAVE, group, interface)

    def recv(self, limit: int) -> int:
        """Submits a receive of 1 to `limit` bytes: `data` of the completion, b"" at the end.

        Of a UDP socket: of one datagram, whose sender is `peer` of the completion; what is beyond
        `limit` is dropped.

        Raises:
            ValueError: `limit` is not positive.
        """
        if not 0 < limit <= 0xFFFFFFFF:
            raise ValueError(f"recv() of {limit} bytes: allowed is 1 to {0xFFFFFFFF}")
        self._plain = False
        return self._submit(Opcode.RECV, length=limit)

    def shutdown(self, how: int) -> int:
        """Submits the end of one direction or both: socket.SHUT_RD, SHUT_WR or SHUT_RDWR.

        Raises:
            OSError: EINVAL, `how` is something else.
        """
        if how not in (0, 1, 2):
            raise _errors.os_error(errno.EINVAL, "shutdown()")
        return self._submit(Opcode.SHUTDOWN, flags=_SHUTDOWN_FLAGS[how])

    def close(self, abort: bool = False) -> int:
        """Submits the close; other operations under way are cancelled, written bytes still sent.

        It completes when the peer has everything (or 60 s after its last sign); with its completion
        the socket is gone. `release` does the same for who does not want to know.

        Args:
            abort: reset the connection instead, at once.
        """
        flags = lib.PF_CLOSE_ABORT if abort else lib.PF_CLOSE_GRACEFUL
        self._plain = False
        return self._submit(Opcode.CLOSE, flags=flags)

    def cancel(self, op: int) -> int:
        """Submits the cancelling of a receive or an accept, which then ends with ECANCELED.

        Its own result is ENOENT if there was nothing to cancel (any more).
        """
        return self._submit(Opcode.CANCEL, token=op)

    def setopt(self, option: Option, value: int) -> int:
        """Submits the setting of an option.

        Raises:
            ValueError: there is no such option.
            OverflowError: the value is negative or too great.
        """
        return self._submit(Opcode.SETOPT, offset=Option(option), token=value)

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
        slate = self._take_slate()
        got = _poll(handle, self._slot, slate[0])
        if got == 1:
            raw = slate[1]()
            self._slates.append(slate)
            return self._completion(handle, raw)
        self._slates.append(slate)
        if got == 0:
            return None
        raise self._refusal(got)

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
        try:
            slate = self._slates.pop()
        except IndexError:
            slate = new_slate()
        if timeout is None:
            got = _wait(handle, self._slot, SLICE_NS, slate[0])
            if got != 1:
                self._wait_on(handle, slate, got, None)
        else:
            deadline = _ops.deadline_ns(timeout)
            left = deadline - _monotonic_ns()
            got = _wait(handle, self._slot, min(max(left, 0), SLICE_NS), slate[0])
            if got != 1:
                self._wait_on(handle, slate, got, deadline)
        raw = slate[1]()
        self._slates.append(slate)
        if self._plain:
            done = Completion()
            done._raw = raw
            done._sock = self
            return done
        return self._completion(handle, raw)

    def _wait_on(self, handle: CData, slate: Slate, got: int, deadline: int | None) -> None:
        """Goes on waiting after a slice or a signal, until there is a completion in the slate."""
        while got in (0, -errno.EINTR):
            # Back in the interpreter: signal handlers have run before this line.
            left = SLICE_NS if deadline is None else deadline - _monotonic_ns()
            if got == 0 and left <= 0:
                self._slates.append(slate)
                raise TimeoutError(errno.ETIMEDOUT, "no completion came in time")
            got = _wait(handle, self._slot, min(max(left, 0), SLICE_NS), slate[0])
        if got != 1:
            self._slates.append(slate)
            raise self._refusal(got)

    def _take_slate(self) -> Slate:
        try:
            return self._slates.pop()
        except IndexError:
            return new_slate()

    def _completion(self, handle: CData, raw: bytes) -> Completion:
        """The completion that the C core wrote, with what is left to do on this side done."""
        done = Completion()
        done._raw = raw
        done._sock = self
        opcode = raw[_OPCODE_AT]
        if not _SPECIAL[opcode]:
            return done
        result = _ops.result_of(raw)
        if opcode == Opcode.CLOSE:
            self.release()
        elif result < 0:
            return done
        elif opcode == Opcode.RECV and self._protocol == Protocol.UDP:
            done._data = self._take_datagram(handle, result) if _ops.has_address(raw) else b""
        elif opcode == Opcode.RECV:
            done._data = self._take_bytes(handle, result)
        else:
            try:
                done._accepted = self._client._adopt(handle, _ops.token_of(raw), self)
            except OSError as error:
                done._raw = _ops.with_result(raw, -(error.errno or errno.EIO))
        return done

    def _take_bytes(self, handle: CData, count: int) -> bytes:
        if count == 0:
            return b""
        spans = ffi.new("struct pf_span[2]")
        # Two threads must not copy the same bytes before one has consumed them.
        with self._rx_lock:
            pieces = lib.pf_rx_spans(handle, self._slot, count, spans)
            data = b"".join(
                ffi.buffer(spans[i].data, spans[i].length)[:] for i in range(max(pieces, 0))
            )
            lib.pf_rx_consume(handle, self._slot, len(data))
        return data

    def _take_datagram(self, handle: CData, count: int) -> bytes:
        buffer = ffi.new("char[]", max(count, 1))
        info = ffi.new("struct pf_datagram *")
        got = lib.pf_recvfrom(handle, self._slot, buffer, count, 0, 0, info)
        return ffi.buffer(buffer, max(got, 0))[:]

    def set_priority(self, priority: Priority) -> int:
        """Submits a change of priority, for what is submitted afterwards."""
        return self.setopt(Option.PRIORITY, Priority(priority))

    def release(self) -> None:
        """Lets go of the socket: closes it gracefully if it is open; completions are dropped.

        Never waits; bytes written before still reach the peer. Twice is no error.
        """
        handle = self._handle
        if handle is not None:
            self._client._forget(self)
            # EBADF: another thread was faster; EPIPE: the session ended, and all sockets with it.
            lib.pf_socket_release(handle, self._slot, lib.PF_CLOSE_GRACEFUL)

    # ---- inside ----

    def _group(self, flags: int, group: str, interface: int) -> int:
        native = _address.to_native(self._family, (group, 0), "group")
        return self._submit(Opcode.GROUP, flags=flags, token=interface, addr=native)

    def _bad_size(self, size: int) -> Exception:
        if size == 0:
            return ValueError("write() needs at least one byte")
        return OSError(
            errno.EMSGSIZE,
            f"write() of {size} bytes: at most {self._client.max_write_bytes} at once",
        )
