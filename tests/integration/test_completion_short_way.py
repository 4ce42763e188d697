"""What plain calls of the completion API do in C is what they do in Python."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

import pifus
from tests.conftest import Pair

SECONDS = 10.0


def test_a_timeout_is_any_number_of_seconds(client: pifus.Client) -> None:
    sock = client.socket()
    for seconds in (SECONDS, 10, True, Fraction(10), 10**30, float("inf"), None):
        op = sock.nop()
        assert sock.wait(seconds).op == op  # type: ignore[arg-type]
    for nothing in (0, 0.0, False, Fraction(0), Fraction(1, 10**9)):
        with pytest.raises(TimeoutError):
            sock.wait(nothing)  # type: ignore[arg-type]
    op = sock.nop()
    for bad in (-1, -1e-9, float("nan"), -(10**400), Fraction(-1)):
        with pytest.raises(ValueError, match="allowed is a number of seconds"):
            sock.wait(bad)  # type: ignore[arg-type]
    assert sock.wait(SECONDS).op == op  # what is refused has taken nothing


@pytest.mark.parametrize("size", [1, 4096, 4097, 50_000])
def test_short_and_long_messages(pair: Pair, size: int) -> None:
    """Up to some size they go a shorter way."""
    ours, theirs = pair
    data = random.Random(size).randbytes(size)
    for kind in (bytes, bytearray, memoryview):
        op = ours.write(kind(data))
        got = b""
        while len(got) < size:
            theirs.recv(size)
            done = theirs.wait(SECONDS).check()
            assert done.data is not None
            assert done.result == len(done.data)
            got += done.data
        assert got == data
        done = ours.wait(SECONDS).check()
        assert (done.op, done.result, done.data) == (op, size, None)
