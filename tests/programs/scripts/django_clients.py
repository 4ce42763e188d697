"""What is asked of a Django site by its clients."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import requests

STREAM = b"".join(hashlib.shake_256(b"%d" % number).digest(10_000) for number in range(50))


def upload(url: str) -> str:
    """Sends a file and reads a stream; the file's digest."""
    blob = os.urandom(500_000)
    digest = hashlib.sha256(blob).hexdigest()
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(
            f"{url}/upload", data={"name": "grüße"}, files={"file": ("blob", blob)}, timeout=60
        ).json()
        assert answer == {"name": "grüße", "digest": digest}
        assert session.get(f"{url}/stream/50", timeout=60).content == STREAM
    return digest


def ask(url: str) -> set[int]:
    """Uploads at once, found again in the site's database; the processes that stored them."""
    digests = [upload(url)]
    with ThreadPoolExecutor(8) as pool:
        digests += pool.map(upload, [url] * 20)
    rows = requests.get(f"{url}/uploads", timeout=60).json()["rows"]
    stored = dict(rows)
    assert set(digests) <= set(stored)
    return {stored[digest] for digest in digests}
