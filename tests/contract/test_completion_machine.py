"""Random sequences of submit, link, batch, cancel, time-out, close and peer behaviour.

Every operation ends in exactly one final completion, never lost, never doubled, never after the
close returned; chains keep their order; what is cancelled or late was not sent, and every other
byte arrives in order; of a batch that was dropped there is no trace.
PIFUS_COMPLETION_EXAMPLES is the number of sequences.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pifus
from pifus import Opcode
from tests.conftest import BackendProcess, connect_pair

EXAMPLES = int(os.environ.get("PIFUS_COMPLETION_EXAMPLES", "2000"))
SECONDS = 20.0
ENDED = (errno.ECONNRESET, errno.EPIPE)
REFUSED = 1  # nobody listens there


@dataclass(slots=True)
class Submitted:
    """One operation, and how it ended."""

    op: int
    opcode: Opcode
    data: bytes = b""  # of a write
    linked: bool = False
    multishot: bool = False
    after: Submitted | None = None  # what it is linked to
    latest_ns: int | None = None  # it may not be late before
    done: pifus.Completion | None = None

    @property
    def result(self) -> int:
        assert self.done is not None, f"{self} never ended"
        return self.done.result


class Side:
    """A socket, all that was submitted to it, and the bytes that it received."""

    def __init__(self, sock: pifus.Socket, seed: int) -> None:
        self.sock = sock
        self.seed = seed
        self.operations: dict[int, Submitted] = {}
        self.received = bytearray()
        self.at_end = False
        self._written = 0
        self._last: Submitted | None = None

    def payload(self, size: int) -> bytes:
        """Bytes that tell which of all that were ever written they are."""
        start = self._written
        self._written += size
        return bytes(
            (self.seed + i * 31 + (i >> 8) * 17) & 0xFF for i in range(start, start + size)
        )

    def submit(
        self, opcode: Opcode, *arguments: object, data: bytes = b"", **terms: object
    ) -> None:
        """Submits by the method of the operation's name; a full queue or arena is no error."""
        timeout = terms.get("timeout")
        assert timeout is None or isinstance(timeout, float)
        latest = None if timeout is None else time.monotonic_ns() + int(timeout * 1e9)
        name = opcode.name.lower()
        if opcode is Opcode.CANCEL and not arguments:
            name = "cancel_all"
        try:
            op = getattr(self.sock, name)(*arguments, **terms)
        except (pifus.QueueFull, pifus.ArenaFull):
            return
        assert op not in self.operations, "an operation number was used twice"
        linked, multishot = bool(terms.get("link")), bool(terms.get("multishot"))
        entry = Submitted(op, opcode, data, linked, multishot, latest_ns=latest)
        if opcode is Opcode.CANCEL:
            if name == "cancel_all":
                self._last = None
        elif opcode is not Opcode.CLOSE:
            entry.after = self._last if self._last and self._last.linked else None
            self._last = entry
        self.operations[op] = entry

    def mark(self) -> tuple[int, int, Submitted | None]:
        """What there is now: for `drop`."""
        return len(self.operations), self._written, self._last

    def drop(self, mark: tuple[int, int, Submitted | None]) -> None:
        """What was submitted since then was not."""
        count, self._written, self._last = mark
        for op in list(self.operations)[count:]:
            del self.operations[op]

    def take(self, done: pifus.Completion) -> None:
        """Notes a completion, and the bytes that it brought."""
        entry = self.operations.get(done.op)
        assert entry is not None, f"completion of what was never submitted: {done}"
        assert entry.done is None, f"a second completion of {entry}: {done}"
        assert done.opcode is entry.opcode
        if done.more:
            assert entry.multishot
            assert done.data
            self.received += done.data
            return
        entry.done = done
        if done.late:
            assert done.errno == errno.ETIMEDOUT
            assert entry.latest_ns is not None
            assert done.completed_ns >= entry.latest_ns
        if done.opcode is Opcode.RECV and done.result >= 0:
            if done.result and done.data is None:
                with self.sock.lease(done) as view:
                    self.received += view
            else:
                self.received += done.data or b""
            self.at_end = self.at_end or not done.result

    def poll(self, limit: int) -> None:
        for done in self.sock.poll_many(limit):
            self.take(done)

    def wait_until(self, op: int) -> Submitted:
        """Takes completions up to that of `op`."""
        entry = self.operations[op]
        while entry.done is None:
            self.take(self.sock.wait(SECONDS))
        return entry

    def end_chains(self) -> None:
        """Cancels what can be cancelled, so that a receive starts at once."""
        before = len(self.operations)
        while len(self.operations) == before:
            self.submit(Opcode.CANCEL)
            if len(self.operations) == before:
                self.take(self.sock.wait(SECONDS))
        self.wait_until(next(reversed(self.operations)))

    def read_all(self) -> None:
        """Receives until the stream ends, one way or the other."""
        while True:
            op = self.sock.recv(1 << 16)
            self.operations[op] = Submitted(op, Opcode.RECV)
            if self.wait_until(op).result <= 0:
                return

    def close(self, abort: bool) -> int:
        """Submits the close, when there is room for it: its number."""
        while True:
            before = len(self.operations)
            self.submit(Opcode.CLOSE, abort)
            if len(self.operations) > before:
                return next(reversed(self.operations))
            self.take(self.sock.wait(SECONDS))

    def check_operations(self) -> None:
        """After the close: all have ended, and chains as they had to."""
        for entry in self.operations.values():
            result = entry.result
            before = entry.after
            if before is None or entry.done is None or before.done is None:
                continue
            if before.result < 0:
                assert result == -errno.ECANCELED or entry.done.late, (before, entry)
            elif result >= 0:
                assert before.done.completed_ns <= entry.done.completed_ns, (before, entry)

    def check_sent(self, got: bytes, at_end: bool) -> None:
        """What the other side received is what was not taken back, in order."""
        writes = [entry for entry in self.operations.values() if entry.opcode is Opcode.WRITE]
        sent = [w for w in writes if w.result != -errno.ECANCELED and not w.done.late]  # type: ignore[union-attr]
        for entry in sent:
            assert entry.result == len(entry.data) or -entry.result in ENDED, entry
        stream = b"".join(entry.data for entry in sent)
        assert stream.startswith(got), "the peer received what was not sent, or in another order"
        if at_end:
            known = b"".join(entry.data for entry in sent if entry.result > 0)
            assert got.startswith(known), "an acknowledged byte is missing"


