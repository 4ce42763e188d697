"""A bulk download over several connections: `bulk.py serve`, `bulk.py fetch PORT`.

An unmodified program; the examples run it beside what must not suffer from it.
"""

import json
import socket
import sys
import threading
import time

CONNECTIONS = 16
CHUNK = 1 << 18
SEGMENT = 1460  # bytes, as over Ethernet; the loopback's segments are larger


def serve() -> None:
    """Sends to everybody who comes, for as long as they stay."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=send, args=(connection,), daemon=True).start()


def send(connection: socket.socket) -> None:
    data = bytes(CHUNK)
    with connection:
        try:
            while True:
                connection.sendall(data)
        except ConnectionError:
            return  # it has had enough


def fetch(port: int) -> None:
    """Downloads until its input ends; prints a line when all is under way, then the rate."""
    over = threading.Event()
    started = threading.Barrier(CONNECTIONS + 1)
    counts = [0] * CONNECTIONS

    def receive(number: int) -> None:
        buffer = bytearray(CHUNK)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.recv_into(buffer)
            started.wait()
            while not over.is_set():
                counts[number] += connection.recv_into(buffer)

    threads = [threading.Thread(target=receive, args=(n,)) for n in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    started.wait()
    start = time.monotonic()
    print("under way", flush=True)
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"gbit_s": sum(counts) * 8 / (time.monotonic() - start) / 1e9}))


if sys.argv[1] == "serve":
    serve()
else:
    fetch(int(sys.argv[2]))
