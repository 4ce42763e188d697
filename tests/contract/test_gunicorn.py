"""gunicorn, unmodified: a pre-fork server whose workers share the listener of their master."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture

pytest.importorskip("gunicorn", reason="in the dev group: ./dev installs it")

APP = """
import os
def app(environ, start_response):
    body = b"%d %s" % (os.getpid(), environ["PATH_INFO"].encode())
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
PROGRAM = """
import concurrent.futures, subprocess, urllib.request
with socket.create_server((HOST, 0)) as free:
    port = free.getsockname()[1]
towards((HOST, port))
directory, *options = sys.argv[1:]
command = [sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{port}", "--chdir", directory]
server = subprocess.Popen(
    [*command, "--workers", "3", "--worker-tmp-dir", directory, *options, "app:app"],
    stderr=subprocess.PIPE,
    text=True,
)
def until(**times):
    while any(times.values()):
        line = server.stderr.readline()
        assert line, "the server has ended"
        assert "Error" not in line, line
        for text in times:
            times[text] -= text in line
def get(number):
    with urllib.request.urlopen(f"http://{HOST}:{port}/{number}", timeout=20) as reply:
        return reply.read().split()
def hammer():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(get, range(200)))
    assert [path for _, path in replies] == [b"/%d" % number for number in range(200)]
    return {pid for pid, _ in replies}
try:
    until(Booting=3)
    before = hammer()
    assert len(before) > 1 and b"%d" % server.pid not in before
    server.send_signal(signal.SIGHUP)  # new workers take over the same listener
    until(Booting=3, exiting=3)
    after = hammer()
    assert len(after) > 1 and not before & after
finally:
    server.terminate()
    server.communicate()
assert server.returncode == 0
print("ok")
"""


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_gunicorn(run: Run, tmp_path: Path, worker: str) -> None:  # noqa: F811
    (tmp_path / "app.py").write_text(APP)
    assert run(HEAD + PROGRAM, str(tmp_path), "--worker-class", worker) == "ok\n"
