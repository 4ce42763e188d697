"""Sockets in several processes, and the backends that they are in. (No kernel has the like.)"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.conftest import BackendProcess
from tests.contract.programs import HEAD

START = "from pifus import monkey\nmonkey.patch()\n"


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.fixture
def no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIFUS_BACKEND")


@pytest.mark.usefixtures("no_backend")
def test_a_private_backend_outlives_the_process_that_started_it() -> None:
    """Its child had not used its socket yet when the last session ended."""
    code = """
near, far = pair()
ours, theirs = os.pipe()
def parent():
    def child():
        os.close(theirs)
        os.read(ours, 1)  # the end: the parent is gone
        far.sendall(b"bytes")
        assert exactly(near, 5) == b"bytes"
        os.write(1, b"ok\\n")
    fork(child)
parent()
os._exit(0)  # like a crash: nothing is closed in good order
"""
    assert run(START + HEAD + code) == "ok\n"


def test_a_descriptor_of_another_backend(
    start_backend: Callable[..., BackendProcess],
) -> None:
    """A process finds the backend of a descriptor that it was given, beside its own."""
    other = start_backend("other")
    code = """
import subprocess
near, far = pair()
child = '''
from pifus import monkey
monkey.patch()
import socket, sys
own = socket.create_server(("127.0.0.1", 0))  # in the backend of this process
sock = socket.socket(fileno=int(sys.argv[1]))
sock.sendall(b"from the child")
from pifus._compat import _table
paths = {endpoint.session.path for endpoint in _table.endpoints.values()}
assert paths == set(sys.argv[2:]), paths
sock.close()
own.close()
'''
fd = near.detach()
environment = {**os.environ, "PIFUS_BACKEND": sys.argv[1]}
paths = [os.environ["PIFUS_BACKEND"], sys.argv[1]]
process = subprocess.Popen([sys.executable, "-c", child, str(fd), *paths],
                           pass_fds=[fd], env=environment)
os.close(fd)
assert exactly(far, 14) == b"from the child"
assert far.recv(1) == b""
assert process.wait() == 0
print("ok")
"""
    assert run(START + HEAD + code, other.path) == "ok\n"


def test_a_descriptor_that_is_no_mirror_stays_the_kernels() -> None:
    code = """
import socket as net
a, b = net.socketpair()
c = net.socket(fileno=a.detach())
from pifus._compat import _table
assert c.fileno() not in _table.endpoints and c.family == net.AF_UNIX
# Nor does the name alone make one: the backend does not know the descriptor.
path = os.environ["PIFUS_BACKEND"]
name = "\\0pifus-mirror:0123456789abcdef:" + path
listener = net.socket(net.AF_UNIX)
listener.bind(name)
listener.listen()
liar = net.socket(net.AF_UNIX)
liar.connect(name)
try:
    net.socket(fileno=liar.fileno())
except OSError as error:
    assert error.errno == 9, error
    print("ok")
"""
    assert run(START + HEAD + code) == "ok\n"
