"""`pifus demo`: unmodified programs over the stack, and a real-time socket beside them.

Ends by itself and leaves nothing but ./demo-out.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pifus.bench import _clients, _peer
from pifus.bench._net import Tap
from pifus.bench._run import Backend, Worker, interruptible, privilege_missing
from pifus.bench._stats import Samples
from pifus.bench._worker import State, WorkerError

MEGABYTES = 100
PORT = 8000
PERIOD_NS = 1_000_000
_BLOCK = 1 << 20
_TURNS = 3
_FIFO_PRIORITY = 10
_STACK_FIFO_PRIORITY = 20
_START_SECONDS = 20.0
_FETCH_SECONDS = 120.0
# Unmodified: it knows nothing of pifus. Prints the SHA-256 of what it got.
_FETCH = """
import hashlib, sys, urllib.request
digest = hashlib.sha256()
with urllib.request.urlopen(sys.argv[1], timeout=60) as response:
    while part := response.read(65536):
        digest.update(part)
print(digest.hexdigest())
"""
QUIET = "HIGH, nothing else running"
HIGH = "HIGH, beside the bulk transfer"
LOW = "LOW, beside the bulk transfer"


@dataclass
class Demo:
    """What all parts of the demo need.

    Attributes:
        backend: the path of the backend.
        stack: the address under which the stack serves.
        host: the kernel's address on the TAP device; "": there is none.
        directory: with `data.bin`, served from there.
        digest: of `data.bin`.
        cleanup: ends everything.
        checks: what was shown: text, and whether it went well.
    """

    backend: str
    stack: str
    host: str
    directory: Path
    digest: str
    cleanup: contextlib.ExitStack
    checks: list[tuple[str, str, bool]] = field(default_factory=list)

    def note(self, what: str, result: str, succeeded: bool) -> None:
        """Tells a result now and in the summary."""
        self.checks.append((what, result, succeeded))
        say(f"   {'ok' if succeeded else 'FAILED'}: {what}: {result}")

    @property
    def url(self) -> str:
        """Of the file, at the server over the stack."""
        return f"http://{self.stack}:{PORT}/data.bin"


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command `pifus demo`; returns the exit status: 1 if something did not go well."""
    parser = argparse.ArgumentParser(prog="pifus demo", description="Shows pifus at work.")
    parser.add_argument("--seconds", type=float, default=9.0, help="of each latency measurement")
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="directory for the plot")
    options = parser.parse_args(argv)
    if not 0.3 <= options.seconds <= 600:
        parser.error("--seconds: allowed is 0.3 to 600")
    try:
        with interruptible(), contextlib.ExitStack() as cleanup:
            demo = _prepare(cleanup)
            _show_programs(demo)
            found = _show_latency(demo, options.seconds)
    except (OSError, WorkerError, subprocess.SubprocessError) as error:
        print(f"pifus demo: {error}", file=sys.stderr)
        return 1
    _print_latency(found)
    _plot_latency(found, options.out)
    return _print_summary(demo)


# ---- the scene ----


def _prepare(cleanup: contextlib.ExitStack) -> Demo:
    options = ("--realtime", str(_STACK_FIFO_PRIORITY)) if _may_be_realtime() else ()
    missing = privilege_missing()
    if missing:
        say(f"== no TAP device here, so loopback only: {missing}")
        backend, stack, host = cleanup.enter_context(Backend(*options)), "127.0.0.1", ""
    else:
        tap = cleanup.enter_context(Tap(*options))
        backend, stack, host = tap.backend, tap.stack, tap.host
        say(f"== a backend with the TAP device {tap.name}: stack {stack}, kernel {host}")
    how = f"SCHED_FIFO {_STACK_FIFO_PRIORITY}" if options else "normal scheduling: expect tails"
    say(f"   its stack thread has {how}")
    directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="pifus-demo-")))
    digest = hashlib.sha256()
    with (directory / "data.bin").open("wb") as file:
        for _ in range(MEGABYTES):
            block = os.urandom(1_000_000)
            digest.update(block)
            file.write(block)
    return Demo(backend.path, stack, host, directory, digest.hexdigest(), cleanup)


def _may_be_realtime() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_STACK_FIFO_PRIORITY))
    except OSError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


def _pifus_run(demo: Demo, *command: str) -> list[str]:
    prefix = [sys.executable, "-m", "pifus.cli", "run", "--backend", demo.backend]
    return [*prefix, "--priority", "low", "--", *command]


