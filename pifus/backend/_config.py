"""The configuration of a backend: one table of options for the command line and the TOML file."""

from __future__ import annotations

import argparse
import grp
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pifus._core import _paths, _protocol

DRIVERS = ("loopback", "tap")
# How long the idle stack thread, and a waiting client, look for news before they sleep.
# `balanced` begins with this, and then follows what a wake-up costs.
SPIN_NS = {"latency": 100_000, "balanced": 40_000, "powersave": 0}
# Who may have raw sockets; each includes those before it: the owner is the backend's own user.
RAW = ("nobody", "root", "owner", "users")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(slots=True)
class Config:
    """What a backend is to be; the fields are explained by `OPTIONS`."""

    name: str = _paths.DEFAULT_NAME
    socket: str = ""
    driver: list[str] = field(default_factory=list)
    tap_name: str = "pifus0"
    tap_ipv4: str = ""
    tap_host_ipv4: str = ""
    tap_ipv6: str = ""
    tap_host_ipv6: str = ""
    tap_mtu: int = 1500
    offload: bool = True
    gateway4: str = ""
    gateway6: str = ""
    profile: str = "balanced"
    min_share_medium: int = 0
    min_share_low: int = 0
    cpu: int = -1
    realtime: int = 0
    mlock: bool = False
    max_clients: int = 1024
    max_clients_per_user: int = 512
    max_sockets: int = 16384
    # Half of the pool: the rest is for connections that wait to be accepted or in TIME_WAIT.
    max_pcbs: int = 10000
    max_client_bytes: int = 1 << 33
    max_held_bytes: int = 1 << 29
    max_held_bytes_per_user: int = 0
    best_priority: str = "high"
    raw: str = "owner"
    mode: int = 0o600
    group: str = ""
    log_level: str = "info"
    private: bool = False
    control_fd: int = -1

    @property
    def drivers(self) -> list[str]:
        """The drivers to start; a host without loopback would be a strange one."""
        return ["loopback", *[name for name in self.driver if name != "loopback"]]

    @property
    def links(self) -> list[dict[str, Any]]:
        """The networks beside the loopback: device, own addresses, gateways."""
        if "tap" not in self.driver:
            return []
        addresses = [self.tap_ipv4, self.tap_ipv6]
        gateways = [self.gateway4, self.gateway6]
        return [
            {
                "device": self.tap_name,
                "addresses": [address for address in addresses if address],
                "gateways": [gateway for gateway in gateways if gateway],
            }
        ]

    @property
    def socket_path(self) -> Path:
        """Where the backend listens."""
        return _paths.check_path(self.socket) if self.socket else _paths.socket_path(self.name)

    def may_have_raw(self, uid: int) -> bool:
        """True when clients of this user may have raw sockets."""
        needed = "root" if uid == 0 else "owner" if uid == os.geteuid() else "users"
        return RAW.index(self.raw) >= RAW.index(needed)

    @property
    def held_bytes_per_user(self) -> int:
        """By default enough for full windows of nearly all sockets that a user may have."""
        return self.max_held_bytes_per_user or 8 * self.max_held_bytes

    @property
    def spin_ns(self) -> int:
        """The profile in nanoseconds: on a single processor spinning keeps the other side out."""
        return 0 if len(os.sched_getaffinity(0)) == 1 else SPIN_NS[self.profile]

    @property
    def spin_follows(self) -> bool:
        """Whether that is only the beginning."""
        return self.profile == "balanced" and self.spin_ns > 0


# ---- checks: each returns the value, or raises ValueError that says what is allowed ----


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r}: allowed is a text")
    return value


def _number(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, str):
            try:
                value = int(value, 10)
            except ValueError:
                raise ValueError(f"{value!r}: allowed is {low} to {high}") from None
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{value!r}: allowed is {low} to {high}")
        return value

    return check


def _choice(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r}: allowed is {', '.join(allowed)}")
        return str(value)

    return check


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r}: allowed is true, false")
    return value


