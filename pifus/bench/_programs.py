"""The scripts of `pifus bench compat` and `churn`: ordinary programs over the module `socket`.

They run in workers, over the kernel's sockets, or over the stack once `over_stack` was called.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import os
import socket
import socketserver
import threading
import time
from array import array
from pathlib import Path

from pifus.bench import _peer
from pifus.bench._worker import State

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, world\n"
_HTTP_CONNECTIONS = 16
_BACKLOG = 128
_LATEST_NS = 2**32 - 1

Address = tuple[str, int]


def over_stack(_state: State) -> None:
    """From now on `socket` makes stack sockets, of the backend in $PIFUS_BACKEND."""
    from pifus import monkey

    monkey.patch()


# ---- a small asyncio server, and the client that keeps it busy ----


def serve_http(_state: State) -> int:
    """Starts it in a thread of its own; returns the port."""
    port: list[int] = []
    listening = threading.Event()

    async def main() -> None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        listening.set()
        await server.serve_forever()

    threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
    if not listening.wait(10):
        raise TimeoutError("the asyncio server has not started")
    return port[0]


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(RESPONSE)
            await writer.drain()
    writer.close()


def requests(state: State, address: Address, seconds: float) -> float:
    """Requests a second over 16 connections that stay open, one under way on each."""
    if "http" not in state:
        state["http"] = [socket.create_connection(address) for _ in range(_HTTP_CONNECTIONS)]
    connections: list[socket.socket] = state["http"]
    done = 0
    start = time.perf_counter()
    end = start + seconds
    while time.perf_counter() < end:
        for connection in connections:
            connection.sendall(REQUEST)
        for connection in connections:
            if _peer.receive(connection, len(RESPONSE)) != RESPONSE:
                raise ValueError("not the response")
        done += len(connections)
    return done / (time.perf_counter() - start)


# ---- short connections ----


def serve_short(_state: State, threads: int = 1) -> int:
    """Accepts and closes in threads of its own; returns the port."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    for _ in range(threads):
        threading.Thread(target=_accept_and_close, args=(listening,), daemon=True).start()
    return int(listening.getsockname()[1])


def _accept_and_close(listening: socket.socket) -> None:
    while True:
        connection, _ = listening.accept()
        with connection:
            connection.recv(1)


def connections(_state: State, address: Address, seconds: float) -> float:
    """Connections a second, one at a time; by turns the client and the server close first."""
    done = 0
    start = time.perf_counter()
    end = start + seconds
    while time.perf_counter() < end:
        _connection(address, done)
        done += 1
    return done / (time.perf_counter() - start)


def _connection(address: Address, number: int) -> None:
    with socket.create_connection(address) as connection:
        if number % 2:
            connection.sendall(b"x")
        else:
            connection.shutdown(socket.SHUT_WR)
        if connection.recv(1) != b"":
            raise ValueError("no end of the connection")


def offered(
    _state: State, address: Address, seconds: float, rate: int, threads: int
) -> tuple[list[int], array[int]]:
    """So many connections a second, begun when they are due however late the others are, as far as
    the threads suffice.

    Returns:
        How many were done in each second from the start; and for each, in the order of their ends,
        the nanoseconds from when it was due until it was closed.
    """
    numbers = itertools.count()
    ends: list[tuple[int, int]] = []  # when, and how late
    wanted = round(seconds * rate)
    start = time.perf_counter_ns()

    def run() -> None:
        while (number := next(numbers)) < wanted:
            due = start + number * 1_000_000_000 // rate
            while (left := due - time.perf_counter_ns()) > 0:
                time.sleep(left / 1e9)
            _connection(address, number)
            now = time.perf_counter_ns()
            ends.append((now - start, now - due))

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for ended in [pool.submit(run) for _ in range(threads)]:
            ended.result()
    ends.sort()
    done = [0] * (ends[-1][0] // 1_000_000_000 + 1)
    for when, _ in ends:
        done[when // 1_000_000_000] += 1
    return done, array("I", (min(late, _LATEST_NS) for _, late in ends))


# ---- a process for each connection ----


class _EchoOnce(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(self.request.recv(64))


class _ForkingServer(socketserver.ForkingTCPServer):
    request_queue_size = _BACKLOG


def serve_forking(_state: State) -> int:
    """Forks for each connection, from a thread of its own; returns the port."""
    server = _ForkingServer(("127.0.0.1", 0), _EchoOnce)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def forks(_state: State, address: Address, seconds: float) -> float:
    """Connections a second, one at a time, each served by a child of the server."""
    done = 0
    start = time.perf_counter()
    end = start + seconds
    while time.perf_counter() < end:
        with socket.create_connection(address) as connection:
            connection.sendall(b"x")
            if connection.recv(64) != b"x" or connection.recv(64) != b"":
                raise ValueError("not what the child answers")
        done += 1
    return done / (time.perf_counter() - start)


def resources(_state: State) -> dict[str, int]:
    """Of this process: resident memory in KiB, descriptors."""
    return resources_of(os.getpid())


def resources_of(pid: int) -> dict[str, int]:
    """Of a process: resident memory in KiB, descriptors."""
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    fds = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return {"rss": int(fields["VmRSS"].split()[0]), "fds": fds}
