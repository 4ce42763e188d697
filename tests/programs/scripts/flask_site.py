"""`flask run`: uploads, cookies and streams, in threads, over TLS, and with the reloader."""

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from peers import free_port, python, serving

authority, certificate = sys.argv[1:]
BLOB = os.urandom(1_000_000)
STREAM = b"".join(hashlib.shake_256(b"%d" % number).digest(10_000) for number in range(50))


def ask(url: str) -> int:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = authority
        answer = session.post(
            f"{url}/upload", data={"name": "grüße"}, files={"file": ("blob", BLOB)}, timeout=60
        ).json()
        assert answer["name"] == "grüße"
        assert answer["digest"] == hashlib.sha256(BLOB).hexdigest()
        for number in range(1, 11):
            assert session.get(f"{url}/count", timeout=60).text == str(number)
        assert session.get(f"{url}/stream/50", timeout=60).content == STREAM
    return answer["process"]


def ask_at_once(url: str) -> set[int]:
    with ThreadPoolExecutor(16) as pool:
        return set(pool.map(ask, [url] * 32))


def command(app: Path, port: int, *options: str) -> tuple[str, ...]:
    return python("-m", "flask", "--app", str(app), *options, "run", "--port", str(port))


app = Path(sys.path[0]) / "flask_app.py"
port = free_port()
with serving("Running on", *command(app, port)) as server:
    assert ask_at_once(f"http://127.0.0.1:{port}") == {server.process.pid}

port = free_port()
tls = ("--cert", certificate, "--key", certificate)
with serving("Running on", *command(app, port), *tls):
    ask_at_once(f"https://localhost:{port}")

# The reloader's child inherits the listener of its parent, and so does the next.
copy = Path("reloaded.py")
copy.write_text(app.read_text())
port = free_port()
with serving("Debugger PIN", *command(copy, port, "--debug")) as server:
    before = ask(f"http://127.0.0.1:{port}")
    copy.write_text(app.read_text() + "\n")
    server.until("Debugger PIN", 2)
    assert ask(f"http://127.0.0.1:{port}") not in (before, server.process.pid)
print("all well")
