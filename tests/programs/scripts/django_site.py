"""`manage.py runserver`: uploads to a database, streams, static files, in threads; the reloader."""

import os
import sys
from pathlib import Path

import requests
from django_clients import ask
from peers import free_port, python, serving

READY = "development server at"
BLOB = os.urandom(3_000_000)

manage = Path(sys.path[0]) / "django_app.py"
Path("static").mkdir()
Path("static", "blob").write_bytes(BLOB)

port = free_port()
command = python(str(manage), "runserver", "--noreload", f"127.0.0.1:{port}")
with serving(READY, *command) as server:
    url = f"http://127.0.0.1:{port}"
    assert ask(url) == {server.process.pid}
    assert requests.get(f"{url}/static/blob", timeout=60).content == BLOB

copy = Path("site_app.py")
copy.write_text(manage.read_text())
port = free_port()
with serving(READY, *python(str(copy), "runserver", f"127.0.0.1:{port}")) as server:
    url = f"http://127.0.0.1:{port}/process"
    before = requests.get(url, timeout=60).text
    changes = 0
    while not server.says(READY, 2, seconds=2):  # the first change may precede its first look
        changes += 1
        assert changes < 20
        copy.write_text(manage.read_text() + "\n" * changes)
    assert requests.get(url, timeout=60).text not in (before, str(server.process.pid))
print("all well")
