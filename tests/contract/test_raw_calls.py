"""os.read and its like on a socket's descriptor, and what stands on them, kernel and pifus."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.conftest import python_environment
from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture


def test_reading_and_writing(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
near, far = pair()
fd = near.detach()
assert os.write(fd, b"abc") == 3
assert far.recv(10) == b"abc"
assert os.writev(fd, [b"d", bytearray(b"ef"), b""]) == 3
assert far.recv(10) == b"def"
far.sendall(b"0123456789")
assert os.read(fd, 0) == b""
assert os.read(fd, 4) == b"0123"
first, second = bytearray(2), bytearray(100)
assert os.readv(fd, [first, second]) == 6
assert (first, second[:4]) == (b"45", b"6789")
for call in (lambda: os.read(fd, -1), lambda: os.read(99, 1)):
    try:
        call()
    except OSError as error:
        print(error.errno)
os.set_blocking(fd, False)
try:
    os.read(fd, 1)
except BlockingIOError:
    print("nothing")
os.set_blocking(fd, True)
copy = os.dup(fd)
os.close(fd)
assert os.write(copy, b"x") == 1
assert far.recv(10) == b"x"
far.shutdown(socket.SHUT_WR)
assert os.read(copy, 10) == b""
os.close(copy)
assert far.recv(10) == b""
far.close()
"""
    )
    assert run(code) == "22\n9\nnothing\n"


def test_closing_tells_the_peer_at_once(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
near, far = pair()
os.close(near.detach())
assert far.recv(1) == b""
far.close()
near, far = pair()
fd = near.detach()
far.close()
assert os.read(fd, 1) == b""
try:
    while True:
        os.write(fd, b"x")
except (BrokenPipeError, ConnectionResetError):
    print("ok")
os.close(fd)
"""
    )
    assert run(code) == "ok\n"


def test_a_number_that_is_used_again(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
near, far = pair()
fd = near.detach()
reading, writing = os.pipe()
os.dup2(reading, fd)  # the socket is closed by this
os.write(writing, b"of the pipe")
print(os.read(fd, 100).decode())
far.settimeout(20)
assert far.recv(1) == b""
"""
    )
    assert run(code) == "of the pipe\n"


def test_polls_after_reads(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
near, far = pair()
fd = near.detach()
for number in range(200):
    far.sendall(b"x")
    assert os.read(fd, 1) == b"x"
    assert not select.select([fd], [], [], 0)[0], number
far.sendall(b"x")
assert select.select([fd], [], [], 20)[0]
os.close(fd)
"""
    )
    assert run(code) == ""


CONNECTIONS = (
    HEAD
    + """
import multiprocessing, multiprocessing.connection as connections
def work(address, passed):
    with connections.Client(address, authkey=b"key") as connection:
        connection.send(b"x" * 1_000_000)
        assert connection.poll(20) and connection.recv() == "thanks"
    assert not passed.poll()
    passed.send("ready")
    assert connections.wait([passed], 20) and passed.recv() == [b"y" * 300_000]
    passed.send(os.getpid())
    passed.close()
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with connections.Listener((HOST, 0), authkey=b"key") as listener:
        near, far = pair()
        theirs = connections.Connection(near.detach())
        ours = connections.Connection(far.detach())
        child = context.Process(target=work, args=(listener.address, theirs))
        child.start()
        theirs.close()
        with listener.accept() as connection:
            assert connection.recv() == b"x" * 1_000_000
            connection.send("thanks")
            try:
                connection.recv()
            except EOFError:
                print("end")
        assert ours.recv() == "ready"
        ours.send([b"y" * 300_000])
        assert ours.recv() == child.pid
        child.join(20)
        assert child.exitcode == 0
        try:
            ours.recv()
        except EOFError:
            print("end")
"""
)


@pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
def test_connections_of_multiprocessing(run: Run, tmp_path: Path, start: str) -> None:  # noqa: F811
    program = tmp_path / "program.py"  # children import it again
    program.write_text(CONNECTIONS)
    code = "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    assert run(code, str(program), start) == "end\nend\n"


LATE = """
import multiprocessing.connection as connections, os, threading
before = {name: getattr(os, name) for name in ("read", "write", "readv", "writev", "close")}
from pifus import monkey
from pifus._compat import _table
monkey.patch()
with connections.Listener(("127.0.0.1", 0), authkey=b"key") as listener:
    def serve():
        with listener.accept() as connection:
            assert connection.fileno() in _table.endpoints
            connection.send(connection.recv()[::-1])
    thread = threading.Thread(target=serve)
    thread.start()
    with connections.Client(listener.address, authkey=b"key") as client:
        assert client.fileno() in _table.endpoints
        client.send(b"x" * 100_000 + b"y")
        assert client.recv() == b"y" + b"x" * 100_000
    thread.join()
monkey.unpatch()
assert {name: getattr(os, name) for name in before} == before
ours, theirs = connections.Pipe()
ours.send("by the kernel")
print(theirs.recv())
"""


def test_a_late_patch_reaches_what_was_taken_out_of_os() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LATE],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("by the kernel\n", "")
