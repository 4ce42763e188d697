"""pymodbus: a server over TCP, TLS and UDP; clients of 8 threads and of asyncio poll and set it."""

import asyncio
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from peers import free_port
from pymodbus.client import (
    AsyncModbusTcpClient,
    ModbusTcpClient,
    ModbusTlsClient,
    ModbusUdpClient,
)
from pymodbus.server import ModbusTcpServer, ModbusTlsServer, ModbusUdpServer
from pymodbus.simulator import DataType, SimData, SimDevice

authority, certificate = sys.argv[1:]
server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
client_context = ssl.create_default_context(cafile=authority)
client_context.check_hostname = False  # its TLS client tells no name
REGISTERS = 1000
CYCLES = 100


def device() -> SimDevice:
    return SimDevice(1, [SimData(0, count=REGISTERS, datatype=DataType.REGISTERS)])


def poll(client: ModbusTcpClient, start: int) -> None:
    """A control loop of its own registers, and an error in between."""
    assert client.connect()
    for cycle in range(CYCLES):
        values = [start + cycle + number for number in range(10)]
        assert not client.write_registers(start, values).isError()
        assert client.read_holding_registers(start, count=10).registers == values
    assert client.read_holding_registers(REGISTERS, count=1).isError()
    client.close()


async def poll_at_once(port: int) -> None:
    """Several requests under way on one connection, on ten of them."""

    async def work(number: int) -> None:
        async with AsyncModbusTcpClient("127.0.0.1", port=port, timeout=30) as client:
            start = 500 + 10 * number
            for cycle in range(CYCLES):
                assert not (await client.write_register(start, cycle)).isError()
                answers = await asyncio.gather(
                    *(client.read_holding_registers(start, count=1) for _ in range(3))
                )
                assert [answer.registers for answer in answers] == [[cycle]] * 3

    await asyncio.gather(*(work(number) for number in range(10)))


async def main() -> None:
    ports = [free_port() for _ in range(3)]
    tcp = ModbusTcpServer(device(), address=("127.0.0.1", ports[0]))
    udp = ModbusUdpServer(device(), address=("127.0.0.1", ports[1]))
    tls = ModbusTlsServer(device(), address=("127.0.0.1", ports[2]), sslctx=server_context)
    for server in (tcp, udp, tls):
        await server.serve_forever(background=True)
    loop = asyncio.get_running_loop()
    options = {"timeout": 30, "retries": 0}
    with ThreadPoolExecutor(8) as pool:
        clients = [ModbusTcpClient("127.0.0.1", port=ports[0], **options) for _ in range(8)]
        clients.append(ModbusUdpClient("127.0.0.1", port=ports[1], **options))
        clients.append(
            ModbusTlsClient("localhost", port=ports[2], sslctx=client_context, **options)
        )
        polls = [
            loop.run_in_executor(pool, poll, client, 20 * number)
            for number, client in enumerate(clients)
        ]
        await asyncio.gather(poll_at_once(ports[0]), *polls)
    for server in (tcp, udp, tls):
        await server.shutdown()


asyncio.run(main())
assert threading.active_count() == 1
print("all well")
