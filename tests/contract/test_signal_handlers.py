"""Signal handlers that use sockets, or fork, where a socket is being made: kernel and pifus."""

from __future__ import annotations

import pytest

from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture

pytestmark = pytest.mark.loopback_only("how a socket is made knows nothing of the wire")

# A signal that comes while a module of the stack's is imported; each in a process of its own. Over
# the kernel's sockets there are no such modules: it comes at once.
_AT_EACH_IMPORT = """
class Finder:
    def __init__(self, name=None):
        self.name = name
        self.names = []
        if name == "":
            self.fire()
    def fire(self):
        os.kill(os.getpid(), signal.SIGUSR1)
    def find_spec(self, name, path=None, target=None):
        self.names.append(name)
        if name == self.name:
            self.name = None
            self.fire()
def names():
    finder = Finder()
    sys.meta_path.insert(0, finder)
    socket.socket().close()
    ours = [name for name in finder.names if name.startswith("pifus.")]
    os.write(writing, "\\n".join(ours).encode())
reading, writing = os.pipe()
ended(fork(names))
os.close(writing)
found = os.read(reading, 65536).decode().split("\\n")
assert "pifus" not in sys.modules or len(found) > 10
def attempt(name):
    sys.meta_path.insert(0, Finder(name))
    try:
        work()
    except BaseException as error:
        error.add_note(f"when {name} is imported")
        raise
for name in found[:: int(sys.argv[1])]:
    if name not in sys.modules:  # os.read, above, needs some as well
        ended(fork(attempt, name))
print("ok")
"""


def test_a_handler_makes_the_first_socket_as_well(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
made = []
def handler(number, frame):
    assert number == signal.SIGUSR1 and frame is not None
    made.append(socket.create_server((HOST, 0)))
signal.signal(signal.SIGUSR1, handler)
def work():
    near, far = pair()
    assert signal.getsignal(signal.SIGUSR1) is handler
    (listener,) = made
    connect(listener.getsockname()).sendall(b"x")
    assert listener.accept()[0].recv(1) == b"x"
"""
        + _AT_EACH_IMPORT
    )
    assert run(code, "1") == "ok\n"


def test_a_handler_forks_while_the_first_socket_is_made(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
pids = []
signal.signal(signal.SIGUSR1, lambda number, frame: pids.append(os.fork()))
def work():
    near, far = pair()
    near.sendall(b"x")
    assert exactly(far, 1) == b"x"
    (pid,) = pids
    if pid == 0:
        os._exit(0)
    ended(pid)
"""
        + _AT_EACH_IMPORT
    )
    assert run(code, "4") == "ok\n"


def test_what_handlers_raise(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
came = []
def handler(number, frame):
    came.append(number)
    raise ValueError(number)
for number in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "pifus._compat._stream":
            fire()
def fire():
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        try:
            os.kill(os.getpid(), number)
        except ValueError:
            pass  # over the kernel's sockets
sys.meta_path.insert(0, Finder())
try:
    socket.socket().close()
except ValueError as error:
    assert isinstance(error.__context__, ValueError)
if "pifus" not in sys.modules:
    fire()
assert sorted(came) == [signal.SIGUSR1, signal.SIGUSR2], came
socket.socket().close()
print("ok")
"""
    )
    assert run(code) == "ok\n"


def test_a_fork_at_each_step_of_making_a_socket(run: Run) -> None:  # noqa: F811
    # As a signal handler would: the call goes on in both processes. First in one that has no
    # session with the backend yet, then in one that has.
    code = (
        HEAD
        + """
near, far = pair()  # all is imported
port = socket.create_server((HOST, 0))
reading, writing = os.pipe()
def fork_at(number, function):
    lines, pid = 0, -1
    def trace(frame, event, argument):
        nonlocal lines, pid
        name = frame.f_code.co_filename
        if "/pifus/" not in name and name != socket.__file__:
            return None
        lines += event == "line"
        if lines == number and pid == -1:
            pid = os.fork()
        return trace
    sys.settrace(trace)
    try:
        return function(), pid
    finally:
        sys.settrace(None)
def works(sock):
    sock.connect(towards(port.getsockname()))
    sock.sendall(b"x")
    sock.close()
    os.write(writing, b".")
def attempt(number, again):
    if again:
        socket.socket().close()
    sock, pid = fork_at(number, socket.socket)
    works(sock if pid != 0 else socket.socket())  # over the kernel it may be shared: one connects
    if pid == 0:
        sock.close()
        os._exit(0)
    if pid > 0:
        ended(pid)
    socket.socket().close()
for again in (False, True):
    number, had = 0, 2
    while had == 2:
        number += 1 if again else 3  # there are some 700, which take a while
        ended(fork(attempt, number, again))
        had = len(os.read(reading, 10))  # one: the call has no more steps
        for _ in range(had):
            with port.accept()[0] as sock:
                assert exactly(sock, 1) == b"x"
    assert had == 1 and number > 3
print("ok")
"""
    )
    assert run(code) == "ok\n"


def test_a_handler_that_raises_while_others_are_put_back(run: Run) -> None:  # noqa: F811
    """The first one that is back has a signal at once."""
    code = (
        HEAD
        + """
class Stop(Exception): pass
def stop(number, frame):
    raise Stop
came = []
note = lambda number, frame: came.append(number)
signal.signal(signal.SIGUSR1, stop)
signal.signal(signal.SIGUSR2, note)
set_handler = signal.signal
def set_and_fire(number, handler):
    former = set_handler(number, handler)
    if handler is stop:
        signal.raise_signal(signal.SIGUSR1)
    return former
signal.signal = set_and_fire
try:
    socket.socket().close()
except Stop:
    pass
signal.signal = set_handler
assert signal.getsignal(signal.SIGUSR1) is stop
assert signal.getsignal(signal.SIGUSR2) is note
signal.raise_signal(signal.SIGUSR2)
assert came == [signal.SIGUSR2]
socket.socket().close()
print("ok")
"""
    )
    assert run(code) == "ok\n"
