"""A WSGI application: /pid tells which worker answers, /sum adds up the body, /die ends the worker.

Knows nothing of pifus, nor of gunicorn.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/die":
        os._exit(1)
    if path == "/sum":
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        answer = str(sum(body)).encode()
    elif path == "/pid":
        answer = str(os.getpid()).encode()
    else:
        start("404 Not Found", [("Content-Length", "0")])
        return []
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]
