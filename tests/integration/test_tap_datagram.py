"""Datagrams over a TAP device, with the machine's own kernel as the peer."""

from __future__ import annotations

import errno
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

import pifus
from tests.integration.test_tap import SECONDS, StartBackend, Tap, needs_tap, start_tap

pytestmark = needs_tap

VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])


@pytest.fixture(params=["offload", "no-offload"])
def tap(request: pytest.FixtureRequest, start_backend: StartBackend) -> Tap:
    return start_tap(start_backend, f"--{request.param}")


@pytest.fixture
def client(tap: Tap) -> Iterator[pifus.Client]:
    with pifus.Client(tap.backend.path) as attached:
        yield attached


def family_of(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def kernel_socket(tap: Tap, version: int) -> socket.socket:
    sock = socket.socket(family_of(version), socket.SOCK_DGRAM)
    sock.settimeout(SECONDS)
    sock.bind((tap.host4 if version == 4 else tap.host6, 0))
    return sock


def stack_socket(client: pifus.Client, tap: Tap, version: int) -> tuple[pifus.Socket, tuple]:
    sock = client.socket(pifus.UDP, family=family_of(version))
    sock.bind((tap.stack4 if version == 4 else tap.stack6, 0))
    sock.wait(SECONDS).check()
    address = sock.local_address
    assert address is not None
    return sock, address


def sent(sock: pifus.Socket, data: bytes, address: tuple | None = None) -> pifus.Completion:
    sock.sendto(data, address)
    return sock.wait(SECONDS)


@VERSIONS
def test_there_and_back(client: pifus.Client, tap: Tap, version: int) -> None:
    ours, ours_name = stack_socket(client, tap, version)
    # 65,507 bytes at most over IPv4; all but the first two sizes travel in fragments.
    longest = 65507 if version == 4 else 65487
    with kernel_socket(tap, version) as theirs:
        for size in (0, 1400, 1473, 4000, 30001, longest):
            data = random.Random(size).randbytes(size)
            assert sent(ours, data, theirs.getsockname()[:2]).check().result == size
            assert theirs.recvfrom(65535) == (data, ours_name)
            ours.recv(65535)
            theirs.sendto(data, ours_name)
            done = ours.wait(SECONDS).check()
            assert done.data == data
            assert done.peer == theirs.getsockname()


@VERSIONS
def test_many_senders_at_once(client: pifus.Client, tap: Tap, version: int) -> None:
    """Fragments of several datagrams between each other."""
    ours, ours_name = stack_socket(client, tap, version)
    senders = [kernel_socket(tap, version) for _ in range(4)]
    wanted = {}
    for sender in senders:
        data = random.Random(sender.fileno()).randbytes(9000)
        wanted[sender.getsockname()] = data
        sender.sendto(data, ours_name)
    for _ in senders:
        ours.recv(65535)
        done = ours.wait(SECONDS).check()
        assert wanted.pop(done.peer) == done.data
    for sender in senders:
        sender.close()


@VERSIONS
def test_the_kernel_refuses(client: pifus.Client, tap: Tap, version: int) -> None:
    ours, _ = stack_socket(client, tap, version)
    with kernel_socket(tap, version) as theirs:
        address = theirs.getsockname()
    ours.connect(address[:2])
    ours.wait(SECONDS).check()
    receive = ours.recv(100)
    send = ours.sendto(b"anybody there?")
    results = {}
    for _ in range(2):
        done = ours.wait(SECONDS)
        results[done.op] = done.result
    assert results == {send: 14, receive: -errno.ECONNREFUSED}


@VERSIONS
def test_we_refuse(client: pifus.Client, tap: Tap, version: int) -> None:
    ours, ours_name = stack_socket(client, tap, version)
    with kernel_socket(tap, version) as theirs:
        theirs.connect(ours_name)
        ours.close()
        ours.wait(SECONDS)
        theirs.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            theirs.recv(100)


def test_broadcast(client: pifus.Client, tap: Tap) -> None:
    ours, _ = stack_socket(client, tap, 4)
    net = tap.stack4.rsplit(".", 1)[0] + ".255"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.settimeout(SECONDS)
        theirs.bind(("", 0))
        port = theirs.getsockname()[1]
        assert sent(ours, b"x", (net, port)).errno == errno.EACCES
        assert sent(ours, b"x", ("255.255.255.255", port)).errno == errno.EACCES
        ours.setopt(pifus.Option.BROADCAST, 1)
        ours.wait(SECONDS).check()
        assert sent(ours, b"to all", (net, port)).result == 6
        assert theirs.recvfrom(100)[0] == b"to all"
        # And in the other direction: every socket of the port gets it.
        takers = []
        for _ in range(2):
            taker = client.socket(pifus.UDP)
            taker.setopt(pifus.Option.REUSEADDR, 1)
            taker.bind(("", 4999))
            for _ in range(2):
                taker.wait(SECONDS).check()
            taker.recv(100)
            takers.append(taker)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        theirs.sendto(b"everybody", (net, 4999))
        for taker in takers:
            done = taker.wait(SECONDS).check()
            assert done.data == b"everybody"
            assert done.peer is not None
            assert done.peer[0] == tap.host4


def test_no_way_there(client: pifus.Client, tap: Tap) -> None:
    ours = client.socket(pifus.UDP)
    ours.bind(("127.0.0.1", 0))
    ours.wait(SECONDS).check()
    assert sent(ours, b"x", (tap.host4, 9)).errno == errno.EINVAL  # from 127.0.0.1 to the wire


def test_the_drop_in_over_the_wire(tap: Tap) -> None:
    """A Python program that knows nothing of pifus asks a service of the kernel."""
    program = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.settimeout(20)\n"
        "s.sendto(b'question', (sys.argv[1], int(sys.argv[2]))); print(s.recvfrom(100)[0].decode())"
    )
    with kernel_socket(tap, 4) as theirs:
        host, port = theirs.getsockname()
        command = [sys.executable, "-m", "pifus.cli", "run", "--", sys.executable, "-c", program]
        child = subprocess.Popen(
            [*command, host, str(port)],
            env={**os.environ, "PIFUS_BACKEND": tap.backend.path},
            stdout=subprocess.PIPE,
            text=True,
        )
        question, sender = theirs.recvfrom(100)
        assert (question, sender[0]) == (b"question", tap.stack4)
        theirs.sendto(b"answer", sender)
        assert child.communicate(timeout=SECONDS)[0] == "answer\n"
        assert child.returncode == 0
