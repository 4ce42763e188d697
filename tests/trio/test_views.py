"""No memoryview of ours is left in a traceback: CPython's garbage collector crashes on it if it
clears the view before the frame that holds it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator

import pytest
import trio

import pifus
import pifus.trio
from tests.conftest import BackendProcess
from tests.trio.test_streams import pair, run


def views(error: BaseException | None) -> Iterator[memoryview]:
    """The memoryviews in the frames that the error came through, also as another error."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            yield from (v for v in frame.f_locals.values() if isinstance(v, memoryview))
        error = error.__cause__ or error.__context__


def is_released(view: memoryview) -> bool:
    try:
        return not isinstance(view.nbytes, int)
    except ValueError:
        return True


async def fails(stream: pifus.trio.Stream) -> None:
    """Sends until that fails; looks at what is left of it."""
    data = bytearray(100_000)

    async def send() -> None:
        while True:
            await stream.send_all(data)

    with pytest.raises(trio.BrokenResourceError) as caught:
        await send()
    found = list(views(caught.value))
    assert found
    assert all(map(is_released, found))
    data.clear()  # no view keeps its size
    await stream.aclose()


def test_peer_gone(client: pifus.Client) -> None:
    async def main() -> None:
        left, right = await pair(client)
        await right.aclose()
        await fails(left)

    run(main)


def test_backend_gone(start_backend: Callable[..., BackendProcess]) -> None:
    backend = start_backend("trio-views")

    async def main() -> None:
        with pifus.Client(backend.path) as client:
            left, _ = await pair(client)
            backend.kill()
            await fails(left)

    run(main)
