"""The other ends of the connections, over the kernel's sockets; and clients over any sockets.

A connection begins with one byte that says what the peer is to do, and for bulk eight with the
number of bytes.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from array import array
from typing import Any

from pifus.bench import _native
from pifus.bench._bench import lib
from pifus.bench._stats import Samples
from pifus.bench._worker import State

ECHO_PYTHON = b"e"
ECHO_C = b"E"
SINK = b"s"
SOURCE = b"g"
READER = b"r"
CHUNK = 65536
# Of the messages that READER times.
MESSAGE_BYTES = 64
_COUNT = struct.Struct("!Q")
_BATCH = 16


# ---- the server --------------------------------------------------------------------------------


def serve(state: State, address: str) -> int:
    """Starts to serve; returns the port."""
    listening = socket.create_server((address, 0), backlog=128)
    state["times"] = []
    thread = threading.Thread(target=_accept, args=(listening, state["times"]), daemon=True)
    thread.start()
    return int(listening.getsockname()[1])


def arrivals(state: State, count: int) -> list[Samples]:
    """The samples of the READER connections, in the order of their ends, once there are so many."""
    times: list[Samples] = state["times"]
    end = time.monotonic() + 30
    while len(times) < count:
        if time.monotonic() > end:
            raise TimeoutError("the readers have not ended")
        time.sleep(0.005)
    found = times[:]
    times.clear()
    return found


def _accept(listening: socket.socket, times: list[Samples]) -> None:
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=_serve_one, args=(connection, times), daemon=True).start()


def _serve_one(connection: socket.socket, times: list[Samples]) -> None:
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            kind = connection.recv(1)
            if kind == ECHO_PYTHON:
                _echo(connection)
            elif kind == ECHO_C:
                lib.pf_bench_kernel_echo_peer(connection.fileno())
            elif kind == READER:
                collector = _native.Collector()
                lib.pf_bench_kernel_reader(connection.fileno(), MESSAGE_BYTES, collector.raw)
                times.append(collector.samples())
            elif kind in (SINK, SOURCE):
                size = _COUNT.unpack(receive(connection, _COUNT.size))[0]
                (_sink if kind == SINK else _source)(connection, size)
        except ConnectionError:
            # The client has what it wanted.
            return


def _echo(connection: socket.socket) -> None:
    while data := connection.recv(1):
        connection.sendall(data)


def _sink(connection: socket.socket, size: int) -> None:
    buffer = memoryview(bytearray(4 * CHUNK))
    while size > 0:
        got = connection.recv_into(buffer[: min(size, len(buffer))])
        if got == 0:
            return
        size -= got
    connection.sendall(b"k")
    connection.recv(1)


def _source(connection: socket.socket, size: int) -> None:
    data = memoryview(bytes(CHUNK))
    while size > 0:
        connection.sendall(data[: min(size, CHUNK)])
        size -= min(size, CHUNK)
    connection.recv(1)


# ---- clients: the same script for the kernel's sockets and the drop-in ones --------------------


def receive(connection: Any, size: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the connection ended early")
        data += part
    return data


def connect(module: Any, address: tuple[str, int], kind: bytes) -> Any:
    """A connection of the socket module, with its peer told what to do."""
    connection = module.create_connection(address, timeout=30)
    connection.settimeout(None)
    connection.setsockopt(module.IPPROTO_TCP, module.TCP_NODELAY, 1)
    connection.sendall(kind)
    return connection


def round_trips(connection: Any, seconds: float) -> Samples:
    """One byte there and back, again and again."""
    clock = time.perf_counter_ns
    times = array("I")
    start = clock()
    end = start + int(seconds * 1e9)
    while start < end:
        for _ in range(_BATCH):
            connection.sendall(b"x")
            connection.recv(1)
            now = clock()
            times.append(now - start)
            start = now
    return Samples.of(times)


def bulk_send(connection: Any, size: int) -> float:
    """Sends so many bytes in chunks of 64 KiB; Gbit/s until the peer says that it has them all."""
    connection.sendall(_COUNT.pack(size))
    data = bytes(CHUNK)
    start = time.perf_counter()
    for _ in range(size // CHUNK):
        connection.sendall(data)
    receive(connection, 1)
    return size * 8 / (time.perf_counter() - start) / 1e9


def bulk_receive(connection: Any, size: int) -> float:
    """Receives so many bytes in chunks of up to 64 KiB; Gbit/s from the request to the last."""
    buffer = bytearray(CHUNK)
    start = time.perf_counter()
    connection.sendall(_COUNT.pack(size))
    left = size
    while left > 0:
        got = connection.recv_into(buffer)
        if got == 0:
            raise ConnectionError("the connection ended early")
        left -= got
    return size * 8 / (time.perf_counter() - start) / 1e9


def count_bytes(size: int) -> bytes:
    """The number of bytes, for SINK and SOURCE."""
    return _COUNT.pack(size)
