"""asyncpg: a pool, 300 queries at once, COPY, cursors, notifications, cancelled queries; TLS."""

import asyncio
import ssl
import sys

import asyncpg

HOST, PORT, CLIENT, AUTHORITY = sys.argv[1:]


async def talk(pool: asyncpg.Pool) -> None:
    numbers = await asyncio.gather(*(pool.fetchval("select $1::int", n) for n in range(300)))
    assert numbers == list(range(300))
    assert await pool.fetchval("select host(inet_client_addr())") == CLIENT
    assert len(await pool.fetchval("select $1::text", "x" * 5_000_000)) == 5_000_000
    async with pool.acquire() as connection:
        await connection.execute("create temporary table rows (number int, data bytea)")
        rows = [(number, bytes(100)) for number in range(20_000)]
        await connection.copy_records_to_table("rows", records=rows)
        async with connection.transaction():
            seen = [row["number"] async for row in connection.cursor("select number from rows")]
        assert sorted(seen) == list(range(20_000))
        heard: asyncio.Queue = asyncio.Queue()
        await connection.add_listener("news", lambda *told: heard.put_nowait(told[3]))
        await pool.execute("notify news, 'something'")
        assert await asyncio.wait_for(heard.get(), 30) == "something"
        await connection.reset()
        try:
            await connection.execute("select pg_sleep(60)", timeout=0.2)
        except TimeoutError:
            assert await connection.fetchval("select 7") == 7
        else:
            raise AssertionError("no time-out")


async def main() -> None:
    context = ssl.create_default_context(cafile=AUTHORITY)
    context.check_hostname = False
    for way in (False, context):
        async with asyncpg.create_pool(
            host=HOST,
            port=int(PORT),
            user="postgres",
            database="postgres",
            ssl=way,
            min_size=2,
            max_size=8,
        ) as pool:
            await talk(pool)


asyncio.run(main())
print("all well")
