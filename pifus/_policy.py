"""Which sockets go where, with what priority, and who is asked for names: what a user writes down.

A rule is `kernel TARGET` or `stack TARGET`; a priority rule is `PORTS=PRIORITY`. A target is

    127.0.0.0/8   10.1.2.3   [2001:db8::/32]   10.0.0.0/8:502   10.0.0.0/8:8000-8010   :8080   *

an address or a network, or none or `*` for any, and a port or a range of ports. The first rule
that fits decides. Here the rules are only read; `pifus._compat._rules` applies them.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RULES_VARIABLE: Final = "PIFUS_RULES"
CONFIG_VARIABLE: Final = "PIFUS_CONFIG"
PRIORITIES: Final = ("high", "medium", "low")
WORLDS: Final = ("kernel", "stack")
_ANY_PORT: Final = (0, 65535)
_DNS_PORT: Final = 53
NO_DNSPYTHON: Final = "dns: dnspython is missing: pip install 'pifus[dns]'"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Rule:
    """Where sockets with certain addresses and ports go.

    Attributes:
        world: "kernel" or "stack".
        network: the addresses; None: any.
        ports: the first and the last port.
    """

    world: str
    network: Network | None
    ports: tuple[int, int] = _ANY_PORT

    def fits(self, address: Address, port: int) -> bool:
        """True when it is about this address and port.

        A wildcard address (`0.0.0.0`, `::`) is in no network but the one of all addresses.
        """
        if not self.ports[0] <= port <= self.ports[1]:
            return False
        if self.network is None or (self.network.prefixlen == 0 and address.is_unspecified):
            return True
        if address.is_unspecified or address.version != self.network.version:
            return False
        return address in self.network

    def __str__(self) -> str:
        return f"{self.world} {_target_text(self.network, self.ports)}"


@dataclass(frozen=True, slots=True)
class PriorityRule:
    """The priority of sockets with one of these local or remote ports."""

    ports: tuple[int, int]
    priority: str

    def __str__(self) -> str:
        return f"{_ports_text(self.ports)}={self.priority}"


@dataclass(frozen=True, slots=True)
class NameServer:
    """Whom to ask for names: the text of an address, and a port."""

    address: str
    port: int = _DNS_PORT

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return host if self.port == _DNS_PORT else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules of a program, in order.

    Attributes:
        rules: where sockets go; the first that fits decides.
        priorities: by port; the first that fits decides.
        priority: of sockets that no priority rule is about; None: not said.
        strict: nothing but what a rule names may go to the kernel.
        dns: the name servers to ask by the stack's sockets; empty: the system resolves names.
    """

    rules: tuple[Rule, ...] = ()
    priorities: tuple[PriorityRule, ...] = ()
    priority: str | None = None
    strict: bool = False
    dns: tuple[NameServer, ...] = ()

    def world(self, address: Address, port: int) -> str | None:
        """ "kernel" or "stack", or None if no rule fits."""
        for rule in self.rules:
            if rule.fits(address, port):
                return rule.world
        return None

    def priority_of(self, port: int) -> str | None:
        """The priority that a rule gives to this port; a port of 0 has none."""
        for rule in self.priorities:
            if port and rule.ports[0] <= port <= rule.ports[1]:
                return rule.priority
        return None

    def before(self, other: Policy) -> Policy:
        """Both together: the rules of this one come first."""
        return Policy(
            self.rules + other.rules,
            self.priorities + other.priorities,
            self.priority or other.priority,
            self.strict or other.strict,
            self.dns or other.dns,
        )

    def __str__(self) -> str:
        """The text for $PIFUS_RULES."""
        words = [str(rule) for rule in self.rules]
        words += [f"priority {rule}" for rule in self.priorities]
        words += [f"priority {self.priority}"] if self.priority else []
        words += ["strict"] if self.strict else []
        words += [f"dns {','.join(map(str, self.dns))}"] if self.dns else []
        return "; ".join(words)


def parse_rule(world: str, target: str) -> Rule:
    """The rule of `--kernel TARGET` or `--stack TARGET`.

    Raises:
        ValueError: it is none; the text says what is wrong.
    """
    if world not in WORLDS:
        raise ValueError(f"rule {world!r} {target!r}: a rule begins with kernel or stack")
    text = target.strip()
    ports = _ANY_PORT
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"rule {target!r}: allowed is [ADDRESS] or [ADDRESS]:PORT")
        ports = parse_ports(rest[1:]) if rest else ports
    elif text.count(":") == 1:
        host, _, rest = text.partition(":")
        ports = parse_ports(rest)
    else:
        host = text
    if host in ("", "*"):
        if not text:
            raise ValueError("an empty rule: allowed is ADDRESS[/BITS][:PORT[-PORT]]")
        return Rule(world, None, ports)
    try:
        return Rule(world, ipaddress.ip_network(host), ports)
    except ValueError as error:
        raise ValueError(f"rule {target!r}: {error}") from None


def parse_ports(text: str) -> tuple[int, int]:
    """The range of `502` or `8000-8010`.

    Raises:
        ValueError: it is none.
    """
    first, dash, last = text.strip().partition("-")
    try:
        ports = (int(first, 10), int(last if dash else first, 10))
    except ValueError:
        ports = (-1, -1)
    if not 0 <= ports[0] <= ports[1] <= 65535:
        raise ValueError(f"ports {text!r}: allowed is a port or FIRST-LAST, 0 to 65535")
    return ports


