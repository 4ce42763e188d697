"""celery: a worker's pre-forked processes and one of threads: groups, chains, retries, results."""

import subprocess
import sys
from pathlib import Path

from peers import python, serving

HOST, PORT, CLIENT = sys.argv[1:]
URL = f"redis://{HOST}:{PORT}"
Path("tasks.py").write_text(f"""
from celery import Celery

app = Celery("tasks", broker="{URL}/0", backend="{URL}/1")

@app.task
def add(one, other):
    return one + other

@app.task(bind=True, max_retries=3)
def thrice(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries
""")
sys.path.insert(0, ".")
from celery import chain, group
from redis import Redis
from tasks import add, thrice

SECONDS = 60
with Redis(HOST, int(PORT)) as redis:
    assert redis.client_info()["addr"].startswith(f"{CLIENT}:")
for pool in ("prefork", "threads"):
    options = ("worker", "--pool", pool, "--concurrency", "3", "--loglevel", "info")
    with serving(" ready.", *python("-m", "celery", "-A", "tasks", *options)) as server:
        assert sum(group(add.s(n, n) for n in range(200))().get(SECONDS)) == 39_800
        assert chain(add.s(1, 1), add.s(1), add.s(1))().get(SECONDS) == 4
        assert thrice.delay().get(SECONDS) == 2
        assert add.delay("x" * 500_000, "y").get(SECONDS) == "x" * 500_000 + "y"
    assert server.process.returncode == 0
subprocess.run(python("-m", "celery", "-A", "tasks", "purge", "-f"), check=True)
print("all well")
