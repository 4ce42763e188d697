"""Which sockets go where: rules, priorities, and sockets that change sides before they decide."""

from __future__ import annotations

import contextlib
import errno
import select
import socket as kernel
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pifus
from pifus import _policy
from pifus._compat import _rules, _table
from pifus._core._client import lib
from tests.contract.conftest import PATIENCE_SECONDS, errno_of, python_environment

Closing = Callable[[Any], Any]


@pytest.fixture
def rules() -> Iterator[Callable[..., None]]:
    """Sets the rules of this process; afterwards those of the environment hold again."""

    def use(*lines: str) -> None:
        _rules.set_policy(_policy.parse(lines))

    yield use
    _rules.set_policy(None)


def is_ours(sock: Any) -> bool:
    return sock.fileno() in _table.endpoints


def test_a_connect_decides(pifus_net: ModuleType, closing: Closing, rules: Any) -> None:
    """One to the kernel, one to the stack, on one poll; options set before stay."""
    theirs = closing(kernel.create_server(("127.0.0.1", 0)))
    ours = closing(pifus_net.create_server(("127.0.0.1", 0)))
    rules(f"kernel 127.0.0.1:{theirs.getsockname()[1]}")
    poll = select.poll()
    for listener, expected in ((theirs, False), (ours, True)):
        sock = closing(pifus_net.socket())
        fd = sock.fileno()
        sock.setsockopt(kernel.SOL_SOCKET, kernel.SO_KEEPALIVE, 1)
        sock.setsockopt(kernel.IPPROTO_TCP, kernel.TCP_KEEPIDLE, 77)
        sock.setsockopt(kernel.SOL_SOCKET, kernel.SO_RCVBUF, 30_000)
        linger = struct.pack("ii", 1, 3)
        sock.setsockopt(kernel.SOL_SOCKET, kernel.SO_LINGER, linger)
        sock.settimeout(PATIENCE_SECONDS)
        sock.connect(listener.getsockname())
        assert is_ours(sock) is expected
        assert sock.fileno() == fd
        assert sock.getsockopt(kernel.SOL_SOCKET, kernel.SO_KEEPALIVE) == 1
        assert sock.getsockopt(kernel.IPPROTO_TCP, kernel.TCP_KEEPIDLE) == 77
        assert sock.getsockopt(kernel.SOL_SOCKET, kernel.SO_RCVBUF) == 60_000
        assert sock.getsockopt(kernel.SOL_SOCKET, kernel.SO_LINGER, 8) == linger
        assert sock.gettimeout() == PATIENCE_SECONDS
        server, _ = listener.accept()
        closing(server).sendall(b"x")
        poll.register(fd, select.POLLIN)
    seen: set[int] = set()
    while len(seen) < 2:
        seen |= {fd for fd, _ in poll.poll(PATIENCE_SECONDS * 1000)}


def test_a_bind_decides(pifus_net: ModuleType, closing: Closing, rules: Any) -> None:
    rules("kernel 127.0.0.2", "stack 127.0.0.0/8")
    for host, expected in (("127.0.0.2", False), ("127.0.0.3", True), ("", True)):
        assert is_ours(closing(pifus_net.create_server((host, 0)))) is expected


def test_a_wildcard_bind_is_decided_by_the_peer(
    pifus_net: ModuleType, closing: Closing, rules: Any
) -> None:
    listener = closing(kernel.create_server(("127.0.0.1", 0)))
    rules(f"kernel *:{listener.getsockname()[1]}")
    sock = closing(pifus_net.socket())
    sock.bind(("", 0))
    port = sock.getsockname()[1]
    assert is_ours(sock)
    sock.connect(listener.getsockname())
    assert not is_ours(sock)
    assert sock.getsockname() == ("127.0.0.1", port)


def test_a_port_left_open_is_free_in_the_kernel_too(
    pifus_net: ModuleType, closing: Closing, rules: Any
) -> None:
    """The stack by itself would also choose what lies above the range of the kernel."""
    rules("kernel 127.0.0.2")
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    for family in (kernel.AF_INET, kernel.AF_INET6):
        for _ in range(20):
            sock = closing(pifus_net.socket(family))
            sock.bind(("", 0))
            assert is_ours(sock)
            assert low <= sock.getsockname()[1] <= high
            closing(kernel.socket(family)).bind(("", sock.getsockname()[1]))


def test_a_nonblocking_connect_to_the_kernel(
    pifus_net: ModuleType, closing: Closing, rules: Any
) -> None:
    listener = closing(kernel.create_server(("127.0.0.1", 0)))
    rules("kernel 127.0.0.0/8")
    sock = closing(pifus_net.socket())
    sock.setblocking(False)
    assert sock.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
    assert select.select([], [sock], [], PATIENCE_SECONDS)[1]
    assert sock.getsockopt(kernel.SOL_SOCKET, kernel.SO_ERROR) == 0
    assert not is_ours(sock)


def test_ipv4_rules_hold_for_mapped_addresses(
    pifus_net: ModuleType, closing: Closing, rules: Any
) -> None:
    listener = closing(kernel.create_server(("127.0.0.1", 0)))
    rules("kernel 127.0.0.0/8")
    sock = closing(pifus_net.socket(kernel.AF_INET6))
    sock.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
    assert not is_ours(sock)


def test_strict_leaves_nothing_to_the_kernel_by_itself(pifus_net: ModuleType, rules: Any) -> None:
    rules("strict")
    with pifus_net.socket() as sock:
        sock.settimeout(PATIENCE_SECONDS)
        assert errno_of(sock.connect, ("203.0.113.1", 80)) == errno.ENETUNREACH
        assert is_ours(sock)


