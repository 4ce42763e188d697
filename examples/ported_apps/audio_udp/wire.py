"""RTP packets (RFC 3550, linear 16-bit stereo) and OSC 1.0 messages with one float."""

import struct

RATE = 48_000
SAMPLES = 48  # of a packet: one millisecond
L16_STEREO = 96  # a dynamic payload type
MARKER = 0x80
_RTP = struct.Struct("!BBHII")
_PCM = struct.Struct(f"!{2 * SAMPLES}h")


def rtp(sequence: int, stamp: int, source: int, samples: list[int], last: bool = False) -> bytes:
    """A packet of `samples`, each for both channels."""
    kind = L16_STEREO | (MARKER if last else 0)
    both = [sample for sample in samples for _ in range(2)]
    return _RTP.pack(0x80, kind, sequence & 0xFFFF, stamp & 0xFFFFFFFF, source) + _PCM.pack(*both)


def rtp_parts(packet: bytes) -> tuple[int, int, bool, tuple[int, ...]]:
    """Sequence number, source, whether it is the last, and the samples of both channels.

    Raises:
        ValueError: it is no such packet.
    """
    if len(packet) != _RTP.size + _PCM.size or packet[0] != 0x80:
        raise ValueError(f"no RTP packet of ours: {packet[:12].hex()}")
    _, kind, sequence, _, source = _RTP.unpack_from(packet)
    return sequence, source, bool(kind & MARKER), _PCM.unpack_from(packet, _RTP.size)


def osc(address: str, value: float) -> bytes:
    """A message with one float."""
    return _padded(address) + _padded(",f") + struct.pack("!f", value)


def osc_parts(message: bytes) -> tuple[str, float]:
    """Address and value.

    Raises:
        ValueError: it is no message with one float.
    """
    address = message.partition(b"\0")[0]
    text = address.decode("ascii")
    if message[:-4] != _padded(text) + _padded(",f"):
        raise ValueError(f"no OSC message with one float: {message!r}")
    return text, struct.unpack("!f", message[-4:])[0]


def _padded(text: str) -> bytes:
    data = text.encode("ascii") + b"\0"
    return data + bytes(-len(data) % 4)