def parse_priority(text: str) -> Policy:
    """What `--priority high` or `--priority 502=high` says.

    Raises:
        ValueError: it is neither.
    """
    ports, equals, name = text.strip().partition("=")
    if not equals:
        ports, name = "", ports
    name = name.strip().lower()
    if name not in PRIORITIES:
        raise ValueError(f"priority {text!r}: allowed is [PORTS=]{{{','.join(PRIORITIES)}}}")
    if not equals:
        return Policy(priority=name)
    return Policy(priorities=(PriorityRule(parse_ports(ports), name),))


def parse_dns(servers: Iterable[str]) -> Policy:
    """What `--dns` says: name servers as ADDRESS or ADDRESS:PORT, IPv6 with a port in brackets.

    Raises:
        ValueError: one is no address, or there is none.
    """
    found = tuple(_name_server(text.strip()) for text in servers)
    if not found:
        raise ValueError("dns: at least one address of a name server is needed")
    return Policy(dns=found)


def _name_server(text: str) -> NameServer:
    host, port = text, str(_DNS_PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        if rest and not rest.startswith(":"):
            raise ValueError(f"dns {text!r}: allowed is [ADDRESS] or [ADDRESS]:PORT")
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        return NameServer(str(ipaddress.ip_address(host)), parse_ports(port)[0])
    except ValueError as error:
        raise ValueError(f"dns {text!r}: {error}") from None


def parse(lines: Iterable[str]) -> Policy:
    """The policy of lines such as `kernel 127.0.0.0/8`, `priority 502=high`, `strict`, `dns ::1`.

    Raises:
        ValueError: a line is none of these.
    """
    policy = Policy()
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if not word:
            continue
        if word == "strict" and not rest:
            policy = policy.before(Policy(strict=True))
        elif word == "priority":
            policy = policy.before(parse_priority(rest))
        elif word == "dns":
            policy = policy.before(parse_dns(rest.split(",")))
        else:
            policy = policy.before(Policy(rules=(parse_rule(word, rest),)))
    return policy


def from_environment(environ: Mapping[str, str] | None = None) -> Policy:
    """What $PIFUS_RULES says, then what the file $PIFUS_CONFIG says, then $PIFUS_PRIORITY.

    Raises:
        ValueError: something in it is wrong.
        OSError: the file cannot be read.
    """
    environ = os.environ if environ is None else environ
    policy = parse(environ.get(RULES_VARIABLE, "").split(";"))
    config = environ.get(CONFIG_VARIABLE)
    if config:
        policy = policy.before(from_file(config))
    name = environ.get("PIFUS_PRIORITY")
    return policy.before(parse_priority(name)) if name else policy


_current: Policy | None = None


def current() -> Policy:
    """What holds for this process: by default what the environment says, read once.

    Raises:
        ValueError, OSError: what $PIFUS_RULES or $PIFUS_CONFIG says is wrong.
    """
    global _current
    if _current is None:
        _current = from_environment()
    return _current


def set_current(new: Policy | None) -> None:
    """Another one from now on; None: that of the environment, read anew."""
    global _current
    _current = new


def from_file(path: str | os.PathLike[str]) -> Policy:
    """The policy of a TOML file:

        rules = ["kernel 127.0.0.0/8", "stack 10.0.0.0/8:502"]
        strict = false
        dns = ["10.0.0.53", "[2001:db8::53]:5353"]

        [priority]
        default = "medium"
        502 = "high"
        "8000-8010" = "low"

    Raises:
        ValueError: it is no such file; the text names it.
        OSError: it cannot be read.
    """
    import tomllib

    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return _from_mapping(content)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def _from_mapping(content: Mapping[str, Any]) -> Policy:
    unknown = sorted(set(content) - {"rules", "strict", "priority", "dns"})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}: known are dns, priority, rules, strict")
    rules, strict = content.get("rules", []), content.get("strict", False)
    if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
        raise ValueError('rules: allowed is a list of texts such as "kernel 127.0.0.0/8"')
    if not isinstance(strict, bool):
        raise ValueError(f"strict is {strict!r}: allowed is true, false")
    policy = parse(rules).before(Policy(strict=strict))
    servers = content.get("dns", [])
    if not isinstance(servers, list) or not all(isinstance(text, str) for text in servers):
        raise ValueError('dns: allowed is a list of addresses such as "10.0.0.53"')
    policy = policy.before(parse_dns(servers)) if servers else policy
    priorities = content.get("priority", {})
    if not isinstance(priorities, dict):
        raise ValueError('priority: allowed is a table such as [priority] 502 = "high"')
    for ports, name in priorities.items():
        text = name if ports == "default" else f"{ports}={name}"
        policy = policy.before(parse_priority(str(text)))
    return policy


def _target_text(network: Network | None, ports: tuple[int, int]) -> str:
    host = "*" if network is None else str(network)
    if ports == _ANY_PORT:
        return host
    return f"{f'[{host}]' if ':' in host else host}:{_ports_text(ports)}"


def _ports_text(ports: tuple[int, int]) -> str:
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"
