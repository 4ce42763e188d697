"""A reader that takes its time gets every byte before the end of the stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from tests.contract.conftest import receive_exactly

# Beyond the window, by less than a segment: the last segment has to be cut where the window ends.
SIZES = (262_146, 266_000, 270_000, 272_000, 276_000)
# The sender waits so long for a larger window before it cuts a segment: a few ticks of its timer.
PAUSE_SECONDS = 0.8


@pytest.mark.parametrize("sip", [1, 100, 5000])
def test_the_end_comes_after_the_last_byte(
    make_pair: Callable[[], tuple[Any, Any]], spawn: Callable[..., Future[Any]], sip: int
) -> None:
    pairs = [(size, *make_pair()) for size in SIZES]

    def send(sock: Any, size: int) -> None:
        sock.sendall(bytes(i % 251 for i in range(size)))
        sock.shutdown(1)

    sending = [spawn(send, near, size) for size, near, _ in pairs]
    # So little room is made that nobody is told of it.
    taken = [receive_exactly(far, sip) for _, _, far in pairs]
    time.sleep(PAUSE_SECONDS)  # slowness itself is what is tested
    for (size, _, far), first in zip(pairs, taken, strict=True):
        rest = receive_exactly(far, size)  # more than is left: up to the end
        assert first + rest == bytes(i % 251 for i in range(size))
    for one in sending:
        one.result()
