"""A socket for tasks: completions in, awaitable calls out; the same for every event-loop library.

A call that is cancelled while it waits has had no effect, and needs none undone: bytes and
connections stay where they are until a call takes them, in the same step in which it returns. The
operation by which the call waited goes on, and serves the next one.
"""

from __future__ import annotations

import errno
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from pifus._async._loop import Loop, Side, Signal
from pifus._core import _errors, _now, _ops
from pifus._core._hub import SCRATCH_BYTES
from pifus._core._ops import Option

if TYPE_CHECKING:
    from pifus._core._address import Address
    from pifus._core._socket import Socket

# A write completes when its bytes were acknowledged; so many may wait for that.
UNACKED_MAX: Final = 262_144
_PIECE: Final = 65_536
_LOOSE_BYTES: Final = 16_384
# Operations that are not writes have room in the queue at all times.
_RESERVED: Final = 4


class Endpoint:
    """A socket of the stack, for one task that receives or accepts and one that sends.

    Args:
        loop: where its completions come.
        sock: in poll mode, its completions not taken by anybody else.
    """

    def __init__(self, loop: Loop, sock: Socket) -> None:
        self.loop = loop
        self.sock = sock
        self.closed = False
        self.eof_sent = False
        self._reading = Side(loop, "receiving from")
        self._writing = Side(loop, "sending to")
        self._asked = False
        self._error = 0
        self._accepted: deque[bytes] = deque()
        self._unacked = 0
        self._writes = 0
        self._writes_max = max(sock.client.queue_depth - _RESERVED, 1)
        # Small writes go without a completion, except for one now and then.
        self._loose = 0
        self._loose_bytes = 0
        self._loose_max = self._writes_max // 4
        self._broken = 0
        self._ended = False
        self._others: set[Signal] = set()

    def __del__(self) -> None:
        """As of the kernel's sockets: what is forgotten, or lost by Ctrl-C, is closed."""
        self.close()

    # ---- receiving ----

    async def receive(self, limit: int) -> bytes:
        """Up to `limit` bytes of a stream, at least one; b"" at its end."""
        scratch = self.loop.hub.scratch
        with self._reading:
            await self.loop.before()
            await self._something(_now.answers(self._open(), scratch))
            while (data := _now.read(self._open(), limit, scratch, SCRATCH_BYTES)) is None:
                await self._something(here=False)
            return data

    async def receive_from(self, limit: int) -> tuple[bytes, Address | None]:
        """A datagram, cut to `limit` bytes, and its sender."""
        with self._reading:
            await self.loop.before()
            await self._something(_now.has_bytes(self._open()))
            while (got := _now.read_datagram(self._open(), limit)) is None:
                await self._something(here=False)
            return got

    async def _something(self, here: bool) -> None:
        """Waits, for a turn at least, until there may be something to take. It is taken in the step
        in which the call returns: whatever ends this wait, a cancellation, an exception of a signal
        handler, leaves it where it is."""
        hub = self.loop.hub
        if not here and hub.left:
            raise self._lost()
        if not here and hub.watch(self.sock, self._reading.signal.fire):
            await self.loop.park(self._reading.signal)
        else:
            await self.loop.turn()

    # ---- accepting ----

    async def accept(self) -> tuple[Endpoint, Address | None]:
        """A connection to this listener, and its peer."""
        with self._reading:
            await self.loop.before()
            if self._accepted:
                await self.loop.turn()
            while not self._accepted:
                self._open()
                if self._ended:
                    raise self._lost()
                if self._error:
                    error, self._error = self._error, 0
                    raise _errors.os_error(error)
                if not self._asked:
                    op = self.sock.accept()
                    self._asked = self.loop.hub.expect(self.sock, op, self._arrived)
                if self._asked:
                    await self.loop.park(self._reading.signal)
            # In the step in which the call returns, as with bytes.
            sock, peer = _now.adopt(self._open(), self._accepted.popleft())
            return Endpoint(self.loop, sock), peer

    def _arrived(self, raw: bytes | None) -> None:
        self._asked = False
        if raw is None:
            self._ended = True
        elif (result := _ops.result_of(raw)) >= 0:
            self._accepted.append(raw)
        else:
            self._error = -result
        self._reading.signal.fire()

    # ---- sending ----

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all of `data`: returns when the last bytes are in the send arena."""
        if type(data) is bytes:
            await self._send_all(data)
            return
        # Released, come what may: CPython's garbage collector crashes on a view in a traceback.
        with memoryview(data).cast("B") as octets:
            await self._send_all(octets)

    async def _send_all(self, octets: bytes | memoryview) -> None:
        with self._writing:
            await self.loop.before()
            self._sendable()
            sent = 0
            while (sent := self._push(octets, sent)) < len(octets):
                await self._room()
            await self.loop.after()

    async def send_some(self, data: bytes | bytearray | memoryview) -> int:
        """Sends as much as there is room for, at least one byte; returns how much."""
        with self._writing, memoryview(data).cast("B") as octets:
            await self.loop.before()
            self._sendable()
            while not (sent := self._push(octets, 0)) and octets:
                await self._room()
            await self.loop.after()
            return sent

    async def wait_writable(self) -> None:
        """Waits until there is room for more bytes."""
        with self._writing:
            await self.loop.before()
            self._writable()
            while self._unacked >= UNACKED_MAX or self._writes >= self._writes_max:
                await self.loop.park(self._writing.signal)
                self._writable()
            await self.loop.after()

    async def flush(self) -> None:
        """Waits until the peer has acknowledged everything that was sent."""
        with self._writing:
            await self.loop.before()
            self._writable()
            while self._writes:
                if self._loose and (op := _now.drain(self.sock)) is not None:
                    self._mark(op)
                elif self._loose:
                    await self._room()  # for one more operation
                else:
                    await self.loop.park(self._writing.signal)
                self._writable()
            await self.loop.after()

    async def send_to(self, data: bytes | bytearray | memoryview, address: Address | None) -> int:
        """Sends a datagram; its length, when it has been handed to the network."""
        with self._writing:
            await self.loop.before()
            while True:
                try:
                    op = self._open().sendto(data, address)
                except BlockingIOError:
                    await self.loop.nap()
                else:
                    return await self._finish(op)

    async def send_eof(self) -> None:
        """Ends the sending direction, behind what was sent. Twice is no error."""
        with self._writing:
            await self.loop.before()
            while not self.eof_sent:
                try:
                    self.shut(1)
                except BlockingIOError:  # the queue is full
                    await self._room()
            await self.loop.after()

    def shut(self, how: int) -> None:
        """Ends one direction or both, at once: socket.SHUT_RD, SHUT_WR or SHUT_RDWR."""
        _now.shutdown(self._open(), how)
        self.eof_sent = self.eof_sent or how != 0

    def _writable(self) -> None:
        self._open()
        if self._ended:
            raise self._lost()
        if self._broken:
            raise _errors.os_error(self._broken)

    def _sendable(self) -> None:
        self._writable()
        if self.eof_sent:
            raise _errors.os_error(errno.EPIPE)

    def _push(self, octets: bytes | memoryview, sent: int) -> int:
        """Submits writes of what there is room for now, behind what was sent; returns how far."""
        length = len(octets)
        while sent < length and self._unacked < UNACKED_MAX and self._writes < self._writes_max:
            if sent == 0 and length <= _PIECE:
                size, op = self._put(octets)
            else:
                with memoryview(octets)[sent : sent + _PIECE] as piece:
                    size, op = self._put(piece)
            if not size:
                break
            self._unacked += size
            self._writes += 1
            self._loose += 1
            self._loose_bytes += size
            sent += size
            if op:
                self._mark(op)
        return sent

    def _put(self, piece: bytes | memoryview) -> tuple[int, int]:
        """Submits one write. How many bytes, and the operation: 0, the next one marks its end."""
        size = len(piece)
        if self._loose < self._loose_max and self._loose_bytes + size <= _LOOSE_BYTES:
            return _now.send(self.sock, piece), 0
        op = _now.write(self.sock, piece)
        return (0, 0) if op is None else (size, op)

    def _mark(self, op: int) -> None:
        """With the end of this operation everything sent before it has been acknowledged."""
        done = partial(self._written, self._loose_bytes, self._loose)
        self._loose = self._loose_bytes = 0
        self.loop.hub.expect(self.sock, op, done)

    def _written(self, size: int, writes: int, raw: bytes | None) -> None:
        self._unacked -= size
        self._writes -= writes
        if raw is None:
            self._ended = True
        elif _ops.result_of(raw) < 0:
            self._broken = self._broken or -_ops.result_of(raw)
        self._writing.signal.fire()

    async def _room(self) -> None:
        """Waits until there may be room for more bytes."""
        if self._writes > self._loose:
            await self.loop.park(self._writing.signal)
        else:
            await self.loop.nap()  # the arena is full of what others sent
        self._writable()

    # ---- the rest ----

    async def bind(self, address: Address) -> None:
        """Binds to a local address."""
        await self.loop.before()
        await self._finish(self._open().bind(address))

    def listen(self, backlog: int) -> None:
        """Listens, at once."""
        _now.listen(self._open(), backlog)

    def setopt(self, option: Option, value: int) -> None:
        """Sets an option, at once."""
        _now.setopt(self._open(), option, value)

    async def connect(self, address: Address) -> None:
        """Connects. Cancelled, the socket is closed; what was refused may be tried again."""
        try:
            await self.loop.before()
            await self._finish(self._open().connect(address))
        except Exception:
            raise
        except BaseException:
            self.close()
            raise

    async def reconnect(self, address: Address | None) -> None:
        """Chooses the peer of a datagram socket; None: any."""
        await self.loop.before()
        await self._finish(self._open().connect(address))

    async def in_group(self, group: str, interface: int, joined: bool) -> None:
        """Joins or leaves a multicast group."""
        await self.loop.before()
        sock = self._open()
        act = sock.join_group if joined else sock.leave_group
        await self._finish(act(group, interface))

    def is_readable(self) -> bool:
        """True: a receive or an accept would not wait."""
        return bool(self._accepted) or _now.readable(self._open())

    def close(self, reset: bool = False) -> None:
        """Lets go of the socket: bytes sent before still reach the peer, unless it is reset. Wakes
        who waits."""
        if self.closed:
            return
        self.closed = True
        for raw in self._accepted:
            _now.reject(self.sock, raw)
        self._accepted.clear()
        self.loop.hub.drop(self.sock)
        if reset:
            _now.abort(self.sock)
        else:
            self.sock.release()
        for signal in (self._reading.signal, self._writing.signal, *self._others):
            signal.fire()

    def _open(self) -> Socket:
        if self.closed:
            raise self.loop.closed("this socket was closed")
        return self.sock

    def _lost(self) -> Exception:
        """Why nothing is told of the socket any more."""
        if self.loop.hub.left:
            return self.loop.closed("the event loop that this socket was made in has ended")
        return _now.ended(self.sock)

    async def _finish(self, op: int) -> int:
        """Waits for the end of an operation; its result."""
        signal = Signal()
        outcome: list[bytes | None] = []

        def deliver(raw: bytes | None) -> None:
            outcome.append(raw)
            signal.fire()

        self.loop.hub.expect(self.sock, op, deliver)
        self._others.add(signal)
        try:
            while not outcome:
                await self.loop.park(signal)
                self._open()
        finally:
            self._others.discard(signal)
        raw = outcome[0]
        if raw is None:
            raise self._lost()
        result = _ops.result_of(raw)
        if result < 0:
            raise _errors.os_error(-result)
        return result
