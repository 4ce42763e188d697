"""icmplib, ping3: echo requests by raw sockets, many at once, asyncio, traceroute."""

import asyncio

import icmplib
import ping3

SECONDS = 20
HOSTS = ["127.0.0.1", "::1"]


def check(host: icmplib.Host, count: int) -> None:
    assert (host.packets_sent, host.packets_received) == (count, count), host
    assert 0 < host.max_rtt < SECONDS * 1000


for address in HOSTS:
    for size in (0, 56, 900):
        check(icmplib.ping(address, count=5, interval=0.01, timeout=SECONDS, payload_size=size), 5)
    check(asyncio.run(icmplib.async_ping(address, count=5, interval=0.01, timeout=SECONDS)), 5)
    hops = icmplib.traceroute(address, count=2, interval=0.01, timeout=SECONDS)
    assert [(hop.address, hop.packets_received) for hop in hops] == [(address, 2)], hops

for found in icmplib.multiping(
    [*HOSTS, "127.0.0.2"], count=3, interval=0.01, timeout=SECONDS, privileged=True
):
    check(found, 3)

with icmplib.ICMPv4Socket() as sock:
    requests = [icmplib.ICMPRequest("127.0.0.1", id=7, sequence=number) for number in range(20)]
    for request in requests:
        sock.send(request)
    for request in requests:
        reply = sock.receive(request, SECONDS)
        reply.raise_for_status()
        assert reply.source == "127.0.0.1"

ping3.EXCEPTIONS = True
delay = ping3.ping("127.0.0.1", timeout=SECONDS)
assert 0 < delay < SECONDS

print("all well")
