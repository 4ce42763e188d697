"""The legs themselves: each side's sockets are where they are meant to be."""

from __future__ import annotations

from typing import Any

from pifus._compat import _table
from tests.contract.conftest import Pair
from tests.contract.legs import Leg
from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture

# Which of two connected sockets are the stack's: the client's, the server's.
OURS = {
    "kernel": (False, False),
    "pifus": (True, True),
    "connects": (True, False),
    "accepts": (False, True),
}


def test_a_pair(pair: Pair, listener: Any, leg: Leg) -> None:
    client, server = (sock.fileno() in _table.endpoints for sock in pair)
    assert (client, server) == OURS[leg.name]
    assert (listener.fileno() in _table.endpoints) == server
    assert [sock.getsockname()[0] for sock in pair] == [leg.client.host, leg.server.host]


def test_a_pair_of_a_program(run: Run, leg: Leg) -> None:  # noqa: F811
    """The near socket is the stack's wherever one is."""
    code = """
near, far = pair()
print(near.getsockname()[0], far.getsockname()[0])
if "pifus" in sys.modules:
    from pifus._compat import _table
    print(*(sock.fileno() in _table.endpoints for sock in (near, far)))
near.close()
far.close()
"""
    hosts = sorted([leg.client.host, leg.server.host], reverse=leg.client is not leg.server)
    ours = {"kernel": "", "pifus": "True True\n"}.get(leg.name, "True False\n")
    assert run(HEAD + code) == f"{hosts[0]} {hosts[1]}\n{ours}"
