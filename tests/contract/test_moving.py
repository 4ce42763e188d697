"""A socket moves to another process at the worst of times."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import BackendProcess
from tests.contract.conftest import PATIENCE_SECONDS, launcher, python_environment
from tests.contract.programs import HEAD


def run(code: str) -> None:
    """As a program under `pifus run`; it says ok at its end."""
    done = subprocess.run(
        launcher(sys.executable, "-c", HEAD + code),
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr


def test_what_a_call_has_done_is_told_though_the_socket_cannot_be_had_back(
    backend: BackendProcess,
) -> None:
    """Another process takes the socket between the bytes and the rest of the call."""
    code = """
import contextlib, errno
os.environ["PIFUS_MAX_SOCKETS"] = "8"
from pifus._compat import _stream
near, far = pair()
near.fileno()
ours, theirs = socket.socketpair()
def child():
    ours.close()
    while theirs.recv(1):
        near.recv(1, socket.MSG_PEEK)  # claims it
        theirs.send(b"x")
pid = fork(child)
theirs.close()
def in_between(call):
    def wrapper(*arguments):
        result = call(*arguments)
        if result > 0 and not done:
            done.append(result)
            ours.send(b"x")
            assert ours.recv(1) == b"x"
        return result
    return wrapper
def fill():
    # No slot is left for a claim.
    with contextlib.suppress(OSError):
        while True:
            fillers.append(socket.socket())
def once_a_slot_is_free(call, argument):
    fillers.pop().close()
    while True:
        try:
            return call(argument)
        except OSError as error:
            assert error.errno == errno.EMFILE  # the backend has not yet heard of the close
far.sendall(b"123")
fillers = []
fill()
assert near.recv(1) == b"1"  # it is here
fill()  # also the slot of the listener
_stream._recv = in_between(_stream._recv)
_stream._send = in_between(_stream._send)
done = []
assert near.recv(1) == b"2"
assert done == [1]
assert once_a_slot_is_free(near.recv, 1) == b"3"
far.sendall(b"4")
fill()
done = []
near.sendall(b"56")
assert done == [2]
assert exactly(far, 2) == b"56"
ours.close()
ended(pid)
print("ok")
"""
    run(code)


def test_signal_handlers_that_raise_while_the_backend_is_asked(backend: BackendProcess) -> None:
    """Neither the claim of a socket nor an option costs a slot, or room in a queue, for ever."""
    code = f"""
os.environ["PIFUS_MAX_SOCKETS"] = "8"
near, far = pair()
near.fileno()
ours, theirs = socket.socketpair()
def child():
    ours.close()
    while theirs.recv(1):
        near.recv(1, socket.MSG_PEEK)  # claims it
        theirs.send(b"x")
pid = fork(child)
theirs.close()
class Interrupted(Exception):
    pass
def interrupt(*_):
    raise Interrupted
signal.signal(signal.SIGALRM, interrupt)
def interrupted(call, *arguments):
    os.kill({backend.pid}, signal.SIGSTOP)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        call(*arguments)
        return False  # the backend had not stopped yet
    except Interrupted:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.kill({backend.pid}, signal.SIGCONT)
far.sendall(b"123")
def to_the_child():
    ours.send(b"x")
    assert ours.recv(1) == b"x"
to_the_child()
assert near.recv(1, socket.MSG_PEEK) == b"1"  # has a ticket from now on
count = 0
while count < 20:  # more than there are slots
    to_the_child()
    count += interrupted(near.recv, 1, socket.MSG_PEEK)
assert exactly(near, 3) == b"123"
ours.close()
ended(pid)
count = 0
while count < 150:  # more than the queue is deep
    count += interrupted(far.setsockopt, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
signal.setitimer(signal.ITIMER_REAL, 10)
near.sendall(b"4")
far.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
assert far.recv(1) == b"4"
print("ok")
"""
    run(code)


def test_a_signal_handler_that_raises_while_a_close_lingers(backend: BackendProcess) -> None:
    """The socket is closed as well, and its slot can be had again."""
    code = """
import struct
os.environ["PIFUS_MAX_SOCKETS"] = "8"
class Interrupted(Exception):
    pass
def interrupt(*_):
    raise Interrupted
signal.signal(signal.SIGALRM, interrupt)
for _ in range(10):  # more than there are slots
    near, far = pair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    sent = 0
    near.setblocking(False)
    try:
        while True:
            sent += near.send(bytes(65536))
    except BlockingIOError:
        pass
    near.setblocking(True)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        near.close()
    except Interrupted:
        pass
    else:
        raise AssertionError("it did not wait")
    assert len(exactly(far, sent + 1)) == sent
    far.close()
print("ok")
"""
    run(code)
