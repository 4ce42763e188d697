"""Descriptors in more than one process: each program runs over the kernel's sockets and over pifus.

The programs are whole and unmodified: they fork, exec, pass descriptors and die as programs do.
"""

from __future__ import annotations

import pytest

from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture


def test_both_sides_of_a_fork_use_the_connection_in_turns(run: Run) -> None:  # noqa: F811
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


def test_a_full_socket_that_another_took_is_writable_again(run: Run) -> None:  # noqa: F811
    """Nobody looked at its descriptor before."""
    code = """
near, far = pair()
near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
sent = 0
while True:
    try:
        sent += near.send(bytes(65536), socket.MSG_DONTWAIT)
    except BlockingIOError:
        break
ours, theirs = socket.socketpair()
def child():
    assert exactly(near, 5) == b"taken"
    poller = select.poll()
    poller.register(near, select.POLLOUT)
    theirs.send(b"t")
    assert theirs.recv(1) == b"b"
    assert poller.poll(20_000) == [(near.fileno(), select.POLLOUT)]
    theirs.send(b"w")
    assert theirs.recv(1) == b"e"
pid = fork(child)
far.sendall(b"taken")
assert ours.recv(1) == b"t"
near.setblocking(False)
ours.send(b"b")
assert len(exactly(far, sent)) == sent
assert ours.recv(1) == b"w"
poller = select.poll()
poller.register(near, select.POLLOUT)
assert poller.poll(20_000) == [(near.fileno(), select.POLLOUT)]
assert near.send(b"more") == 4
assert exactly(far, 4) == b"more"
ours.send(b"e")
ended(pid)
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_no_byte_is_lost_or_doubled_while_two_processes_read_and_write(run: Run) -> None:  # noqa: F811
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
missing = sorted(set(range(SIZE // 1000 // 8 * 1000)) - set(numbers))
assert not missing, (len(missing), missing[0], missing[-1])
assert len(numbers) == SIZE // 1000 // 8 * 1000
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
def test_one_process_exits_and_the_other_goes_on(run: Run, first: str) -> None:  # noqa: F811
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


def test_a_copy_in_another_process_keeps_the_connection_open(run: Run) -> None:  # noqa: F811
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


def test_a_fork_in_a_threaded_program_under_traffic(run: Run) -> None:  # noqa: F811
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
    with socket.create_server((HOST, 0)) as listener:
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


def test_a_signal_handler_forks_in_the_middle_of_a_call(run: Run) -> None:  # noqa: F811
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


def test_a_connection_is_polled_where_it_was_not_used(run: Run) -> None:  # noqa: F811
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


def test_writes_of_a_process_that_is_gone_arrive_first(run: Run) -> None:  # noqa: F811
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


def test_threads_of_two_processes_read_and_write_one_connection(run: Run) -> None:  # noqa: F811
    code = """
import collections, tempfile
def together(function, arguments):
    threads = [threading.Thread(target=function, args=(one,)) for one in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
for _ in range(5):
    near, far = pair()
    files = [tempfile.TemporaryFile() for _ in range(6)]
    def read(file):
        while part := near.recv(4000):
            file.write(part)
        file.flush()
    pid = fork(together, read, files[:3])
    expected = collections.Counter()
    def feed():
        for number in range(1000):
            piece = bytes((number + i) % 251 for i in range(1200))
            expected.update(piece)
            far.sendall(piece)
        far.shutdown(socket.SHUT_WR)
    feeder = threading.Thread(target=feed)
    feeder.start()
    together(read, files[3:])
    feeder.join()
    ended(pid)
    got = collections.Counter()
    for file in files:
        file.seek(0)
        got.update(file.read())
    assert got == expected, (got.total(), expected.total())
    def write(letter):
        for _ in range(100):
            near.sendall(letter * 3000)
    pid = fork(together, write, [b"a", b"b", b"c"])
    writers = threading.Thread(target=together, args=(write, [b"d", b"e", b"f"]))
    writers.start()
    got = exactly(far, 6 * 300_000)
    writers.join()
    ended(pid)
    assert set(collections.Counter(got).values()) == {300_000}
    near.close()
    assert far.recv(1) == b""
    far.close()
print("ok")
"""
    assert run(HEAD + code) == "ok\n"
