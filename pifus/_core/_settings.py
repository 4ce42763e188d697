"""What a session asks the backend for."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pifus._core import _protocol
from pifus._core._client import lib

_PACKETS_MAX = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """What a session asks for.

    Attributes:
        name: shown by `pifus status`.
        max_sockets: sockets at once.
        queue_depth: operations under way per socket; a power of two.
        rx_bytes: the greatest receive ring of a socket; a power of two.
        arena_bytes: shared memory for bytes to send, over all sockets; a multiple of 64 KiB.
        priority: the best priority wanted: "high", "medium" or "low".
    """

    name: str = ""
    max_sockets: int = 1024
    queue_depth: int = 64
    rx_bytes: int = 262144
    arena_bytes: int = 16777216
    priority: str = "high"

    def request(self) -> _protocol.Attach:
        """The message that asks for it.

        Raises:
            ValueError: a value is out of its range; the text says what is allowed.
        """
        try:
            return _protocol.Attach(
                abi=lib.PF_ABI_VERSION,
                pid=os.getpid(),
                name=self.name,
                max_sockets=self.max_sockets,
                queue_depth=self.queue_depth,
                rx_bytes=self.rx_bytes,
                arena_bytes=self.arena_bytes,
                priority=self.priority,
            )
        except _protocol.InvalidMessage as error:
            raise ValueError(str(error)) from None

    def packet(self) -> bytes:
        """The same as it is sent.

        Raises:
            ValueError: see `request`.
        """
        packet = _packets.get(self)
        if packet is None:
            if len(_packets) >= _PACKETS_MAX:
                _packets.clear()  # of a program whose clients have names of their own
            packet = _packets[self] = _protocol.split_attach(self.request())
        return b"%b%d%b" % (packet[0], os.getpid(), packet[1])


# Packets that attach, cut where the number of the process goes. A child writes its own into that of
# its parent: every object it needs not touch is a page that it needs not copy.
_packets: dict[Settings, tuple[bytes, bytes]] = {}
