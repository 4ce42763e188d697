"""Descriptors that nobody asked for are used again: nobody can notice, whatever becomes of them."""

from __future__ import annotations

from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture


def test_a_number_that_was_asked_for_is_closed(run: Run) -> None:  # noqa: F811
    code = """
near, far = pair()
numbers = near.fileno(), far.fileno()
near.close()
far.close()
for number in numbers:
    try:
        os.fstat(number)
    except OSError as error:
        print(error.errno)
"""
    assert run(HEAD + code) == "9\n9\n"


def test_a_time_out_is_not_left_to_the_next_socket(run: Run) -> None:  # noqa: F811
    code = """
sock = socket.socket()
sock.settimeout(5)
sock.close()
sock = socket.socket()
print(os.get_blocking(sock.fileno()), sock.gettimeout())
sock.close()
"""
    assert run(HEAD + code) == "True None\n"


def test_many_closed_sockets_leave_few_descriptors(run: Run) -> None:  # noqa: F811
    code = """
def descriptors():
    return len(os.listdir("/proc/self/fd"))
for sock in [socket.socket() for _ in range(8)]:
    sock.close()
before = descriptors()
for sock in [socket.socket() for _ in range(200)]:
    sock.close()
assert descriptors() <= before + 48, (before, descriptors())
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_a_fork_while_another_thread_makes_a_socket(run: Run) -> None:  # noqa: F811
    """The child has a copy of that one, and of none that is made later."""
    code = """
from pifus._core._session import Session
taken, forked = threading.Event(), threading.Event()
take = Session.take_mirror
def slow(session):
    mirror = take(session)
    if threading.current_thread() is maker and not taken.is_set():
        taken.set()
        forked.wait(0.5)  # it must not happen now
    return mirror
Session.take_mirror = slow
leave, stay = os.pipe()
def child():
    os.close(stay)
    os.read(leave, 1)
def make():
    made.append(socket.socket())
made, maker = [], threading.Thread(target=make)
near, far = pair()
near.close()
far.close()
maker.start()
if "pifus._compat._making" in sys.modules:
    assert taken.wait(10)
pid = fork(child)
forked.set()
maker.join()
with socket.create_server((HOST, 0)) as listener:
    made[0].close()
    # Whoever is next has its mirror.
    near = connect(listener.getsockname())
    far, _ = listener.accept()
    if os.environ.get("CLIENT") == "kernel":
        near, far = far, near
    near.fileno()
    near.close()
    far.settimeout(10)
    assert far.recv(1) == b""
    far.close()
os.close(stay)
ended(pid)
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_a_number_that_was_closed_behind_the_back_is_not_used_again(run: Run) -> None:  # noqa: F811
    code = """
null = os.open("/dev/null", os.O_RDONLY)
made = [socket.socket() for _ in range(40)]
for sock in made:
    number = type(sock).__mro__[-2].fileno(sock)
    os.dup2(null, number)
    sock.close()  # it closes somebody else's file, as it would of the kernel's
for _ in range(20):
    near, far = pair()
    assert select.select([near, far], [], [], 0) == ([], [], [])
    near.close()
    far.close()
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_garbage_in_a_request_while_another_thread_makes_a_socket(run: Run) -> None:  # noqa: F811
    """The one has what the other waits for, and must not wait for what the other has."""
    code = """