def _drivers(value: Any) -> list[str]:
    names = value if isinstance(value, list) else [value]
    for name in names:
        _choice(*DRIVERS)(name)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r}: given twice")
    return list(names)


def _interface(kind: type[ipaddress.IPv4Interface] | type[ipaddress.IPv6Interface]) -> Any:
    example = "192.168.77.2/24" if kind is ipaddress.IPv4Interface else "fd00:77::2/64"

    def check(value: Any) -> str:
        try:
            if not isinstance(value, str) or "/" not in value:
                raise ValueError
            kind(value)
        except ValueError:
            raise ValueError(
                f"{value!r}: allowed is an address with prefix length, such as {example}"
            ) from None
        return str(value)

    return check


def _host(kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]) -> Any:
    def check(value: Any) -> str:
        try:
            return str(kind(_text(value)))
        except ValueError:
            version = 4 if kind is ipaddress.IPv4Address else 6
            raise ValueError(f"{value!r}: allowed is an IPv{version} address") from None

    return check


def _mode(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
        value = int(value, 8)
    if type(value) is not int or not 0 <= value <= 0o777:
        raise ValueError(f"{value!r}: allowed are three octal digits, such as 0660")
    return value


def _group(value: Any) -> str:
    try:
        grp.getgrnam(_text(value))
    except KeyError:
        raise ValueError(f"{value!r}: there is no such group") from None
    return str(value)


def _backend_name(value: Any) -> str:
    return _paths.check_name(_text(value))


def _socket(value: Any) -> str:
    return str(_paths.check_path(_text(value)))


@dataclass(frozen=True, slots=True)
class Option:
    """An option: `--name` on the command line, `name = …` in the file."""

    name: str
    check: Callable[[Any], Any]
    help: str
    metavar: str = ""

    @property
    def key(self) -> str:
        """The field of Config."""
        return self.name.replace("-", "_")


OPTIONS: tuple[Option, ...] = (
    Option("name", _backend_name, "name of this backend", "NAME"),
    Option("socket", _socket, "path of its UNIX socket, in place of the one of NAME", "PATH"),
    Option("driver", _drivers, "network driver: loopback (always there), tap", "DRIVER"),
    Option("tap-name", _text, "the TAP device; made if it is missing", "IFACE"),
    Option("tap-ipv4", _interface(ipaddress.IPv4Interface), "the stack's address", "ADDR/BITS"),
    Option(
        "tap-host-ipv4",
        _interface(ipaddress.IPv4Interface),
        "address for the kernel's end of a device that is made",
        "ADDR/BITS",
    ),
    Option("tap-ipv6", _interface(ipaddress.IPv6Interface), "the stack's address", "ADDR/BITS"),
    Option(
        "tap-host-ipv6",
        _interface(ipaddress.IPv6Interface),
        "address for the kernel's end of a device that is made",
        "ADDR/BITS",
    ),
    Option("tap-mtu", _number(1280, 9000), "MTU of the TAP device", "BYTES"),
    Option("offload", _switch, "checksum and segmentation offload on the TAP device"),
    Option("gateway4", _host(ipaddress.IPv4Address), "default gateway", "ADDR"),
    Option("gateway6", _host(ipaddress.IPv6Address), "default gateway", "ADDR"),
    Option("profile", _choice(*SPIN_NS), "how long to spin: latency, balanced, powersave", "NAME"),
    Option("min-share-medium", _number(0, 50), "percent of work MEDIUM gets at least", "PCT"),
    Option("min-share-low", _number(0, 50), "percent of work LOW gets at least", "PCT"),
    Option("cpu", _number(-1, 65535), "processor of the stack thread; -1: any", "N"),
    Option("realtime", _number(0, 99), "SCHED_FIFO priority of the stack thread; 0: off", "PRIO"),
    Option("mlock", _switch, "lock all memory"),
    Option("max-clients", _number(1, 16384), "clients at once", "N"),
    Option("max-clients-per-user", _number(1, 16384), "clients of one user at once", "N"),
    Option("max-sockets", _number(1, _protocol.SOCKETS_MAX), "sockets of one client", "N"),
    Option("max-pcbs", _number(1, 20000), "sockets of all clients", "N"),
    Option(
        "max-client-bytes",
        _number(1 << 20, 1 << 40),
        "receive rings and send arena of one client may have",
        "BYTES",
    ),
    Option(
        "max-held-bytes",
        _number(1 << 20, 1 << 40),
        "received for one client and not read, before windows close and datagrams are dropped",
        "BYTES",
    ),
    Option(
        "max-held-bytes-per-user",
        _number(0, 1 << 43),
        "the same for all clients of one user; 0: eight times as much",
        "BYTES",
    ),
    Option(
        "best-priority",
        _choice(*_protocol.PRIORITIES),
        "the best priority that clients get",
        "PRIO",
    ),
    Option("raw", _choice(*RAW), "who may have raw sockets: nobody, root, owner, users", "WHO"),
    Option("mode", _mode, "who may connect: mode of the socket, such as 0660", "MODE"),
    Option("group", _group, "group of the socket", "GROUP"),
    Option("log-level", _choice(*LOG_LEVELS), "debug, info, warning, error", "LEVEL"),
)


class ConfigError(Exception):
    """A sentence for the user: which option, which value, what is allowed."""


def load(argv: Sequence[str] | None, prog: str = "pifus backend") -> Config:
    """The configuration of a command line and the file it names; the command line wins.

    Raises:
        ConfigError: an option or the file is not right.
        SystemExit: --help was given, or argparse found a fault.
    """
    given = vars(_parser(prog).parse_args(argv))
    path = given.pop("config", None)
    values: dict[str, Any] = {}
    if path is not None:
        values.update(_read(Path(path)))
    for option in OPTIONS:
        if option.key in given:
            values[option.key] = _checked(option, given[option.key], f"--{option.name}")
    for key in ("private", "control_fd"):
        if key in given:
            values[key] = given[key]
    config = Config(**values)
    _check_together(config)
    return config


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Runs a backend: the user-space TCP/IP stack that applications attach to.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    defaults = Config()
    parser.add_argument("--config", metavar="FILE", help="TOML file with the same options")
    for option in OPTIONS:
        default = getattr(defaults, option.key)
        flag = f"--{option.name}"
        text = option.help
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
            continue
        if option.key == "driver":
            parser.add_argument(flag, action="append", metavar=option.metavar, help=text)
            continue
        shown = f"{default:04o}" if option.key == "mode" else str(default)
        text += f" (default {shown})" if shown else ""
        parser.add_argument(flag, metavar=option.metavar, help=text.replace("%", "%%"))
    parser.add_argument("--private", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--control-fd", type=int, help=argparse.SUPPRESS)
    return parser


def _checked(option: Option, value: Any, where: str) -> Any:
    try:
        return option.check(value)
    except ValueError as error:
        raise ConfigError(f"{where} is {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    known = {option.name: option for option in OPTIONS}
    values = {}
    for name, value in table.items():
        option = known.get(name.replace("_", "-"))
        if option is None:
            raise ConfigError(f"{path}: unknown option {name!r}; known are {', '.join(known)}")
        values[option.key] = _checked(option, value, f"{path}: {name}")
    return values


def _check_together(config: Config) -> None:
    if "tap" in config.driver and not (config.tap_ipv4 or config.tap_ipv6):
        raise ConfigError("--driver tap needs an address: --tap-ipv4 or --tap-ipv6")
    if "tap" not in config.driver:
        for option in fields(config):
            if option.name.startswith(("tap_", "gateway")) and option.name != "tap_name":
                default = option.default
                if getattr(config, option.name) != default:
                    flag = option.name.replace("_", "-")
                    raise ConfigError(f"--{flag} is for --driver tap, which is not given")
    if config.min_share_low + config.min_share_medium > 50:
        raise ConfigError("--min-share-low and --min-share-medium together: allowed is 0 to 50")
    if config.private != (config.control_fd >= 0):
        raise ConfigError("--private and --control-fd belong together")