def test_a_device_of_the_machine_decides(pifus_net: ModuleType, closing: Closing) -> None:
    others = [name for _, name in kernel.if_nameindex() if name != "lo"]
    if not others:
        pytest.skip("this machine has no other device than lo")
    sock = closing(pifus_net.socket())
    sock.setsockopt(kernel.SOL_SOCKET, kernel.SO_BINDTODEVICE, others[0].encode())
    assert is_ours(sock)
    sock.bind(("", 0))
    assert not is_ours(sock)
    name = sock.getsockopt(kernel.SOL_SOCKET, kernel.SO_BINDTODEVICE, 16)
    assert name == others[0].encode() + b"\0"


# ---- priorities ----


def priority_of(sock: Any) -> int:
    return int(_table.endpoints[sock.fileno()].priority)


def test_priorities_by_port(pifus_net: ModuleType, closing: Closing, rules: Any) -> None:
    listener = closing(pifus_net.create_server(("127.0.0.1", 0)))
    port = listener.getsockname()[1]
    rules(f"priority {port}=high", "priority low")
    client = closing(pifus_net.create_connection(("127.0.0.1", port), PATIENCE_SECONDS))
    assert priority_of(client) == lib.PF_PRIORITY_HIGH
    other = closing(pifus_net.socket())
    assert priority_of(other) == lib.PF_PRIORITY_LOW
    listener.close()
    again = closing(pifus_net.create_server(("127.0.0.1", port)))
    assert priority_of(again) == lib.PF_PRIORITY_HIGH
    second = closing(pifus_net.create_connection(("127.0.0.1", port), PATIENCE_SECONDS))
    server, _ = again.accept()
    assert priority_of(closing(server)) == lib.PF_PRIORITY_HIGH
    assert second.getpeername()[1] == port


def test_what_counts_more(pifus_net: ModuleType, closing: Closing, rules: Any) -> None:
    listener = closing(pifus_net.create_server(("127.0.0.1", 0)))
    rules(f"priority {listener.getsockname()[1]}=high")
    with pifus.priority("low"):
        client = closing(pifus_net.create_connection(listener.getsockname(), PATIENCE_SECONDS))
        assert priority_of(client) == lib.PF_PRIORITY_LOW
    chosen = closing(pifus_net.socket())
    chosen.setsockopt(kernel.SOL_SOCKET, kernel.SO_PRIORITY, 1)
    chosen.connect(listener.getsockname())
    assert priority_of(chosen) == lib.PF_PRIORITY_LOW
    assert chosen.getsockopt(kernel.SOL_SOCKET, kernel.SO_PRIORITY) == 1


def test_a_priority_around_code_one_cannot_change(pifus_net: ModuleType, closing: Closing) -> None:
    """Contexts: of a thread's own, and of what runs inside."""
    listener = closing(pifus_net.create_server(("127.0.0.1", 0)))
    seen = []

    def inside() -> None:
        sock = pifus_net.create_connection(listener.getsockname(), PATIENCE_SECONDS)
        with contextlib.closing(sock):
            seen.append(priority_of(sock))

    with pifus.priority("high"):
        inside()
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
    inside()
    assert seen == [lib.PF_PRIORITY_HIGH, lib.PF_PRIORITY_MEDIUM, lib.PF_PRIORITY_MEDIUM]


# ---- a late patch ----

LATE = """
import socket
early, listening, bound = socket.socket(), socket.create_server(("127.0.0.1", 0)), socket.socket()
bound.bind(("127.0.0.1", 0))
early.settimeout(20)
early.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
early.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
early.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20000)
from pifus import monkey
monkey.patch()
from pifus._compat import _table
server = socket.create_server(("127.0.0.1", 0))
fd = early.fileno()
early.connect(server.getsockname())
assert early.fileno() == fd and fd in _table.endpoints
assert early.gettimeout() == 20
assert early.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
assert early.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
assert early.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 40000
connection, _ = server.accept()
early.sendall(b"hello")
assert connection.recv(10) == b"hello"
# What is bound or listens in the kernel stays there.
bound.connect(listening.getsockname())
assert not {bound.fileno(), listening.fileno()} & set(_table.endpoints)
for sock in (early, server, connection, listening, bound):
    sock.close()
print("fine")
"""


def test_a_socket_made_before_a_late_patch_changes_sides() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LATE],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")


# ---- what an operator says ----


def test_rules_of_the_command_line(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "from pifus._compat import _table\n"
        "def ours(host, port=0):\n"
        "    with socket.create_server((host, port)) as sock:\n"
        "        fd = sock.fileno()\n"
        "        return fd in _table.endpoints and _table.endpoints[fd].priority\n"
        "print(ours('127.0.0.1'), ours('127.0.0.5'), ours('127.0.0.9'), ours('127.0.0.6', 45021))\n"
    )
    config = tmp_path / "rules.toml"
    config.write_text('rules = ["kernel 127.0.0.9"]\n[priority]\ndefault = "low"\n')
    command = [sys.executable, "-m", "pifus.cli", "run", "--stack", "127.0.0.1"]
    command += ["--kernel", "127.0.0.5", "--config", str(config), "--priority", "45021=high"]
    done = subprocess.run(
        [*command, "--", sys.executable, "-c", code],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "2 False False 0\n", done.stderr
    wrong = subprocess.run(
        [*command, "--kernel", "somewhere", "--", "true"],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert wrong.returncode == 1
    assert "somewhere" in wrong.stderr
