"""Many sockets, many clients: all of them with traffic, none forgotten, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pifus
from tests.conftest import BackendProcess

StartBackend = Callable[..., BackendProcess]

MANY_SOCKETS = 1024
MANY_CLIENTS = 256
IDLE_BYTES = 64 * 1024
SECONDS = 60.0


def listener_of(client: pifus.Client) -> tuple[pifus.Socket, tuple[str, int]]:
    listener = client.socket(pifus.TCP)
    listener.bind(("127.0.0.1", 0))
    listener.wait(SECONDS).check()
    listener.listen(255)
    listener.wait(SECONDS).check()
    address = listener.local_address
    assert address is not None
    return listener, (str(address[0]), int(address[1]))


def connect_pair(
    client: pifus.Client, listener: pifus.Socket, address: tuple[str, int]
) -> tuple[pifus.Socket, pifus.Socket]:
    near = client.socket(pifus.TCP)
    listener.accept()
    near.connect(address)
    near.wait(SECONDS).check()
    far = listener.wait(SECONDS).check().accepted
    assert far is not None
    return near, far


def mapped_bytes(process: int | str, label: str) -> int:
    """Resident memory of a process's mappings of this name."""
    total = 0
    ours = False
    for line in Path(f"/proc/{process}/smaps").read_text(encoding="utf-8").splitlines():
        if not line[:1].isupper():  # a mapping's own line starts with its address
            ours = label in line
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def resident_bytes(backend: BackendProcess) -> int:
    """What the regions take: each is counted where it is written, for there it is touched."""
    return mapped_bytes(backend.pid, "pifus-b2c") + mapped_bytes("self", "pifus-c2b")


def test_1024_sockets_of_one_client_all_with_traffic(start_backend: StartBackend) -> None:
    backend = start_backend("scale")
    with pifus.Client(backend.path, max_sockets=MANY_SOCKETS) as client:
        listener, address = listener_of(client)
        pairs = [connect_pair(client, listener, address) for _ in range(MANY_SOCKETS // 2 - 1)]
        sockets = [sock for pair in pairs for sock in pair]
        assert len(sockets) + 2 == MANY_SOCKETS
        spare = client.socket(pifus.TCP)
        for turn in range(3):
            # Everybody writes and receives at once; nobody waits for anybody else.
            for number, sock in enumerate(sockets):
                sock.recv(100)
                sock.write(b"%d of %d" % (number ^ 1, turn))
            spare.nop()
            expected = {sock: b"%d of %d" % (n, turn) for n, sock in enumerate(sockets)}
            for _ in range(2 * len(sockets) + 1):
                done = client.wait_any(SECONDS)
                assert done is not None
                done.check()
                if done.opcode is pifus.Opcode.RECV:
                    assert done.data == expected.pop(done.sock)
            assert not expected


def test_idle_connected_socket_takes_little_memory(start_backend: StartBackend) -> None:
    backend = start_backend("scale")
    with pifus.Client(backend.path, max_sockets=MANY_SOCKETS) as client:
        listener, address = listener_of(client)
        pairs = [connect_pair(client, listener, address)]
        before = resident_bytes(backend)
        assert before > 0
        pairs += [connect_pair(client, listener, address) for _ in range(200)]
        for near, far in pairs:  # some bytes each, as every real connection has had
            near.write(b"x" * 1000)
            near.wait(SECONDS).check()
            far.recv(2000)
            assert far.wait(SECONDS).check().data == b"x" * 1000
        per_socket = (resident_bytes(backend) - before) / 400
        assert per_socket <= IDLE_BYTES


def test_closed_sockets_give_their_memory_to_the_next(start_backend: StartBackend) -> None:
    backend = start_backend("scale")
    with pifus.Client(backend.path) as client:
        listener, address = listener_of(client)

        def round_trip() -> None:
            near, far = connect_pair(client, listener, address)
            near.write(b"y" * 100_000)
            near.wait(SECONDS).check()
            far.recv(1_000_000)
            far.wait(SECONDS).check()
            far.release()
            near.release()

        # Long enough for the queues of the slots in turn to have been gone through once.
        for _ in range(600):
            round_trip()
        before = resident_bytes(backend)
        for _ in range(600):
            round_trip()
        # 600 connections of 12 KiB of queues and 100 KB of ring each would be 70 MB.
        assert resident_bytes(backend) <= before + 1_000_000


def test_256_clients_at_once_all_with_traffic(start_backend: StartBackend) -> None:
    backend = start_backend("scale")
    clients: list[pifus.Client] = []
    try:
        server = pifus.Client(backend.path)
        clients.append(server)
        listener, address = listener_of(server)
        listener.accept(multishot=True)
        sockets: list[pifus.Socket] = []
        for _ in range(MANY_CLIENTS):
            client = pifus.Client(backend.path, max_sockets=16, arena_bytes=1 << 20)
            clients.append(client)
            sock = client.socket(pifus.TCP)
            sock.connect(address)
            sockets.append(sock)
        peers: list[pifus.Socket] = []
        while len(peers) < MANY_CLIENTS:
            accepted = listener.wait(SECONDS).check().accepted
            assert accepted is not None
            accepted.recv(100)
            peers.append(accepted)
        for number, sock in enumerate(sockets):
            sock.wait(SECONDS).check()
            sock.write(b"client %d" % number)
            sock.recv(100)
        echoed = 0
        while echoed < MANY_CLIENTS:
            done = server.wait_any(SECONDS)
            assert done is not None
            done.check()
            if done.opcode is pifus.Opcode.RECV:
                assert done.data
                done.sock.write(done.data)
                echoed += 1
        for number, sock in enumerate(sockets):
            answers = [sock.wait(SECONDS).check() for _ in range(2)]
            (data,) = (done.data for done in answers if done.opcode is pifus.Opcode.RECV)
            assert data == b"client %d" % number
    finally:
        for client in clients:
            client.close()
