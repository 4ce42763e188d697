"""The plant's physics: a tank whose level rises with the inflow, and drains."""

import struct

INFLOW, LEVEL, TIMES = 0, 1, 2  # registers
COUNT = 14
_TIMES, _WORDS = struct.Struct("!3Q"), struct.Struct("!12H")
_SHARE = 0.02  # of the inflow, and of the level, that passes in a period


class Tank:
    """The tank, as the registers show it."""

    def __init__(self) -> None:
        self.registers = [0] * COUNT
        self._level = 0.0

    def step(self) -> None:
        """A period passes."""
        self._level += _SHARE * (self.registers[INFLOW] - self._level)
        self.registers[LEVEL] = min(round(self._level), 0xFFFF)

    def note(self, *times: int) -> None:
        """When the request was there, when it was taken, and when its answer was ready, in ns."""
        self.registers[TIMES:] = _WORDS.unpack(_TIMES.pack(*times))


def times(registers: tuple[int, ...]) -> tuple[int, int, int]:
    """What was noted, by the registers from TIMES on."""
    there, taken, ready = _TIMES.unpack(_WORDS.pack(*registers))
    return there, taken, ready
