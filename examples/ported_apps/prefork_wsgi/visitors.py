"""Visitors of the application: `visitors.py PORT COUNT`. Knows nothing of pifus."""

import contextlib
import http.client
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

port, count = map(int, sys.argv[1:])


def get(path: str, body: bytes | None = None) -> bytes:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST" if body else "GET", path, body)
    answer = connection.getresponse().read()
    connection.close()
    return answer


def visit(_number: int) -> int:
    """Has a body added up, and checks it; returns the worker that answers next."""
    body = os.urandom(10_000)
    assert int(get("/sum", body)) == sum(body)
    return int(get("/pid"))


with ThreadPoolExecutor(8) as pool:
    start = time.monotonic()
    before = set(pool.map(visit, range(count)))
    seconds = time.monotonic() - start
    with contextlib.suppress(http.client.HTTPException, ConnectionError):
        get("/die")
    # The others go on, and the arbiter starts another one.
    after = set(pool.map(visit, range(count)))
    while len(after) < len(before):
        after.add(visit(0))
print(
    json.dumps(
        {
            "rate": 2 * count / seconds,
            "workers": len(before),
            "died": len(before - after),
            "new": len(after - before),
        }
    )
)
