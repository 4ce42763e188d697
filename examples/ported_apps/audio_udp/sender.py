"""A tone as RTP, a packet each millisecond; its gain is set by OSC: `/gain FLOAT`.

`sender.py HIGH_PORT MEDIUM_PORT` prints the port for OSC. For each line "high SECONDS" or "medium
SECONDS" of its input it sends for so long, and prints how many packets that were.
"""

import gc
import itertools
import math
import sys
import time

import wire

import pifus

PERIOD_NS = 1_000_000
TONE_HZ = 1000  # one packet is one wave
_WAVE = [math.sin(2 * math.pi * TONE_HZ * n / wire.RATE) for n in range(wire.SAMPLES)]


class Sender:
    """The tone, and what controls it."""

    def __init__(self, client: pifus.Client) -> None:
        self._sources = itertools.count(1)
        self._control = client.socket(pifus.UDP, priority=pifus.Priority.HIGH)
        self._control.bind(("127.0.0.1", 0))
        self._control.wait().check()
        self._control.recv(1500)
        self._set_gain(0.5)

    @property
    def control_port(self) -> int:
        address = self._control.local_address
        assert address is not None
        return int(address[1])

    def _set_gain(self, gain: float) -> None:
        self._samples = [round(32767 * min(max(gain, 0), 1) * value) for value in _WAVE]

    def _take_control(self) -> None:
        while (done := self._control.poll()) is not None:
            address, value = wire.osc_parts(done.check().data or b"")
            if address == "/gain":
                self._set_gain(value)
            self._control.recv(1500)

    def run(self, sock: pifus.Socket, seconds: float) -> int:
        """Sends for so long; returns the number of packets."""
        source = next(self._sources)
        count = round(seconds * 1000)
        due = time.monotonic_ns() + PERIOD_NS
        for number in range(count):
            self._take_control()
            # Not the receiver's work: the packet is ready when its time has come.
            last = number == count - 1
            packet = wire.rtp(number, number * wire.SAMPLES, source, self._samples, last)
            time.sleep(max(due - time.monotonic_ns(), 0) / 1e9)
            sock.sendto(packet)
            sock.wait(10).check()
            due += PERIOD_NS
        return count


def main() -> None:
    with pifus.Client(max_sockets=8, name="sender") as client:
        sender = Sender(client)
        socks = {}
        for name, port in zip(("high", "medium"), sys.argv[1:], strict=True):
            sock = client.socket(pifus.UDP, priority=pifus.Priority[name.upper()])
            sock.connect(("127.0.0.1", int(port)))
            sock.wait().check()
            socks[name] = sock
        print(sender.control_port, flush=True)
        for line in sys.stdin:
            name, seconds = line.split()
            gc.collect()
            gc.disable()  # no pause in the middle of the music
            count = sender.run(socks[name], float(seconds))
            gc.enable()
            print(count, flush=True)


main()
