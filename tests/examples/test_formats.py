"""What the examples put on the wire, against literal frames of the specifications."""

from __future__ import annotations

import struct

import pytest

from examples.ported_apps.audio_udp import wire
from examples.ported_apps.modbus_loop import modbus

# MODBUS Application Protocol Specification V1.1b3, section 6.17.
REQUEST = bytes.fromhex("17 0003 0006 000E 0003 06 00FF 00FF 00FF")
ANSWER = bytes.fromhex("17 0C 00FE 0ACD 0001 0003 000D 00FF")


def test_modbus_request() -> None:
    frame = modbus.request(0x1234, 3, 6, 14, [0xFF, 0xFF, 0xFF])
    assert frame == bytes.fromhex("1234 0000 0011 01") + REQUEST
    assert modbus.complete(frame + b"more") == len(frame)
    assert [modbus.complete(frame[:size]) for size in range(len(frame))] == [0] * len(frame)


def test_modbus_answer() -> None:
    registers = [0] * 3 + [0xFE, 0xACD, 1, 3, 0xD, 0xFF] + [0] * 8
    frame = modbus.carry_out(bytes.fromhex("1234 0000 0011 01") + REQUEST, registers)
    assert frame == bytes.fromhex("1234 0000 000F 01") + ANSWER
    assert registers[14:] == [0xFF] * 3
    assert modbus.answer(frame, 0x1234) == (0xFE, 0xACD, 1, 3, 0xD, 0xFF)


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ("03 0000 0001", "83 01"),
        ("17 0003", "97 01"),
        ("17 0003 0006 000F 0003 06 00FF 00FF 00FF", "97 02"),
        ("17 0003 0000 000E 0003 06 00FF 00FF 00FF", "97 02"),
        ("17 0003 0006 000E 0003 06 00FF 00FF", "97 02"),
        ("", "80 01"),
    ],
)
def test_modbus_refuses(body: str, refusal: str) -> None:
    data = bytes.fromhex(body)
    registers = [0] * 17
    frame = struct.pack("!HHHB", 7, 0, 1 + len(data), 1) + data
    answer = modbus.carry_out(frame, registers)
    assert answer == bytes.fromhex("0007 0000 0003 01" + refusal)
    assert registers == [0] * 17
    with pytest.raises(ValueError, match="not the answer"):
        modbus.answer(answer, 7)


def test_osc() -> None:
    """The first example of the OSC 1.0 specification."""
    message = b"/oscillator/4/frequency\0,f\0\0\x43\xdc\0\0"
    assert wire.osc("/oscillator/4/frequency", 440.0) == message
    assert wire.osc_parts(message) == ("/oscillator/4/frequency", 440.0)
    for wrong in (b"", b"/gain", message[:-1], message.replace(b",f", b",i")):
        with pytest.raises(ValueError, match="no OSC message"):
            wire.osc_parts(wrong)


def test_rtp() -> None:
    samples = list(range(wire.SAMPLES))
    packet = wire.rtp(0x10002, 5, 9, samples, last=True)
    assert packet[:12] == bytes.fromhex("80 E0 0002 00000005 00000009")
    assert packet[12:20] == bytes.fromhex("0000 0000 0001 0001")
    sequence, source, last, both = wire.rtp_parts(packet)
    assert (sequence, source, last) == (2, 9, True)
    assert both[::2] == both[1::2] == tuple(samples)
    with pytest.raises(ValueError, match="no RTP packet"):
        wire.rtp_parts(packet[:-1])
