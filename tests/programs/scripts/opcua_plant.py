"""asyncua: a server's nodes read, written, browsed, called and subscribed by OPC UA clients."""

import asyncio

from asyncua import Client, Node, Server, ua, uamethod
from peers import free_port

TIMES = 100
CLIENTS = 5


class Changes:
    """Takes the notifications of a subscription."""

    def __init__(self) -> None:
        self.values: asyncio.Queue[int] = asyncio.Queue()

    def datachange_notification(self, node: Node, value: int, data: object) -> None:
        self.values.put_nowait(value)


@uamethod
async def add(parent: object, left: int, right: int) -> int:
    return left + right


async def client(url: str, number: int) -> None:
    async with Client(url, timeout=30) as connection:
        plant = await connection.nodes.objects.get_child("2:plant")
        mine = await plant.get_child(f"2:valve {number}")
        changes = Changes()
        subscription = await connection.create_subscription(10, changes)
        await subscription.subscribe_data_change(mine)
        assert await asyncio.wait_for(changes.values.get(), 30) == 0
        for value in range(1, TIMES):
            await mine.write_value(value)
            assert await mine.read_value() == value
        while await asyncio.wait_for(changes.values.get(), 30) != TIMES - 1:
            pass
        await subscription.delete()
        blob = await plant.get_child("2:blob")
        await blob.write_value(bytes(range(256)) * 2000)
        assert await blob.read_value() == bytes(range(256)) * 2000
        assert await plant.call_method("2:add", number, 1000) == number + 1000
        assert len(await plant.get_children()) == CLIENTS + 2


async def main() -> None:
    server = Server()
    await server.init()
    url = f"opc.tcp://127.0.0.1:{free_port()}/pifus/"
    server.set_endpoint(url)
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    space = await server.register_namespace("urn:plant")
    assert space == 2
    plant = await server.nodes.objects.add_object(space, "plant")
    for number in range(CLIENTS):
        valve = await plant.add_variable(space, f"valve {number}", 0)
        await valve.set_writable()
    blob = await plant.add_variable(space, "blob", b"")
    await blob.set_writable()
    await plant.add_method(space, "add", add, [ua.VariantType.Int64] * 2, [ua.VariantType.Int64])
    async with server:
        await asyncio.gather(*(client(url, number) for number in range(CLIENTS)))


asyncio.run(main())
print("all well")
