"""Receives RTP on two ports, of HIGH priority and MEDIUM, and prints both.

After each stream (its last packet has the marker) it prints when the packets came, in ns, how many
are missing, and the loudest sample at the start and at the end.
"""

import gc
import json
import time

import wire

import pifus


def listen(client: pifus.Client, priority: pifus.Priority) -> pifus.Socket:
    sock = client.socket(pifus.UDP, priority=priority)
    sock.bind(("127.0.0.1", 0))
    sock.wait().check()
    for _ in range(16):
        sock.recv(1500)
    return sock


def port_of(sock: pifus.Socket) -> int:
    address = sock.local_address
    assert address is not None
    return address[1]


def main() -> None:
    with pifus.Client(max_sockets=8, name="receiver") as client:
        socks = [listen(client, p) for p in (pifus.Priority.HIGH, pifus.Priority.MEDIUM)]
        print(*(port_of(sock) for sock in socks), flush=True)
        times: list[int] = []
        sequences: list[int] = []
        peaks: list[int] = []
        gc.freeze()
        while True:
            done = client.wait_any().check()
            now = time.monotonic_ns()
            sequence, _, last, samples = wire.rtp_parts(done.data or b"")
            done.sock.recv(1500)
            gc.disable()
            times.append(now)
            sequences.append(sequence)
            peaks.append(max(samples))
            if last:
                missing = sequence + 1 - len(set(sequences))
                found = {"times": times, "missing": missing, "peaks": [peaks[0], peaks[-1]]}
                print(json.dumps(found), flush=True)
                times, sequences, peaks = [], [], []
                gc.enable()


main()
