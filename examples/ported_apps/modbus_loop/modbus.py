"""Modbus/TCP: the frames of function 23, which reads and writes registers in one exchange."""

import struct

READ_WRITE = 23
HEADER = struct.Struct("!HHHB")  # transaction, protocol (0), bytes that follow, unit
_REQUEST = struct.Struct("!BHHHHB")
ILLEGAL_FUNCTION = 1
ILLEGAL_ADDRESS = 2


def request(transaction: int, read: int, count: int, write: int, values: list[int]) -> bytes:
    """Asks for `count` registers from `read` on, after `values` are written from `write` on."""
    size = 2 * len(values)
    head = HEADER.pack(transaction, 0, 1 + _REQUEST.size + size, 1)
    body = _REQUEST.pack(READ_WRITE, read, count, write, len(values), size)
    return head + body + struct.pack(f"!{len(values)}H", *values)


def complete(data: bytes) -> int:
    """How long the first frame in `data` is; 0: it is not all there."""
    if len(data) < HEADER.size:
        return 0
    size = 6 + HEADER.unpack_from(data)[2]
    return size if len(data) >= size else 0


def carry_out(frame: bytes, registers: list[int]) -> bytes:
    """The answer to a request; what is written is in the registers afterwards."""
    transaction, _, _, unit = HEADER.unpack_from(frame)
    body = frame[HEADER.size :]
    if len(body) < _REQUEST.size or body[0] != READ_WRITE:
        return _refuse(transaction, unit, body[:1] or b"\0", ILLEGAL_FUNCTION)
    _, read, count, write, number, size = _REQUEST.unpack_from(body)
    data = body[_REQUEST.size :]
    fits = max(read + count, write + number) <= len(registers)
    if not fits or not 1 <= count <= 125 or size != 2 * number or len(data) != size:
        return _refuse(transaction, unit, body[:1], ILLEGAL_ADDRESS)
    registers[write : write + number] = struct.unpack(f"!{number}H", data)
    answer = struct.pack(f"!BB{count}H", READ_WRITE, 2 * count, *registers[read : read + count])
    return HEADER.pack(transaction, 0, 1 + len(answer), unit) + answer


def _refuse(transaction: int, unit: int, function: bytes, code: int) -> bytes:
    return HEADER.pack(transaction, 0, 3, unit) + bytes([function[0] | 0x80, code])


def answer(frame: bytes, transaction: int) -> tuple[int, ...]:
    """The registers in the answer to a request.

    Raises:
        ValueError: it is none, or says that the request was refused.
    """
    if HEADER.unpack_from(frame)[0] != transaction or frame[HEADER.size] != READ_WRITE:
        raise ValueError(f"not the answer to request {transaction}: {frame.hex()}")
    return struct.unpack_from(f"!{frame[HEADER.size + 1] // 2}H", frame, HEADER.size + 2)
