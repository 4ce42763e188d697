"""Accepting over a real backend, at the edges."""

from __future__ import annotations

import pytest

import pifus
from tests.conftest import BackendProcess

SECONDS = 20.0


def test_multishot_accept_leaves_room_for_other_operations(backend: BackendProcess) -> None:
    with (
        pifus.Client(backend.path, queue_depth=8) as server,
        pifus.Client(backend.path) as other,
    ):
        listener = server.socket()
        listener.bind(("127.0.0.1", 0))
        listener.wait(SECONDS).check()
        listener.listen(64)
        listener.wait(SECONDS).check()
        listener.accept(multishot=True)
        address = listener.local_address
        assert address is not None
        peers = [other.socket() for _ in range(40)]
        for peer in peers:
            peer.connect(address)
        for peer in peers:
            peer.wait(SECONDS).check()
        # Nothing was taken yet: the completions of the accept are there, and all of these besides.
        operations = {listener.nop() for _ in range(server.queue_depth - 1)}
        accepted = 0
        while operations or accepted < len(peers):
            done = listener.wait(SECONDS).check()
            operations.discard(done.op)
            accepted += done.opcode is pifus.Opcode.ACCEPT


def test_connection_that_cannot_be_adopted_is_reset(backend: BackendProcess) -> None:
    with pifus.Client(backend.path, max_sockets=1) as small, pifus.Client(backend.path) as other:
        listener = small.socket()
        listener.bind(("127.0.0.1", 0))
        listener.wait(SECONDS).check()
        listener.listen()
        listener.wait(SECONDS).check()
        listener.accept()
        address = listener.local_address
        assert address is not None
        peer = other.socket()
        peer.connect(address)
        peer.wait(SECONDS).check()
        with pytest.raises(OSError, match=r"[Tt]oo many|in use"):
            listener.wait(SECONDS).check()
        peer.recv(1)
        with pytest.raises(ConnectionResetError):
            peer.wait(SECONDS).check()


def test_bytes_before_a_reset_are_read_before_it_shows(client: pifus.Client) -> None:
    listener = client.socket()
    listener.bind(("127.0.0.1", 0))
    listener.wait(SECONDS).check()
    listener.listen()
    listener.wait(SECONDS).check()
    address = listener.local_address
    assert address is not None
    listener.accept()
    peer = client.socket()
    peer.connect(address)
    peer.wait(SECONDS).check()
    peer.write(b"bye")
    peer.wait(SECONDS).check()
    peer.close(abort=True)
    peer.wait(SECONDS).check()
    # Only now is the connection taken up.
    accepted = listener.wait(SECONDS).check().accepted
    assert accepted is not None
    accepted.recv(10)
    assert accepted.wait(SECONDS).check().data == b"bye"
    accepted.recv(10)
    with pytest.raises(ConnectionResetError):
        accepted.wait(SECONDS).check()
    accepted.release()
    listener.release()
