"""Urgent data (MSG_OOB): the stack sends them; in what it receives they stay where they are."""

from __future__ import annotations

import select
import socket as names
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, receive_exactly

Pair = tuple[Any, Any]
Spawn = Callable[..., Future[Any]]
RECEIVED_BY_THE_KERNEL = "urgent data out of the stream are what the kernel receives"


def urgent_byte(sock: Any) -> bytes:
    """The one that is out of the stream, once it is there."""
    poller = select.poll()
    poller.register(sock, select.POLLPRI)
    assert poller.poll(PATIENCE_SECONDS * 1000) == [(sock.fileno(), select.POLLPRI)]
    sock.settimeout(0)  # else the interpreter waits for bytes of the stream
    byte: bytes = sock.recv(100, names.MSG_OOB)
    sock.settimeout(PATIENCE_SECONDS)
    return byte


@pytest.mark.legs("kernel", "connects", reason=RECEIVED_BY_THE_KERNEL)
def test_the_last_byte_is_out_of_the_stream(pair: Pair) -> None:
    client, server = pair
    assert client.send(b"before") == 6
    assert client.send(b"ABOR\r\n", names.MSG_OOB) == 6
    client.sendall(b"after")
    assert urgent_byte(server) == b"\n"
    assert receive_exactly(server, 16) == b"beforeABOR\rafter"


@pytest.mark.legs("connects", reason="the kernel marks the end of each part that it takes")
def test_of_much_it_is_the_last_byte(pair: Pair, spawn: Spawn) -> None:
    client, server = pair
    size = 3_000_000
    sending = spawn(client.sendall, bytes(size - 1) + b"!", names.MSG_OOB)
    assert receive_exactly(server, size - 1) == bytes(size - 1)
    assert urgent_byte(server) == b"!"
    assert sending.result() is None


def test_inline_they_are_bytes_as_others(pair: Pair) -> None:
    client, server = pair
    server.setsockopt(names.SOL_SOCKET, names.SO_OOBINLINE, 1)
    client.sendall(b"before")
    client.sendall(b"!", names.MSG_OOB)
    client.sendall(b"after")
    assert receive_exactly(server, 12) == b"before!after"
    assert client.sendmsg([b"a", b"b"], [], names.MSG_OOB) == 2
    assert receive_exactly(server, 2) == b"ab"
