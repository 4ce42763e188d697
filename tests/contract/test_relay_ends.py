"""A program that is not Python, with a connection as its streams, and what ends around it."""

from __future__ import annotations

import pytest

from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture

_ALL = """
import subprocess
def all_of(sock):
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)
"""


def test_what_a_program_said_that_reads_no_further(run: Run) -> None:  # noqa: F811
    # As a CGI program that answers and ends while its peer still sends; the parent's descriptor
    # keeps the connection from being reset.
    code = (
        HEAD
        + _ALL
        + """
for _ in range(10):
    near, far = pair()
    far.setblocking(False)
    try:
        while True:
            far.send(b"x" * 100_000)
    except BlockingIOError:
        far.settimeout(20)
    process = subprocess.Popen(
        ["sh", "-c", "head -c 10 >/dev/null; head -c 200000 /dev/zero"], stdin=near, stdout=near
    )
    assert process.wait(20) == 0
    assert exactly(far, 200_000) == bytes(200_000)
    near.close()
    far.close()
"""
    )
    assert run(code) == ""


def test_a_parent_does_not_wait_for_what_a_program_leaves_behind(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + _ALL
        + """
reading, writing = os.pipe()
child = '''
import socket, subprocess, sys
sock = socket.socket(fileno=int(sys.argv[1]))
command = ["sh", "-c", "read word; echo it said $word"]
subprocess.Popen(command, stdin=sock, stdout=sock, stderr=subprocess.DEVNULL)
print("the parent ends", flush=True)
'''
near, far = pair()
command = [sys.executable, "-W", "ignore", "-c", child, str(near.fileno())]
# It has ended, and nobody holds its output: so its end is seen.
done = subprocess.run(
    command, pass_fds=[near.fileno()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20
)
assert (done.returncode, done.stdout) == (0, b"the parent ends\\n"), done
near.close()
far.sendall(b"a word\\n")
assert all_of(far) == b"it said a word\\n"
far.close()
"""
    )
    assert run(code) == ""


@pytest.mark.legs("pifus", "connects", "accepts", reason="over the kernel there is no relay")
@pytest.mark.parametrize("how", ["popen", "exec"])
def test_a_program_gets_its_end_when_its_relay_is_killed(run: Run, how: str) -> None:  # noqa: F811
    code = (
        HEAD
        + _ALL
        + """
child = '''
import os, socket, subprocess, sys
sock = socket.socket(fileno=int(sys.argv[1]))
if sys.argv[2] == "popen":
    program = subprocess.Popen(["cat"], stdin=sock, stdout=sock)
    print(program.pid, flush=True)
    program.wait()
else:
    os.dup2(sock.fileno(), 0)
    os.dup2(sock.fileno(), 2)
    os.execvp("sh", ["sh", "-c", "echo $$; exec cat 1>&2"])
'''
near, far = pair()
command = [sys.executable, "-W", "ignore", "-c", child, str(near.fileno()), sys.argv[1]]
with subprocess.Popen(command, pass_fds=[near.fileno()], stdout=subprocess.PIPE) as parent:
    near.close()
    far.sendall(b"there and back")
    assert exactly(far, 14) == b"there and back"
    program = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    # Nobody is left behind who holds the connection, and none of them waits.
    assert all_of(far) == b""
    assert select.select([program], [], [], 20)[0] == [program]
os.close(program)
far.close()
"""
    )
    assert run(code, how) == ""
