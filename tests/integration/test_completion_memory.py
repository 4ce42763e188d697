"""Registered blocks and receive leases: bytes that are not copied."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

import pytest

import pifus
from pifus._core import _address
from pifus._core._client import ffi
from tests.conftest import BackendProcess, Pair

if TYPE_CHECKING:
    from pifus._core._client import CData

SECONDS = 10.0


def receive(sock: pifus.Socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        sock.recv(count - len(got))
        data = sock.wait(SECONDS).check().data
        assert data
        got += data
    return got


def test_a_block_is_sent_again_and_again(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    free = client.arena_free
    with client.register(1000) as block:
        assert len(block) == block.size == len(block.view) == 1000
        for number in range(200):
            block.view[:4] = number.to_bytes(4, "big")
            op = ours.write_block(block, 4)
            done = ours.wait(SECONDS).check()
            assert (done.op, done.result) == (op, 4)
            assert receive(theirs, 4) == number.to_bytes(4, "big")
        block.view[:] = bytes(range(250)) * 4
        ours.write_block(block)
        assert ours.wait(SECONDS).check().result == 1000
        assert receive(theirs, 1000) == bytes(range(250)) * 4
    assert client.arena_free == free
    block.release()
    with pytest.raises(ValueError, match="released"):
        ours.write_block(block)


def test_a_block_under_way_is_refused(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    block = client.register(10)
    block.view[:] = b"0123456789"
    assert not block.busy
    first = ours.recv(1, link=True)
    second = ours.write_block(block)  # waits for the receive
    assert block.busy
    with pytest.raises(pifus.BlockBusy, match="second block"):
        ours.write_block(block)
    with pytest.raises(BlockingIOError):
        theirs.write_block(block)
    theirs.write(b"!")
    theirs.wait(SECONDS).check()
    assert {ours.wait(SECONDS).check().op for _ in range(2)} == {first, second}
    assert not block.busy
    assert receive(theirs, 10) == b"0123456789"
    for bad in (0, -1, 11):
        with pytest.raises(ValueError, match="10"):
            ours.write_block(block, bad)


def test_blocks_end_with_their_owners(backend: BackendProcess, pair: Pair) -> None:
    ours, _ = pair
    free = ours.client.arena_free
    block = ours.client.register(300)
    assert ours.client.arena_free == free - 512
    del block
    gc.collect()
    assert ours.client.arena_free == free
    with pytest.raises(ValueError, match="allowed"):
        ours.client.register(0)
    with pytest.raises(ValueError, match="allowed"):
        ours.client.register(1 << 21)
    with pifus.Client(backend.path, arena_bytes=65536) as other:
        foreign = other.register(65536)
        with pytest.raises(pifus.ArenaFull):
            other.register(1)
        with pytest.raises(ValueError, match="another client"):
            ours.write_block(foreign)
    foreign.view[:2] = b"ok"  # the memory outlives the session
    assert not foreign.busy
    foreign.release()


def test_something_else_uses_the_view(client: pifus.Client) -> None:
    block = client.register(16)
    other = (block.view[2:4]).cast("B")
    with memoryview(block.view) as second:
        second[0] = 1
    other.release()
    block.release()
    with pytest.raises(ValueError, match="released"):
        block.view[0] = 1


def test_periodic_writes_allocate_nothing(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    block = client.register(64)

    def rounds(count: int) -> None:
        for number in range(count):
            block.view[0] = number & 0xFF
            ours.write_block(block)
            ours.wait(SECONDS)
            theirs.recv(64)
            theirs.wait(SECONDS)

    rounds(200)
    gc.collect()
    tracemalloc.start()
    try:
        rounds(50)
        before = tracemalloc.get_traced_memory()[0]
        free = client.arena_free
        rounds(2000)
        assert tracemalloc.get_traced_memory()[0] - before < 4096
        assert client.arena_free == free
    finally:
        tracemalloc.stop()


# ---- leases ----


def test_a_lease_shows_the_bytes(pair: Pair) -> None:
    ours, theirs = pair
    theirs.recv(100, lease=True)
    ours.write(b"abcdef")
    done = theirs.wait(SECONDS).check()
    assert (done.result, done.data) == (6, None)
    with theirs.lease(done) as view:
        assert view.readonly
        assert bytes(view) == b"abcdef"
    with pytest.raises(ValueError, match="released"):
        bytes(view)
    with pytest.raises(ValueError, match="once"), theirs.lease(done):
        pass
    theirs.recv(3)
    ours.write(b"xyz")
    done = theirs.wait(SECONDS).check()
    assert done.data == b"xyz"
    with pytest.raises(ValueError, match="lease=True"):
        theirs.lease(done)


def test_later_receives_get_theirs(pair: Pair) -> None:
    ours, theirs = pair
    ours.write(b"aaabbbbcc")
    ours.wait(SECONDS).check()
    theirs.recv(3, lease=True)
    first = theirs.wait(SECONDS).check()
    theirs.recv(4)
    assert theirs.wait(SECONDS).check().data == b"bbbb"
    theirs.recv(2, lease=True)
    third = theirs.wait(SECONDS).check()
    with theirs.lease(third) as later:
        with theirs.lease(first) as view:
            assert (bytes(view), bytes(later)) == (b"aaa", b"cc")
        assert bytes(later) == b"cc"
    ours.write(b"d")
    theirs.recv(9)
    assert theirs.wait(SECONDS).check().data == b"d"


def test_leases_keep_their_room_and_every_byte(client: pifus.Client) -> None:
    with client.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.wait(SECONDS).check()
        listener.listen()
        listener.wait(SECONDS).check()
        listener.accept()
        ours = client.socket(rx_bytes=4096)
        address = listener.local_address
        assert address is not None
        ours.connect(address)
        ours.wait(SECONDS).check()
        theirs = listener.wait(SECONDS).check().accepted
        assert theirs is not None
    wanted = bytes(i * 7 % 251 for i in range(100_000))
    theirs.write(wanted)
    got = bytearray()
    turn = 0
    while len(got) < len(wanted):
        turn += 1
        ours.recv(1000 + turn % 1500, lease=bool(turn % 3))
        done = ours.wait(SECONDS).check()
        if turn % 3:
            with ours.lease(done) as view:
                got += view
        else:
            assert done.data
            got += done.data
    assert bytes(got) == wanted


def test_leases_where_there_is_nothing(client: pifus.Client, pair: Pair) -> None:
    ours, theirs = pair
    theirs.recv(10, lease=True, timeout=0.01)
    late = theirs.wait(SECONDS)
    assert late.late
    with pytest.raises(ValueError, match="without an error"):
        theirs.lease(late)
    udp = client.socket(pifus.UDP)
    with pytest.raises(ValueError, match="TCP"):
        udp.recv(10, lease=True)
    theirs.recv(10, lease=True)
    ours.close()
    done = theirs.wait(SECONDS).check()
    assert done.result == 0
    with theirs.lease(done) as view:
        assert bytes(view) == b""


def test_an_address_is_read_from_memory_that_is_still_there(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    addresses = ours.local_address, theirs.peer_address
    really = _address.from_native
    kept: list[CData] = []

    def after_others(address: CData, family: int | None = None) -> object:
        # Whatever was let go of before the call belongs to these now.
        for _ in range(100):
            kept.append(ffi.new("struct pf_socket_b2c *"))
            ffi.memmove(kept[-1], b"\xff" * ffi.sizeof(kept[-1][0]), ffi.sizeof(kept[-1][0]))
        return really(address, family)

    monkeypatch.setattr(_address, "from_native", after_others)
    assert (ours.local_address, theirs.peer_address) == addresses
