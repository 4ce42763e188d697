"""What the machine's own files say of names: /etc/hosts and /etc/resolv.conf."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_HOSTS: Final = "/etc/hosts"
_RESOLV_CONF: Final = "/etc/resolv.conf"
# Of resolv.conf(5): the defaults, and the most that an option can say.
_OPTIONS: Final = {"ndots": (1, 15), "timeout": (5, 30), "attempts": (2, 5)}
_LOOPBACK: Final = ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a host.

    Attributes:
        name: its canonical name.
        aliases: its other names.
        addresses: families and texts.
    """

    name: str
    aliases: tuple[str, ...]
    addresses: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to ask name servers.

    Attributes:
        search: domains to try a name in.
        ndots: names with so many dots are tried as they are first.
        timeout: seconds to wait for each answer.
        attempts: how often to ask each server.
    """

    search: tuple[str, ...]
    ndots: int
    timeout: int
    attempts: int


@dataclass(slots=True)
class _Hosts:
    """The lines of the hosts file, by the names and by the addresses in them."""

    by_name: dict[str, list[Found]] = field(default_factory=dict)
    by_address: dict[str, Found] = field(default_factory=dict)


def of_name(host: str, families: Sequence[int]) -> Found | None:
    """What the hosts file, or RFC 6761 for `localhost` and what is below it, says of a name.

    None: nothing, for these families.
    """
    lines = _hosts().by_name.get(host.lower(), [])
    addresses = [pair for line in lines for pair in line.addresses if pair[0] in families]
    if addresses:
        line = next(line for line in lines if line.addresses[0][0] in families)
        return Found(line.name, line.aliases, tuple(dict.fromkeys(addresses)))
    loopback = tuple(pair for pair in _LOOPBACK if pair[0] in families)
    for line in lines:
        if line.addresses[0] in _LOOPBACK:  # it is this host, by either protocol
            return Found(line.name, line.aliases, loopback)
    if f".{host.lower().removesuffix('.')}".endswith(".localhost"):
        return Found(host, (), loopback)
    return None


def of_address(address: str) -> Found | None:
    """The same for the text of an address."""
    known = _hosts().by_address.get(address)
    for pair in _LOOPBACK:
        if known is None and pair[1] == address:
            return Found("localhost", (), (pair,))
    return known


def settings() -> Settings:
    """What resolv.conf(5) says, $LOCALDOMAIN and $RES_OPTIONS, but for its name servers."""
    _, _, domain = socket.gethostname().partition(".")
    search = [domain] if domain else []
    options: list[str] = []
    for words in _lines(_RESOLV_CONF, "#;"):
        if words[0] == "domain":
            search = words[1:2]
        elif words[0] == "search":
            search = words[1:]
        elif words[0] == "options":
            options += words[1:]
    search = os.environ.get("LOCALDOMAIN", "").split() or search
    values = {name: default for name, (default, _) in _OPTIONS.items()}
    for option in [*options, *os.environ.get("RES_OPTIONS", "").split()]:
        name, _, number = option.partition(":")
        if name in _OPTIONS and number.isdecimal():
            values[name] = min(int(number), _OPTIONS[name][1])
    return Settings(
        tuple(domain.strip(".") for domain in search if domain != "."),
        values["ndots"],
        max(values["timeout"], 1),
        max(values["attempts"], 1),
    )


def _hosts() -> _Hosts:
    try:
        status = os.stat(_HOSTS)  # noqa: PTH116 - as open: on every look-up
    except OSError:
        return _Hosts()
    return _read_hosts((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@functools.lru_cache(maxsize=1)
def _read_hosts(_version: tuple[int, ...]) -> _Hosts:
    hosts = _Hosts()
    for words in _lines(_HOSTS, "#"):
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(words[0])
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            if len(words) > 1:
                line = Found(words[1], tuple(words[2:]), ((family, str(address)),))
                hosts.by_address.setdefault(str(address), line)
                for name in dict.fromkeys(map(str.lower, words[1:])):
                    hosts.by_name.setdefault(name, []).append(line)
    return hosts


def _lines(path: str, comments: str) -> Iterator[list[str]]:
    """The words of each line; none, if it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        for sign in comments:
            line = line.partition(sign)[0]  # noqa: PLW2901
        if words := line.split():
            yield words
