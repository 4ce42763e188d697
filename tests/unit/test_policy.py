"""The rules: what can be written, what fits what, and that a policy survives its text form."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from pifus import _ambient, _policy


@pytest.mark.parametrize(
    ("target", "address", "port", "fits"),
    [
        ("127.0.0.0/8", "127.3.2.1", 80, True),
        ("127.0.0.0/8", "128.0.0.1", 80, False),
        ("10.1.2.3", "10.1.2.3", 1, True),
        ("10.0.0.0/8:502", "10.9.9.9", 502, True),
        ("10.0.0.0/8:502", "10.9.9.9", 503, False),
        ("10.0.0.0/8:500-510", "10.9.9.9", 510, True),
        (":8080", "::1", 8080, True),
        ("*", "192.0.2.1", 9, True),
        ("*:9", "0.0.0.0", 9, True),
        ("::/0", "2001:db8::1", 9, True),
        ("[2001:db8::/32]:9", "2001:db8::1", 9, True),
        ("[2001:db8::/32]:9", "2001:db9::1", 9, False),
        ("2001:db8::/32", "10.0.0.1", 9, False),
        ("0.0.0.0/0", "0.0.0.0", 9, True),
        ("0.0.0.0/8", "0.0.0.0", 9, False),
    ],
)
def test_what_fits(target: str, address: str, port: int, fits: bool) -> None:
    rule = _policy.parse_rule("kernel", target)
    assert rule.fits(ipaddress.ip_address(address), port) is fits
    assert _policy.parse([str(rule)]).rules == (rule,)


@pytest.mark.parametrize(
    "line",
    [
        "kernel",
        "kernel 10.0.0.1/8",
        "kernel host.example",
        "kernel 10.0.0.0/8:",
        "kernel 10.0.0.0/8:70000",
        "kernel 10.0.0.0/8:20-10",
        "kernel [::1",
        "user 10.0.0.0/8",
        "priority urgent",
        "priority 502=",
        "priority x=high",
        "strict please",
        "dns",
        "dns host.example",
        "dns 10.0.0.53,",
        "dns 10.0.0.53:",
        "dns 10.0.0.53:70000",
        "dns [2001:db8::53]:x",
        "dns [2001:db8::53]5353",
    ],
)
def test_what_is_no_rule(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each says something else
        _policy.parse([line])


def test_the_first_rule_decides() -> None:
    policy = _policy.parse(["kernel 10.1.0.0/16", "stack 10.0.0.0/8", "priority 80-90=low"])
    assert policy.world(ipaddress.ip_address("10.1.2.3"), 80) == "kernel"
    assert policy.world(ipaddress.ip_address("10.2.2.3"), 80) == "stack"
    assert policy.world(ipaddress.ip_address("11.2.2.3"), 80) is None
    assert [policy.priority_of(port) for port in (0, 79, 80, 90, 91)] == [
        *(None, None, "low", "low", None)
    ]


def test_a_policy_is_its_text() -> None:
    policy = _policy.parse(
        ["kernel [::1]:80-90", "stack *", "priority 502=high", "priority low", "strict"]
    )
    policy = policy.before(_policy.parse(["dns 10.0.0.53, 10.0.0.54:5353,2001:db8::1,[::1]:54"]))
    assert _policy.parse(str(policy).split(";")) == policy
    assert [(server.address, server.port) for server in policy.dns] == [
        *(("10.0.0.53", 53), ("10.0.0.54", 5353), ("2001:db8::1", 53), ("::1", 54))
    ]


def test_files_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "pifus.toml"
    file.write_text(
        'rules = ["kernel 127.0.0.0/8", "stack 10.0.0.0/8:502"]\n'
        'strict = true\ndns = ["10.0.0.53"]\n'
        '[priority]\ndefault = "low"\n502 = "high"\n"1-9" = "medium"\n'
    )
    environ = {
        "PIFUS_CONFIG": str(file),
        "PIFUS_RULES": "stack 127.0.0.1",
        "PIFUS_PRIORITY": "high",
    }
    policy = _policy.from_environment(environ)
    assert [str(rule) for rule in policy.rules] == [
        "stack 127.0.0.1/32",
        "kernel 127.0.0.0/8",
        "stack 10.0.0.0/8:502",
    ]
    assert (policy.priority, policy.strict) == ("low", True)
    assert policy.dns == (_policy.NameServer("10.0.0.53"),)
    first = _policy.from_environment({**environ, "PIFUS_RULES": "dns 10.0.0.1"})
    assert first.dns == (_policy.NameServer("10.0.0.1"),)
    assert (policy.priority_of(502), policy.priority_of(5)) == ("high", "medium")
    for wrong in (
        "rules = 1",
        "strict = 1",
        "rule = []",
        "priority = 1",
        "dns = 1",
        "dns = ['x']",
        "[priority]\nx = 'low'",
    ):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=r"pifus\.toml"):
            _policy.from_file(file)


def test_the_ambient_priority_nests() -> None:
    assert _ambient.current() is None
    outer = _ambient.priority("high")
    with outer:
        with _ambient.priority("low"), outer:
            assert _ambient.current() == "high"
        assert _ambient.current() == "high"
    assert _ambient.current() is None
    with pytest.raises(ValueError, match="high, medium, low"):
        _ambient.priority("urgent")  # type: ignore[arg-type]
