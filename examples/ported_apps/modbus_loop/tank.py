"""The plant's physics: a tank whose level rises with the inflow, and drains."""

INFLOW, LEVEL = 0, 1  # registers
_SHARE = 0.02  # of the inflow, and of the level, that passes in a period


class Tank:
    """The tank, as the registers show it."""

    def __init__(self) -> None:
        self.registers = [0, 0]
        self._level = 0.0

    def step(self) -> None:
        """A period passes."""
        self._level += _SHARE * (self.registers[INFLOW] - self._level)
        self.registers[LEVEL] = min(round(self._level), 0xFFFF)
