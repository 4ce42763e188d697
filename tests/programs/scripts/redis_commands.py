"""redis-py: pipelines, transactions, blocking pops in threads, publish/subscribe; asyncio, too."""

import asyncio
import os
import sys
import threading

import redis
import redis.asyncio

host, port, client_address = sys.argv[1:]
BLOB = os.urandom(3_000_000)
TIMES = 1000


def commands(client: redis.Redis) -> None:
    client.flushall()
    assert client.client_info()["addr"].rpartition(":")[0] == client_address
    client.set("blob", BLOB)
    assert client.get("blob") == BLOB
    with client.pipeline(transaction=False) as pipeline:
        for number in range(TIMES):
            pipeline.rpush("numbers", number).incr("sum", number)
        pipeline.execute()
    assert client.lrange("numbers", 0, -1) == [b"%d" % number for number in range(TIMES)]
    assert int(client.get("sum")) == sum(range(TIMES))
    client.hset("hash", mapping={f"field {number}": number for number in range(TIMES)})
    assert dict(client.hscan_iter("hash")) == client.hgetall("hash")


def transactions(client: redis.Redis) -> None:
    """Threads add to one number by optimistic locking: none is lost."""

    def add(pipeline: redis.client.Pipeline) -> None:
        value = int(pipeline.get("watched") or 0)
        pipeline.multi()
        pipeline.set("watched", value + 1)

    def work() -> None:
        for _ in range(20):
            client.transaction(add, "watched")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert int(client.get("watched")) == 80


def blocking(client: redis.Redis) -> None:
    popped: list[bytes] = []

    def pop() -> None:
        while (item := client.blpop("queue", 30)[1]) != b"end":
            popped.append(item)

    threads = [threading.Thread(target=pop) for _ in range(5)]
    for thread in threads:
        thread.start()
    client.rpush("queue", *range(100), *["end"] * len(threads))
    for thread in threads:
        thread.join()
    assert sorted(map(int, popped)) == list(range(100))
    assert client.blpop("nothing", 1) is None


def subscribed(client: redis.Redis) -> None:
    with client.pubsub() as subscription:
        subscription.subscribe("news")
        assert subscription.get_message(timeout=30)["type"] == "subscribe"
        for number in range(TIMES):
            client.publish("news", number)
        got = [subscription.get_message(timeout=30)["data"] for _ in range(TIMES)]
        assert got == [b"%d" % number for number in range(TIMES)]
        assert subscription.get_message(timeout=0.01) is None


async def asynchronous() -> None:
    async with redis.asyncio.Redis(host=host, port=int(port)) as client:
        await asyncio.gather(*(client.set(f"key {number}", number) for number in range(100)))
        keys = [f"key {number}" for number in range(100)]
        assert [int(value) for value in await client.mget(keys)] == list(range(100))
        assert await client.get("blob") == BLOB
        async with client.pubsub() as subscription:
            await subscription.subscribe("news")
            await subscription.get_message(timeout=30)
            await client.publish("news", BLOB[:100_000])
            message = await subscription.get_message(timeout=30)
            assert message["data"] == BLOB[:100_000]


with redis.Redis(host=host, port=int(port), socket_timeout=60) as client:
    commands(client)
    transactions(client)
    blocking(client)
    subscribed(client)
asyncio.run(asynchronous())
print("all well")
