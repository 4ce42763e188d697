"""python-osc: messages and bundles over UDP, to a threading and an asyncio server; over TCP."""

import asyncio
import queue

from peers import threaded
from pythonosc import osc_bundle_builder, osc_message_builder, udp_client
from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_server import AsyncIOOSCUDPServer, ThreadingOSCUDPServer
from pythonosc.osc_tcp_server import ThreadingOSCTCPServer
from pythonosc.tcp_client import SimpleTCPClient

TIMES = 300
SECONDS = 30
BLOB = bytes(range(250)) * 32


def bundle() -> object:
    builder = osc_bundle_builder.OscBundleBuilder(osc_bundle_builder.IMMEDIATELY)
    for number in range(3):
        message = osc_message_builder.OscMessageBuilder(address="/bundled")
        message.add_arg(number)
        builder.add_content(message.build())
    return builder.build()


def send(client: udp_client.SimpleUDPClient, received: queue.Queue) -> None:
    """Every message is there before the next: datagrams may be lost otherwise."""
    for number in range(TIMES):
        client.send_message("/number", [number, number / 2, f"number {number}"])
        assert received.get(timeout=SECONDS) == ("/number", number, number / 2, f"number {number}")
    client.send_message("/blob", BLOB)
    assert received.get(timeout=SECONDS) == ("/blob", BLOB)
    client.send(bundle())
    got = sorted(received.get(timeout=SECONDS) for _ in range(3))
    assert got == [("/bundled", number) for number in range(3)]


def dispatcher(received: queue.Queue) -> Dispatcher:
    result = Dispatcher()
    result.set_default_handler(lambda *message: received.put(message))
    return result


def synchronous() -> None:
    received: queue.Queue = queue.Queue()
    server = ThreadingOSCUDPServer(("127.0.0.1", 0), dispatcher(received))
    with threaded(server), udp_client.SimpleUDPClient(*server.server_address) as client:
        send(client, received)
    for mode in ("1.0", "1.1"):
        tcp_server = ThreadingOSCTCPServer(("127.0.0.1", 0), dispatcher(received), mode)
        address = tcp_server.server_address
        with threaded(tcp_server), SimpleTCPClient(*address, mode=mode) as client:
            send(client, received)


async def asynchronous() -> None:
    received: queue.Queue = queue.Queue()
    loop = asyncio.get_running_loop()
    server = AsyncIOOSCUDPServer(("127.0.0.1", 0), dispatcher(received), loop)
    transport, _ = await server.create_serve_endpoint()
    port = transport.get_extra_info("sockname")[1]
    client = udp_client.SimpleUDPClient("127.0.0.1", port)
    await asyncio.to_thread(send, client, received)
    transport.close()


synchronous()
asyncio.run(asynchronous())
print("all well")
