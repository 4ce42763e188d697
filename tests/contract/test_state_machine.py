"""The same random calls on the kernel's TCP and on pifus: each must answer as the other does.

The kernel's loopback delivers within the call; the stack does so a moment later. So after every
step the sockets of pifus get time to show the readiness that the kernel's show: only then is the
next call made. PIFUS_STATE_EXAMPLES is the number of sequences.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket as kernel_net
import struct
import termios
import time
from types import ModuleType
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import pifus.compat.socket as pifus_net
from tests.conftest import BackendProcess

EXAMPLES = int(os.environ.get("PIFUS_STATE_EXAMPLES", "150"))
STEPS = 30
SETTLE_SECONDS = 5.0
# A direction never holds more: how much fits before EAGAIN is nobody's promise.
IN_FLIGHT_MAX = 16_000
SOCKETS_MAX = 6
WATCHED = select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLHUP | select.POLLERR
ENDED = select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLHUP
ABORT = struct.pack("ii", 1, 0)

Outcome = tuple[str, Any]
# What is answered as long as the news has not come.
NOT_YET: list[Outcome] = [("raised", "EAGAIN"), ("raised", "EPIPE"), ("returned", 0)]


class World:
    """The sockets of one of the two stacks."""

    def __init__(self, net: ModuleType) -> None:
        self.net = net
        self.listener: Any = net.create_server(("127.0.0.1", 0), backlog=20)
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()
        with net.create_server(("127.0.0.1", 0)) as dead:
            self.dead_address = dead.getsockname()
        self.socks: list[Any] = []

    def add(self, sock: Any) -> None:
        sock.setblocking(False)
        self.socks.append(sock)

    def events(self, sock: Any) -> int:
        if sock.fileno() < 0:
            return -1
        poller = select.poll()
        poller.register(sock, WATCHED)
        found = poller.poll(0)
        return found[0][1] & WATCHED if found else 0

    def close(self) -> None:
        for sock in (*self.socks, self.listener):
            sock.close()


def attempt(call: Any, *arguments: Any) -> Outcome:
    """What a call returns, or its errno."""
    try:
        return "returned", call(*arguments)
    except OSError as error:
        return "raised", errno.errorcode[error.errno] if error.errno else str(error)


class Comparison(RuleBasedStateMachine):
    """Every rule acts on both worlds, and compares."""

    worlds: ClassVar[tuple[ModuleType, ModuleType]] = (kernel_net, pifus_net)

    def __init__(self) -> None:
        super().__init__()
        self.kernel = World(kernel_net)
        self.pifus = World(pifus_net)
        # By the index of the sender: bytes that its peer may not have read.
        self.refused: set[int] = set()
        self.sent: dict[int, int] = {}

    @initialize()
    def start(self) -> None:
        """Two connected sockets, which is what most is to be said about."""
        self.open()
        self.connect(0)
        self.accept()

    # ---- acting on both ----

    def both(self, step: Any, not_yet: list[Outcome] = NOT_YET) -> Outcome:
        """`step(world)` on the kernel, then on pifus, until it answers the same.

        Only answers that change nothing are asked for again: an error on its way shows later.
        """
        expected = attempt(step, self.kernel)
        got = attempt(step, self.pifus)
        end = time.monotonic() + SETTLE_SECONDS
        while got in not_yet and got != expected and time.monotonic() < end:
            time.sleep(0.0002)
            got = attempt(step, self.pifus)
        assert got == expected, f"pifus: {got}, the kernel: {expected}"
        return expected

    def is_unconnected(self, index: int) -> bool:
        """Never connected, or free to try again: the kernel calls such a socket hung up."""
        return self.kernel.events(self.kernel.socks[index]) == select.POLLOUT | select.POLLHUP

    def index(self, number: int) -> int:
        return number % len(self.kernel.socks)

    @precondition(lambda self: len(self.kernel.socks) < SOCKETS_MAX)
    @rule()
    def open(self) -> None:
        for world in (self.kernel, self.pifus):
            world.add(world.net.socket())

    @rule(number=st.integers(0, 99))
    def connect(self, number: int) -> None:
        index = self.index(number)
        told = self.both(lambda world: world.socks[index].connect_ex(world.address))
        if told == ("returned", 0):
            self.refused.discard(index)
        elif told == ("returned", errno.EINPROGRESS):
            self.refused.add(index)  # the listener may go before it is connected

    @rule(number=st.integers(0, 99))
    def connect_to_nobody(self, number: int) -> None:
        index = self.index(number)
        told = self.both(lambda world: world.socks[index].connect_ex(world.dead_address))
        if told == ("returned", errno.EINPROGRESS):
            self.refused.add(index)

    @precondition(lambda self: len(self.kernel.socks) < SOCKETS_MAX)
    @rule()
    def accept(self) -> None:
        def step(world: World) -> bool:
            world.add(world.listener.accept()[0])
            return True

        self.both(step)

    @rule(
        number=st.integers(0, 99),
        size=st.integers(0, 4000),
        flags=st.sampled_from([0, kernel_net.MSG_DONTWAIT, kernel_net.MSG_NOSIGNAL]),
    )
    def send(self, number: int, size: int, flags: int) -> None:
        index = self.index(number)
        if self.sent.get(index, 0) + size > IN_FLIGHT_MAX:
            return
        data = bytes((index + i) % 251 for i in range(size))
        kind, count = self.both(lambda world: world.socks[index].send(data, flags))
        if kind == "returned":
            self.sent[index] = self.sent.get(index, 0) + count

    @rule(number=st.integers(0, 99), sizes=st.lists(st.integers(0, 900), max_size=5))
    def sendmsg(self, number: int, sizes: list[int]) -> None:
        index = self.index(number)
        if self.sent.get(index, 0) + sum(sizes) > IN_FLIGHT_MAX:
            return
        parts = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
        kind, count = self.both(lambda world: world.socks[index].sendmsg(parts))
        if kind == "returned":
            self.sent[index] = self.sent.get(index, 0) + count

    @rule(
        number=st.integers(0, 99),
        size=st.integers(0, 6000),
        way=st.sampled_from(["recv", "recv_into", "recvmsg", "recvmsg_into"]),
    )
    def receive(self, number: int, size: int, way: str) -> None:
        """The stream may come in other pieces: so much as the kernel gave must come."""
        index = self.index(number)
        kind, data = attempt(take, self.kernel.socks[index], size, way, 0)
        if kind == "raised" or not data:
            end = time.monotonic() + SETTLE_SECONDS
            got = attempt(take, self.pifus.socks[index], size, way, 0)
            while got == ("returned", b"") != (kind, data) and time.monotonic() < end:
                time.sleep(0.0002)
                got = attempt(take, self.pifus.socks[index], size, way, 0)
            assert got == (kind, data), f"pifus: {got}, the kernel: {(kind, data)}"
            return
        parts, missing = [], len(data)
        while missing:
            got = self.when_there(index, missing, way)
            assert got[0] == "returned", f"pifus: {got}, the kernel: {len(data)} bytes"
            assert got[1], f"pifus ends {missing} bytes early"
            parts.append(got[1])
            missing -= len(got[1])
        assert b"".join(parts) == data
        self.sent.clear()  # a bound is all that is asked of it

    def when_there(self, index: int, size: int, way: str) -> Outcome:
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            got = attempt(take, self.pifus.socks[index], size, way, 0)
            if got != ("raised", "EAGAIN") or time.monotonic() > end:
                return got
            time.sleep(0.0002)

    @rule(number=st.integers(0, 99), size=st.integers(1, 50))
    def peek(self, number: int, size: int) -> None:
        index = self.index(number)
        kind, data = attempt(take, self.kernel.socks[index], size, "recv", kernel_net.MSG_PEEK)
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            got = attempt(take, self.pifus.socks[index], size, "recv", kernel_net.MSG_PEEK)
            if got == (kind, data):
                return
            assert got == ("raised", "EAGAIN") or got[0] == "returned", (
                f"pifus: {got}, the kernel: {(kind, data)}"
            )
            assert time.monotonic() < end, f"pifus: {got}, the kernel: {(kind, data)}"

    @rule(number=st.integers(0, 99), how=st.sampled_from([0, 1, 2]))
    def shutdown(self, number: int, how: int) -> None:
        index = self.index(number)
        if not self.is_unconnected(index):  # it would fail, and have an effect on a later connect
            # A second one does no more than the first.
            not_yet = [*NOT_YET, ("returned", None)]
            self.both(lambda world: world.socks[index].shutdown(how), not_yet)

    @rule(number=st.integers(0, 99), abort=st.booleans())
    def close(self, number: int, abort: bool) -> None:
        index = self.index(number)

        def step(world: World) -> None:
            sock = world.socks[index]
            if abort and sock.fileno() >= 0:
                sock.setsockopt(kernel_net.SOL_SOCKET, kernel_net.SO_LINGER, ABORT)
            sock.close()

        self.both(step)

    @rule(number=st.integers(0, 99))
    def take_error(self, number: int) -> None:
        index = self.index(number)
        self.both(
            lambda world: world.socks[index].getsockopt(kernel_net.SOL_SOCKET, kernel_net.SO_ERROR)
        )

    @rule(number=st.integers(0, 99))
    def names(self, number: int) -> None:
        index = self.index(number)
        self.both(lambda world: world.socks[index].getpeername()[0])
        self.both(lambda world: world.socks[index].getsockname()[0])

    @rule(number=st.integers(0, 99), again=st.booleans())
    def bind(self, number: int, again: bool) -> None:
        index = self.index(number)

        if self.kernel.events(self.kernel.socks[index]) & ENDED == ENDED:
            return  # Linux lets it be bound again, though nothing can come of that

        def step(world: World) -> None:
            world.socks[index].bind(world.address if again else ("127.0.0.1", 0))

        self.both(step)

    @rule(number=st.integers(0, 99))
    def duplicate(self, number: int) -> None:
        """Goes on with a duplicate."""
        index = self.index(number)

        def step(world: World) -> None:
            first = world.socks[index]
            world.socks[index] = first.dup()
            first.close()

        self.both(step)

    @rule()
    def close_listener(self) -> None:
        def step(world: World) -> None:
            world.listener.close()
            world.listener = world.net.socket()
            world.listener.setsockopt(kernel_net.SOL_SOCKET, kernel_net.SO_REUSEADDR, 1)
            world.listener.setblocking(False)
            world.listener.bind(world.address)
            world.listener.listen(20)

        self.both(step)

    # ---- what has to hold ----

    @invariant()
    def readiness_agrees(self) -> None:
        pairs = [*zip(self.kernel.socks, self.pifus.socks, strict=True)]
        pairs.append((self.kernel.listener, self.pifus.listener))
        end = time.monotonic() + SETTLE_SECONDS
        for index, (ours, theirs) in enumerate(pairs):
            if ours is not self.kernel.listener and self.is_unconnected(index):
                continue
            # After a refusal the stack's does not look hung up: it may be connected yet.
            while (want := self.kernel.events(ours)) != (got := self.pifus.events(theirs)):
                if index in self.refused and got == want & ~(select.POLLRDHUP | select.POLLHUP):
                    break
                # Nor does one that both sides have shut in good order: docs/ARCHITECTURE.md.
                if want == ENDED and got == want & ~select.POLLHUP:
                    break
                assert time.monotonic() < end, (
                    f"socket {index}: pifus shows {names_of(got)}, the kernel {names_of(want)}"
                )
                time.sleep(0.0002)
            listens = ours is self.kernel.listener
            if (
                not listens
                and want > 0
                and want & (select.POLLIN | select.POLLHUP) == select.POLLIN
            ):
                self.await_bytes(index)

    def await_bytes(self, index: int) -> None:
        """Until as many wait on pifus as in the kernel."""
        number = array.array("i", [0])
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            # Again and again: on a busy machine the kernel's arrive late, too.
            fcntl.ioctl(self.kernel.socks[index], termios.FIONREAD, number)
            if not number[0]:
                return
            got = self.pifus.socks[index].recv(number[0] + 1, kernel_net.MSG_PEEK)
            if len(got) == number[0]:
                return
            assert time.monotonic() < end, f"pifus has {len(got)}, the kernel {number[0]} bytes"

    def teardown(self) -> None:
        self.kernel.close()
        self.pifus.close()


def names_of(events: int) -> str:
    names = ("POLLIN", "POLLOUT", "POLLRDHUP", "POLLHUP", "POLLERR")
    return "|".join(name for name in names if events & getattr(select, name)) or str(events)


def take(sock: Any, size: int, way: str, flags: int) -> bytes:
    """Receives by one of the methods."""
    if way == "recv":
        return bytes(sock.recv(size, flags))
    if way == "recvmsg":
        return bytes(sock.recvmsg(size, 0, flags)[0])
    buffer = bytearray(size)
    if way == "recv_into":
        # A size of 0 would mean the whole buffer, which has none.
        return bytes(buffer[: sock.recv_into(buffer, size, flags)])
    half = size // 2
    parts = [memoryview(buffer)[:half], memoryview(buffer)[half:]]
    return bytes(buffer[: sock.recvmsg_into(parts, 0, flags)[0]])


def test_the_kernel_and_the_stack_agree(backend: BackendProcess) -> None:
    run_state_machine_as_test(
        Comparison,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