SIZES = st.sampled_from([1, 2, 100, 5000, 40_000, 70_000])
TIMEOUTS = st.sampled_from([None, None, None, 0.0, 0.0003, 0.002, 0.01])
KINDS = st.sampled_from([None, None, "lease", "multishot"])
SIDES = st.sampled_from(["near", "near", "near", "far", "fresh"])
SUBMITS = st.one_of(
    st.tuples(st.just("write"), SIDES, SIZES, st.booleans(), TIMEOUTS),
    st.tuples(st.just("recv"), SIDES, SIZES, st.booleans(), TIMEOUTS, KINDS),
    st.tuples(st.just("drain"), SIDES, st.booleans(), TIMEOUTS),
    st.tuples(st.just("connect"), st.just("fresh"), st.booleans(), TIMEOUTS),
    st.tuples(st.just("shutdown"), SIDES, st.booleans()),
    st.tuples(st.just("cancel"), SIDES, st.integers(0, 1000)),
    st.tuples(st.just("cancel_all"), SIDES),
)
ACTIONS = st.lists(
    st.one_of(
        SUBMITS,
        st.tuples(st.just("batch"), st.lists(SUBMITS, max_size=8), st.booleans()),
        st.tuples(st.just("poll"), SIDES, st.integers(1, 5)),
        st.tuples(st.just("wait"), SIDES, st.sampled_from([0.0005, 0.003])),
        st.tuples(st.just("abort"), st.just("far")),
    ),
    max_size=30,
)


