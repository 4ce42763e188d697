"""The three proxies of the same kind: bytes intact, each direction ends by itself, one by one."""

from __future__ import annotations

import importlib.util
import socket

import pytest

import pifus
from examples.ported_apps.stage import HERE, Stage

SIZE = 3_000_000
SECONDS = 20
# The script and its option; whether it is a program of the drop-in.
PROXIES = [("readiness.py", "", True), ("completions.py", "", False), ("trio_streams.py", "", True)]
if importlib.util.find_spec("pifus.trio"):
    PROXIES.append(("trio_streams.py", "--native", False))


def connect(client: pifus.Client, port: int) -> pifus.Socket:
    sock = client.socket()
    sock.connect(("127.0.0.1", port))
    sock.wait(SECONDS).check()
    return sock


def exchange(client: pifus.Client, port: int, data: bytes) -> bytes:
    """Sends all of it, ends that direction, and returns what comes until the end of the other."""
    with connect(client, port) as sock:
        back = bytearray()
        sock.recv(1 << 16)
        left = [data[start : start + (1 << 15)] for start in range(0, len(data), 1 << 15)]
        flying = 0
        while True:
            while left and flying < 8:
                sock.write(left.pop(0))
                flying += 1
                if not left:
                    sock.shutdown(socket.SHUT_WR)
            done = sock.wait(SECONDS).check()
            flying -= done.opcode == pifus.Opcode.WRITE
            if done.opcode == pifus.Opcode.RECV:
                if not done.data:
                    return bytes(back)
                back += done.data
                sock.recv(1 << 16)


@pytest.mark.parametrize(("proxy", "option", "unmodified"), PROXIES)
def test_proxy(proxy: str, option: str, unmodified: bool) -> None:
    data = bytes(range(256)) * (SIZE // 256)
    with Stage() as scene:
        target = scene.completing(str(HERE / "echo_1000" / "server.py")).line()
        words = [str(HERE / "tcp_proxy" / proxy), target, option]
        start = scene.unmodified if unmodified else scene.completing
        port = int(start(*filter(None, words)).line())
        assert exchange(scene.client, port, data) == data
        # Who leaves without a word takes nobody else along.
        quitter = connect(scene.client, port)
        stays = connect(scene.client, port)
        quitter.write(data[:1000])
        quitter.wait(SECONDS).check()
        quitter.close(abort=True)
        quitter.wait(SECONDS)
        stays.write(b"here")
        stays.recv(4)
        got = [stays.wait(SECONDS).check().data for _ in range(2)]
        assert b"here" in got
        stays.release()
        assert exchange(scene.client, port, data[:70_000]) == data[:70_000]
