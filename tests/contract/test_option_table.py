"""Every row of the option table, on a fresh socket, against the kernel."""

from __future__ import annotations

import errno
import os
import socket as names
import struct
from types import ModuleType
from typing import Any

import pytest

from pifus._compat import _option_table
from pifus._compat._option_table import Row

ROWS = _option_table.rows()
VALUES = (
    *(0, 1, 2, 7, 200, -1, 300, 40_000, 2**31 - 1),
    *(b"", b"\1", struct.pack("i", 1), struct.pack("ii", 1, 1), struct.pack("ll", 1, 500_000)),
    *(b"reno", b"lo\0", b"no-such-thing"),
)
# Not options, but names of values.
VALUE_NAMES = {"IP_DEFAULT_MULTICAST_LOOP", "IP_DEFAULT_MULTICAST_TTL", "IP_MAX_MEMBERSHIPS"}
PREFIXES = ("SO_", "TCP_", "IP_", "IPV6_", "UDPLITE_")
OTHER_PREFIXES = ("SO_VM_SOCKETS", "SO_J1939")

# Differences that depend on the machine: its congestion control, and what Python's buffer, which
# nobody has cleared, held before (the kernel takes addresses from it).
MAY_BE_EQUAL = {"TCP_CC_INFO", "TCP_ZEROCOPY_RECEIVE"}
# Of the kernel they need CAP_NET_ADMIN, at least for some values; here anybody may.
ASK_PRIVILEGE = {"SO_PRIORITY", "SO_DEBUG"}


def attempt(call: Any, *arguments: Any) -> Any:
    """What a call returns, or the name of its errno."""
    try:
        return call(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def told(sock: Any, row: Row) -> list[Any]:
    number = row.level, row.number
    return [attempt(sock.getsockopt, *number, *size) for size in ((), (1,), (4,), (16,), (256,))]


def everything(net: Any, family: int, row: Row) -> dict[str, Any]:
    """All that the calls say of one option; fresh sockets, so that none depends on another."""
    with net.socket(family) as sock:
        answers: dict[str, Any] = {"fresh": told(sock, row)}
    for value in VALUES:
        with net.socket(family) as sock:
            done = attempt(sock.setsockopt, row.level, row.number, value)
            answers[f"set {value!r}"] = (done, told(sock, row) if done is None else None)
    with net.socket(family) as sock:
        for length in (0, 4, 16):
            answers[f"null {length}"] = attempt(
                sock.setsockopt, row.level, row.number, None, length
            )
    return answers


COMPARES = pytest.mark.legs("pifus", "tap", reason="the kernel's sockets are in the test itself")


@COMPARES
@pytest.mark.parametrize("family", [names.AF_INET, names.AF_INET6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_option_answers_as_the_kernels(
    net: ModuleType, family: int, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = everything(names, family, row)
    ours = everything(net, family, row)
    different = {call for call in kernel if kernel[call] != ours[call]}
    if row.differs:
        # The table must not claim a difference that is none; IPv4 has none of IPv6's options.
        root_only = "root" in row.differs and os.geteuid() != 0
        if not (row.level == names.IPPROTO_IPV6 and family == names.AF_INET) and not root_only:
            assert different or row.name in MAY_BE_EQUAL
        return
    if row.name in ASK_PRIVILEGE and os.geteuid() != 0:
        different -= {call for call in different if kernel[call][0] in ("EPERM", "EACCES")}
    assert not different, {call: (kernel[call], ours[call]) for call in sorted(different)}


def test_the_table_has_every_name_of_the_module() -> None:
    options = {
        name
        for name in dir(names)
        if name.startswith(PREFIXES) and not name.startswith(OTHER_PREFIXES)
    }
    assert options - VALUE_NAMES <= {row.name for row in ROWS}
    for row in ROWS:
        assert getattr(names, row.name, row.number) == row.number, row.name


def test_every_row_says_what_it_does() -> None:
    from pifus._core._client import lib

    for row in ROWS:
        assert row.note
        assert (row.how == _option_table.REFUSED) <= bool(row.set_errno), row.name
        if row.native:
            assert row.how == _option_table.BACKEND
            assert getattr(lib, row.native) > 0


@COMPARES
@pytest.mark.parametrize("family", [names.AF_INET, names.AF_INET6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    ("level", "option"), [(1, 9999), (6, 9999), (0, 9999), (41, 9999), (17, 1), (9999, 1)]
)
def test_unknown_options_are_refused_as_by_the_kernel(
    net: ModuleType, family: int, level: int, option: int
) -> None:
    row = Row("SO_UNKNOWN", option, _option_table.REFUSED, "")
    for value in (1, b"\1", b""):
        answers = []
        for each in (names, net):
            with each.socket(family) as sock:
                answers.append(
                    (
                        attempt(sock.setsockopt, level, option, value),
                        attempt(sock.getsockopt, level, option),
                        attempt(sock.getsockopt, level, option, 8),
                    )
                )
        assert answers[0] == answers[1], (row, value)


def test_what_is_no_value(net: ModuleType) -> None:
    with net.socket() as sock:
        for wrong in ("text", 1.5, [1]):
            with pytest.raises(TypeError):
                sock.setsockopt(names.SOL_SOCKET, names.SO_KEEPALIVE, wrong)
        with pytest.raises(TypeError):
            sock.setsockopt(names.SOL_SOCKET, names.SO_KEEPALIVE)
        with pytest.raises((TypeError, OverflowError)):
            sock.setsockopt(names.SOL_SOCKET, names.SO_KEEPALIVE, 2**40)
        with pytest.raises((TypeError, OverflowError)):
            sock.setsockopt(names.SOL_SOCKET, names.SO_KEEPALIVE, None)
        for size in (-1, 1025):
            with pytest.raises(OSError, match="out of range"):
                sock.getsockopt(names.SOL_SOCKET, names.SO_KEEPALIVE, size)
    with pytest.raises(OSError, match="descriptor"):
        sock.getsockopt(names.SOL_SOCKET, names.SO_TYPE)
