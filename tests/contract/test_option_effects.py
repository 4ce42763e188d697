"""What options do, on kernel sockets and on the stack's."""

from __future__ import annotations

import errno
import select
import socket as names
import statistics
import struct
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import wait_until_asleep
from tests.contract.conftest import (
    PATIENCE_SECONDS,
    errno_of,
    receive_exactly,
)
from tests.contract.legs import Side

Pair = tuple[Any, Any]
Closing = Callable[[Any], Any]
TCP = names.IPPROTO_TCP


def connected(closing: Closing, client: Any, listener: Any) -> Pair:
    client.settimeout(PATIENCE_SECONDS)
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    closing(server).settimeout(PATIENCE_SECONDS)
    return client, server


def fill(sock: Any) -> int:
    """Sends without waiting until nothing more is taken; how much that was."""
    sock.setblocking(False)
    total = 0
    while True:
        try:
            total += sock.send(bytes(65536))
        except BlockingIOError:
            if not select.select([], [sock], [], 0.2)[1]:
                return total


# ---- buffers ----


def test_the_receive_buffer_bounds_what_a_peer_can_send(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    amounts = []
    for size in (4096, 100_000):
        listener = closing(server_net.socket())
        listener.setsockopt(names.SOL_SOCKET, names.SO_RCVBUF, size)
        listener.bind((host, 0))
        listener.listen()
        client = closing(client_net.socket())
        client.setsockopt(names.SOL_SOCKET, names.SO_SNDBUF, 16384)
        client, server = connected(closing, client, listener)
        assert server.getsockopt(names.SOL_SOCKET, names.SO_RCVBUF) == 2 * size
        sent = fill(client)
        amounts.append(sent)
        client.settimeout(PATIENCE_SECONDS)
        client.shutdown(names.SHUT_WR)
        # A small window opens again and again until everything is through.
        assert len(receive_exactly(server, sent + 1)) == sent
    assert amounts[0] < 16384 * 4 + 65536
    assert amounts[0] < amounts[1]


def test_the_send_buffer_bounds_what_is_taken(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    amounts = []
    for size in (8192, 200_000):
        listener = closing(server_net.socket())
        listener.setsockopt(names.SOL_SOCKET, names.SO_RCVBUF, 4096)
        listener.bind((host, 0))
        listener.listen()
        client = closing(client_net.socket())
        client.setsockopt(names.SOL_SOCKET, names.SO_SNDBUF, size)
        client, _ = connected(closing, client, listener)
        amounts.append(fill(client))
    assert amounts[0] < 90_000
    assert amounts[0] < amounts[1]


def test_bulk_through_a_small_window(
    client_net: ModuleType,
    server_net: ModuleType,
    host: str,
    closing: Closing,
    spawn: Callable[..., Any],
) -> None:
    listener = closing(server_net.socket())
    listener.setsockopt(names.SOL_SOCKET, names.SO_RCVBUF, 3000)
    listener.bind((host, 0))
    listener.listen()
    client, server = connected(closing, closing(client_net.socket()), listener)
    data = bytes(range(256)) * 2000
    sending = spawn(client.sendall, data)
    assert receive_exactly(server, len(data)) == data
    sending.result(PATIENCE_SECONDS)


# ---- time limits ----


def timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), round(seconds % 1 * 1e6))


def test_receive_timeout(pair: Pair, listener: Any) -> None:
    client, server = pair
    for sock in (client, listener):
        sock.settimeout(None)
        sock.setsockopt(names.SOL_SOCKET, names.SO_RCVTIMEO, timeval(0.15))
        assert sock.getsockopt(names.SOL_SOCKET, names.SO_RCVTIMEO, 16)[:8] == bytes(8)
    for call, arguments in ((client.recv, (10,)), (listener.accept, ())):
        started = time.monotonic()
        with pytest.raises(BlockingIOError):
            call(*arguments)
        assert time.monotonic() - started >= 0.14
    server.sendall(b"x")
    assert client.recv(10) == b"x"
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.recv(10)


