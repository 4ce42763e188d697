"""`gunicorn` with a Django site: three pre-forked workers of each kind, exchanged under load."""

import signal
import socket
import sys

from django_clients import ask
from peers import free_port, python, serving

BOOTING = "Booting worker"


def workers(url: str) -> set[int]:
    """The processes that answered; at least two have to."""
    found: set[int] = set()
    for _ in range(10):
        found |= ask(url)
        if len(found) > 1:
            return found
    raise AssertionError(f"only {found} answered")


for kind in ("sync", "gthread", "gevent"):
    port = free_port()
    options = ["--workers", "3", "--worker-class", kind, "--bind", f"127.0.0.1:{port}"]
    if kind == "gthread":
        options += ["--threads", "4"]
    command = python("-m", "gunicorn", "--pythonpath", sys.path[0], *options, "django_app")
    with serving(BOOTING, *command, times=3) as server:
        before = workers(f"http://127.0.0.1:{port}")
        assert server.process.pid not in before
        server.process.send_signal(signal.SIGHUP)  # new workers take over the same listener
        server.until("Worker exiting", 3)
        server.until(BOOTING, 6)
        assert not workers(f"http://127.0.0.1:{port}") & before
    assert server.process.returncode == 0

# Socket activation: the listener is made by somebody else.
with socket.create_server(("127.0.0.1", 0)) as listener:
    port = listener.getsockname()[1]
    activated = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3, inheritable=True);"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    inherited = listener.fileno()
    words = ("-m", "gunicorn", "--pythonpath", sys.path[0], "--workers", "2", "django_app")
    command = python("-c", activated, str(inherited), *words)
    with serving(BOOTING, *command, times=2, descriptors=(inherited,)) as server:
        assert server.process.pid not in ask(f"http://127.0.0.1:{port}")
print("all well")
