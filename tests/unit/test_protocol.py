"""pifus._core._protocol: what is accepted, and what the refusals say."""

from __future__ import annotations

import contextlib
import errno
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pifus._core import _protocol
from pifus._core._client import lib
from pifus._core._protocol import Attach, InvalidMessage
from pifus.errors import ProtocolError

GOOD: dict[str, Any] = {
    "type": "attach",
    "abi": _protocol.ABI_VERSION,
    "pid": 7,
    "name": "app",
    "max_sockets": 16,
    "queue_depth": 64,
    "rx_bytes": 65536,
    "arena_bytes": 1 << 20,
    "priority": "high",
}


def test_ranges_are_those_of_the_abi() -> None:
    assert _protocol.ABI_VERSION == lib.PF_ABI_VERSION
    assert _protocol.SOCKETS_MAX == lib.PF_MAX_SOCKETS_LIMIT
    assert _protocol.QUEUE_DEPTH_MIN == lib.PF_MIN_QUEUE_DEPTH
    assert _protocol.QUEUE_DEPTH_MAX == lib.PF_MAX_QUEUE_DEPTH
    assert _protocol.RX_BYTES_MIN == lib.PF_MIN_RX_BYTES
    assert _protocol.RX_BYTES_MAX == lib.PF_MAX_RX_BYTES
    assert _protocol.ARENA_BYTES_MIN == lib.PF_MIN_ARENA_BYTES
    assert _protocol.ARENA_BYTES_MAX == lib.PF_MAX_ARENA_BYTES
    assert len(_protocol.PRIORITIES) == lib.PF_PRIORITIES


def decoded(packet: bytes) -> _protocol.Request:
    return _protocol.decode_request(_protocol.decode(packet))


@pytest.mark.parametrize(
    "request_",
    [
        Attach(_protocol.ABI_VERSION, 7, "app", 16, 64, 65536, 1 << 20, "low"),
        _protocol.Mirrors(64),
        _protocol.Bell(),
        _protocol.Show(),
        _protocol.Status(3),
        _protocol.Detach(),
    ],
)
def test_round_trip(request_: _protocol.Request) -> None:
    assert decoded(_protocol.encode_request(request_)) == request_


def test_status_without_after() -> None:
    assert decoded(b'{"type":"status"}') == _protocol.Status(0)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("abi", 0, f"abi is 0; this backend speaks {_protocol.ABI_VERSION}"),
        ("abi", True, "abi is True"),
        ("pid", 0, "pid is 0; allowed is 1 to"),
        ("pid", "7", "pid is '7'"),
        ("name", "x" * 129, "up to 128 printable"),
        ("name", "a\nb", "printable"),
        ("name", None, "name is None"),
        ("max_sockets", 0, "max_sockets is 0; allowed is 1 to 16384"),
        ("max_sockets", 16385, "max_sockets is 16385; allowed is 1 to 16384"),
        ("max_sockets", 1.5, "max_sockets is 1.5"),
        ("queue_depth", 3, "queue_depth is 3; allowed is a power of two, 4 to 4096"),
        ("queue_depth", 48, "queue_depth is 48"),
        ("rx_bytes", 4095, "rx_bytes is 4095; allowed is a power of two, 4096 to 8388608"),
        ("arena_bytes", 65536 + 1, "allowed is a multiple of 65536"),
        ("arena_bytes", 1 << 40, "allowed is 65536 to 1073741824"),
        ("priority", "urgent", "priority is 'urgent'; allowed is high, medium, low"),
        ("priority", ["high"], "priority is ['high']"),
    ],
)
def test_bad_values_are_named(field: str, value: object, says: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decoded(json.dumps({**GOOD, field: value}).encode())
    assert says in str(caught.value)
    assert not caught.value.fatal


def test_unknown_and_missing_fields() -> None:
    with pytest.raises(InvalidMessage, match="attach has no field 'colour'"):
        decoded(json.dumps({**GOOD, "colour": 1}).encode())
    del (short := dict(GOOD))["pid"]
    with pytest.raises(InvalidMessage, match="attach needs the field pid"):
        decoded(json.dumps(short).encode())
    with pytest.raises(InvalidMessage, match="type is 'dance'; allowed is attach, mirrors"):
        decoded(b'{"type":"dance"}')
    with pytest.raises(InvalidMessage, match="count is 65; allowed is 1 to 64"):
        decoded(b'{"type":"mirrors","count":65}')


@pytest.mark.parametrize(
    "packet",
    [b"", b"{", b"\xff\xfe", b"[]", b'"x"', b'{"typ":1}', b'{"type":7}', b"[" * 60000],
)
def test_what_is_no_message_is_fatal(packet: bytes) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decoded(packet)
    assert caught.value.fatal


def test_too_long_is_fatal() -> None:
    with pytest.raises(InvalidMessage, match="longer than 65536 bytes") as caught:
        decoded(b" " * 65537)
    assert caught.value.fatal
    assert caught.value.code == errno.EMSGSIZE


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode()))
def test_any_bytes_are_refused_politely(packet: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decoded(packet)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(GOOD)), json_values)
def test_any_value_is_accepted_or_refused(field: str, value: object) -> None:
    packet = json.dumps({**GOOD, field: value}).encode()
    with contextlib.suppress(InvalidMessage):
        decoded(packet)


def test_ids() -> None:
    message = _protocol.decode(_protocol.encode_request(_protocol.Bell(), 7))
    assert _protocol.take_id(message) == 7
    assert _protocol.take_id(message) is None
    assert _protocol.decode_request(message) == _protocol.Bell()
    for value in (0, -1, 2**63, True, "7", None, 1.5):
        with pytest.raises(InvalidMessage, match=r"id is .*; allowed is 1 to 9223372036854775807"):
            _protocol.take_id({"type": "bell", "id": value})


def replied(packet: bytes) -> _protocol.Message:
    return _protocol.check_reply(_protocol.decode_reply(packet), "attached")


def test_replies() -> None:
    assert replied(b'{"type":"attached","session":3}')["session"] == 3
    with pytest.raises(PermissionError, match="no"):
        replied(_protocol.encode(_protocol.refusal(errno.EACCES, "no")))
    with pytest.raises(ProtocolError, match="answered 'status', not 'attached'"):
        replied(b'{"type":"status"}')
    with pytest.raises(ProtocolError, match="bad answer"):
        replied(b"{")
    with pytest.raises(OSError, match="odd") as caught:
        replied(b'{"type":"error","errno":"x","message":"odd"}')
    assert caught.value.errno == errno.EPROTO