import gc
gc.disable()
socket.socket().close()
if "pifus._compat._making" in sys.modules:
    from pifus._compat import _current
    from pifus._core import _channel, _protocol
    asked, held = threading.Event(), threading.Event()
    receive, request = _channel._receive, _channel.Channel.request
    def slow(*arguments):
        if threading.current_thread() is asker:
            held.set()
            assert asked.wait(10)
            gc.collect()
        return receive(*arguments)
    def noted(*arguments):
        if threading.current_thread() is maker:
            asked.set()
        return request(*arguments)
    _channel._receive, _channel.Channel.request = slow, noted
    channel = _current.session()._channel
    def ask():
        answers.append(channel.request(_protocol.Status(0), "status"))
    def make():
        while not asked.is_set():
            made.append(socket.socket())
    garbage = [socket.socket()]
    garbage.append(garbage)
    del garbage
    answers, made = [], []
    asker = threading.Thread(target=ask, daemon=True)
    maker = threading.Thread(target=make, daemon=True)
    asker.start()
    assert held.wait(10)
    maker.start()
    asker.join(20)
    maker.join(20)
    if not answers or maker.is_alive():
        os._exit(1)  # else its end waits for them as well
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_garbage_in_a_claim_while_another_thread_forks(run: Run) -> None:  # noqa: F811
    """The fork waits for the claim, which must not wait for what the fork has."""
    code = """
import gc
gc.disable()
here, there = socket.socketpair(socket.AF_UNIX)
if os.fork() == 0:
    here.close()
    _, fds, _, _ = socket.recv_fds(there, 1, 1)
    taken = socket.socket(fileno=fds[0])
    taken.sendall(b"x")
    there.sendall(b"y")
    there.recv(1)
    os._exit(0)
there.close()
near, far = pair()
socket.send_fds(here, [b"f"], [near.fileno()])
here.recv(1)
far.recv(1)
forking, held = threading.Event(), threading.Event()
if "pifus._compat._making" in sys.modules:
    from pifus._compat import _claim, _endpoint, _table
    really_claim, settle = _claim._claim, _endpoint.Endpoint.settle
    def slow(*arguments):
        if threading.current_thread() is claimer:
            held.set()
            assert forking.wait(10)
            gc.collect()
        return really_claim(*arguments)
    def noted(endpoint):
        forking.set()
        settle(endpoint)
    _claim._claim, _endpoint.Endpoint.settle = slow, noted
    # As if it had got its number past us.
    _table.endpoints[near.fileno()].settled = False
else:
    held.set()
garbage = [socket.socket()]
garbage.append(garbage)
del garbage
def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
claimer = threading.Thread(target=near.sendall, args=(b"z",), daemon=True)
forker = threading.Thread(target=fork, daemon=True)
claimer.start()
assert held.wait(10)
forker.start()
claimer.join(10)
forker.join(10)
if claimer.is_alive() or forker.is_alive():
    os._exit(1)  # else its end waits for them as well
assert far.recv(1) == b"z"
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_a_call_in_the_middle_of_a_close_finds_no_descriptor(run: Run) -> None:  # noqa: F811
    """Else it might take out of the mirror what is there for the next socket."""
    code = """
errors = []
socket.socket().close()
if "pifus._compat._making" in sys.modules:
    from pifus._compat import _table
    drop = _table.drop
    def slow(fd):
        last = drop(fd)
        _table.drop = drop
        call()
        return last
    _table.drop = slow
def call():
    try:
        sock.recv(1)
    except OSError as error:
        errors.append(error.errno)
sock = socket.socket()
sock.settimeout(0.1)
sock.close()
if not errors:
    call()
print(errors)
"""
    assert run(HEAD + code) == "[9]\n"


def test_a_signal_handler_makes_sockets_while_its_thread_makes_sockets(run: Run) -> None:  # noqa: F811
    code = """
made = []
def make(number, frame):
    made.append(socket.socket())
    made[-1].fileno()
def talk(near, far):
    near.sendall(b"x")
    assert far.recv(1) == b"x"
    near.close()
    far.close()
talk(*pair())
signal.signal(signal.SIGALRM, make)
moments = 0
while len(made) < 100:
    # One at a time: one within the other without end is too much for any program.
    moments = moments % 100 + 1
    signal.setitimer(signal.ITIMER_REAL, moments * 2e-5)
    socks = [socket.socket() for _ in range(20)]
    numbers = {sock.fileno() for sock in socks}
    assert len(numbers) == 20
    for sock in socks:
        sock.close()
    talk(*pair())
signal.setitimer(signal.ITIMER_REAL, 0)
assert len({sock.fileno() for sock in made}) == len(made)
for sock in made:
    sock.bind((HOST, 0))
    sock.close()
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_all_the_descriptors_that_a_program_may_have(run: Run) -> None:  # noqa: F811
    """Then there are no more, with the kernel's errno, and after a close there is one."""
    code = """
import errno, resource
talk = pair()
limit = max(map(int, os.listdir("/proc/self/fd"))) + 50
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
def fill():
    socks = []
    try:
        while True:
            socks.append(socket.socket())
    except OSError as error:
        return socks, error
for _ in range(3):
    socks, error = fill()
    assert type(error) is OSError and error.errno == errno.EMFILE, error
    assert str(error) == "[Errno 24] Too many open files", error
    assert len(socks) >= 40, len(socks)
    numbers = {sock.fileno() for sock in socks}
    assert len(numbers) == len(socks)
    socks.pop().close()
    socks.append(socket.socket())
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.close()
near, far = talk
near.sendall(b"x")
assert far.recv(1) == b"x"
near.close()
far.close()
print("ok")
"""
    assert run(HEAD + code) == "ok\n"
