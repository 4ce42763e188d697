"""dnspython: queries over UDP, TCP and TLS, truncated answers, zone transfers; asyncio and trio."""

import asyncio
import socket
import socketserver
import ssl
import sys

import dns.asyncbackend
import dns.asyncquery
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.resolver
import dns.rrset
import dns.xfr
import dns.zone
import trio
from peers import threaded

authority, certificate = sys.argv[1:]
server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
client_context = ssl.create_default_context(cafile=authority)
SECONDS = 30
LINES = ["@ 300 IN SOA ns admin 1 2 3 4 5", "@ 300 IN NS ns", "ns 300 IN A 192.0.2.1"]
LINES += [f"host{number} 300 IN A 192.0.2.{number % 250}" for number in range(2000)]
LINES += [f'long 300 IN TXT "{"x" * 200} {number}"' for number in range(20)]
ZONE = dns.zone.from_text("\n".join(LINES), "example.org.", relativize=False)


def answer(wire: bytes) -> dns.message.Message:
    """The answer of a server that has only this zone."""
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA
    question = query.question[0]
    if question.rdtype == dns.rdatatype.AXFR:
        soa = dns.rrset.from_rdata_list(ZONE.origin, 300, ZONE.find_rdataset(ZONE.origin, "SOA"))
        rest = [
            dns.rrset.from_rdata_list(name, 300, data)
            for name, data in ZONE.iterate_rdatasets()
            if data.rdtype != dns.rdatatype.SOA
        ]
        response.answer = [soa, *rest, soa]
    elif (found := ZONE.get_rdataset(question.name, question.rdtype)) is not None:
        response.answer = [dns.rrset.from_rdata_list(question.name, 300, found)]
    else:
        response.set_rcode(dns.rcode.NXDOMAIN)
    return response


class Datagrams(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        response = answer(data)
        wire = response.to_wire()
        if len(wire) > 1232:
            response.answer.clear()
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        sock.sendto(wire, self.client_address)


class Streams(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while size := self.rfile.read(2):
            wire = answer(self.rfile.read(int.from_bytes(size))).to_wire()
            self.wfile.write(len(wire).to_bytes(2) + wire)


class Secure(socketserver.ThreadingTCPServer):
    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        return server_context.wrap_socket(connection, server_side=True), address


def queries(port: int, secure: int) -> None:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port, resolver.lifetime = ["127.0.0.1"], port, SECONDS
    for number in range(100):
        (found,) = resolver.resolve(f"host{number}.example.org", "A")
        assert found.address == f"192.0.2.{number}"
    try:
        resolver.resolve("nobody.example.org", "A")
    except dns.resolver.NXDOMAIN:
        pass
    else:
        raise AssertionError("a name that is not there was found")
    assert len(resolver.resolve("long.example.org", "TXT")) == 20  # truncated: by TCP
    query = dns.message.make_query("long.example.org", "TXT")
    response, by_tcp = dns.query.udp_with_fallback(query, "127.0.0.1", SECONDS, port)
    assert by_tcp
    assert len(response.answer[0]) == 20
    response = dns.query.tls(
        query, "127.0.0.1", SECONDS, secure, ssl_context=client_context, server_hostname="localhost"
    )
    assert len(response.answer[0]) == 20
    copy = dns.zone.Zone("example.org.", relativize=False)
    dns.query.inbound_xfr("127.0.0.1", copy, port=port, timeout=SECONDS, lifetime=SECONDS)
    assert copy == ZONE


async def within(library: str, port: int) -> None:
    """The same in asyncio and in trio."""
    backend = dns.asyncbackend.get_backend(library)
    query = dns.message.make_query("host7.example.org", "A")
    response = await dns.asyncquery.udp(query, "127.0.0.1", SECONDS, port, backend=backend)
    assert response.answer[0][0].address == "192.0.2.7"
    long = dns.message.make_query("long.example.org", "TXT")
    response = await dns.asyncquery.tcp(long, "127.0.0.1", SECONDS, port, backend=backend)
    assert len(response.answer[0]) == 20


socketserver.ThreadingTCPServer.daemon_threads = True
tcp = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Streams)
udp = socketserver.ThreadingUDPServer(tcp.server_address, Datagrams)
tls = Secure(("127.0.0.1", 0), Streams)
with threaded(tcp, udp, tls):
    queries(tcp.server_address[1], tls.server_address[1])
    asyncio.run(within("asyncio", tcp.server_address[1]))
    trio.run(within, "trio", tcp.server_address[1])
print("all well")
