"""grpclib: gRPC in Python alone: 100 calls at once of 100 kB, streams both ways, deadlines, TLS."""

import asyncio
import ssl
import sys

from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler
from grpclib.exceptions import GRPCError
from grpclib.server import Server


class Codec:
    __content_subtype__ = "raw"

    def encode(self, message: bytes, message_type: type) -> bytes:
        return message

    def decode(self, data: bytes, message_type: type) -> bytes:
        return data


class Service:
    async def turn(self, stream: object) -> None:
        message = await stream.recv_message()
        await stream.send_message(message[::-1])

    async def answer(self, stream: object) -> None:
        async for message in stream:
            await stream.send_message(message + b"!")

    async def wait(self, stream: object) -> None:
        await asyncio.sleep(30)

    def __mapping__(self) -> dict[str, Handler]:
        unary, streams = Cardinality.UNARY_UNARY, Cardinality.STREAM_STREAM
        return {
            "/test.Service/Turn": Handler(self.turn, unary, bytes, bytes),
            "/test.Service/Answer": Handler(self.answer, streams, bytes, bytes),
            "/test.Service/Wait": Handler(self.wait, unary, bytes, bytes),
        }


async def talk(channel: Channel) -> None:
    turn = UnaryUnaryMethod(channel, "/test.Service/Turn", bytes, bytes)
    messages = [b"%d" % number * 30_000 for number in range(100)]
    answers = await asyncio.gather(*map(turn, messages))
    assert answers == [message[::-1] for message in messages]
    method = StreamStreamMethod(channel, "/test.Service/Answer", bytes, bytes)
    async with method.open() as stream:
        for number in range(200):
            await stream.send_message(b"%d" % number)
            assert await stream.recv_message() == b"%d!" % number
        await stream.end()
    try:
        await UnaryUnaryMethod(channel, "/test.Service/Wait", bytes, bytes)(b"", timeout=0.2)
    except (TimeoutError, GRPCError):
        return
    raise AssertionError("no deadline")


async def main(authority: str, certificate: str) -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate)
    client_side = ssl.create_default_context(cafile=authority)
    for context in (server_side, client_side):
        context.set_alpn_protocols(["h2"])
    for ours, theirs in ((None, None), (server_side, client_side)):
        server = Server([Service()], codec=Codec())
        await server.start("127.0.0.1", 0, ssl=ours)
        port = server._server.sockets[0].getsockname()[1]
        async with Channel("127.0.0.1", port, codec=Codec(), ssl=theirs) as channel:
            await talk(channel)
        server.close()
        await server.wait_closed()


asyncio.run(main(*sys.argv[1:]))
print("all well")
