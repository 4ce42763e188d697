"""What the socket of the completion API can be told to do."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pifus._core import _address, _errors, _limits, _ops
from pifus._core._client import ffi, lib
from pifus._core._ops import Opcode, Option, Priority, Protocol
from pifus._core._slot import SocketBase

if TYPE_CHECKING:
    from pifus._core._block import Block

Address = _address.Address

# Bound once: the way of an operation is a few hundred nanoseconds long.
_write = lib.pf_write
_sendto = lib.pf_sendto
_block_write = lib.pf_block_write
_QUEUE: Final = lib.PF_DELIVER_QUEUE
_BACKLOG_MAX: Final = 2**31 - 1


class Operations(SocketBase):
    """The submitting methods: see `Socket`."""

    __slots__ = ()

    def nop(self) -> int:
        """Submits an operation that does nothing but make the round trip."""
        op = self._nop()
        if op > 0:
            return op
        raise self._refusal(op)

    def bind(self, address: Address, *, link: bool = False) -> int:
        """Submits a bind to a local address: ("", 0) is any address, any port.

        Raises:
            TypeError, OverflowError, OSError: the address is none, as of the kernel's sockets.
        """
        return self._submit(
            Opcode.BIND, addr=_address.to_native(self._family, address, "bind"), link=link
        )

    def listen(self, backlog: int = 128, *, link: bool = False) -> int:
        """Submits a listen; `backlog` connections at most wait for an accept.

        Raises:
            TypeError, ValueError: `backlog` is no int, or does not fit in C's.
        """
        _limits.whole("backlog", backlog, -_BACKLOG_MAX, _BACKLOG_MAX)
        return self._submit(Opcode.LISTEN, length=max(backlog, 0), link=link)

    def accept(
        self,
        multishot: bool = False,
        *,
        link: bool = False,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> int:
        """Submits an accept; the completion's `accepted` is the new socket.

        Args:
            multishot: every connection makes a completion, with `more` set, until cancelled.
            link, timeout, deadline: see the class.
        """
        latest = _ops.latest_ns(timeout, deadline)
        flags = lib.PF_SQE_MULTISHOT if multishot else 0
        return self._submit(Opcode.ACCEPT, flags=flags, link=link, latest_ns=latest)

    def connect(
        self,
        address: Address | None,
        *,
        link: bool = False,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> int:
        """Submits a connect. Of a UDP socket it chooses the peer; None: none any more.

        Raises:
            TypeError, OverflowError, OSError: the address is none, as of the kernel's sockets.
        """
        latest = _ops.latest_ns(timeout, deadline)
        native = ffi.NULL
        if address is not None or self._protocol != Protocol.UDP:
            native = _address.to_native(self._family, address, "connect")
        return self._submit(Opcode.CONNECT, addr=native, link=link, latest_ns=latest)

    def write(
        self,
        data: bytes | bytearray | memoryview,
        *,
        link: bool = False,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> int:
        """Submits a write of all of `data`, which is copied and may change at once.

        It completes when the peer acknowledged the bytes; the result is their number. At its
        deadline it is dropped whole, or, if the stack has some of its bytes, goes on.

        Args:
            data: the bytes.
            link, timeout, deadline: see the class.

        Raises:
            ArenaFull: no room now in the send arena.
            OSError: EMSGSIZE, more than one write may have.
            ValueError: no bytes.
        """
        if timeout is None and deadline is None and not link:
            op = self._write(data)
            if op > 0:
                return op
            if op:
                raise self._not_written(op, len(data))
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        if not 0 < size <= self._client.max_write_bytes:
            raise self._bad_size(size)
        sqe = None
        if link or timeout is not None or deadline is not None:
            sqe = ffi.new("struct pf_sqe *")
            sqe.opcode = Opcode.WRITE
            sqe.general = lib.PF_SQE_LINK if link else 0
            sqe.deadline_ns = _ops.latest_ns(timeout, deadline)
        source = data if type(data) is bytes else ffi.from_buffer("char[]", data)
        if sqe is None:
            op = _write(handle, self._slot, source, size, _QUEUE)
        else:
            op = lib.pf_submit_block(handle, self._slot, sqe, source, size, _QUEUE)
        if op > 0:
            return op
        del source  # in the error's traceback it would keep the program's buffer locked
        raise self._not_written(op, size)

    def write_block(
        self,
        block: Block,
        length: int | None = None,
        *,
        link: bool = False,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> int:
        """Submits a write of a registered block, where it lies: nothing is copied.

        Args:
            block: one of this socket's client (`Client.register`).
            length: how many of its bytes, from its start; None: all.
            link, timeout, deadline: see the class.

        Raises:
            BlockBusy: the last write of it is under way, or its completion was not taken.
            ValueError: the block was released, or is of another client, or is not so long.
        """
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        latest = _ops.latest_ns(timeout, deadline)
        offset = block._offset_for(handle)
        size = block.size if length is None else length
        if not 0 < size <= block.size:
            raise ValueError(f"{length=}: allowed is 1 to {block.size}, the size of the block")
        op = _block_write(handle, self._slot, offset, size, link, latest, _QUEUE)
        if op > 0:
            return op
        if op == -errno.EBUSY:
            raise _errors.block_busy()
        raise self._refusal(op)

    def drain(
        self,
        *,
        link: bool = False,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> int:
        """Submits an operation that completes when all written before it was acknowledged."""
        latest = _ops.latest_ns(timeout, deadline)
        return self._submit(Opcode.DRAIN, link=link, latest_ns=latest)

    def sendto(
        self,
        data: bytes | bytearray | memoryview,
        address: Address | None = None,
        *,
        link: bool = False,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> int:
        """Submits the sending of one datagram, which is copied and may change at once.

        It completes when the datagram has been handed to the network; the result is its length.

        Args:
            data: up to 65,507 bytes (over IPv6 65,487), also none.
            address: where to; None: to the peer of a connected socket.
            link, timeout, deadline: see the class.

        Raises:
            ArenaFull: no room now in the send arena.
            TypeError, OverflowError, OSError: the address is none, as of the kernel's sockets;
                EMSGSIZE, the datagram is too long.
        """
        handle = self._handle
        if handle is None:
            raise self._closed_error()
        size = memoryview(data).nbytes
        if size > lib.PF_MAX_DATAGRAM_BYTES:
            raise OSError(
                errno.EMSGSIZE,
                f"sendto() of {size} bytes: at most {lib.PF_MAX_DATAGRAM_BYTES} in a datagram",
            )
        to = ffi.NULL
        if address is not None:
            to = _address.to_native(self._family, address, "sendto")
        sqe = None
        if link or timeout is not None or deadline is not None:
            sqe = ffi.new("struct pf_sqe *")
            sqe.opcode = Opcode.SENDTO
            sqe.general = lib.PF_SQE_LINK if link else 0
            sqe.deadline_ns = _ops.latest_ns(timeout, deadline)
            if to:
                sqe.addr = to[0]
        source = ffi.from_buffer("char[]", data)
        if sqe is None:
            op = _sendto(handle, self._slot, source, size, to, 0, _QUEUE)
        else:
            op = lib.pf_submit_block(handle, self._slot, sqe, source, size, _QUEUE)
        if op > 0:
            return op
        del source  # see write
        raise self._not_written(op, size)

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

    def recv(
        self,
        limit: int,
        *,
        multishot: bool = False,
        lease: bool = False,
        link: bool = False,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> int:
        """Submits a receive of 1 to `limit` bytes: `data` of the completion, b"" at the end.

        Of a UDP socket: of one datagram, whose sender is `peer` of the completion; what is beyond
        `limit` is dropped, and `truncated` set.

        Args:
            limit: the most bytes.
            multishot: all that comes makes completions, with `more` set, each of at most `limit`
                bytes, or one datagram. The last one, without, tells why it ended: 0, the end of the
                stream, or a shutdown; ECANCELED or ETIMEDOUT, it was cancelled or too late; else
                the errno of the connection. No other receive may be under way (EALREADY).
            lease: they are not copied: see `Socket.lease`. Of a TCP socket.
            link, timeout, deadline: see the class.

        Raises:
            ValueError: `limit` is not positive, or `lease` is asked of a UDP socket, or of
                `multishot`.
        """
        if timeout is None and deadline is None and not (multishot or lease or link):
            op = self._recv(limit)
            if op > 0:
                return op
            if op:
                raise self._refusal(op)
        if not 0 < limit <= 0xFFFFFFFF:
            raise ValueError(f"{limit=}: allowed is 1 to {0xFFFFFFFF}")
        latest = _ops.latest_ns(timeout, deadline)
        if not lease:
            flags = lib.PF_SQE_MULTISHOT if multishot else 0
            return self._submit(Opcode.RECV, flags, length=limit, link=link, latest_ns=latest)
        _limits.leasable(self._protocol, multishot)
        self._leases = True
        with self._book.lock:  # before anybody can look for its completion
            op = self._submit(Opcode.RECV, length=limit, link=link, latest_ns=latest)
            self._book.expect(op)
        return op

    def shutdown(self, how: int, *, link: bool = False) -> int:
        """Submits the end of one direction or both: socket.SHUT_RD, SHUT_WR or SHUT_RDWR.

        Raises:
            OSError: EINVAL, `how` is something else.
        """
        return self._submit(Opcode.SHUTDOWN, flags=_limits.shutdown_flags(how), link=link)

    def close(self, abort: bool = False) -> int:
        """Submits the close; other operations under way are cancelled, written bytes still sent.

        It completes when the peer has everything (or 60 s after its last sign); with its completion
        the socket is gone. `release` does the same for who does not want to know.

        Args:
            abort: reset the connection instead, at once.
        """
        flags = lib.PF_CLOSE_ABORT if abort else lib.PF_CLOSE_GRACEFUL
        return self._submit(Opcode.CLOSE, flags=flags)

    def cancel(self, op: int) -> int:
        """Submits the cancelling of an operation, which then ends with ECANCELED.

        Its own result is ENOENT if there was nothing to cancel (any more): a write of which the
        stack has begun with the bytes goes on. Of a chain the operations behind it end as well.
        """
        return self._submit(Opcode.CANCEL, token=op)

    def cancel_all(self) -> int:
        """Submits the cancelling of every operation; the result is how many it ended."""
        return self._submit(Opcode.CANCEL, flags=lib.PF_SQE_ALL)

    def setopt(self, option: Option, value: int, *, link: bool = False) -> int:
        """Submits the setting of an option; EINVAL: the value is out of the option's range.

        Raises:
            ValueError: there is no such option.
            OverflowError: the value is negative or too great.
        """
        number = _limits.option(option)
        if not 0 <= value < 2**64:
            raise OverflowError(f"{value=} of {number.name}: allowed is 0 to {2**64 - 1}")
        return self._submit(Opcode.SETOPT, offset=number, token=value, link=link)

    def set_priority(self, priority: Priority) -> int:
        """Submits a change of priority, for what is submitted afterwards.

        Its result is EPERM if the client may not have so good a one.

        Raises:
            ValueError: there is no such priority.
        """
        return self.setopt(Option.PRIORITY, _limits.priority(priority))

    def set_nodelay(self, nodelay: bool) -> int:
        """Submits a change of Nagle's algorithm: False, and small writes wait for acknowledgements.

        Raises:
            ValueError: neither True nor False, or a UDP socket.
        """
        return self.setopt(Option.NODELAY, _limits.nodelay(nodelay, self._protocol))

    def set_dscp(self, dscp: int) -> int:
        """Submits a change of the class of service that packets are marked with, 0 to 63.

        Raises:
            ValueError: it is out of its range.
        """
        return self.setopt(Option.TOS, _limits.tos_of(dscp))

    # ---- inside ----

    def _group(self, flags: int, group: str, interface: int) -> int:
        _limits.whole("interface", interface, 0, 255)
        native = _address.to_native(self._family, (group, 0), "group")
        return self._submit(Opcode.GROUP, flags=flags, token=interface, addr=native)

    def _not_written(self, result: int, size: int) -> Exception:
        if result == -errno.ENOBUFS:
            return _errors.arena_full(size, self._client.arena_free)
        return self._refusal(result)

    def _bad_size(self, size: int) -> Exception:
        if size == 0:
            return ValueError("write() of 0 bytes: at least one byte, or shutdown() for the end")
        return OSError(
            errno.EMSGSIZE,
            f"write() of {size} bytes: at most {self._client.max_write_bytes} at once, so write "
            "it in pieces",
        )
