"""Runs of trio, one after the other, with one client."""

from __future__ import annotations

import pytest
import trio

import pifus
import pifus.trio
from pifus.trio import Listener, Stream

Made = tuple[Stream, Stream, Listener]


def test_sockets_of_a_run_that_is_over(client: pifus.Client) -> None:
    """What has come is read, and what is sent arrives; but nothing is waited for in vain."""

    async def make() -> Made:
        (listener,) = await pifus.trio.open_tcp_listeners(0, host="127.0.0.1", client=client)
        address = listener.local_address
        assert address is not None
        ours = await pifus.trio.open_tcp_stream(*address[:2], client=client)
        theirs = await listener.accept()
        await theirs.send_all(b"1")
        while not ours._endpoint.is_readable():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.001)
        return ours, theirs, listener

    left: Made = trio.run(make)

    async def use() -> None:
        ours, _, listener = left
        await ours.send_all(b"2")
        assert await ours.receive_some() == b"1"
        for call in (ours.receive_some, ours.flush, listener.accept):
            with trio.fail_after(5), pytest.raises(trio.ClosedResourceError, match="has ended"):
                await call()
        for resource in left:
            await resource.aclose()
        assert ours.socket.closed

    trio.run(use)
