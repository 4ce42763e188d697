"""Without rules, on a TAP device: what its networks reach is the stack's, the rest the kernel's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import BackendProcess
from tests.integration.test_tap import kernel_server, needs_tap, start_tap

StartBackend = Callable[..., BackendProcess]

PROGRAM = """
import socket, sys
from pifus._compat import _table
host, port, loopback_port, stack4, stack6, device = sys.argv[1:]

def ours(sock):
    return sock.fileno() in _table.endpoints

def talk(address):
    with socket.create_connection(address, 20) as sock:
        sock.sendall(b"x")
        return ours(sock), sock.recv(1), sock.getsockname()[0]

print(talk((host, int(port))))
print(talk(("127.0.0.1", int(loopback_port))))
for place in (stack4, "127.0.0.1", ""):
    with socket.create_server((place, 0)) as server:
        print(ours(server), end=" ")
with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print(ours(server))
# What listens on the stack's wildcard address is found on the loopback, too.
with socket.create_server(("", 0)) as server:
    with socket.create_connection(("localhost", server.getsockname()[1]), 20) as client:
        accepted, _ = server.accept()
        print(ours(client), ours(accepted))
        accepted.close()
with socket.socket() as bound:
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    bound.settimeout(20)
    bound.connect((host, int(port)))
    bound.sendall(b"x")
    print(ours(bound), bound.recv(1))
with socket.socket() as lost:
    lost.settimeout(0.05)
    try:
        lost.connect(("203.0.113.1", 9))
    except OSError:
        pass
    print(ours(lost))
sys.stdout.flush()
with socket.create_server(("", 0)) as server:
    print(server.getsockname()[1], flush=True)
    connection, peer = server.accept()
    connection.sendall(b"from the stack")
    connection.close()
"""


def echo(connection: socket.socket) -> None:
    while byte := connection.recv(1):
        connection.sendall(byte)


@needs_tap
def test_what_goes_where_on_a_tap_device(start_backend: StartBackend) -> None:
    tap = start_tap(start_backend)
    both = socket.create_server((tap.host4, 0))
    with both, kernel_server("127.0.0.1", echo) as (_, loopback_port):
        port = both.getsockname()[1]
        words = [tap.host4, str(port), str(loopback_port), tap.stack4, tap.stack6, tap.device]
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "pifus.cli", "run", "--backend", tap.backend.path, "--"),
                *(sys.executable, "-c", PROGRAM, *words),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
            cwd=Path(__file__).parents[2],
        ) as process:
            try:
                both.settimeout(30)
                for expected in range(2):
                    connection, peer = both.accept()
                    assert peer[0] == tap.stack4, expected
                    with connection:
                        connection.settimeout(30)
                        echo(connection)
                assert process.stdout is not None
                assert [process.stdout.readline().strip() for _ in range(6)] == [
                    f"(True, b'x', '{tap.stack4}')",
                    "(False, b'x', '127.0.0.1')",
                    "True False True True",
                    "True True",
                    "True b'x'",
                    "False",
                ]
                server_port = int(process.stdout.readline())
                with socket.create_connection((tap.stack4, server_port), 30) as client:
                    assert client.recv(100) == b"from the stack"
                assert process.wait(30) == 0
            finally:
                process.kill()
