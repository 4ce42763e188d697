"""Datagram sockets in more than one process."""

from __future__ import annotations

from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture


def test_a_forking_udp_server(run: Run) -> None:  # noqa: F811
    """The parent receives, each child answers over the same socket."""
    code = """
import socketserver
class Upper(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(b"%d " % os.getpid() + self.rfile.read().upper())
with socketserver.ForkingUDPServer((HOST, 0), Upper) as server:
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    seen = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.connect(towards(server.server_address))
        for number in range(30):
            sock.send(b"line %d" % number)
            pid, line = sock.recv(100).split(b" ", 1)
            assert line == b"LINE %d" % number
            seen.add(pid)
    server.shutdown()
    serving.join()
assert len(seen) == 30
print("ok")
"""
    assert run(HEAD + code) == "ok\n"


def test_datagrams_wait_for_whoever_takes_them(run: Run) -> None:  # noqa: F811
    code = """
import subprocess
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((HOST, 0))
server.settimeout(20)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(towards(server.getsockname()))
for number in range(20):
    sock.send(b"x" * 1000 + b"%d" % number)
assert server.recvfrom(2000) == (b"x" * 1000 + b"0", sock.getsockname())
def child():
    for number in range(1, 10):
        data, source = server.recvfrom(2000)
        assert data == b"x" * 1000 + b"%d" % number
        server.sendto(b"%d" % number, source)
ended(fork(child))
assert [sock.recv(10) for _ in range(9)] == [b"%d" % number for number in range(1, 10)]
program = '''
import socket, sys
server = socket.socket(fileno=int(sys.argv[1]))
assert server.type == socket.SOCK_DGRAM and server.family == socket.AF_INET, server
data, source = server.recvfrom(2000)
assert data == b"x" * 1000 + b"10", data[-5:]
server.sendto(b"from the program", source)
'''
fd = server.fileno()
subprocess.run([sys.executable, "-c", program, str(fd)], pass_fds=[fd], check=True)
assert sock.recv(100) == b"from the program"
assert server.recv(2000) == b"x" * 1000 + b"11"
server.close()
sock.close()
print("ok")
"""
    assert run(HEAD + code) == "ok\n"
