"""The standard library's clients and servers over TLS."""

from __future__ import annotations

from tests.certificates import Certificates
from tests.programs.conftest import Program


def test_https(program: Program, certificates: Certificates) -> None:
    assert program("https.py", certificates.authority, certificates.server) == "all well\n"


def test_mail_and_files(program: Program, certificates: Certificates) -> None:
    assert program("mail_tls.py", certificates.authority, certificates.server) == "all well\n"
