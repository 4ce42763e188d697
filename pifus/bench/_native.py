"""A session of the benchmarks' own client core (`_bench`), and its loops, for Python."""

from __future__ import annotations

import errno
import os
import socket
import time
from array import array
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pifus._core import _protocol
from pifus._core._channel import Channel, close_all
from pifus._core._settings import Settings
from pifus.bench._bench import ffi, lib
from pifus.bench._stats import Samples

if TYPE_CHECKING:
    from pifus._core._client import CData

PRIORITIES = {
    "high": lib.PF_PRIORITY_HIGH,
    "medium": lib.PF_PRIORITY_MEDIUM,
    "low": lib.PF_PRIORITY_LOW,
}
_ERROR_BYTES = 512
_CONTROL_NS = 30_000_000_000
# Of one loop: 4 MiB. More are thinned.
_CAPACITY = 1 << 20


def check(result: int, what: str) -> int:
    """Returns a result of the C code.

    Raises:
        OSError: it is -errno.
    """
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def deadline(seconds: float) -> int:
    """The moment in so many seconds, for the loops."""
    return time.monotonic_ns() + int(seconds * 1e9)


class Collector:
    """Room for the samples of one loop: `raw` is the `struct pf_bench_samples *`."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._stored = array("I", bytes(4 * capacity))
        self.raw = ffi.new("struct pf_bench_samples *")
        lib.pf_bench_samples_init(
            self.raw, ffi.from_buffer("uint32_t[]", self._stored, True), capacity
        )

    def samples(self) -> Samples:
        """What the loop has put there."""
        raw = self.raw
        return Samples(
            stored=self._stored[: raw.count],
            stride=raw.stride,
            total=raw.total,
            sum_ns=raw.sum_ns,
            min_ns=raw.min_ns if raw.total else 0,
            max_ns=raw.max_ns,
            squares=raw.squares,
        )


def floor(function: Callable[..., int], count: int, cpu_a: int, cpu_b: int) -> Samples:
    """Runs one of the pf_floor_ functions for `count` rounds."""
    stored = array("I", bytes(4 * count))
    check(function(ffi.from_buffer("uint32_t[]", stored, True), count, cpu_a, cpu_b), "floor")
    return Samples.of(stored)


class NativeClient:
    """A session whose loops run in C. Sockets are slot numbers.

    Attributes:
        handle: the `struct pf_client *`.
    """

    def __init__(self, backend: str, *, spin_ns: int = -1, **settings: Any) -> None:
        """Attaches to the backend at the path; spin_ns < 0: as its profile says.

        Raises:
            OSError: see `pifus._core._session.Session`.
        """
        self._channel = Channel.connect(backend)
        reply, fds = self._channel.request(
            Settings(name="pifus bench", **settings).request(), "attached", _protocol.ATTACH_FDS
        )
        error = ffi.new("char[]", _ERROR_BYTES)
        self.handle: CData = lib.pf_client_attach(
            self._channel.fileno(), fds[0], fds[1], fds[2], fds[3], error, _ERROR_BYTES
        )
        if not self.handle:
            close_all(fds)
            raise OSError(errno.EPROTO, ffi.string(error).decode(errors="replace"))
        self.session = int(reply["session"])
        lib.pf_client_set_spin(self.handle, spin_ns)

    def __enter__(self) -> NativeClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session. No loop may be running."""
        self._channel.close()
        if self.handle:
            lib.pf_client_detach(self.handle)
            self.handle = ffi.NULL

    # ---- sockets ----

    def socket(self, priority: str = "medium") -> int:
        """Makes a TCP socket over IPv4."""
        slot = lib.pf_socket_open(self.handle, lib.PF_FAMILY_IPV4, PRIORITIES[priority], 0)
        return check(slot, "socket")

    def connect(self, slot: int, address: tuple[str, int]) -> int:
        """Connects, and waits until it is done; returns the slot."""
        self._operation(slot, lib.PF_OP_CONNECT, "connect", address=address)
        return slot

    def listen(self, slot: int, address: tuple[str, int], backlog: int) -> int:
        """Binds and listens; returns the port."""
        self._operation(slot, lib.PF_OP_BIND, "bind", address=address)
        self._operation(slot, lib.PF_OP_LISTEN, "listen", length=backlog)
        state = ffi.new("struct pf_socket_b2c *")
        check(lib.pf_socket_state(self.handle, slot, state), "state")
        return int(state.local.port)

    def listen_for_echo(self) -> tuple[int, int]:
        """Makes a listener for pf_bench_echo_server on the stack's loopback: slot and port."""
        listener = self.socket("high")
        port = self.listen(listener, ("127.0.0.1", 0), 1100)
        check(lib.pf_bench_echo_accept(self.handle, listener), "accept")
        return listener, port

    def accept(self, listener: int, priority: str = "medium") -> int:
        """Waits for a connection; returns its slot."""
        done = self._operation(listener, lib.PF_OP_ACCEPT, "accept")
        slot = lib.pf_socket_adopt(self.handle, done.token, PRIORITIES[priority])
        return check(slot, "adopt")

    def release(self, slot: int, abort: bool = False) -> None:
        """Closes a socket, without waiting."""
        flags = lib.PF_CLOSE_ABORT if abort else lib.PF_CLOSE_GRACEFUL
        check(lib.pf_socket_release(self.handle, slot, flags), "release")

    def finish_writing(self, slot: int) -> None:
        """Ends our direction of the connection."""
        self._operation(slot, lib.PF_OP_SHUTDOWN, "shutdown", flags=lib.PF_SHUT_WRITE)

    def send(self, slot: int, data: bytes) -> None:
        """Sends all of `data`."""
        while data:
            sent = lib.pf_send(self.handle, slot, data, len(data), _CONTROL_NS)
            data = data[check(sent, "send") :]

    def receive(self, slot: int, size: int) -> bytes:
        """Receives exactly so many bytes."""
        buffer = ffi.new("char[]", size)
        data = b""
        while len(data) < size:
            left = size - len(data)
            got = check(lib.pf_recv(self.handle, slot, buffer, left, 0, _CONTROL_NS), "recv")
            if got == 0:
                raise ConnectionError("the connection ended early")
            data += ffi.buffer(buffer)[:got]
        return data

    def _operation(
        self,
        slot: int,
        opcode: int,
        what: str,
        *,
        flags: int = 0,
        length: int = 0,
        address: tuple[str, int] | None = None,
    ) -> CData:
        raw = ffi.NULL if address is None else _native_address(address)
        op = lib.pf_submit(self.handle, slot, opcode, flags, 0, 0, length, raw, lib.PF_DELIVER_CALL)
        check(op, what)
        done = ffi.new("struct pf_done *")
        got = check(lib.pf_await(self.handle, slot, op, _CONTROL_NS, done), what)
        if got == 0:
            raise TimeoutError(errno.ETIMEDOUT, f"{what}: no completion")
        check(done.result, what)
        return done

    # ---- loops: see native/bench/bench.h ----

    def nop(self, slot: int, seconds: float) -> Samples:
        """pf_bench_nop for so many seconds."""
        collector = Collector()
        end = deadline(seconds)
        check(lib.pf_bench_nop(self.handle, slot, end, collector.raw), "nop")
        return collector.samples()

    def echo(self, slot: int, size: int, seconds: float) -> Samples:
        """pf_bench_echo for so many seconds."""
        collector = Collector()
        end = deadline(seconds)
        check(lib.pf_bench_echo(self.handle, slot, size, end, collector.raw), "echo")
        return collector.samples()

    def flood(
        self, slot: int, write_bytes: int, in_flight: int, end_ns: int
    ) -> tuple[Samples, Samples]:
        """pf_bench_flood: the times until taken, and until served."""
        taken, served = Collector(), Collector()
        result = lib.pf_bench_flood(
            self.handle, slot, write_bytes, in_flight, end_ns, taken.raw, served.raw
        )
        check(result, "flood")
        return taken.samples(), served.samples()

    def sockets(
        self, slots: Sequence[int], size: int, seconds: float, *, threads: bool
    ) -> tuple[Samples, int]:
        """The echo on many sockets: times, and how many of the sockets got one."""
        collector = Collector()
        loop = lib.pf_bench_sockets_threads if threads else lib.pf_bench_sockets_single
        raw = ffi.new("uint32_t[]", list(slots))
        end = deadline(seconds)
        active = loop(self.handle, raw, len(slots), size, end, collector.raw)
        return collector.samples(), check(active, "sockets")


def _native_address(address: tuple[str, int]) -> CData:
    raw = ffi.new("struct pf_addr *")
    raw.family = lib.PF_FAMILY_IPV4
    raw.port = address[1]
    for index, byte in enumerate(socket.inet_aton(address[0])):
        raw.ip[index] = byte
    return raw
