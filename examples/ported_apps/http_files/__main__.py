"""`python -m http.server` and a downloader, both unmodified, over the stack."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from examples.ported_apps import stage

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--kilobytes", type=int, default=5000, help="of each file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, stage.Stage() as scene:
        site, copies = Path(place, "site"), Path(place, "copies")
        copies.mkdir()
        digests = make_site(site, options.files, options.kilobytes)
        command = ("-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(site))
        server = scene.unmodified(*command, stderr=subprocess.DEVNULL)
        print("pifus run -- python", *command[:-1], "…")
        line = server.line()  # Serving HTTP on 127.0.0.1 port …
        url = f"http://127.0.0.1:{line.split(' port ')[1].split()[0]}"
        print(f"pifus run -- python download.py {url} …")
        start = time.monotonic()
        client = scene.unmodified(str(HERE / "download.py"), url, str(copies), *digests)
        found = json.loads(client.finish())
        seconds = time.monotonic() - start
        frames = scene.frames()
    wrong = [name for name, digest in digests.items() if found[name] != digest]
    megabytes = options.files * options.kilobytes / 1000
    print(f"{options.files} files, {megabytes:.0f} MB in {seconds:.2f} s; {frames} frames")
    print(f"other bytes: {', '.join(wrong)}" if wrong else "SHA-256 of all files equal")
    return 1 if wrong or not frames else 0


def make_site(site: Path, files: int, kilobytes: int) -> dict[str, str]:
    """Files of random bytes; their digests."""
    site.mkdir()
    digests = {}
    for number in range(files):
        data = os.urandom(kilobytes * 1000)
        (site / f"{number}.bin").write_bytes(data)
        digests[f"{number}.bin"] = hashlib.sha256(data).hexdigest()
    return digests


if __name__ == "__main__":
    sys.exit(main())
