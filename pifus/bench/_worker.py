"""The process that one side of a measurement runs in: `python -m pifus.bench._worker FD PARENT`.

It calls the functions it is told to, one after the other; between them it sleeps. It ends when its
starter ends, however that ends.
"""

from __future__ import annotations

import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from pifus.bench._bench import lib

# What the functions keep from one call to the next: sessions, sockets.
State = dict[str, Any]


class WorkerError(Exception):
    """A function failed in a worker; the text says how."""


def main() -> int:
    """Serves one connection until it ends."""
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    # Ctrl-C is for the starter, which then ends the connection.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lib.pf_bench_end_with_parent(int(sys.argv[2]))
    state: State = {}
    while True:
        try:
            function, arguments = connection.recv()
        except (EOFError, OSError):
            return 0
        try:
            answer = (True, function(state, **arguments))
        except Exception as error:  # noqa: BLE001 - told to the starter
            place = traceback.format_exc(limit=-2)
            answer = (False, f"{type(error).__name__}: {error}\n{place}")
        try:
            connection.send(answer)
        except OSError:
            return 0


if __name__ == "__main__":
    sys.exit(main())