def test_send_timeout(pair: Pair) -> None:
    client, _ = pair
    client.settimeout(None)
    client.setsockopt(names.SOL_SOCKET, names.SO_SNDTIMEO, timeval(0.1))
    with pytest.raises(BlockingIOError):
        client.sendall(bytes(1 << 25))


def test_wrong_time_limits(net: ModuleType) -> None:
    with net.socket() as sock:
        wrong = struct.pack("ll", 0, 2_000_000)
        call = sock.setsockopt
        assert errno_of(call, names.SOL_SOCKET, names.SO_RCVTIMEO, wrong) == errno.EDOM


def test_low_water(pair: Pair, spawn: Callable[..., Any]) -> None:
    client, server = pair
    client.settimeout(None)
    client.setsockopt(names.SOL_SOCKET, names.SO_RCVLOWAT, 6)
    reader = []

    def receive() -> Any:
        reader.append(threading.get_native_id())
        return client.recv(100)

    got = spawn(receive)
    while not reader:
        time.sleep(0.001)
    # A reader of the kernel that finds three bytes when it comes is not woken by the next three.
    wait_until_asleep(reader[0])
    server.sendall(b"abc")
    server.sendall(b"def")
    assert got.result(PATIENCE_SECONDS) == b"abcdef"
    server.sendall(b"xy")
    server.shutdown(names.SHUT_WR)
    assert client.recv(100) == b"xy"


# ---- SO_LINGER ----


def test_linger_of_no_time_resets(pair: Pair) -> None:
    client, server = pair
    client.setsockopt(names.SOL_SOCKET, names.SO_LINGER, struct.pack("ii", 1, 0))
    client.sendall(b"lost or not")
    client.close()
    with pytest.raises(ConnectionResetError):
        receive_exactly(server, 1000)