@contextlib.contextmanager
def _server(command: Sequence[str], directory: Path) -> Iterator[None]:
    """`python -m http.server` until the end; it is ready when this is entered.

    Raises:
        OSError: it did not start.
    """
    with subprocess.Popen(
        command,
        cwd=directory,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": _python_path()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        timer = threading.Timer(_START_SECONDS, process.kill)
        # It writes a line for each request: nobody must have to wait for a reader.
        errors: list[str] = []
        drain = threading.Thread(target=_drain, args=(process.stderr, errors))
        timer.start()
        drain.start()
        try:
            # Its first line says that it serves; at the end of the file it has died.
            line = process.stdout.readline()
            timer.cancel()
            if "Serving HTTP" not in line:
                process.kill()
                drain.join()
                raise OSError(f"http.server did not start: {''.join(errors)[-500:]}")
            yield
        finally:
            timer.cancel()
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
            drain.join()


def _drain(stream: Any, lines: list[str]) -> None:
    for line in stream:
        # What it says before it serves is what matters if it does not.
        if len(lines) < 20:
            lines.append(line)


def _python_path() -> str:
    root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))


# ---- unmodified programs ----


def _show_programs(demo: Demo) -> None:
    say("== pifus run --priority low -- python -m http.server")
    server = [sys.executable, "-m", "http.server", str(PORT), "--bind", demo.stack]
    demo.cleanup.enter_context(_server(_pifus_run(demo, *server), demo.directory))
    urllib = [sys.executable, "-c", _FETCH]
    if demo.host:
        _show_ping(demo)
        curl = shutil.which("curl")
        name = "curl" if curl else "urllib over the kernel (no curl here)"
        outward: list[str] = [curl, "-sS", demo.url] if curl else [*urllib, demo.url]
        _fetch(demo, f"out: {name} from http.server over the stack", outward, hashed=not curl)
        say("== the other way: pifus run -- python (urllib), from the kernel's http.server")
        kernel_server = [*server[:-1], demo.host]
        with _server(kernel_server, demo.directory):
            inward = _pifus_run(demo, *urllib, f"http://{demo.host}:{PORT}/data.bin")
            _fetch(demo, "in: urllib over the stack from the kernel's http.server", inward)
    both = _pifus_run(demo, *urllib, demo.url)
    _fetch(demo, "both ends: urllib and http.server over the stack", both)


def _fetch(demo: Demo, what: str, command: Sequence[str], hashed: bool = True) -> None:
    """Fetches the file; `hashed`: the command prints the digest, otherwise the bytes."""
    start = time.monotonic()
    found, error = _run_fetch(command, hashed)
    seconds = time.monotonic() - start
    if found != demo.digest:
        demo.note(what, error or "other bytes than were sent", False)
    else:
        rate = MEGABYTES / seconds
        demo.note(what, f"{MEGABYTES} MB in {seconds:.2f} s ({rate:.0f} MB/s), SHA-256 equal", True)


def _run_fetch(command: Sequence[str], hashed: bool) -> tuple[str, str]:
    """The digest, and what the command complained about."""
    digest = hashlib.sha256()
    with subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": _python_path()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        timer = threading.Timer(_FETCH_SECONDS, process.kill)
        timer.start()
        try:
            text = b""
            while part := process.stdout.read(_BLOCK):
                digest.update(part)
                text = part if hashed else b""
            error = process.stderr.read().decode(errors="replace").strip()
        finally:
            timer.cancel()
            process.kill()
    return (text.decode().strip() if hashed else digest.hexdigest()), error[-300:]


