"""What goes past the stack is told once, or refused; real native code opens the sockets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.conftest import python_environment


def run(code: str, *options: str, place: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A program under `pifus run`."""
    command = [sys.executable, "-m", "pifus.cli", "run", *options, "--", sys.executable, "-c", code]
    return subprocess.run(
        command,
        env=python_environment(),
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("pifus")]


TALK = """
import socket
with socket.create_server(("127.0.0.1", 0)) as listener:
    with socket.create_connection(listener.getsockname(), 20) as client:
        listener.accept()[0].close()
        assert client.recv(1) == b""
"""


def test_a_program_that_does_not_bypass_is_not_troubled() -> None:
    code = TALK + "import asyncio, ssl, http.client, urllib.request, select\nprint('fine')"
    for options in ((), ("--strict",)):
        done = run(code, *options)
        assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


ZMQ = """
import zmq
context = zmq.Context()
with context.socket(zmq.REP) as server, context.socket(zmq.REQ) as client:
    port = server.bind_to_random_port("tcp://127.0.0.1")
    client.connect(f"tcp://127.0.0.1:{port}")
    client.send(b"x")
    print(server.recv())
context.term()
"""


def test_a_known_native_library(tmp_path: Path) -> None:
    program = tmp_path / "app.py"
    program.write_text(ZMQ)
    code = f"import runpy; runpy.run_path({str(program)!r}); import zmq"
    done = run(code)
    assert done.stdout == "b'x'\n"
    (line,) = told(done)
    assert "zmq" in line
    assert "libzmq" in line
    assert f"{program}:2" in line
    refused = run(code, "--strict")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "ImportError: pifus --strict: zmq" in refused.stderr


UVLOOP = """
import asyncio, uvloop
uvloop.install()

async def main():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    from pifus._compat import _table
    assert server.sockets[0].fileno() in _table.endpoints
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    print(await reader.read())
    writer.close()
    server.close()

asyncio.run(main())
asyncio.run(main(), debug=False)
uvloop.run(main())
"""


@pytest.mark.parametrize("options", [(), ("--strict",)])
def test_uvloop_is_replaced(options: tuple[str, ...]) -> None:
    done = run(UVLOOP, *options)
    assert done.stdout == "b''\n" * 3, done.stderr
    (line,) = told(done)
    assert "asyncio's own loop" in line


UNKNOWN = """
import ctypes
libc = ctypes.CDLL(None)
fd = libc.socket(2, 1, 0)
"""


def test_unknown_native_code() -> None:
    done = run(TALK + UNKNOWN)
    (line,) = told(done)
    assert "a TCP socket" in line
    assert "ctypes" in line
    # Unknown code is only seen when it is too late to refuse that one; the next is refused.
    code = TALK + UNKNOWN + "from pifus._compat import _bypass; _bypass._next_scan = 0\n" + TALK
    refused = run(code, "--strict")
    assert refused.returncode == 1
    assert "PermissionError: pifus --strict: a TCP socket" in refused.stderr


DIRECT = """
import _socket
class Mine(_socket.socket):
    pass
for _ in range(3):
    Mine(_socket.AF_INET, _socket.SOCK_STREAM).close()
_socket.socket(_socket.AF_UNIX).close()
"""


def test_classes_below_the_patched_one() -> None:
    (line,) = told(run(DIRECT))
    assert "__main__.Mine" in line
    assert "<string>:6" in line
    refused = run(DIRECT, "--strict")
    assert "PermissionError: pifus --strict" in refused.stderr


def test_inherited_sockets_are_nobodys_fault() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "pifus.cli", "run", "--", sys.executable, "-c", "pass"]
        done = subprocess.run(
            command,
            env=python_environment(),
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")


KERNEL_BY_RULE = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
copy = client.dup()
from pifus import monkey
print(monkey.bypasses())
for sock in (server, client, accepted, datagrams, copy):
    sock.close()
"""


def test_what_a_rule_sends_to_the_kernel_does_not_bypass() -> None:
    done = run(KERNEL_BY_RULE, "--kernel", "127.0.0.0/8", "--strict")
    assert (done.stdout, done.stderr) == ("[]\n", "")


BLIND_CHILD = """
import subprocess, sys
code = "import sys; print('pifus' in sys.modules)"
for flags in ([], ["-I"], ["-I"]):
    subprocess.run([sys.executable, *flags, "-c", code])
"""


def test_a_child_that_cannot_be_reached_is_told() -> None:
    done = run(BLIND_CHILD)
    assert done.stdout == "True\nFalse\nFalse\n"
    (line,) = told(done)
    assert "-I" in line
    assert "<string>:5" in line
    refused = run(BLIND_CHILD, "--strict")
    assert "PermissionError: pifus --strict" in refused.stderr


def test_unpatch_ends_the_watch() -> None:
    code = "from pifus import monkey\nmonkey.unpatch()\n" + DIRECT + UNKNOWN
    done = run(code)
    assert (done.returncode, done.stderr) == (0, "")
