"""A small DNS server, over UDP and TCP, on the sockets of either world."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

SECONDS = 20.0
UDP_BYTES = 512
SILENT = "silent"
CLOSED = "closed"  # cut short over UDP, and a connection is closed without an answer
# By name: records, or the name of an rcode, by their type; or an rcode for all; or a word above.
Zone = Mapping[str, Mapping[str, Sequence[str]] | str]


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, how, and from where."""

    name: str
    kind: str
    transport: str
    peer: str


class DnsServer:
    """Answers in a thread from `with` on; `asked` tells what it was asked.

    `noisy`: over UDP, sends something else before each answer, as a forger would.
    """

    def __init__(self, zone: Zone, addresses: Sequence[tuple[str, int]], net: ModuleType) -> None:
        self.zone = zone
        self.asked: list[Question] = []
        self.noisy = False
        self._sockets = contextlib.ExitStack()
        self._udp: list[Any] = []
        self._tcp: list[Any] = []
        self._stop, self._stopped = socket.socketpair()
        for host, wanted in addresses:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            tcp = self._sockets.enter_context(net.create_server((host, wanted), family=family))
            udp = self._sockets.enter_context(net.socket(family, socket.SOCK_DGRAM))
            self.port = tcp.getsockname()[1]
            udp.bind((host, self.port))
            self._tcp.append(tcp)
            self._udp.append(udp)
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> DnsServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.close()
        self._thread.join()
        self._sockets.close()
        self._stopped.close()

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([*self._udp, *self._tcp, self._stopped], [], [])
            if self._stopped in ready:
                return
            for sock in ready:
                if sock in self._udp:
                    data, peer = sock.recvfrom(4096)
                    reply = self._answer(data, "udp", peer[0])
                    if self.noisy:
                        other_id = bytes((data[0] ^ 1, *data[1:2]))
                        for noise in (b"", b"noise", data, other_id + (reply or data)[2:]):
                            sock.sendto(noise, peer)
                    if reply is not None:
                        sock.sendto(reply, peer)
                else:
                    connection, peer = sock.accept()
                    with connection:
                        connection.settimeout(SECONDS)
                        self._serve_stream(connection, peer[0])

    def _serve_stream(self, connection: Any, peer: str) -> None:
        stream = connection.makefile("rb")
        with stream:
            while header := stream.read(2):
                reply = self._answer(stream.read(*struct.unpack("!H", header)), "tcp", peer)
                if reply is None:
                    return
                connection.sendall(struct.pack("!H", len(reply)) + reply)

    def _answer(self, data: bytes, transport: str, peer: str) -> bytes | None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append(Question(name, kind, transport, peer))
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        entry = self.zone.get(name)
        if entry == SILENT or (entry == CLOSED and transport == "tcp"):
            return None
        if entry == CLOSED:
            response.flags |= dns.flags.TC
            return response.to_wire()
        while entry is not None and not isinstance(entry, str) and "CNAME" in entry:
            response.answer.append(
                dns.rrset.from_text(name + ".", 60, "IN", "CNAME", *entry["CNAME"])
            )
            name = entry["CNAME"][0].rstrip(".")
            entry = self.zone.get(name)
        if entry is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif isinstance(entry, str):
            response.set_rcode(dns.rcode.from_text(entry))
        elif isinstance(entry.get(kind), str):
            response.set_rcode(dns.rcode.from_text(str(entry[kind])))
        elif kind in entry:
            response.answer.append(dns.rrset.from_text(name + ".", 60, "IN", kind, *entry[kind]))
        size = UDP_BYTES if transport == "udp" else 65535
        return response.to_wire(max_size=size, prefer_truncation=True)
