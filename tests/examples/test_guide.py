"""docs/GUIDE.md: every block is run, in its order, in one shell, and shows what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "GUIDE.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "== end of block =="
# A reader's next command comes later than a backend needs to start.
WAIT = "until pifus status --backend guide >/dev/null 2>&1; do sleep 0.02; done\n"


def test_every_block_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    script = ["set -e\n"]
    expected: list[str] = []
    for kind, text in BLOCK.findall(GUIDE.read_text(encoding="utf-8")):
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", text)
            assert name, f"a block does not say its file: {text[:60]}"
            (tmp_path / name[1]).write_text(text, encoding="utf-8")
        elif kind == "sh":
            wait = WAIT if text.rstrip().endswith("&") else ""
            script.append(f"{text}{wait}echo '{MARK}'\n")
            expected.append("…\n")
        else:
            assert kind == "text"
            expected[-1] = text
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run(
        ["bash", "-c", "".join(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    shown = done.stdout.split(f"{MARK}\n")[:-1]
    assert len(shown) == len(expected)
    for output, wanted in zip(shown, expected, strict=True):
        # "…" stands for whatever follows.
        assert output.startswith(wanted.removesuffix("…\n")), output
        assert wanted.endswith("…\n") or output == wanted


def test_every_program_of_the_guide_is_started() -> None:
    blocks = BLOCK.findall(GUIDE.read_text(encoding="utf-8"))
    shell = "".join(text for kind, text in blocks if kind == "sh")
    for kind, text in blocks:
        if kind == "python":
            assert f"python {text.split()[1]}" in shell
