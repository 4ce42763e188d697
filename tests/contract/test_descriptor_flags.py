"""O_NONBLOCK set on the descriptor, whatever the socket object's time-out is: kernel and pifus."""

from __future__ import annotations

import pytest

from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture

_SET = """
import array, errno, fcntl, termios, time
def by_fcntl(sock, flag):
    flags = fcntl.fcntl(sock, fcntl.F_GETFL)
    fcntl.fcntl(sock, fcntl.F_SETFL, flags | os.O_NONBLOCK if flag else flags & ~os.O_NONBLOCK)
def by_os(sock, flag):
    os.set_blocking(sock.fileno(), not flag)
def by_ioctl(sock, flag):
    fcntl.ioctl(sock.fileno(), termios.FIONBIO, array.array("i", [flag]))
def through_a_copy(sock, flag):
    copy = os.dup(sock.fileno())
    os.set_blocking(copy, not flag)
    os.close(copy)
def refused(call, *arguments):
    try:
        call(*arguments)
    except BlockingIOError as error:
        return error.errno
    raise AssertionError("it did what it should not have done")
set_flag = globals()[sys.argv[1]]
"""
WAYS = ["by_fcntl", "by_os", "by_ioctl", "through_a_copy"]


@pytest.mark.parametrize("way", WAYS)
def test_calls_of_an_object_without_a_time_out_do_not_wait(run: Run, way: str) -> None:  # noqa: F811
    code = (
        HEAD
        + _SET
        + """
near, far = pair()
set_flag(near, True)
assert near.gettimeout() is None and not os.get_blocking(near.fileno())
for call, arguments in (
    (near.recv, (1,)),
    (near.recv_into, (bytearray(1),)),
    (near.recvfrom, (1,)),
    (near.recvmsg, (1,)),
    (near.recvmsg_into, ([bytearray(1)],)),
):
    assert refused(call, *arguments) == errno.EAGAIN, call
sent = 0
try:
    while True:
        sent += near.send(b"x" * 100_000)
except BlockingIOError as error:
    assert error.errno == errno.EAGAIN
refused(near.sendall, b"y" * 10_000_000)
drained = threading.Thread(target=lambda: exactly(far, sent))
drained.start()
drained.join()
assert select.select([], [near], [], 20)[1]
far.sendall(b"an answer")
assert select.select([near], [], [], 20)[0]
assert near.recv(100) == b"an answer"

# It waits again, as the flag is gone.
set_flag(near, False)
timer = threading.Timer(0.1, far.sendall, [b"later"])
timer.start()
assert near.recv(100) == b"later"
timer.join()

# With a time-out the interpreter itself waits.
near.settimeout(20)
set_flag(near, True)
timer = threading.Timer(0.1, far.sendall, [b"in time"])
timer.start()
assert near.recv(100) == b"in time"
timer.join()
near.settimeout(0.05)
try:
    near.recv(1)
except TimeoutError:
    print("ok")
"""
    )
    assert run(code, way) == "ok\n"


def test_listeners_connects_and_datagrams(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + _SET
        + """
with socket.create_server((HOST, 0)) as listener, socket.socket() as client:
    set_flag(listener, True)
    assert listener.gettimeout() is None
    assert refused(listener.accept) == errno.EAGAIN
    address = towards(listener.getsockname())
    set_flag(client, True)
    code = client.connect_ex(address)
    assert code in (0, errno.EINPROGRESS), code
    assert select.select([listener], [], [], 20)[0]
    accepted, _ = listener.accept()
    assert os.get_blocking(accepted.fileno())
    assert select.select([], [client], [], 20)[1]
    client.sendall(b"x")
    assert accepted.recv(1) == b"x"
    accepted.close()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.bind((HOST, 0))
    set_flag(one, True)
    assert refused(one.recv, 10) == refused(one.recvfrom, 10) == errno.EAGAIN
    one.sendto(b"to oneself", one.getsockname())
    assert select.select([one], [], [], 20)[0]
    assert one.recvfrom(100) == (b"to oneself", one.getsockname())
print("ok")
"""
    )
    assert run(code, "by_fcntl") == "ok\n"


def test_a_socket_is_made_of_a_descriptor_that_has_the_flag(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + _SET
        + """
near, far = pair()
fd = near.detach()
os.set_blocking(fd, False)
with socket.socket(fileno=fd) as again:
    assert again.gettimeout() is None
    assert refused(again.recv, 1) == errno.EAGAIN
    with socket.socket(fileno=os.dup(fd)) as copy:
        assert refused(copy.recv, 1) == errno.EAGAIN
        again.setblocking(True)  # of both: they are one open file
        timer = threading.Timer(0.1, far.sendall, [b"x"])
        timer.start()
        assert copy.recv(1) == b"x"
        timer.join()

# And in a process that got it from another one.
near, far = pair()
def child():
    with socket.socket(fileno=os.dup(near.fileno())) as mine:
        assert refused(mine.recv, 1) == errno.EAGAIN
    assert refused(near.recv, 1) == errno.EAGAIN
os.set_blocking(near.fileno(), False)
ended(fork(child))
print("ok")
"""
    )
    assert run(code, "by_os") == "ok\n"


def test_pipes_and_files_have_the_flag_as_ever(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + _SET
        + """
near, far = pair()
reading, writing = os.pipe()
os.set_blocking(reading, False)
assert refused(os.read, reading, 1) == errno.EAGAIN
for call in (lambda: os.set_blocking(-1, True), lambda: fcntl.fcntl(-1, fcntl.F_SETFL, 0)):
    try:
        call()
    except (OSError, ValueError) as error:
        print(type(error).__name__, error)
class Owner:
    set_blocking = os.set_blocking
    control = fcntl.fcntl
assert Owner().control(reading, fcntl.F_GETFD) == 1
"""
    )
    wanted = (
        "OSError [Errno 9] Bad file descriptor\n"
        "ValueError file descriptor cannot be a negative integer (-1)\n"
    )
    assert run(code, "by_os") == wanted


def test_numbers_of_any_kind(run: Run) -> None:  # noqa: F811
    """What those functions take beside plain integers."""
    code = (
        HEAD
        + _SET
        + """
class Subclass(int): pass
class Number:
    def __init__(self, number): self.number = number
    def __index__(self): return self.number
near, far = pair()
reading, writing = os.pipe()
for sock in (near.fileno(), reading):
    for blocking in (True, False):
        os.set_blocking(Subclass(sock), blocking)
        os.set_blocking(Number(sock), blocking)
        assert os.get_blocking(sock) == blocking
        fcntl.fcntl(Subclass(sock), fcntl.F_SETFL, 0 if blocking else os.O_NONBLOCK)
        fcntl.ioctl(Subclass(sock), termios.FIONBIO, array.array("i", [not blocking]))
assert refused(near.recv, 1) == errno.EAGAIN
print("ok")
"""
    )
    assert run(code, "by_os") == "ok\n"
