"""Network libraries, unmodified."""

from __future__ import annotations

import pytest

from tests.certificates import Certificates
from tests.programs.conftest import Program

SCRIPTS = ["web_clients.py", "trio_streams.py", "tornado_app.py", "twisted_echo.py"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_library(program: Program, certificates: Certificates, script: str) -> None:
    assert program(script, certificates.authority, certificates.server) == "all well\n"


@pytest.mark.parametrize("library", ["gevent", "eventlet", "curio"])
def test_library_that_is_rarely_there(
    program: Program, certificates: Certificates, library: str
) -> None:
    pytest.importorskip(library)
    script = {"curio": "curio_streams.py"}.get(library, f"{library}_server.py")
    assert program(script, certificates.authority, certificates.server) == "all well\n"
