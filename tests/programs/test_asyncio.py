"""asyncio, unmodified."""

from __future__ import annotations

from tests.certificates import Certificates
from tests.programs.conftest import Program


def test_streams(program: Program, certificates: Certificates) -> None:
    script = "asyncio_streams.py"
    assert program(script, certificates.authority, certificates.server) == "all well\n"


def test_sockets(program: Program) -> None:
    assert program("asyncio_sockets.py") == "all well\n"
