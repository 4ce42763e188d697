"""Each example runs by the one command of its README, does what it says, and tells so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APPS = ROOT / "examples" / "ported_apps"
SKIPPED = 77
SHORT = ("--seconds", "0.4", "--rounds", "1")
# Name: options that make it short, and what it has to tell, as a regular expression.
EXAMPLES = {
    "http_files": (("--files", "8", "--kilobytes", "2000"), "SHA-256 of all files equal"),
    "chat": (("--guests", "12"), r"pifus +12 guests, 1320 lines heard"),
    "prefork_wsgi": (("--visits", "60"), r"1 died in a request; 1 took its place"),
    "mqtt_fleet": (
        ("--sensors", "6", "--readings", "20"),
        r"saw 6 clients come from the stack's address\n.*heard 120 readings.*will of sensor 0",
    ),
    "modbus_loop": (
        SHORT,
        r"(?s)alone +[1-4]\d\d .*loop HIGH +\d+ .*no priorities +\d+ .*late by .* alone: \d+\n",
    ),
    "audio_udp": (SHORT, r"every stream was as loud as OSC had set it"),
    "tcp_proxy": (
        ("--messages", "20", "--rounds", "1"),
        r"(?s)readiness \(selectors\) +[\d,]+ .*completions +[\d,]+ .*trio +[\d,]+ ",
    ),
    "echo_1000": (("--messages", "3"), r"1000 connections at once, 3000 messages"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    options, telling = EXAMPLES[name]
    words = [*command(name), *options]
    if options is SHORT:
        words += ["--out", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert re.search(telling, done.stdout), done.stdout
    if options is SHORT:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def command(name: str) -> list[str]:
    """The command in the README of an example."""
    text = (APPS / name / "README.md").read_text(encoding="utf-8")
    match = re.search(r"```\n\.venv/bin/python (.*)\n```", text)
    assert match, f"{name}/README.md does not tell its command"
    return [sys.executable, *match[1].split()]


def test_every_example_is_tried_and_listed() -> None:
    folders = {path.parent.name for path in APPS.glob("*/__main__.py")}
    assert folders == set(EXAMPLES)
    listed = (APPS / "README.md").read_text(encoding="utf-8")
    assert all(f"({name}/README.md)" in listed for name in folders)
