"""Clients of an echo server, over completions, in one thread.

`load.py PORT`; for each line "CONNECTIONS MESSAGES BYTES" of its input, so many connections send so
many messages each, one at a time, and check that each comes back as it was; prints what that took.
"""

import json
import os
import sys
import time

import pifus

QUIET_SECONDS = 30


class Connection:
    """One connection: a message, back, the next."""

    def __init__(self, sock: pifus.Socket, messages: int, size: int) -> None:
        self.sock = sock
        self.left = messages
        self.message = os.urandom(size)
        self.back = b""
        self.sent_ns = 0
        self.times: list[int] = []

    def send(self) -> None:
        self.back = b""
        self.sent_ns = time.monotonic_ns()
        self.sock.recv(1 << 16)
        self.sock.write(self.message)

    def take(self, data: bytes) -> bool:
        """What came back; True: that was all."""
        self.back += data
        if len(self.back) < len(self.message):
            if not data:
                raise ConnectionError("the server closed")
            self.sock.recv(1 << 16)
            return False
        if self.back != self.message:
            raise ValueError("other bytes came back than were sent")
        self.times.append(time.monotonic_ns() - self.sent_ns)
        self.left -= 1
        if self.left:
            self.send()
        return not self.left


def load(client: pifus.Client, port: int, count: int, messages: int, size: int) -> dict[str, float]:
    connections: dict[pifus.Socket, Connection] = {}
    for _ in range(count):
        sock = client.socket()
        sock.connect(("127.0.0.1", port))
        connections[sock] = Connection(sock, messages, size)
    for _ in range(count):
        client.wait_any(QUIET_SECONDS).check()
    start = time.monotonic()
    for connection in connections.values():
        connection.send()
    busy = count
    while busy:
        done = client.wait_any(QUIET_SECONDS).check()
        if done.data is not None and connections[done.sock].take(done.data):
            busy -= 1
    seconds = time.monotonic() - start
    for sock in connections:
        sock.release()
    times = sorted(time for connection in connections.values() for time in connection.times)
    return {
        "connections": count,
        "messages": len(times),
        "seconds": seconds,
        "p50_us": times[len(times) // 2] / 1000,
        "p99_us": times[len(times) * 99 // 100] / 1000,
    }


def main() -> None:
    with pifus.Client(max_sockets=2048, queue_depth=8, rx_bytes=65536, name="load") as client:
        print("ready", flush=True)
        for line in sys.stdin:
            count, messages, size = map(int, line.split())
            found = load(client, int(sys.argv[1]), count, messages, size)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
