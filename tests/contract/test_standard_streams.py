"""A connection in the place of the standard streams, as inetd has it: kernel and pifus."""

from __future__ import annotations

from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture

_SUBPROCESS = HEAD + "import subprocess\n"
_ALL = """
def all_of(sock):
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)
"""


def test_a_python_child_speaks_by_them(run: Run) -> None:  # noqa: F811
    code = (
        _SUBPROCESS
        + _ALL
        + """
child = '''
import os, socket, sys
with socket.socket(fileno=os.dup(0)) as sock:
    print("a", sock.type.name, "of", sock.getpeername()[0] != "", flush=True)
for line in sys.stdin:
    sys.stdout.write(line.upper())
    sys.stdout.flush()
sys.stdout.buffer.write(bytes(300_000))
print("told", file=sys.stderr)
'''
for flags in ([], ["-u"]):
    near, far = pair()
    command = [sys.executable, *flags, "-W", "ignore", "-c", child]
    process = subprocess.Popen(command, stdin=near, stdout=near, stderr=near)
    near.close()
    far.sendall(b"one\\ntwo\\n")
    far.shutdown(socket.SHUT_WR)
    assert all_of(far) == b"a SOCK_STREAM of True\\nONE\\nTWO\\n" + bytes(300_000) + b"told\\n"
    assert process.wait(20) == 0
    far.close()
"""
    )
    assert run(code) == ""


def test_another_program_speaks_by_them(run: Run) -> None:  # noqa: F811
    code = (
        _SUBPROCESS
        + _ALL
        + """
near, far = pair()
process = subprocess.Popen(["cat"], stdin=near, stdout=near)
near.close()
sent = bytes(range(256)) * 8000
def send():
    far.sendall(sent)
    far.shutdown(socket.SHUT_WR)
sender = threading.Thread(target=send)
sender.start()
assert all_of(far) == sent
sender.join()
assert process.wait(20) == 0
far.close()

# A shell, and what the parent goes on saying.
near, far = pair()
assert subprocess.run("echo of a shell", shell=True, stdout=near.fileno()).returncode == 0
assert exactly(far, 11) == b"of a shell\\n"
near.sendall(b"parent")
near.close()
assert all_of(far) == b"parent"
far.close()

# It ends first: what it has not read is lost, and its peer is told.
near, far = pair()
with subprocess.Popen(["true"], stdin=near, stdout=near):
    near.close()
    try:
        assert far.recv(1) == b""
    except ConnectionResetError:
        pass
far.close()
"""
    )
    assert run(code) == ""


def test_a_connection_in_the_place_of_standard_output(run: Run) -> None:  # noqa: F811
    code = (
        _SUBPROCESS
        + _ALL
        + """
def child():
    held = sys.stdout
    for number in range(2):
        os.dup2(near.fileno(), number)
    near.close()
    far.close()
    print("printed", flush=True)
    held.write("written to an earlier name\\n")
    held.flush()
    os.write(1, b"by number\\n")
    assert input() == "a question"
    os.system("echo of a shell")
    subprocess.run(["echo", "of", "a", "child"])
near, far = pair()
pid = fork(child)
near.close()
far.sendall(b"a question\\n")
wanted = b"printed\\nwritten to an earlier name\\nby number\\nof a shell\\nof a child\\n"
assert all_of(far) == wanted
ended(pid)
"""
    )
    assert run(code) == ""


def test_another_program_in_the_place_of_this_one(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + _ALL
        + """
def child(command):
    far.close()
    os.dup2(near.fileno(), 0)
    os.dup2(near.fileno(), 1)
    os.execvp(command[0], command)
program = "import sys; sys.stdout.write(sys.stdin.readline())"
for command in (["cat"], ["sh", "-c", "cat"], [sys.executable, "-W", "ignore", "-c", program]):
    near, far = pair()
    pid = fork(child, command)
    near.close()
    far.sendall(b"a line\\n")
    far.shutdown(socket.SHUT_WR)
    assert all_of(far) == b"a line\\n", command
    far.close()
    ended(pid)
"""
    )
    assert run(code) == ""


def test_what_becomes_of_a_program_in_the_place_of_this_one(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + _ALL
        + """
def child(*command):
    os.dup2(near.fileno(), 0)
    os.dup2(near.fileno(), 1)
    os.closerange(3, 1000)
    os.execv("/bin/sh", ["sh", "-c", *command])

# Whoever waits for it finds all that it wrote, and may end the connection then: CGI servers do.
for _ in range(5):
    near, far = pair()
    pid = fork(child, "head -c 100000 /dev/zero; exit 3")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    near.shutdown(socket.SHUT_RDWR)
    near.close()
    assert all_of(far) == bytes(100_000)
    far.close()

near, far = pair()
pid = fork(child, "echo it runs; exec sleep 100")
near.close()
assert exactly(far, 8) == b"it runs\\n"
os.kill(pid, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
assert far.recv(1) == b""
far.close()

# What it leaves behind has the connection still.
near, far = pair()
pid = fork(child, "exec 3<&0; (read line <&3; echo later $line) & echo at once")
ended(pid)
near.close()
assert exactly(far, 8) == b"at once\\n"
far.sendall(b"than that\\n")
assert all_of(far) == b"later than that\\n"
far.close()
"""
    )
    assert run(code) == ""


def test_programs_that_posix_spawn_starts(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + _ALL
        + """
def both(fd):
    return [(os.POSIX_SPAWN_DUP2, fd, 0), (os.POSIX_SPAWN_DUP2, 0, 1)]
python = "import sys; sys.stdout.write(sys.stdin.readline())"
for spawn, command in (
    (os.posix_spawn, ["/bin/cat"]),
    (os.posix_spawnp, ["cat"]),
    (os.posix_spawn, [sys.executable, "-W", "ignore", "-c", python]),
):
    near, far = pair()
    actions = [(os.POSIX_SPAWN_OPEN, 40, os.devnull, os.O_RDONLY, 0), *both(near.fileno())]
    actions.append((os.POSIX_SPAWN_CLOSE, 40))
    pid = spawn(command[0], command, os.environ, file_actions=actions)
    near.close()
    far.sendall(b"a line\\n")
    far.shutdown(socket.SHUT_WR)
    assert all_of(far) == b"a line\\n", command
    far.close()
    ended(pid)

# Its own standard output, and nothing is done about it.
def child():
    far.close()
    os.dup2(near.fileno(), 1)
    near.close()
    ended(os.posix_spawnp("echo", ["echo", "inherited"], os.environ))
near, far = pair()
pid = fork(child)
near.close()
assert all_of(far) == b"inherited\\n"
ended(pid)
far.close()
for path in ("/nowhere", "nowhere"):
    near, far = pair()
    try:
        os.posix_spawn(path, ["x"], {}, file_actions=both(near.fileno()))
    except FileNotFoundError as error:
        print(error.filename)
    near.close()
    assert far.recv(1) == b""
    far.close()
reading, writing = os.pipe()
actions = [(os.POSIX_SPAWN_DUP2, writing, 1)]
ended(os.posix_spawnp("echo", ["echo", "as ever"], {}, file_actions=actions))
assert os.read(reading, 100) == b"as ever\\n"
"""
    )
    assert run(code) == "/nowhere\nnowhere\n"
