"""Unmodified programs: over the drop-in module, and whole commands by `pifus run`."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socketserver
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.contract.conftest import (
    PATIENCE_SECONDS,
    launcher,
    python_environment,
    receive_exactly,
)

Spawn = Callable[..., Future[Any]]


def run(code: str, **options: Any) -> str:
    """The output of a program below `pifus run`."""
    done = subprocess.run(
        launcher(sys.executable, "-W", "error", "-c", code),
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


class Upper(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


def test_a_threading_server(
    client_net: ModuleType,
    server_net: ModuleType,
    host: str,
    spawn: Spawn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socketserver, "socket", server_net)
    with socketserver.ThreadingTCPServer((host, 0), Upper) as server:
        serving = spawn(server.serve_forever, 0.05)

        def talk(number: int) -> bytes:
            with client_net.create_connection(server.server_address, PATIENCE_SECONDS) as sock:
                sock.sendall(b"line %d\n" % number * 100)
                return receive_exactly(sock, len(b"line %d\n" % number) * 100)

        answers = [spawn(talk, number) for number in range(30)]
        for number, answer in enumerate(answers):
            assert answer.result(PATIENCE_SECONDS) == b"LINE %d\n" % number * 100
        server.shutdown()
        serving.result(PATIENCE_SECONDS)


@pytest.fixture
def http_server(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """`pifus run -- python -m http.server`: its directory and its port."""
    process = subprocess.Popen(
        launcher(sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "0"),
        cwd=tmp_path,
        env=python_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        announced = process.stdout.readline()
        yield tmp_path, int(announced.split(" port ")[1].split()[0])
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 0, "http.server ends well on Ctrl-C"
        process.stdout.close()


FETCH = """
import hashlib, urllib.request
with urllib.request.urlopen("http://{host}:{port}/{name}", timeout=20) as answer:
    print(answer.status, hashlib.sha256(answer.read()).hexdigest())
"""


def test_http_server_and_urllib(http_server: tuple[Path, int]) -> None:
    directory, port = http_server
    data = random.Random(5).randbytes(3_000_000)
    (directory / "file").write_bytes(data)
    for host in ("127.0.0.1", "localhost"):
        output = run(FETCH.format(host=host, port=port, name="file"))
        assert output == f"200 {hashlib.sha256(data).hexdigest()}\n"
    # The kernel knows nothing of that port.
    kernel = subprocess.run(
        [sys.executable, "-c", FETCH.format(host="127.0.0.1", port=port, name="file")],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Connection refused" in kernel.stderr


ASYNCIO = """
import asyncio, socket
async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()
async def talk(port, number):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    message = bytes([number]) * 200_000
    writer.write(message)
    writer.write_eof()
    assert await reader.read() == message
    writer.close()
    await writer.wait_closed()
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*(talk(port, number) for number in range(50)))
    server.close()
    await server.wait_closed()
    print("all came back", socket._socket.__name__)
asyncio.run(main())
"""


def test_asyncio_streams() -> None:
    assert run(ASYNCIO) == "all came back pifus.compat_socket\n"


def test_children_are_patched_too() -> None:
    code = """
import subprocess, sys
child = "import pifus.monkey, socket; print(pifus.monkey.is_patched(), socket._socket.__name__)"
subprocess.run([sys.executable, "-c", child], check=True)
"""
    assert run(code) == "True pifus.compat_socket\n"


def test_programs_and_the_original_sitecustomize_start_as_always(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the original')")
    environment = {**python_environment(), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        launcher(sys.executable, "-c", "import sys; print(sys.modules['sitecustomize'].__file__)"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    # Once by the Python of `pifus run` itself.
    assert done.stdout.splitlines()[1:] == ["the original", str(tmp_path / "sitecustomize.py")]


def test_exit_statuses_pass_through() -> None:
    def status(*command: str) -> int:
        return subprocess.run(
            launcher(*command),
            env=python_environment(),
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode

    assert status("sh", "-c", "exit 7") == 7
    assert status("sh", "-c", "kill -TERM $$") == 128 + signal.SIGTERM
    assert status("no-such-command-anywhere") == 127


def test_signals_pass_through() -> None:
    code = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(33))
print("ready", flush=True)
while True:
    signal.pause()
"""
    process = subprocess.Popen(
        launcher(sys.executable, "-c", code),
        env=python_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 33


def test_a_private_backend_ends_with_the_command() -> None:
    code = "import os, socket; socket.socket().close(); print(os.environ['PIFUS_BACKEND'])"
    command = [sys.executable, "-m", "pifus.cli", "run", "--driver", "loopback", "--"]
    done = subprocess.run(
        [*command, sys.executable, "-c", code],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    path = done.stdout.strip()
    assert "private" in path
    assert not os.path.exists(path)  # noqa: PTH110 - no file, but a socket


def test_the_priority_reaches_the_sockets() -> None:
    code = """
import socket
from pifus._compat import _table
with socket.socket() as sock:
    print(_table.endpoints[sock.fileno()].priority)
"""
    command = [sys.executable, "-m", "pifus.cli", "run", "--priority", "high", "--"]
    done = subprocess.run(
        [*command, sys.executable, "-c", code],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "0\n"


FORK = """
import os, socket
listener = socket.create_server(("127.0.0.1", 0))
address = listener.getsockname()
child = os.fork()
if child == 0:
    assert listener.getsockname() == address
    listener.close()
    with socket.create_connection(address, 10) as sock:
        sock.sendall(b"from the child")
    os._exit(0)
sock, _ = listener.accept()
print(sock.recv(100), sock.recv(100), os.waitpid(child, 0)[1])
sock.close()
listener.close()
"""


def test_after_a_fork_the_child_has_sockets_of_its_own() -> None:
    assert run(FORK) == "b'from the child' b'' 0\n"


def test_os_sendfile(tmp_path: Path) -> None:
    """As the kernel's: with and without an offset, to the end of the file, never waiting."""
    path = tmp_path / "file"
    path.write_bytes(random.Random(1).randbytes(1_000_000))
    output = run(
        f"""
import os, socket
from pathlib import Path
content = Path({str(path)!r}).read_bytes()
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
with open({str(path)!r}, "rb") as file:
    assert os.sendfile(client.fileno(), file.fileno(), 999_990, 100) == 10
    assert os.sendfile(client.fileno(), file.fileno(), 1_000_000, 100) == 0
    assert os.sendfile(client.fileno(), file.fileno(), None, 20) == 20
    assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 20
    assert server.recv(100)[:10] == content[-10:]
    client.setblocking(False)
    total = 0
    try:
        while True:
            total += os.sendfile(client.fileno(), file.fileno(), 0, 100_000)
    except BlockingIOError:
        print(total > 0)
for sock in (listener, client, server):
    sock.close()
"""
    )
    assert output.split() == ["True"]
