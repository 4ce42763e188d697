"""eventlet, everything patched: a server and many clients."""

import os
import sys
import warnings

warnings.simplefilter("ignore")
import eventlet

eventlet.monkey_patch()

import socket

BLOB = os.urandom(100_000)


def echo(sock: socket.socket, _: object) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.close()


listener = eventlet.listen(("127.0.0.1", 0), backlog=200)
if "pifus" in sys.modules:
    from pifus._compat import _table

    assert listener.fileno() in _table.endpoints
serving = eventlet.spawn(eventlet.serve, listener, echo)


def talk(size: int) -> bool:
    with socket.create_connection(listener.getsockname(), timeout=30) as sock:
        sending = eventlet.spawn(sock.sendall, BLOB[:size])
        received = b""
        while len(received) < size:
            received += sock.recv(65536)
        sending.wait()
        return received == BLOB[:size]


jobs = [eventlet.spawn(talk, size) for size in [*range(1000, 1050), len(BLOB)]]
assert all(job.wait() for job in jobs)
serving.kill()
print("all well")