def _show_ping(demo: Demo) -> None:
    ping = shutil.which("ping", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/bin")
    if ping is None:
        say("   ping is not installed (iputils-ping): left out")
        return
    done = subprocess.run(
        [ping, "-n", "-c", "5", "-i", "0.2", "-W", "2", demo.stack],
        capture_output=True,
        text=True,
        check=False,
    )
    received = re.search(r"(\d+) received", done.stdout)
    times = re.search(r"= ([\d.]+)/([\d.]+)/", done.stdout)
    answer = f"{received[1] if received else 0} of 5 answers"
    if times:
        answer += f", mean {float(times[2]) * 1000:.0f} us"
    demo.note(f"ping {demo.stack}", answer, done.returncode == 0)


# ---- the real-time socket ----


def attach_realtime(state: State, backend: str, address: tuple[str, int], kind: bytes) -> str:
    """In a worker: two connections, of HIGH and of LOW priority; how the process is scheduled."""
    import pifus

    client = pifus.Client(backend, max_sockets=8, name="pifus demo: real-time")
    state["client"] = client
    for name, priority in ((HIGH, pifus.Priority.HIGH), (LOW, pifus.Priority.LOW)):
        sock = client.socket(pifus.TCP, priority=priority)
        sock.connect(address)
        sock.wait(10).check()
        if kind:
            sock.write(kind)
            sock.wait(10).check()
        state[name] = sock
    return become_realtime(state)


def become_realtime(_state: State) -> str:
    """In a worker: SCHED_FIFO if we may, as a real-time program would have it."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITY))
    except OSError:
        return "normal scheduling (SCHED_FIFO is not allowed here)"
    return f"SCHED_FIFO {_FIFO_PRIORITY}"


def request_loop(state: State, name: str, seconds: float) -> Samples:
    """In a worker: a request every millisecond; how long until its answer is there."""
    sock = state[name]
    times = array("I")
    now = time.monotonic_ns()
    end = now + int(seconds * 1e9)
    due = now + PERIOD_NS
    while now < end:
        time.sleep(max(due - time.monotonic_ns(), 0) / 1e9)
        start = time.monotonic_ns()
        sock.recv(1)
        sock.write(b"x")
        while sock.wait(10).check().data is None:
            pass
        now = time.monotonic_ns()
        times.append(now - start)
        # The acknowledgement, if it came after the answer.
        while sock.poll() is not None:
            pass
        due = max(due + PERIOD_NS, now)
    return Samples.of(times)


def _show_latency(demo: Demo, seconds: float) -> dict[str, Samples]:
    peer = demo.cleanup.enter_context(Worker())
    if demo.host:
        peer.call(become_realtime)  # first: the threads that serve inherit it
        address = (demo.host, peer.call(_peer.serve, address=demo.host))
        where, kind = "a kernel peer over TAP", _peer.ECHO_C
    else:
        port = peer.call(_clients.serve_pifus, backend=demo.backend, spin_ns=-1)
        address, where, kind = ("127.0.0.1", port), "a peer over loopback", b""
        peer.start(_clients.echo_pifus)
    client = demo.cleanup.enter_context(Worker())
    scheduled = client.call(attach_realtime, backend=demo.backend, address=address, kind=kind)
    say(f"== a request every millisecond to {where}; the real-time process has {scheduled}")
    found = {name: Samples() for name in (QUIET, HIGH, LOW)}
    for turn in range(_TURNS):
        say(f"   round {turn + 1} of {_TURNS}")
        part = seconds / _TURNS
        found[QUIET].add(client.call(request_loop, name=HIGH, seconds=part))
        with _bulk(demo):
            found[HIGH].add(client.call(request_loop, name=HIGH, seconds=part))
            found[LOW].add(client.call(request_loop, name=LOW, seconds=part))
    return found


@contextlib.contextmanager
def _bulk(demo: Demo) -> Iterator[None]:
    """Somebody fetches the file from the LOW http.server, again and again."""
    curl = shutil.which("curl") if demo.host else None
    command = [curl, "-sS", demo.url] if curl else [sys.executable, "-c", _FETCH, demo.url]
    if not demo.host:
        command = _pifus_run(demo, *command)
    over = threading.Event()

    def fetch() -> None:
        while not over.is_set():
            _run_fetch(command, hashed=not curl)

    thread = threading.Thread(target=fetch)
    thread.start()
    try:
        # In full swing, not in its start.
        time.sleep(0.5)
        yield
    finally:
        over.set()
        thread.join()


# ---- results ----


def _print_latency(found: dict[str, Samples]) -> None:
    columns: tuple[str, ...] = ("n", "min", "p50", "p99", "p999", "max", "mean")
    say("\nRound trip of the real-time socket, us")
    say(f"  {'':32}" + "".join(f"{name:>9}" for name in columns))
    for name, samples in found.items():
        figures = samples.summary()
        shown = (f"{figures[column]:9.0f}" for column in columns)
        say(f"  {name:32}" + "".join(shown))


def _plot_latency(found: dict[str, Samples], directory: Path) -> None:
    from pifus.bench import _plot

    try:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "latency.png"
        _plot.draw_tails("Round trip of a 1 kHz real-time socket", found, path)
        say(f"\nplot: {path}")
    except (_plot.PlotError, OSError) as error:
        say(f"\nno plot: {error}")


def _print_summary(demo: Demo) -> int:
    say("\nSummary")
    for what, result, succeeded in demo.checks:
        say(f"  {'ok    ' if succeeded else 'FAILED'} {what}: {result}")
    return 0 if all(succeeded for _, _, succeeded in demo.checks) else 1
