"""Downloads files, four at a time: `download.py URL DIRECTORY NAME…`; prints their SHA-256.

Knows nothing of pifus.
"""

import hashlib
import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

url, directory, *names = sys.argv[1:]


def download(name: str) -> str:
    """Fetches a file; returns the digest of what came."""
    digest = hashlib.sha256()
    target = Path(directory, name)
    with urllib.request.urlopen(f"{url}/{name}", timeout=60) as response, target.open("wb") as file:
        while part := response.read(1 << 16):
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


with ThreadPoolExecutor(4) as pool:
    print(json.dumps(dict(zip(names, pool.map(download, names), strict=True))))
