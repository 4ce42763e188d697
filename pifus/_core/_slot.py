"""What a socket of the completion API is made of: its slot, its state, its errors."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pifus._core import _address, _errors, _limits, _ops
from pifus._core._client import ffi, lib
from pifus._core._lane import Lane
from pifus._core._lease import ReceiveBook
from pifus._core._ops import Priority, Protocol, SocketState

if TYPE_CHECKING:
    from collections.abc import Callable

    from pifus._core._client import CData
    from pifus.completion import Client

    # Where the C core writes one completion, and a call that copies its bytes.
    Slate = tuple[CData, Callable[[], bytes]]

Address = _address.Address

_submit = lib.pf_submit
_QUEUE: Final = lib.PF_DELIVER_QUEUE
_NOWHERE: Final = lib.PF_DELIVER_NONE
_NULL: Final = ffi.NULL
_TX_BYTES: Final = lib.PF_DEFAULT_SEND_LIMIT


def new_slate() -> Slate:
    """Room for one completion. Never shared: each wait takes one and puts it back."""
    done = ffi.new("struct pf_done *")
    return done, memoryview(ffi.buffer(done, _ops.DONE_BYTES)).tobytes


class SocketBase(Lane):
    """The slot of a socket: what can be asked of it without an operation."""

    __slots__ = (
        "__weakref__",
        "_book",
        "_client",
        "_family",
        "_generation",
        "_handle",
        "_priority",
        "_protocol",
        "_queue_depth",
        "_reap_handle",
        "_slot",
        "_tx_bytes",
    )

    def __init__(
        self,
        client: Client,
        handle: CData,
        slot: int,
        family: int,
        prio: int,
        protocol: Protocol = Protocol.TCP,
    ) -> None:
        """For the client only."""
        self._client = client
        self._slot = slot
        self._generation = lib.pf_socket_generation(handle, slot)
        self._family = family
        self._priority = prio
        self._protocol = protocol
        self._queue_depth = client.queue_depth
        self._tx_bytes = min(_TX_BYTES, client.arena_bytes)
        self._book = ReceiveBook()
        # In callback mode only the client's thread takes completions.
        takes = client.on_completion is None
        self._reap_handle: CData | None = handle if takes else None
        stream = protocol == Protocol.TCP
        self._open(handle, int(ffi.cast("uintptr_t", handle)), slot, takes, stream)
        self._handle: CData | None = handle

    def __repr__(self) -> str:
        where = "closed" if self._handle is None else f"slot {self._slot}"
        return f"<pifus.Socket {where} of client {self._client.name!r}>"

    @property
    def closed(self) -> bool:
        """True once the close completed or the socket was released."""
        return self._handle is None

    @property
    def client(self) -> Client:
        """The client it belongs to."""
        return self._client

    @property
    def protocol(self) -> Protocol:
        """pifus.TCP or pifus.UDP."""
        return self._protocol

    @property
    def dropped(self) -> int:
        """How many received datagrams found no room in the receive ring, modulo 2**32."""
        return int(self._snapshot().rx_dropped)

    def take_error(self) -> int:
        """Of a UDP socket: the errno that the network reported while no receive waited; 0: none.

        A receive that waits gets it as its completion instead. Told once.

        Raises:
            ClientClosed, OSError: the client or the socket is closed.
        """
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        if self._protocol != Protocol.UDP:
            return 0
        return max(lib.pf_datagram_error(handle, self._slot), 0)

    @property
    def family(self) -> int:
        """socket.AF_INET or socket.AF_INET6."""
        return self._family

    @property
    def state(self) -> SocketState:
        """The state last published by the backend."""
        return SocketState(self._snapshot().state)

    @property
    def error(self) -> int:
        """The errno that ended the connection; 0: none."""
        return int(self._snapshot().error)

    @property
    def priority(self) -> Priority:
        """The priority that the backend works with."""
        snapshot = self._snapshot()
        known = snapshot.state & lib.PF_STATE_OPEN
        return Priority(snapshot.priority if known else self._priority)

    @property
    def queue_depth(self) -> int:
        """How many operations may be under way; may be set, from 1 to the client's `queue_depth`.

        With fewer than are under way nothing is lost: new ones are refused until enough have ended.
        """
        return self._queue_depth

    @queue_depth.setter
    def queue_depth(self, depth: int) -> None:
        self._queue_depth = _limits.depth(depth, self._client.queue_depth)
        self._limit(lib.pf_socket_set_queue_depth, depth)

    @property
    def tx_bytes(self) -> int:
        """The most bytes of the send arena that its unacknowledged writes hold; may be set.

        One write is always possible; beyond, while memory is scarce, half of what is free.
        """
        return self._tx_bytes

    @tx_bytes.setter
    def tx_bytes(self, size: int) -> None:
        self._tx_bytes = _limits.share(size, self._client.arena_bytes)
        self._limit(lib.pf_socket_set_send_limit, size)

    @property
    def local_address(self) -> Address | None:
        """The local address, None before bind or connect."""
        state = self._snapshot()  # owns what its address points to
        return _address.from_native(state.local, self._family)

    @property
    def peer_address(self) -> Address | None:
        """The address of the peer, None before connect."""
        state = self._snapshot()
        return _address.from_native(state.peer, self._family)

    def _end(self) -> None:
        """Drops the handle: nothing of this socket is reached any more."""
        self._handle = None
        self._reap_handle = None
        self._shut()

    def _limit(self, change: Callable[[CData, int, int], int], value: int) -> None:
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        result = change(handle, self._slot, value)
        if result < 0:
            raise self._refusal(result)

    def _set_at_once(self, option: int, value: int) -> None:
        """Sets an option of a new socket; the value is known to be right."""
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        op = _submit(handle, self._slot, lib.PF_OP_SETOPT, 0, value, option, 0, _NULL, _NOWHERE)
        if op < 0:
            raise self._refusal(op)

    def _submit(
        self,
        opcode: int,
        flags: int = 0,
        token: int = 0,
        offset: int = 0,
        length: int = 0,
        addr: CData = _NULL,
        link: bool = False,
        latest_ns: int = 0,
    ) -> int:
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        if link or latest_ns:
            sqe = ffi.new("struct pf_sqe *")
            sqe.opcode, sqe.flags, sqe.general = opcode, flags, lib.PF_SQE_LINK if link else 0
            sqe.token, sqe.offset, sqe.length = token, offset, length
            sqe.deadline_ns = latest_ns
            if addr:
                sqe.addr = addr[0]
            op = lib.pf_submit_sqe(handle, self._slot, sqe, _QUEUE)
        else:
            op = _submit(handle, self._slot, opcode, flags, token, offset, length, addr, _QUEUE)
        if op > 0:
            return op
        raise self._refusal(op)

    def _snapshot(self) -> CData:
        """A copy of the state that the backend published, once it has seen the socket."""
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        snapshot = ffi.new("struct pf_socket_b2c *")
        for settled in (False, True):
            result = lib.pf_socket_state(handle, self._slot, snapshot)
            if result < 0:
                raise self._refusal(result)
            if settled or snapshot.state & lib.PF_STATE_OPEN or not self._settle(handle):
                break
        return snapshot

    def _settle(self, handle: CData) -> bool:
        """Waits until the backend has taken up what was submitted so far, the opening included.

        False: it cannot be asked now, because the queue is full or the socket is closing.
        """
        slot = self._slot
        op = _submit(handle, slot, lib.PF_OP_NOP, 0, 0, 0, 0, _NULL, lib.PF_DELIVER_CALL)
        if op < 0:
            return False
        done = ffi.new("struct pf_done *")
        got = 0
        try:
            while got in (0, -errno.EINTR):
                got = lib.pf_await(handle, slot, op, _ops.SLICE_NS, done)
        finally:
            if got != 1:
                lib.pf_forget(handle, slot, op)
        return got == 1

    def _refusal(self, result: int) -> Exception:
        """The exception for what the C core answered."""
        if result == -errno.EPIPE:
            return self._client._failure()
        if result == -errno.EAGAIN:
            return _errors.queue_full(self._queue_depth)
        if result == -errno.EDEADLK:
            return _errors.batch_waits()
        if result == -errno.ENOSPC:
            return _errors.batch_full(lib.PF_BATCH_MAX)
        if result == -errno.EBADF:
            return self._closed_error()
        return _errors.os_error(-result)

    def _closed_error(self) -> Exception:
        if self._client.closed:
            return self._client._failure()
        if self._handle is not None and self._client.on_completion is not None:
            return _errors.has_callback()
        return OSError(errno.EBADF, "the socket is closed: make a new one")
