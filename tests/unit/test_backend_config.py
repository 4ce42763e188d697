"""pifus.backend._config: command line and file give the same, and faults are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pifus.backend._config import OPTIONS, SPIN_NS, Config, ConfigError, load


def test_defaults() -> None:
    config = load([])
    assert config == Config()
    assert config.drivers == ["loopback"]
    assert config.mode == 0o600


def test_every_option_has_a_field_and_a_help_text() -> None:
    for option in OPTIONS:
        assert hasattr(Config(), option.key)
        assert option.help


LINE = """--name x --driver tap --tap-name t0 --tap-ipv4 192.168.77.2/24
    --tap-host-ipv4 192.168.77.1/24 --tap-ipv6 fd00::2/64 --tap-host-ipv6 fd00::1/64
    --tap-mtu 9000 --no-offload --gateway4 192.168.77.1 --gateway6 fd00::1 --profile latency
    --min-share-low 5 --min-share-medium 10 --cpu 1 --realtime 50 --mlock --max-clients 9
    --max-clients-per-user 8 --max-sockets 7 --max-pcbs 6 --mode 0660 --best-priority low
    --raw root --max-held-bytes 1048576 --max-held-bytes-per-user 2097152"""
FILE = """
name = "x"
driver = ["tap"]
tap-name = "t0"
tap-ipv4 = "192.168.77.2/24"
tap_host_ipv4 = "192.168.77.1/24"
tap-ipv6 = "fd00::2/64"
tap-host-ipv6 = "fd00::1/64"
tap-mtu = 9000
offload = false
gateway4 = "192.168.77.1"
gateway6 = "fd00::1"
profile = "latency"
min-share-low = 5
min-share-medium = 10
cpu = 1
realtime = 50
mlock = true
max-clients = 9
max-clients-per-user = 8
max-sockets = 7
max-pcbs = 6
mode = 0o660
best-priority = "low"
raw = "root"
max-held-bytes = 1048576
max-held-bytes-per-user = 2097152
"""


def test_file_and_command_line_agree(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(FILE)
    assert load(["--config", str(path)]) == load(LINE.split())
    assert load(["--config", str(path), "--name", "y"]).name == "y"
    assert load(LINE.split()).drivers == ["loopback", "tap"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--name a/b", "--name is backend name 'a/b'"),
        ("--driver xdp", "--driver is 'xdp': allowed is loopback, tap"),
        ("--driver tap --driver tap --tap-ipv4 1.2.3.4/8", "given twice"),
        ("--driver tap", "needs an address"),
        ("--tap-ipv4 1.2.3.4/8", "--tap-ipv4 is for --driver tap"),
        ("--driver tap --tap-ipv4 1.2.3.4", "with prefix length"),
        ("--driver tap --tap-ipv6 1.2.3.4/8", "such as fd00:77::2/64"),
        ("--gateway4 ::1", "allowed is an IPv4 address"),
        ("--tap-mtu 100", "--tap-mtu is 100: allowed is 1280 to 9000"),
        ("--profile fast", "allowed is latency, balanced, powersave"),
        ("--min-share-low 51", "allowed is 0 to 50"),
        ("--min-share-low 30 --min-share-medium 30", "together"),
        ("--cpu x", "--cpu is 'x'"),
        ("--max-sockets 0", "allowed is 1 to 16384"),
        ("--mode 0999", "octal"),
        ("--group no-such-group-here", "no such group"),
        ("--private", "belong together"),
        ("--config /no/such/file", "cannot read /no/such/file"),
    ],
)
def test_faults_are_named(arguments: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(arguments.split())
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nmae = 1", "unknown option 'nmae'"),
        ("mlock = 1", "mlock is 1: allowed is true, false"),
        ("cpu = true", "cpu is True"),
        ("driver = 7", "driver is 7"),
        ("x = ", "is not TOML"),
    ],
)
def test_faults_in_the_file_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(["--config", str(path)])
    assert says in str(caught.value)


def test_no_spinning_on_a_single_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert load(["--profile", "latency"]).spin_ns == 100_000
    assert load(["--profile", "powersave"]).spin_ns == 0
    assert [load(["--profile", name]).spin_follows for name in SPIN_NS] == [False, True, False]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert load(["--profile", "latency"]).spin_ns == 0
    assert load([]).spin_ns == 0
    assert not load([]).spin_follows
