"""Asks name servers by the stack's sockets. The protocol is dnspython's, the wires are ours."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.query
import dns.resolver
import dns.reversename

from pifus import _policy
from pifus._compat import _hosts, _methods

_TYPES: Final = {socket.AF_INET: "A", socket.AF_INET6: "AAAA"}
# Of nothing else is a host's name made: what a server says must not surprise a program.
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")


class _Server(dns.nameserver.AddressAndPortNameserver):
    """Reached by sockets of the stack, or where the rules send them."""

    def kind(self) -> str:
        return "pifus"

    def query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,
        source: str | None,  # noqa: ARG002
        source_port: int,  # noqa: ARG002
        max_size: bool,
        one_rr_per_rrset: bool = False,  # noqa: ARG002
        ignore_trailing: bool = False,  # noqa: ARG002
    ) -> dns.message.Message:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        kind = socket.SOCK_STREAM if max_size else socket.SOCK_DGRAM
        end = time.monotonic() + timeout
        with contextlib.closing(_methods.socket(family, kind)) as sock:
            sock.settimeout(timeout)
            # A datagram socket, too: so a refusal is told, and strangers are not heard.
            sock.connect((self.address, self.port))
            sock.setblocking(False)
            to: Any = {"where": self.address, "port": self.port, "sock": sock}
            to["timeout"] = max(end - time.monotonic(), 0.0)
            if max_size:
                return dns.query.tcp(request, **to)
            # Whatever is not the answer is no reason to stop waiting for it.
            to.update(raise_on_truncation=True, ignore_errors=True, ignore_unexpected=True)
            return dns.query.udp(request, **to)


def of_name(host: str, families: Sequence[int]) -> _hosts.Found:
    """The addresses of a name, by the search list of resolv.conf.

    Raises:
        socket.gaierror: as the system's resolver does.
    """
    settings = _hosts.settings()
    searched = [f"{host}.{domain}" for domain in settings.search]
    names, as_it_is_first = [*searched, host], False
    if host.endswith("."):
        names = [host]
    elif host.count(".") >= settings.ndots:
        names, as_it_is_first = [host, *searched], True
    failures = []
    for name in names:
        try:
            return _in_turn(_resolver(settings), name, families)
        except dns.exception.Timeout:
            raise failure(socket.EAI_AGAIN) from None  # the same servers will not answer now
        except dns.resolver.NXDOMAIN:
            failures.append(socket.EAI_NONAME)
        except dns.resolver.NoAnswer:
            failures.append(socket.EAI_NODATA)
        except dns.resolver.NoNameservers:
            failures.append(socket.EAI_AGAIN)
        except dns.exception.DNSException:
            failures.append(socket.EAI_NONAME)  # what can be no name
    if as_it_is_first:
        raise failure(failures[0])
    order = (socket.EAI_NODATA, socket.EAI_AGAIN, socket.EAI_NONAME)
    raise failure(next(code for code in order if code in failures))


def _in_turn(resolver: dns.resolver.Resolver, name: str, families: Sequence[int]) -> _hosts.Found:
    """The addresses of exactly this name; one family is enough.

    Raises:
        dns.exception.DNSException: there are none.
    """
    if not _HOST_NAME.fullmatch(name):
        raise dns.name.BadEscape
    addresses: list[tuple[int, str]] = []
    canonical = name.removesuffix(".")
    aliases: list[str] = []
    trouble: dns.exception.DNSException | None = None
    for family in families:
        try:
            answer = resolver.resolve(
                dns.name.from_text(name), _TYPES[socket.AddressFamily(family)], search=False
            )
        except (dns.exception.Timeout, dns.resolver.NXDOMAIN) as error:
            trouble = error
            break
        except dns.resolver.NoNameservers as error:
            trouble = error
            continue
        except dns.resolver.NoAnswer as error:
            trouble = trouble or error
            continue
        addresses += [(family, record.address) for record in answer]
        chain = [rrset.name for rrset in answer.chaining_result.cnames]
        aliases = list(_texts(chain)) or aliases
        canonical = next(_texts([answer.canonical_name]), canonical)
    if trouble is not None and not addresses:
        raise trouble
    return _hosts.Found(canonical, tuple(aliases), tuple(addresses))


def of_address(address: str) -> _hosts.Found | None:
    """The name of an address; None: it has none.

    Raises:
        socket.gaierror: nobody answered.
    """
    try:
        answer = _resolver(_hosts.settings()).resolve(
            dns.reversename.from_address(address), "PTR", search=False
        )
    except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
        return None
    except dns.exception.DNSException:
        raise failure(socket.EAI_AGAIN) from None
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    name = next(_texts(record.target for record in answer), None)
    return None if name is None else _hosts.Found(name, (), ((family, address),))


def failure(code: int) -> socket.gaierror:
    """The exception for an EAI_ constant, in the system's words."""
    return socket.gaierror(
        code,
        {
            socket.EAI_NONAME: "Name or service not known",
            socket.EAI_NODATA: "No address associated with hostname",
            socket.EAI_AGAIN: "Temporary failure in name resolution",
        }[code],
    )


def _texts(names: Any) -> Iterator[str]:
    for name in names:
        text = name.to_text(omit_final_dot=True)
        if _HOST_NAME.fullmatch(text):
            yield text


def _resolver(settings: _hosts.Settings) -> dns.resolver.Resolver:
    resolver = dns.resolver.Resolver(configure=False)
    servers = _policy.current().dns
    resolver.nameservers = [_Server(server.address, server.port) for server in servers]
    resolver.timeout = settings.timeout
    resolver.lifetime = settings.timeout * settings.attempts * len(servers)
    return resolver
