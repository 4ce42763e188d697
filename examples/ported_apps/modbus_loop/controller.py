"""The controller: a PI loop of 1 kHz over Modbus/TCP and completions.

`controller.py HIGH_PORT MEDIUM_PORT PROCESS…`; for each line "high SECONDS" or "medium SECONDS" of
its input it controls the plant for so long, and prints the times of each period's stages and how
long the processes waited for a processor meanwhile (held.py).
"""

import gc
import json
import os
import sys
import time

import held
import modbus
import tank

import pifus

PERIOD_NS = 1_000_000
SETPOINT = 20_000
GAIN, INTEGRAL = 0.8, 0.03


class Loop:
    """The control loop over one connection."""

    def __init__(self, client: pifus.Client, port: int, priority: pifus.Priority) -> None:
        self._sock = client.socket(priority=priority)
        self._sock.connect(("127.0.0.1", port))
        self._sock.wait(10).check()
        self._transaction = 0
        self._sum = 0.0

    def exchange(self, inflow: int) -> tuple[int, list[int]]:
        """Writes the inflow and reads the level, in one exchange; also the times of its stages."""
        self._transaction = (self._transaction + 1) & 0xFFFF
        sock = self._sock
        sock.recv(260)
        words = tank.LEVEL, tank.COUNT - tank.LEVEL, tank.INFLOW, [inflow]
        request = sock.write(modbus.request(self._transaction, *words))
        data = b""
        submitted = picked = 0
        while not modbus.complete(data):
            done = sock.wait(10).check()
            if done.op == request:
                submitted, picked = done.submitted_ns, done.picked_ns
            if done.data is not None:
                data += done.data
                if not modbus.complete(data):
                    sock.recv(260)
        level, *others = modbus.answer(data, self._transaction)
        there, taken, ready = tank.times(tuple(others))
        # The acknowledgement of the request may come after the answer, which then has its time.
        first = [submitted or there, picked or there]
        return level, [*first, there, taken, ready, done.completed_ns, done.reaped_ns]

    def run(self, seconds: float, waits: held.Waits) -> dict[str, object]:
        """Controls for so long."""
        periods: list[tuple[list[int], int]] = []
        missed = 0
        level, _ = self.exchange(0)
        waits.grown()
        due = time.monotonic_ns() + PERIOD_NS
        end = due + int(seconds * 1e9)
        while due < end:
            time.sleep(max(due - time.monotonic_ns(), 0) / 1e9)
            awake = time.monotonic_ns()
            error = SETPOINT - level
            self._sum += INTEGRAL * error
            level, times = self.exchange(min(max(round(GAIN * error + self._sum), 0), 0xFFFF))
            now = time.monotonic_ns()
            periods.append(([due, awake, *times, now], waits.grown()))
            while self._sock.poll() is not None:
                pass  # the acknowledgement of the request, if it came after the answer
            due += PERIOD_NS
            if now > due:
                missed += 1 + (now - due) // PERIOD_NS
                due += (1 + (now - due) // PERIOD_NS) * PERIOD_NS
        return {"periods": periods, "missed": missed, "level": level}


def main() -> None:
    with pifus.Client(max_sockets=4, name="controller", stamp_reaped=True) as client:
        loops = {
            name: Loop(client, int(port), pifus.Priority[name.upper()])
            for name, port in zip(("high", "medium"), sys.argv[1:3], strict=True)
        }
        waits = held.Waits([os.getpid(), *map(int, sys.argv[3:])])
        print("ready", flush=True)
        for line in sys.stdin:
            name, seconds = line.split()
            gc.collect()
            gc.disable()  # no pause in the middle of a period
            found = loops[name].run(float(seconds), waits)
            gc.enable()
            print(json.dumps(found), flush=True)


main()
