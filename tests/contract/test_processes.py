"""Descriptors in more than one process: each program runs over the kernel's sockets and over pifus.

The programs are whole and unmodified: they fork, exec, pass descriptors and die as programs do.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pifus._core import _protocol
from pifus._core._channel import Channel
from tests.conftest import BackendProcess
from tests.contract.conftest import PATIENCE_SECONDS, launcher, python_environment

Run = Callable[..., str]

COUNTED = ("sockets", "mirrors", "sessions", "orphans", "pbufs", "segments")


@pytest.fixture(params=["kernel", "pifus"])
def run(request: pytest.FixtureRequest, backend: BackendProcess) -> Iterator[Run]:
    """Runs a program and returns its output; nothing of it may be left in the backend."""
    over_pifus = request.param == "pifus"

    def program(code: str, *arguments: str) -> str:
        command = [sys.executable, "-X", "dev", "-c", code, *arguments]
        done = subprocess.run(
            launcher(*command) if over_pifus else command,
            env={**python_environment(), "PYTHONWARNINGS": "ignore::ResourceWarning"},
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return done.stdout

    with counting(backend):
        yield program


class counting:  # noqa: N801 - reads as what it does
    """At the end everything that the backend counts is again as it was."""

    def __init__(self, backend: BackendProcess) -> None:
        self._channel = Channel.connect(backend.path)
        self._before = self._counts()

    def _counts(self) -> dict[str, Any]:
        reply, _ = self._channel.request(_protocol.Status(2**63 - 1), "status")
        return {name: reply["statistics"][name] for name in COUNTED}

    def __enter__(self) -> counting:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        try:
            while (now := self._counts()) != self._before and time.monotonic() < end:
                time.sleep(0.05)  # nobody tells when the counters change
            assert kind is not None or now == self._before
        finally:
            self._channel.close()


# Of every program: a child that fails must not look like one that did not.
HEAD = """
import os, sys, select, signal, socket, threading, traceback
def fork(function, *arguments):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        function(*arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)
def ended(*pids):
    for pid in pids:
        status = os.waitpid(pid, 0)[1]
        assert status == 0, status
