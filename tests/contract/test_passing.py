"""Descriptors that go to another program: by exec, by a message, by multiprocessing."""

from __future__ import annotations

import pytest

from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_with_a_socket_as_argument(run: Run, method: str) -> None:  # noqa: F811
    code = """
import multiprocessing, pathlib, subprocess, sys, tempfile
program = '''
import multiprocessing, os, socket, sys
def child(listener, near):
    near.sendall(b"from the child")
    with listener.accept()[0] as sock:
        sock.sendall(sock.recv(100) * 2)
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    listener = socket.create_server((os.environ["HOST"], 0))
    near = socket.create_connection(listener.getsockname(), 20)
    far, _ = listener.accept()
    process = context.Process(target=child, args=(listener, near))
    process.start()
    near.close()
    assert far.recv(100) == b"from the child"
    with socket.create_connection(listener.getsockname(), 20) as sock:
        sock.sendall(b"twice")
        assert sock.recv(100) == b"twicetwice"
    process.join()
    assert process.exitcode == 0
    assert far.recv(1) == b""
    far.close()
    listener.close()
    print("ok")
'''
with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory, "program.py")
    path.write_text(program)
    sys.stdout.flush()
    subprocess.run([sys.executable, str(path), sys.argv[1]], check=True)
"""
    assert run(code, method) == "ok\n"


def test_a_descriptor_sent_to_an_unrelated_process(run: Run) -> None:  # noqa: F811
    code = """
import subprocess
receiver = '''
import socket
with socket.socket(socket.AF_UNIX) as post:
    post.connect(sys.argv[1])
    _, fds, _, _ = socket.recv_fds(post, 10, 2)
    listener, near = (socket.socket(fileno=fd) for fd in fds)
    assert listener.family == near.family == socket.AF_INET, (listener, near)
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0
    assert near.getpeername() == listener.getsockname()
    assert near.recv(6) == b"unread"
    near.sendall(b"from " + near.recv(100))
    with listener.accept()[0] as sock:
        sock.sendall(b"accepted")
    near.close()
    listener.close()
'''
import tempfile
with tempfile.TemporaryDirectory() as directory:
    path = directory + "/post"
    with socket.socket(socket.AF_UNIX) as post:
        post.bind(path)
        post.listen()
        process = subprocess.Popen([sys.executable, "-c", "import sys\\n" + receiver, path])
        listener = socket.create_server((HOST, 0))
        near = connect(listener.getsockname())
        near.settimeout(None)  # the receiver's object blocks, and so must the descriptor
        far, _ = listener.accept()
        far.sendall(b"unread")
        assert near.recv(6, socket.MSG_PEEK) == b"unread"
        with post.accept()[0] as letter:
            socket.send_fds(letter, [b"x"], [listener.fileno(), near.fileno()])
            near.close()
            address = listener.getsockname()
            far.sendall(b"elsewhere")
            assert exactly(far, 14) == b"from elsewhere"
            with connect(address) as sock:
                assert exactly(sock, 8) == b"accepted"
            assert far.recv(1) == b""
        assert process.wait() == 0
far.close()
listener.close()
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_a_child_program_inherits_descriptors(run: Run) -> None:  # noqa: F811
    """As an inetd, a supervisor or systemd hands them over."""
    code = """
import subprocess
child = '''
import socket, sys
listener, near = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
near.sendall(b"child")
with listener.accept()[0] as sock:
    sock.sendall(b"accepted")
copy = socket.fromfd(near.fileno(), socket.AF_INET, socket.SOCK_STREAM)
near.close()
copy.sendall(b" and its copy")
copy.close()
'''
listener = socket.create_server((HOST, 0))
near = connect(listener.getsockname())
near.settimeout(None)
far, _ = listener.accept()
fds = [listener.fileno(), near.detach()]
process = subprocess.Popen([sys.executable, "-c", child, *map(str, fds)], pass_fds=fds)
os.close(fds[1])
with connect(listener.getsockname()) as sock:
    assert exactly(sock, 8) == b"accepted"
assert exactly(far, 18) == b"child and its copy"
assert far.recv(1) == b""
assert process.wait() == 0
# The listener is still whole here.
with connect(listener.getsockname()) as sock:
    with listener.accept()[0] as accepted:
        accepted.sendall(b"x")
        assert sock.recv(1) == b"x"
listener.close()
far.close()
print("ok")
"""
    assert run(HEAD + code) == "ok\n"
