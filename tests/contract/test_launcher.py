"""`pifus run` reaches Python programs however they are started; signals and statuses pass."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.conftest import PATIENCE_SECONDS, launcher, python_environment

PROGRAM = """\
import socket, sys
from pifus._compat import _table
with socket.create_server(("localhost", 0)) as listener:
    ours = listener.fileno() in _table.endpoints
print(ours, __name__, sys.argv[1:])
"""
FINE = "True __main__ ['a', '-b']\n"


def run(*command: str, place: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        launcher(*command),
        env={**python_environment(), **extra},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.mark.parametrize("flags", [[], ["-I"], ["-E"], ["-S"], ["-ISB"], ["-X", "dev", "-Werror"]])
def test_scripts_modules_and_code(program: Path, flags: list[str]) -> None:
    for what in (["program.py"], ["-m", "program"], ["-c", PROGRAM]):
        if what[0] == "-m" and {"-I", "-ISB"} & set(flags):
            continue  # isolated: the current directory is no place for modules
        done = run(sys.executable, *flags, *what, "a", "-b", place=program.parent)
        assert (done.stdout, done.stderr) == (FINE, ""), (flags, what)


@pytest.mark.parametrize("line", ["{python}", "{python} -I", "/usr/bin/env python3"])
def test_shebangs_and_shells(program: Path, line: str) -> None:
    text = f"#!{line.format(python=sys.executable)}\n{PROGRAM}"
    program.write_text(text)
    program.chmod(0o755)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in ([str(program), "a", "-b"], ["sh", "-c", f"'{sys.executable}' program.py a -b"]):
        done = run(*command, place=program.parent, PATH=path)
        assert (done.stdout, done.stderr) == (FINE, "")


CHILDREN = """
import concurrent.futures, multiprocessing, os, subprocess, sys

def work():
    import socket
    from pifus._compat import _table
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.fileno() in _table.endpoints

if __name__ == "__main__":
    print(work())
    for method in ("spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            print(pool.submit(work).result())
    code = "import children; print(children.work())"
    sys.stdout.flush()
    subprocess.run([sys.executable, "-c", code], check=True)
    os.system(f"'{sys.executable}' -c '{code}'")
    os.execv(sys.executable, [sys.executable, "-c", code])
"""


def test_children_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "children.py").write_text(CHILDREN)
    done = run(sys.executable, "children.py", place=tmp_path)
    assert done.stdout == "True\n" * 6, done.stderr


def test_a_console_entry_point(tmp_path: Path) -> None:
    entry = tmp_path / "tool"
    entry.write_text(
        f"#!{sys.executable}\n# -*- coding: utf-8 -*-\nimport re\nimport sys\n"
        "from program import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    entry.chmod(0o755)
    (tmp_path / "program.py").write_text(
        f"def main():\n    exec({PROGRAM!r}, globals())\n    return 3"
    )
    done = run(str(entry), "a", "-b", place=tmp_path)
    assert (done.stdout, done.returncode) == (FINE.replace("__main__", "program"), 3)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import sys; sys.exit(7)", 7),
        ("raise SystemExit('text')", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
        ("import os; os.abort()", 128 + signal.SIGABRT),
    ],
)
def test_exit_statuses(code: str, status: int) -> None:
    assert run(sys.executable, "-c", code).returncode == status
    assert run("/no/such/program").returncode == 127
    assert run("/etc/hostname").returncode == 126


WAITING = """
import signal, socket, sys
def stop(number, frame):
    print(signal.Signals(number).name, flush=True)
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
listener = socket.create_server(("127.0.0.1", 0))
try:
    print("ready", flush=True)
    listener.accept()
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(6)
"""


@pytest.mark.parametrize(
    ("number", "says", "status"),
    [(signal.SIGINT, "interrupted", 6), (signal.SIGTERM, "SIGTERM", 5)],
)
def test_signals_reach_the_program_and_nothing_stays(
    number: signal.Signals, says: str, status: int
) -> None:
    environment = python_environment()
    del environment["PIFUS_BACKEND"]  # a private backend, that has to end, too
    process = subprocess.Popen(
        launcher(sys.executable, "-c", WAITING), env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        group = children_of(process.pid)
        assert len(group) == 2  # the program and its backend
        process.send_signal(number)
        assert process.stdout.read() == f"{says}\n"
        assert process.wait(PATIENCE_SECONDS) == status
    assert not [pid for pid in group if Path(f"/proc/{pid}/exe").exists()]


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    text = "".join((task / "children").read_text() for task in tasks.iterdir())
    return [int(word) for word in text.split()]