def exactly(sock, count):
    parts = []
    while count and (part := sock.recv(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
def connect(address):
    return socket.create_connection(address, 20)
def pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = connect(listener.getsockname())
        far, _ = listener.accept()
        near.settimeout(None)
        return near, far
"""

PRE_FORK = (
    HEAD
    + """
import collections
ways = {
    "blocking": lambda: listener.accept()[0],
    "select": lambda: polled(lambda: select.select([listener], [], [])),
    "epoll": lambda: polled(epoll.poll),
}
def polled(wait):
    while True:
        wait()
        try:
            return listener.accept()[0]
        except BlockingIOError:
            pass
def serve(way):
    global epoll
    if way != "blocking":
        listener.setblocking(False)
        epoll = select.epoll()
        epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
    while True:
        with ways[way]() as sock:
            sock.setblocking(True)
            request = exactly(sock, 8)
            if request == b"the end.":
                return
            sock.sendall(b"%08d" % os.getpid() + request)
way, kill = sys.argv[1], sys.argv[2] == "kill"
listener = socket.create_server(("127.0.0.1", 0), backlog=128)
address = listener.getsockname()
workers = [fork(serve, way) for _ in range(4)]
listener.close()
served = collections.Counter()
answers = set()
lost = 0
lock = threading.Lock()
def ask(first):
    global lost
    for number in range(first, 400, 8):
        if kill and number == 160:
            os.kill(workers[0], signal.SIGKILL)
        with connect(address) as sock:
            try:
                sock.sendall(b"%08d" % number)
                answer = exactly(sock, 16)
            except ConnectionResetError:
                answer = b""
            with lock:
                if answer:
                    assert answer[8:] == b"%08d" % number, answer
                    assert answer not in answers
                    answers.add(answer)
                    served[int(answer[:8])] += 1
                else:
                    lost += 1
threads = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
# What the killed one had taken is lost with it: at most one connection at a time.
assert len(answers) + lost == 400 and lost <= kill, (len(answers), lost)
assert set(served) <= set(workers)
alive = workers[kill:]
for _ in alive:
    with connect(address) as sock:
        sock.sendall(b"the end.")
        assert sock.recv(1) == b""
ended(*alive)
if kill:
    assert os.waitpid(workers[0], 0)[1] == signal.SIGKILL
# Nobody holds the listener any more. (The stack hears of a process's end a moment after it.)
try:
    while True:
        connect(address).close()
except ConnectionRefusedError:
    print("ok")
"""
)


@pytest.mark.parametrize("kill", ["", "kill"])
@pytest.mark.parametrize("way", ["blocking", "select", "epoll"])
def test_pre_forked_workers_serve_each_connection_once(run: Run, way: str, kill: str) -> None:
    assert run(PRE_FORK, way, kill) == "ok\n"


def test_a_listener_that_one_process_ignores_starves_nobody(run: Run) -> None:
    """Connections wait in the common queue until a process really accepts."""
    code = """
listener = socket.create_server(("127.0.0.1", 0))
address = listener.getsockname()
def never():
    go.recv(1)
def serve():
    for _ in range(10):
        with listener.accept()[0] as sock:
            sock.sendall(exactly(sock, 5))
stop, go = socket.socketpair()
early = connect(address)  # while only this process could have had it
pids = [fork(never), fork(serve)]
select.select([listener], [], [], 20)
for sock in [early, *(connect(address) for _ in range(9))]:
    with sock:
        sock.sendall(b"hello")
        assert exactly(sock, 5) == b"hello"
stop.send(b"x")
ended(*pids)
listener.setblocking(False)
try:
    listener.accept()
except BlockingIOError:
    print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_a_forking_server(run: Run) -> None:
    code = """
import socketserver
class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"%d " % os.getpid() + line.upper())
with socketserver.ForkingTCPServer(("127.0.0.1", 0), Upper) as server:
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    seen = set()
    for number in range(50):
        with connect(server.server_address) as sock:
            sock.sendall(b"line %d\\n" % number)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while part := sock.recv(1000):
                answer += part
            pid, line = answer.split(b" ", 1)
            assert line == b"LINE %d\\n" % number, answer
            seen.add(pid)
    server.shutdown()
    serving.join()
assert len(seen) == 50 and b"%d" % os.getpid() not in seen
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_both_sides_of_a_fork_use_the_connection_in_turns(run: Run) -> None:
    code = """
near, far = pair()
ours, theirs = socket.socketpair()
def child():
    for turn in range(50):
        assert theirs.recv(1) == b"c"
        assert exactly(near, 9) == b"%08d " % turn
        near.sendall(b"child %02d " % turn)
        theirs.send(b"p")
pid = fork(child)
far.sendall(b"before ")
assert exactly(near, 7) == b"before "
for turn in range(50):
    # More than the child will read: the rest is the parent's.
    far.sendall(b"%08d %08d " % (turn, turn))
    ours.send(b"c")
    assert ours.recv(1) == b"p"
    assert exactly(near, 9) == b"%08d " % turn
    near.sendall(b"parent %02d " % turn)
    assert exactly(far, 19) == b"child %02d parent %02d " % (turn, turn)
ended(pid)
near.close()
assert far.recv(1) == b""
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_no_byte_is_lost_or_doubled_while_two_processes_read_and_write(run: Run) -> None:
    """Both read as they like; what they got together is what was sent, and likewise back."""
    code = """
import hashlib
near, far = pair()
SIZE = 3_000_000
BLOCK = b"".join(b"%08d" % number for number in range(1000))
def read(report):
    # Each piece has to be whole numbers, as they were sent.
    got = 0
    while part := near.recv(8, socket.MSG_WAITALL):
        report.write(part)
        got += 1
    report.flush()
def feed():
    for number in range(SIZE // 1000 // 8):
        far.sendall(b"".join(b"%08d" % (number * 1000 + i) for i in range(1000)))
    far.shutdown(socket.SHUT_WR)
import tempfile
files = [tempfile.TemporaryFile() for _ in range(2)]
feeder = threading.Thread(target=feed)
pid = fork(read, files[0])
feeder.start()
read(files[1])
ended(pid)
feeder.join()
numbers = []
for file in files:
    file.seek(0)
    data = file.read()
    assert len(data) % 8 == 0
    mine = [int(data[i:i + 8]) for i in range(0, len(data), 8)]
    assert mine == sorted(mine)
    numbers += mine
assert sorted(numbers) == list(range(SIZE // 1000 // 8 * 1000)), len(numbers)
# And back: pieces of one byte value each, in any order, but none torn or missing.
def write(letter):
    for _ in range(200):
        near.sendall(letter * 5000)
pid = fork(write, b"c")
writer = threading.Thread(target=write, args=(b"p",))
writer.start()
got = exactly(far, 2_000_000)
writer.join()
ended(pid)
assert got.count(b"c") == got.count(b"p") == 1_000_000
near.close()
assert far.recv(1) == b""
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


@pytest.mark.parametrize("first", ["parent", "child"])
def test_one_process_exits_and_the_other_goes_on(run: Run, first: str) -> None:
    code = """
first = sys.argv[1]
near, far = pair()
ours, theirs = socket.socketpair()
def holder():
    far.close()
    ours.close()
    def child():
        theirs.send(b"%08d" % os.getpid())
        if first == "parent":
            theirs.recv(1)  # the parent is gone
            near.sendall(b"child")
            assert exactly(near, 5) == b"reply"
        else:
            near.sendall(b"early")
    near.sendall(b"parent")
    pid = fork(child)
    if first == "child":
        ended(pid)
        near.sendall(b"child")
        assert exactly(near, 5) == b"reply"
pid = fork(holder)
theirs.close()
near.close()
exactly(ours, 8)
assert exactly(far, 6) == b"parent"
if first == "parent":
    ended(pid)
    ours.send(b"x")
else:
    assert exactly(far, 5) == b"early"
assert exactly(far, 5) == b"child"
far.sendall(b"reply")
assert far.recv(1) == b""
if first == "child":
    ended(pid)
print("ok")
"""
    assert run(HEAD + code, first) == "ok\n"


def test_a_copy_in_another_process_keeps_the_connection_open(run: Run) -> None:
    """Closing, or dying, in one process says nothing to the peer while another holds it."""
    code = """
near, far = pair()
ours, theirs = socket.socketpair()
def hold():
    ours.close()
    theirs.recv(1)
pid = fork(hold)
near.sendall(b"bytes")
near.close()
assert exactly(far, 5) == b"bytes"
far.settimeout(0.2)
try:
    far.recv(1)
except TimeoutError:
    pass
else:
    raise AssertionError("the end came too early")
far.settimeout(20)
ours.send(b"x")
assert far.recv(1) == b""
ended(pid)
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_a_fork_in_a_threaded_program_under_traffic(run: Run) -> None:
    code = """
near, far = pair()
stop = threading.Event()
def echo():
    while part := far.recv(65536):
        far.sendall(part)
def talk():
    turn = 0
    while not stop.is_set():
        near.sendall(b"%08d" % turn)
        assert exactly(near, 8) == b"%08d" % turn
        turn += 1
    near.close()
threads = [threading.Thread(target=echo), threading.Thread(target=talk)]
for thread in threads:
    thread.start()
def child():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with connect(listener.getsockname()) as sock:
            sock.sendall(b"x")
            assert listener.accept()[0].recv(1) == b"x"
for _ in range(20):
    ended(fork(child))
assert all(thread.is_alive() for thread in threads)
stop.set()
for thread in threads:
    thread.join()
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_a_signal_handler_forks_in_the_middle_of_a_call(run: Run) -> None:
    code = """
near, far = pair()
ours, theirs = socket.socketpair()
pids = []
def on_alarm(number, frame):
    pids.append(os.fork())
    ours.send(b"p" if pids[0] else b"c")
signal.signal(signal.SIGALRM, on_alarm)
def feed():
    assert sorted(exactly(theirs, 2)) == sorted(b"pc")
    far.sendall(b"1" * 4)
    far.sendall(b"2" * 4)
if fork_feeder := os.fork():
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    got = exactly(near, 4)
    assert got in (b"1111", b"2222", b"1122", b"1222", b"1112", b"2211"), got
    if pids[0] == 0:
        os._exit(0)
    ended(pids[0], fork_feeder)
    print("ok")
else:
    feed()
    os._exit(0)
"""
    assert run(HEAD + code) == "ok\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_with_a_socket_as_argument(run: Run, method: str) -> None:
    code = """
import multiprocessing, pathlib, subprocess, sys, tempfile
program = '''
import multiprocessing, socket, sys
def child(listener, near):
    near.sendall(b"from the child")
    with listener.accept()[0] as sock:
        sock.sendall(sock.recv(100) * 2)
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0))
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


def test_a_descriptor_sent_to_an_unrelated_process(run: Run) -> None:
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
        listener = socket.create_server(("127.0.0.1", 0))
        near = connect(listener.getsockname())
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


def test_a_child_program_inherits_descriptors(run: Run) -> None:
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
listener = socket.create_server(("127.0.0.1", 0))
near = connect(listener.getsockname())
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


def test_a_connection_is_polled_where_it_was_not_used(run: Run) -> None:
    code = """
near, far = pair()
ours, theirs = socket.socketpair()
def child():
    poll = select.poll()
    poll.register(near, select.POLLIN)
    assert poll.poll(0) == []
    theirs.send(b"1")
    assert poll.poll(20000) == [(near.fileno(), select.POLLIN)]
    assert near.recv(100) == b"one"
    assert poll.poll(0) == []
    theirs.send(b"2")
    assert poll.poll(20000) == [(near.fileno(), select.POLLIN)]
    theirs.send(b"3")
    assert exactly(theirs, 1) == b"4"
    assert poll.poll(0) == []
pid = fork(child)
assert ours.recv(1) == b"1"
far.sendall(b"one")
assert ours.recv(1) == b"2"
far.sendall(b"two")
assert ours.recv(1) == b"3"
near.setblocking(False)
assert select.select([near], [near], [], 20) == ([near], [near], [])
assert near.recv(100) == b"two"
assert select.select([near], [near], [], 0) == ([], [near], [])
ours.send(b"4")
ended(pid)
# And full, then emptied by a peer that reads.
sent = 0
while select.select([], [near], [], 0.2)[1]:
    try:
        sent += near.send(b"x" * 65536)
    except BlockingIOError:
        pass
pid = fork(lambda: near.fileno())
ended(pid)
def drain():
    exactly(far, sent)
reader = threading.Thread(target=drain)
reader.start()
assert select.select([], [near], [], 20)[1] == [near]
reader.join()
near.close()
far.close()
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_writes_of_a_process_that_is_gone_arrive_first(run: Run) -> None:
    """Its bytes are in flight, the peer does not read, and another process takes over."""
    code = """
near, far = pair()
ours, theirs = socket.socketpair()
near.setblocking(False)
def fill(letter):
    sent = 0
    try:
        while True:
            sent += near.send(letter * 1000)
    except BlockingIOError:
        return sent
def first():
    theirs.send(b"%08d" % fill(b"a"))
pid = fork(first)
ended(pid)
count = int(exactly(ours, 8))
assert count > 100_000, count
def second():
    far.close()
    near.setblocking(True)
    near.sendall(b"b" * 1000)
pid = fork(second)
near.close()
got = exactly(far, count + 1000)
assert got == b"a" * count + b"b" * 1000
assert far.recv(1) == b""
ended(pid)
print("ok")
"""
    assert run(HEAD + code) == "ok\n"
