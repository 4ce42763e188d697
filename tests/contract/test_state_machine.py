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
from typing import Any, ClassVar

import pytest
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

from tests.contract.legs import Leg, loopback
from tests.contract.worlds import Outcome, World, attempt, names_of, take

EXAMPLES = int(os.environ.get("PIFUS_STATE_EXAMPLES", "150"))
STEPS = 30
SETTLE_SECONDS = 5.0
# A direction never holds more: how much fits before EAGAIN is nobody's promise.
IN_FLIGHT_MAX = 16_000
SOCKETS_MAX = 6
ENDED = select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLHUP
ABORT = struct.pack("ii", 1, 0)

# What is answered as long as the news has not come.
NOT_YET: list[Outcome] = [("raised", "EAGAIN"), ("raised", "EPIPE"), ("returned", 0)]


class Comparison(RuleBasedStateMachine):
    """Every rule acts on both worlds, and compares."""

    leg: ClassVar[Leg]
    family: ClassVar[int] = kernel_net.AF_INET

    def __init__(self) -> None:
        super().__init__()
        self.kernel = World(loopback("kernel"), self.family)
        self.pifus = World(self.leg, self.family)
        # By the index of the sender: bytes that its peer may not have read.
        self.refused: set[int] = set()
        self.sent: dict[int, int] = {}

    @initialize()
    def start(self) -> None:
        """Two connected sockets, which is what most is to be said about."""
        self.open()
        self.connect(0)
        self.accept()

    @property
    def is_wire(self) -> bool:
        """The listener's address is not the client's."""
        return self.leg.client is not self.leg.server

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
            world.add(world.leg.client.net.socket(world.family))

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
        way=st.sampled_from(["recv", "recv_into", "recvfrom", "recvmsg", "recvmsg_into"]),
        flags=st.sampled_from(
            [0, 0, kernel_net.MSG_DONTWAIT, kernel_net.MSG_WAITALL, kernel_net.MSG_TRUNC]
        ),
    )
    def receive(self, number: int, size: int, way: str, flags: int) -> None:
        """The stream may come in other pieces: so much as the kernel gave must come."""
        index = self.index(number)
        if flags == kernel_net.MSG_TRUNC:
            way = "recv_into"  # the bytes are thrown away: the others would show old memory
        kind, data = attempt(take, self.kernel.socks[index], size, way, flags)
        if kind == "raised" or not data:
            end = time.monotonic() + SETTLE_SECONDS
            got = attempt(take, self.pifus.socks[index], size, way, flags)
            while got == ("returned", b"") != (kind, data) and time.monotonic() < end:
                time.sleep(0.0002)
                got = attempt(take, self.pifus.socks[index], size, way, flags)
            assert got == (kind, data), f"pifus: {got}, the kernel: {(kind, data)}"
            return
        parts, missing = [], len(data)
        while missing:
            got = self.when_there(index, missing, way, flags)
            assert got[0] == "returned", f"pifus: {got}, the kernel: {len(data)} bytes"
            assert got[1], f"pifus ends {missing} bytes early"
            parts.append(got[1])
            missing -= len(got[1])
        assert b"".join(parts) == data
        self.sent.clear()  # a bound is all that is asked of it

    def when_there(self, index: int, size: int, way: str, flags: int) -> Outcome:
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            got = attempt(take, self.pifus.socks[index], size, way, flags)
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
        # Over a wire the last acknowledgement comes later, and the connection ends with it.
        not_yet = [*NOT_YET, ("returned", "host")]
        self.both(lambda world: world.side_of(world.socks[index].getpeername()[0]), not_yet)
        self.both(lambda world: world.side_of(world.socks[index].getsockname()[0]))

    @rule(number=st.integers(0, 99), size=st.integers(0, 500))
    def send_to(self, number: int, size: int) -> None:
        """A stream that is connected has no use for the address."""
        index = self.index(number)
        if self.sent.get(index, 0) + size > IN_FLIGHT_MAX:
            return
        data = bytes(size)
        kind, count = self.both(lambda world: world.socks[index].sendto(data, world.address))
        if kind == "returned":
            self.sent[index] = self.sent.get(index, 0) + count

    @rule(number=st.integers(0, 99))
    def misuse(self, number: int) -> None:
        """What is for listeners, of a socket that is none."""
        index = self.index(number)
        self.both(lambda world: world.socks[index].accept()[0].close())
        if not self.is_unconnected(index):
            self.both(lambda world: world.socks[index].listen())

    @rule(number=st.integers(0, 99), value=st.booleans())
    def options(self, number: int, value: bool) -> None:
        index = self.index(number)

        def step(world: World) -> list[int]:
            sock, level = world.socks[index], kernel_net.SOL_SOCKET
            sock.setsockopt(kernel_net.IPPROTO_TCP, kernel_net.TCP_NODELAY, value)
            sock.setsockopt(level, kernel_net.SO_KEEPALIVE, value)
            return [
                sock.getsockopt(kernel_net.IPPROTO_TCP, kernel_net.TCP_NODELAY),
                sock.getsockopt(level, kernel_net.SO_KEEPALIVE),
                sock.getsockopt(level, kernel_net.SO_ACCEPTCONN),
                sock.getsockopt(level, kernel_net.SO_TYPE),
                sock.getsockopt(level, kernel_net.SO_DOMAIN),
            ]

        self.both(step)

    @rule(number=st.integers(0, 99))
    def detach(self, number: int) -> None:
        """Goes on with another object of the same descriptor."""
        index = self.index(number)

        def step(world: World) -> None:
            sock = world.socks[index]
            if sock.fileno() >= 0:
                world.socks[index] = type(sock)(fileno=sock.detach())
                world.socks[index].setblocking(False)

        self.both(step)

    @rule(number=st.integers(0, 99), again=st.booleans())
    def bind(self, number: int, again: bool) -> None:
        index = self.index(number)

        if self.kernel.events(self.kernel.socks[index]) & ENDED == ENDED:
            return  # Linux lets it be bound again, though nothing can come of that

        def step(world: World) -> None:
            port = world.address[1] if again and not self.is_wire else 0
            sock = world.socks[index]
            sock.bind((world.host_of(sock), port))

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
            world.listener = world.leg.server.net.socket(world.family)
            world.listener.setsockopt(kernel_net.SOL_SOCKET, kernel_net.SO_REUSEADDR, 1)
            world.listener.setblocking(False)
            world.listener.bind(world.address)
            world.listener.listen(20)

        self.both(step)

    # ---- what has to hold ----

    def let_the_kernel_deliver(self) -> None:
        """On a busy machine its packets are late, too: until all are acknowledged."""
        end = time.monotonic() + SETTLE_SECONDS
        for sock in self.kernel.socks:
            unsent = array.array("i", [1])
            while unsent[0] and sock.fileno() >= 0 and time.monotonic() < end:
                for other in self.kernel.socks:
                    if other.fileno() >= 0:
                        other.setsockopt(kernel_net.IPPROTO_TCP, kernel_net.TCP_QUICKACK, 1)
                fcntl.ioctl(sock, termios.TIOCOUTQ, unsent)
                if self.kernel.events(sock) & select.POLLHUP:
                    break  # what a reset left over nobody will acknowledge

    @invariant()
    def readiness_agrees(self) -> None:
        self.let_the_kernel_deliver()
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


class ComparisonByIPv6(Comparison):
    """The same by IPv6."""

    family = kernel_net.AF_INET6


@pytest.mark.legs("pifus", "connects", "accepts", reason="the kernel's world is in each of them")
@pytest.mark.parametrize("machine", [Comparison, ComparisonByIPv6], ids=["IPv4", "IPv6"])
def test_the_kernel_and_the_stack_agree(machine: type[Comparison], leg: Leg) -> None:
    machine.leg = leg
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