def test_linger_waits_for_the_last_byte(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    """The peer does not read: close waits so long, and then lets the connection go on."""
    listener = closing(server_net.socket())
    listener.setsockopt(names.SOL_SOCKET, names.SO_RCVBUF, 4096)
    listener.bind((host, 0))
    listener.listen()
    client, server = connected(closing, closing(client_net.socket()), listener)
    client.setsockopt(names.SOL_SOCKET, names.SO_LINGER, struct.pack("ii", 1, 1))
    sent = fill(client)
    client.setblocking(True)
    started = time.monotonic()
    client.close()
    assert 0.9 <= time.monotonic() - started < 10
    assert len(receive_exactly(server, sent + 1)) == sent


def test_linger_is_over_when_all_is_acknowledged(pair: Pair) -> None:
    client, server = pair
    client.setsockopt(names.SOL_SOCKET, names.SO_LINGER, struct.pack("ii", 1, 15))
    client.sendall(b"taken")
    started = time.monotonic()
    reader = threading.Thread(target=lambda: receive_exactly(server, 5))
    reader.start()
    client.close()
    assert time.monotonic() - started < 10
    reader.join()
    assert server.recv(10) == b""


def test_no_linger_returns_at_once(pair: Pair) -> None:
    client, server = pair
    client.setsockopt(names.SOL_SOCKET, names.SO_LINGER, struct.pack("ii", 0, 10))
    sent = fill(client)
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 5
    assert len(receive_exactly(server, sent + 1)) == sent


# ---- TCP ----


def waits(sock: Any, seconds: float) -> bool:
    """True when nothing comes for so long."""
    return not select.select([sock], [], [], seconds)[0]


def test_cork_holds_back_what_fills_no_segment(pair: Pair) -> None:
    client, server = pair
    client.setsockopt(TCP, names.TCP_CORK, 1)
    begun = time.monotonic()
    for _ in range(10):
        client.sendall(b"x")
    assert receive_exactly(server, 10) == b"x" * 10
    assert time.monotonic() - begun > 0.15, "for 200 ms it holds"
    seconds = []
    for _ in range(5):
        client.setsockopt(TCP, names.TCP_CORK, 1)
        client.sendall(b"y")
        begun = time.monotonic()
        client.setsockopt(TCP, names.TCP_CORK, 0)
        assert server.recv(100) == b"y"
        seconds.append(time.monotonic() - begun)
    assert statistics.median(seconds) < 0.1, "without it, nothing waits"


def test_a_cork_is_no_stopper(pair: Pair) -> None:
    client, server = pair
    client.setsockopt(TCP, names.TCP_CORK, 1)
    client.sendall(b"late")
    assert server.recv(100) == b"late"  # after 200 ms
    client.sendall(b"end")
    client.shutdown(names.SHUT_WR)
    assert receive_exactly(server, 100) == b"end"
    bulk = bytes(1_000_000)
    server.setsockopt(TCP, names.TCP_CORK, 1)
    reader = threading.Thread(target=lambda: receive_exactly(client, len(bulk)))
    reader.start()
    server.sendall(bulk)
    reader.join(PATIENCE_SECONDS)
    assert not reader.is_alive()


def test_deferred_accepts_wait_for_bytes(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    listener = closing(server_net.socket())
    listener.setsockopt(TCP, names.TCP_DEFER_ACCEPT, 20)
    listener.bind((host, 0))
    listener.listen()
    listener.setblocking(False)
    with client_net.create_connection(listener.getsockname(), PATIENCE_SECONDS) as client:
        assert waits(listener, 0.2)
        with pytest.raises(BlockingIOError):
            listener.accept()
        client.sendall(b"now")
        assert not waits(listener, PATIENCE_SECONDS)
        server, _ = listener.accept()
        with server:
            server.settimeout(PATIENCE_SECONDS)
            assert server.recv(10) == b"now"


def test_a_deferred_connection_that_goes_away(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    listener = closing(server_net.socket())
    listener.setsockopt(TCP, names.TCP_DEFER_ACCEPT, 20)
    listener.bind((host, 0))
    listener.listen()
    with client_net.create_connection(listener.getsockname(), PATIENCE_SECONDS) as client:
        client.setsockopt(names.SOL_SOCKET, names.SO_LINGER, struct.pack("ii", 1, 0))
    with client_net.create_connection(listener.getsockname(), PATIENCE_SECONDS) as client:
        client.sendall(b"second")
        while True:
            server, _ = listener.accept()
            with server:
                server.settimeout(PATIENCE_SECONDS)
                try:
                    if server.recv(10) == b"second":
                        break
                except ConnectionResetError:
                    continue
    listener.close()


STATES = {"established": 1, "close-wait": 8, "listen": 10, "close": 7}


def test_tcp_info(client_net: ModuleType, pair: Pair, listener: Any) -> None:
    client, server = pair
    client.sendall(bytes(10_000))
    receive_exactly(server, 10_000)
    server.sendall(b"done")
    receive_exactly(client, 4)
    raw = client.getsockopt(TCP, names.TCP_INFO, 232)
    assert len(raw) == 232
    state, _, retransmits, _, _, _, scales = struct.unpack_from("7B", raw)
    assert state == STATES["established"]
    assert retransmits == 0
    assert scales & 15
    rto, _, snd_mss, rcv_mss = struct.unpack_from("4I", raw, 8)
    assert 1_000 <= rto <= 10_000_000
    assert 500 <= snd_mss <= 65536
    assert rcv_mss > 0
    ssthresh, cwnd = struct.unpack_from("2I", raw, 76)
    assert cwnd >= 1
    assert ssthresh > 0
    acked, received = struct.unpack_from("2Q", raw, 120)
    assert acked in (10_000, 10_001)  # the kernel counts the SYN
    assert received == 4
    assert listener.getsockopt(TCP, names.TCP_INFO, 1)[0] == STATES["listen"]
    with client_net.socket() as fresh:
        assert fresh.getsockopt(TCP, names.TCP_INFO) & 255 == STATES["close"]
    client.shutdown(names.SHUT_WR)
    assert server.recv(1) == b""
    assert server.getsockopt(TCP, names.TCP_INFO, 1)[0] == STATES["close-wait"]


def test_the_largest_segment(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    listener = closing(server_net.create_server((host, 0)))
    client = closing(client_net.socket())
    client.setsockopt(TCP, names.TCP_MAXSEG, 1000)
    assert client.getsockopt(TCP, names.TCP_MAXSEG) == 1000
    client, server = connected(closing, client, listener)
    for sock in (client, server):
        assert sock.getsockopt(TCP, names.TCP_MAXSEG) <= 1000
    client.sendall(bytes(100_000))
    assert len(receive_exactly(server, 100_000)) == 100_000


def test_what_an_accepted_socket_inherits(
    client_net: ModuleType, server_net: ModuleType, host: str, closing: Closing
) -> None:
    settings = [
        (names.SOL_SOCKET, names.SO_KEEPALIVE, 1),
        (TCP, names.TCP_KEEPIDLE, 33),
        (TCP, names.TCP_KEEPCNT, 4),
        (TCP, names.TCP_NODELAY, 1),
        (TCP, names.TCP_USER_TIMEOUT, 4321),
        (names.IPPROTO_IP, names.IP_TOS, 16),
        (names.IPPROTO_IP, names.IP_TTL, 55),
    ]
    listener = closing(server_net.create_server((host, 0)))
    for level, option, value in settings:
        listener.setsockopt(level, option, value)
    _, server = connected(closing, closing(client_net.socket()), listener)
    for level, option, value in settings:
        assert server.getsockopt(level, option) == value


def test_a_device_that_is_not_there(net: ModuleType) -> None:
    with net.socket() as sock:
        call = sock.setsockopt
        name = b"no-such-device"
        assert errno_of(call, names.SOL_SOCKET, names.SO_BINDTODEVICE, name) == errno.ENODEV


def test_a_device(client_side: Side, server_net: ModuleType, host: str, closing: Closing) -> None:
    listener = closing(server_net.create_server((host, 0)))
    client = closing(client_side.net.socket())
    device = client_side.device.encode()
    client.setsockopt(names.SOL_SOCKET, names.SO_BINDTODEVICE, device)
    assert client.getsockopt(names.SOL_SOCKET, names.SO_BINDTODEVICE, 16) == device + b"\0"
    client, server = connected(closing, client, listener)
    client.sendall(b"over it")
    assert server.recv(10) == b"over it"


def test_what_was_read_can_be_set_again(pair: Pair) -> None:
    """py-amqp does that with every option of TCP that it knows."""
    refused = {}
    for name in ("CORK", "DEFER_ACCEPT", "FASTOPEN", "KEEPCNT", "KEEPIDLE", "KEEPINTVL", "LINGER2"):
        refused[name] = set_again(pair, name)
    for name in ("NODELAY", "QUICKACK", "SYNCNT", "USER_TIMEOUT", "WINDOW_CLAMP"):
        refused[name] = set_again(pair, name)
    assert {name: code for name, code in refused.items() if code} == {"FASTOPEN": errno.EINVAL}


def set_again(pair: Pair, name: str) -> int:
    """The errno with which a connection refuses its own value; 0: it does not."""
    for sock in pair:
        option = getattr(names, f"TCP_{name}")
        try:
            sock.setsockopt(TCP, option, sock.getsockopt(TCP, option))
        except OSError as error:
            return error.errno or -1
    return 0


def test_a_window_without_a_bound_before_there_is_a_connection(
    net: ModuleType, host: str, closing: Closing
) -> None:
    sock = closing(net.socket())
    sock.bind((host, 0))
    assert sock.getsockopt(TCP, names.TCP_WINDOW_CLAMP) == 0
    sock.setsockopt(TCP, names.TCP_WINDOW_CLAMP, 0)
    sock.listen()
    assert errno_of(sock.setsockopt, TCP, names.TCP_WINDOW_CLAMP, 0) == errno.EINVAL
