"""Certificates for tests, made anew for every run."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority, a certificate of the server localhost and one of a client, as PEM files."""

    authority: Path
    server: Path
    client: Path
    stranger: Path  # a server's, of an authority that nobody trusts

    def server_context(self, **options: object) -> ssl.SSLContext:
        """For a server that shows its certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        return _with(context, options)

    def client_context(self, **options: object) -> ssl.SSLContext:
        """For a client that trusts the authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.authority)
        return _with(context, options)


def _with(context: ssl.SSLContext, options: dict[str, object]) -> ssl.SSLContext:
    for name, value in options.items():
        setattr(context, name, value)
    return context


def make(directory: Path) -> Certificates:
    """Writes them into `directory`."""
    authority = trustme.CA()
    paths = Certificates(*(directory / f"{name}.pem" for name in Certificates.__slots__))
    authority.cert_pem.write_to_path(str(paths.authority))
    names = ("localhost", "127.0.0.1", "::1")
    authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(paths.server))
    authority.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(
        str(paths.client)
    )
    trustme.CA().issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(
        str(paths.stranger)
    )
    return paths
