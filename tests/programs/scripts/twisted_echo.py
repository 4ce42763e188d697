"""Twisted's reactor: TCP and TLS, many connections, a half-close."""

import os
import sys

from twisted.internet import defer, endpoints, protocol, reactor, ssl, task
from twisted.internet.interfaces import IHalfCloseableProtocol
from zope.interface import implementer

authority, certificate = sys.argv[1:]
with open(certificate, "rb") as file:
    server_options = ssl.PrivateCertificate.loadPEM(file.read()).options()
with open(authority, "rb") as file:
    client_options = ssl.optionsForClientTLS("localhost", ssl.Certificate.loadPEM(file.read()))
BLOB = os.urandom(1_000_000)


@implementer(IHalfCloseableProtocol)
class Echo(protocol.Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass


class Client(protocol.Protocol):
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.received = bytearray()
        self.done: defer.Deferred[bytes] = defer.Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self.data)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if len(self.received) == len(self.data):
            self.transport.loseConnection()

    def connectionLost(self, reason: object) -> None:
        self.done.callback(bytes(self.received))


async def one(endpoint: object, data: bytes) -> None:
    client = await endpoints.connectProtocol(endpoint, Client(data))
    assert await client.done == data


async def main() -> None:
    factory = protocol.Factory.forProtocol(Echo)
    for secure in (False, True):
        server = endpoints.TCP4ServerEndpoint(reactor, 0, backlog=200, interface="127.0.0.1")
        if secure:
            server = endpoints.SSL4ServerEndpoint(
                reactor, 0, server_options, backlog=200, interface="127.0.0.1"
            )
        port = await server.listen(factory)
        client = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        if secure:
            client = endpoints.wrapClientTLS(client_options, client)
        await one(client, BLOB)
        await defer.gatherResults(
            [defer.ensureDeferred(one(client, os.urandom(5000))) for _ in range(100)]
        )
        await port.stopListening()
    print("all well")


task.react(lambda _: defer.ensureDeferred(main()))
