"""Servers of several processes: they share a listener, or hand each connection to a child."""

from __future__ import annotations

import pytest

from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture

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
listener = socket.create_server((HOST, 0), backlog=128)
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
        try:
            with connect(address) as sock:
                sock.sendall(b"%08d" % number)
                answer = exactly(sock, 16)
        except ConnectionResetError:  # which may come together with the end of the handshake
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
        try:
            connect(address).close()
        except ConnectionResetError:
            # A kernel that waits for a wire may have the answer and the reset behind it at once.
            assert os.environ["CLIENT"] == "kernel"
except ConnectionRefusedError:
    print("ok")
"""
)


@pytest.mark.parametrize("kill", ["", "kill"])
@pytest.mark.parametrize("way", ["blocking", "select", "epoll"])
def test_pre_forked_workers_serve_each_connection_once(run: Run, way: str, kill: str) -> None:  # noqa: F811
    assert run(PRE_FORK, way, kill) == "ok\n"


def test_a_listener_that_one_process_ignores_starves_nobody(run: Run) -> None:  # noqa: F811
    """Connections wait in the common queue until a process really accepts."""
    code = """
listener = socket.create_server((HOST, 0))
address = listener.getsockname()
def never():
    go.recv(1)
def serve():
    for _ in range(10):
        with listener.accept()[0] as sock:
            sock.sendall(exactly(sock, 5))
stop, go = socket.socketpair()
early = connect(address)
assert select.select([listener], [], [], 20)[0]  # while only this process could have had it
pids = [fork(never), fork(serve)]
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


def test_a_forking_server(run: Run) -> None:  # noqa: F811
    code = """
import socketserver
class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"%d " % os.getpid() + line.upper())
with socketserver.ForkingTCPServer((HOST, 0), Upper) as server:
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
