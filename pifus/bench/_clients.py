"""Clients of a TCP connection, in the workers: C, the completion API, and the common script."""

from __future__ import annotations

import importlib
import time
from array import array
from typing import Any

from pifus.bench import _native, _peer
from pifus.bench._bench import lib
from pifus.bench._stats import Samples
from pifus.bench._worker import State

CHUNK = _peer.CHUNK
# The first bulk transfer; later ones are as long as they may take.
_FIRST_BYTES = 4 << 20
_WRITES_IN_FLIGHT = 32
_READS_IN_FLIGHT = 4
_BATCH = 16

Address = tuple[str, int]


def _bulk_bytes(state: State, key: str, seconds: float) -> int:
    """How many bytes a transfer of so many seconds has, by the last one: whole chunks."""
    rate: float = state.get(f"rate {key}", 0.0)
    wanted = int(rate * 1e9 / 8 * seconds) if rate else _FIRST_BYTES
    return max(wanted // CHUNK, 4) * CHUNK


# ---- the same script over the kernel's sockets and the drop-in ones ----


def script_round_trips(state: State, module: str, address: Address, seconds: float) -> Samples:
    """`_peer.round_trips` over a socket module."""
    if "echo" not in state:
        sockets = importlib.import_module(module)
        state["echo"] = _peer.connect(sockets, address, _peer.ECHO_PYTHON)
    return _peer.round_trips(state["echo"], seconds)


def script_bulk(
    state: State, module: str, address: Address, direction: str, seconds: float
) -> float:
    """A bulk transfer over a socket module: Gbit/s."""
    kind = _peer.SINK if direction == "send" else _peer.SOURCE
    size = _bulk_bytes(state, direction, seconds)
    connection = _peer.connect(importlib.import_module(module), address, kind)
    with connection:
        function = _peer.bulk_send if direction == "send" else _peer.bulk_receive
        rate = function(connection, size)
    state[f"rate {direction}"] = rate
    return rate


# ---- C ----


def attach_c(state: State, backend: str, spin_ns: int) -> None:
    """Makes the C client."""
    state["client"] = _native.NativeClient(backend, spin_ns=spin_ns, max_sockets=64)


def _c_connect(client: _native.NativeClient, address: Address, kind: bytes) -> int:
    slot = client.connect(client.socket("high"), address)
    client.send(slot, kind)
    return slot


def c_round_trips(state: State, address: Address, seconds: float) -> Samples:
    """pf_bench_echo of one byte, to a peer in C."""
    client: _native.NativeClient = state["client"]
    if "echo" not in state:
        state["echo"] = _c_connect(client, address, _peer.ECHO_C)
    return client.echo(state["echo"], 1, seconds)


def c_bulk(state: State, address: Address, direction: str, seconds: float) -> float:
    """pf_bench_send or pf_bench_receive: Gbit/s."""
    client: _native.NativeClient = state["client"]
    size = _bulk_bytes(state, direction, seconds)
    slot = _c_connect(client, address, _peer.SINK if direction == "send" else _peer.SOURCE)
    start = time.perf_counter()
    client.send(slot, _peer.count_bytes(size))
    end = _native.deadline(60)
    loop = lib.pf_bench_send if direction == "send" else lib.pf_bench_receive
    done = _native.check(loop(client.handle, slot, CHUNK, size, end), direction)
    if done != size:
        raise TimeoutError(f"{done} of {size} bytes after a minute")
    if direction == "send":
        client.receive(slot, 1)
    rate = size * 8 / (time.perf_counter() - start) / 1e9
    client.release(slot)
    state[f"rate {direction}"] = rate
    return rate


def kernel_c_round_trips(state: State, address: Address, seconds: float) -> Samples:
    """pf_bench_kernel_echo of one byte."""
    if "echo-c" not in state:
        import socket

        state["echo-c"] = _peer.connect(socket, address, _peer.ECHO_C)
    collector = _native.Collector()
    end = _native.deadline(seconds)
    result = lib.pf_bench_kernel_echo(state["echo-c"].fileno(), 1, end, collector.raw)
    _native.check(result, "echo")
    return collector.samples()


def serve_pifus(state: State, backend: str, spin_ns: int) -> int:
    """Listens over the stack's own loopback; returns the port. `echo_pifus` serves."""
    client = _native.NativeClient(backend, spin_ns=spin_ns, max_sockets=8)
    state["client"] = client
    state["listener"], port = client.listen_for_echo()
    return port


def echo_pifus(state: State) -> None:
    """Echoes one connection to its end."""
    client: _native.NativeClient = state["client"]
    _native.check(lib.pf_bench_echo_server(client.handle, state["listener"], 1), "server")


def loopback_round_trips(state: State, address: Address, seconds: float) -> Samples:
    """pf_bench_echo of one byte to `echo_pifus`, over a connection of its own."""
    client: _native.NativeClient = state["client"]
    slot = client.connect(client.socket("high"), address)
    samples = client.echo(slot, 1, seconds)
    client.release(slot)
    return samples


# ---- the completion API ----


def attach_completion(state: State, backend: str) -> None:
    """Makes the client of the public API."""
    import pifus

    state["client"] = pifus.Client(backend, max_sockets=64)


def _completion_connect(client: Any, address: Address, kind: bytes) -> Any:
    import pifus

    sock = client.socket(pifus.TCP, priority=pifus.Priority.HIGH)
    sock.connect(address)
    sock.wait(30).check()
    sock.write(kind)
    sock.wait(30).check()
    return sock


def completion_round_trips(state: State, address: Address, seconds: float) -> Samples:
    """One byte there and back with completions: a receive and a write, then both results."""
    if "echo" not in state:
        state["echo"] = _completion_connect(state["client"], address, _peer.ECHO_PYTHON)
    sock = state["echo"]
    clock = time.perf_counter_ns
    times = array("I")
    start = clock()
    end = start + int(seconds * 1e9)
    while start < end:
        for _ in range(_BATCH):
            sock.recv(1)
            sock.write(b"x")
            sock.wait(30)
            sock.wait(30)
            now = clock()
            times.append(now - start)
            start = now
    return Samples.of(times)


def completion_bulk(state: State, address: Address, direction: str, seconds: float) -> float:
    """A bulk transfer with completions: Gbit/s."""
    kind = _peer.SINK if direction == "send" else _peer.SOURCE
    size = _bulk_bytes(state, direction, seconds)
    sock = _completion_connect(state["client"], address, kind)
    start = time.perf_counter()
    (_completion_send if direction == "send" else _completion_receive)(sock, size)
    rate = size * 8 / (time.perf_counter() - start) / 1e9
    sock.release()
    state[f"rate {direction}"] = rate
    return rate


def _completion_send(sock: Any, size: int) -> None:
    import pifus

    data = bytes(CHUNK)
    sock.recv(1)
    sock.write(_peer.count_bytes(size))
    flying = 2
    for _ in range(size // CHUNK):
        while True:
            if flying < _WRITES_IN_FLIGHT:
                try:
                    sock.write(data)
                    break
                except (pifus.ArenaFull, pifus.QueueFull):
                    pass
            sock.wait(30).check()
            flying -= 1
        flying += 1
    while flying:
        sock.wait(30).check()
        flying -= 1


def _completion_receive(sock: Any, size: int) -> None:
    sock.write(_peer.count_bytes(size))
    for _ in range(_READS_IN_FLIGHT):
        sock.recv(CHUNK)
    left = size
    while left > 0:
        done = sock.wait(30).check()
        if done.data is not None:
            left -= len(done.data)
            if not done.data:
                raise ConnectionError("the connection ended early")
            sock.recv(CHUNK)
