"""The tests of our patches of lwIP are worth something: without the patches each of them fails."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_each_patch_test_fails_without_its_patch() -> None:
    # lwIP itself is left as it is, here too: what is built goes to build/native.
    command = [sys.executable, "native/build.py", "--sanitize", "address,undefined", "--pristine"]
    done = subprocess.run(
        [*command, "--test", "test_lwip_patches"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    source = (ROOT / "tests" / "native" / "test_lwip_patches.c").read_text()
    names = re.findall(r"^    \{\"(\w+)\", \1\},$", source, re.MULTILINE)
    assert names
    assert set(re.findall(r"^FAIL (\w+)$", done.stdout, re.MULTILINE)) == set(names), done.stderr
    assert done.returncode == 1