def act(side: Side, action: tuple[object, ...], refused: tuple[str, int]) -> None:
    """One action of a sequence."""
    name, _, *rest = action
    if name == "write":
        size, link, timeout = rest
        assert isinstance(size, int)
        data = side.payload(size)
        side.submit(Opcode.WRITE, data, data=data, link=link, timeout=timeout)
    elif name == "recv":
        size, link, timeout, kind = rest
        terms = {"link": link, "timeout": timeout} | ({str(kind): True} if kind else {})
        side.submit(Opcode.RECV, size, **terms)
    elif name in ("drain", "connect"):
        link, timeout = rest
        arguments = (refused,) if name == "connect" else ()
        side.submit(Opcode[str(name).upper()], *arguments, link=link, timeout=timeout)
    elif name == "shutdown":
        side.submit(Opcode.SHUTDOWN, socket.SHUT_WR, link=rest[0])
    elif name == "cancel":
        known = list(side.operations)
        index = rest[0]
        assert isinstance(index, int)
        side.submit(Opcode.CANCEL, known[-1 - index % len(known)] if known else 12345)
    elif name == "cancel_all":
        side.submit(Opcode.CANCEL)
    elif name == "poll":
        limit = rest[0]
        assert isinstance(limit, int)
        side.poll(limit)
    elif name == "wait":
        seconds = rest[0]
        assert isinstance(seconds, float)
        try:
            side.take(side.sock.wait(seconds))
        except TimeoutError:
            return


class DroppedError(Exception):
    """Ends a batch."""


def act_together(
    client: pifus.Client, sides: dict[str, Side], actions: list[tuple[object, ...]], drop: bool
) -> None:
    """Actions in a batch, which is perhaps dropped."""
    marks = {name: side.mark() for name, side in sides.items()}
    try:
        with client.batch():
            for action in actions:
                if str(action[1]) in sides:
                    act(sides[str(action[1])], action, ("127.0.0.1", REFUSED))
            if drop:
                raise DroppedError
    except DroppedError:
        for name, mark in marks.items():
            sides[name].drop(mark)


@pytest.fixture(scope="module")
def machine_client(backend: BackendProcess) -> Iterator[pifus.Client]:
    with pifus.Client(backend.path, queue_depth=16, rx_bytes=65536) as client:
        yield client


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=ACTIONS, abort=st.booleans(), small=st.booleans())
def test_every_operation_ends_exactly_once(
    machine_client: pifus.Client,
    actions: list[tuple[object, ...]],
    abort: bool,
    small: bool,
) -> None:
    client = machine_client
    near_sock, far_sock = connect_pair(client)
    sides = {
        "near": Side(near_sock, 1),
        "far": Side(far_sock, 2),
        "fresh": Side(client.socket(rx_bytes=4096 if small else 0), 3),
    }
    near, far, fresh = sides.values()
    open_sides = dict(sides)
    for action in actions:
        if action[0] == "batch":
            act_together(client, open_sides, *action[1:])  # type: ignore[arg-type]
            continue
        side = open_sides.get(str(action[1]))
        if side is None:
            continue
        if action[0] == "abort":
            del open_sides["far"]
            far.wait_until(far.close(True))
            continue
        act(side, action, ("127.0.0.1", REFUSED))
    near_close = near.close(abort)
    if far in open_sides.values():
        far.end_chains()
        far.read_all()
        far.wait_until(far.close(False))
    near.wait_until(near_close)
    fresh.wait_until(fresh.close(False))
    for side in sides.values():
        side.check_operations()
        assert side.sock.closed
        with pytest.raises(OSError, match="closed"):
            side.sock.poll()
    assert client.poll_any() is None, "a completion after the close returned"
    near.check_sent(bytes(far.received), far.at_end)
    far.check_sent(bytes(near.received), near.at_end)
    assert client.arena_free == 16777216
