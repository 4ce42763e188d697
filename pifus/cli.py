"""The command line: `pifus backend | status | run | doctor | bench | demo`."""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import pifus

_PRIORITIES = ("high", "medium", "low")
_USAGE = """\
usage: pifus COMMAND …

  backend    run a backend that applications attach to
  status     show the backend: clients, counters
  run        run a command over the stack: pifus run -- python -m http.server
  doctor     tell what of a program will and will not go through the stack
  bench      measure
  demo       show pifus at work

pifus COMMAND --help tells more; pifus --version shows the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point of the console script; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"pifus {pifus.__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    handler = _COMMANDS.get(command)
    if handler is None:
        known = ", ".join(_COMMANDS)
        print(f"pifus: no command {command!r}: known are {known}", file=sys.stderr)
        return 2
    try:
        return int(handler(rest))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone: nothing is left to be said.
        sys.stderr.close()
        return 141
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or error
        print(f"pifus {command}: {text}", file=sys.stderr)
        return 1


def _backend(arguments: Sequence[str]) -> int:
    # Not a library for the rest of pifus: loads the stack itself.
    from pifus.backend.__main__ import main as backend_main

    return backend_main(arguments, prog="pifus backend")


def _status(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="pifus status", description="Shows a running backend.")
    parser.add_argument("--backend", metavar="NAME", help="name, or path with a /, of the backend")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(arguments)
    status = read_status(options.backend)
    if options.json:
        import json

        print(json.dumps(status, indent=2))
    else:
        _print_status(status)
    return 0


def read_status(backend: str | None) -> dict[str, Any]:
    """The statistics of a backend, with all its sessions.

    Args:
        backend: name or path; None: $PIFUS_BACKEND, else "default".

    Raises:
        OSError: it does not run, or does not answer.
    """
    import os

    from pifus._core import _discovery, _paths, _protocol

    wanted = backend or os.environ.get("PIFUS_BACKEND") or _paths.DEFAULT_NAME
    channel = _discovery.connect_to(wanted)
    try:
        status, _ = channel.request(_protocol.Status(), "status")
        page = status
        while page.get("more") and page["sessions"]:
            after = page["sessions"][-1]["session"]
            page, _ = channel.request(_protocol.Status(after), "status")
            status["sessions"] += page["sessions"]
        status["more"] = False
    finally:
        channel.close()
    return status


def _print_status(status: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"backend {status['name']} at {status['path']}, process {status['pid']}, "
        f"up {status['seconds']:.0f} s, drivers {', '.join(status['drivers'])}, "
        f"profile {status['profile']} (spins for {status['spin_ns'] / 1000:.0f} us)"
    )
    numbers = status["statistics"]
    operations = numbers["operations"]
    counters = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    counters.add_column()
    counters.add_column(justify="right")
    for name in _PRIORITIES:
        counters.add_row(f"operations {name}", f"{operations[name]:,}")
    names = ["frames_in", "frames_out", "frames_dropped", "wakeups", "sockets", "pcbs", "time_wait"]
    names += ["pbufs", "segments", "held_bytes", "promised_bytes", "mirrors"]
    names += ["datagrams_dropped", "refused", "mss_raised", "sessions_ended", "violations"]
    for name in names:
        counters.add_row(name.replace("_", " "), f"{numbers[name]:,}")
    console.print(counters)
    clients = Table(box=box.SIMPLE, pad_edge=False, title=f"{status['clients']} clients")
    for title in ("session", "process", "user", "name", "priority", "sockets", "arena", "seconds"):
        clients.add_column(title, justify="left" if title in ("name", "priority") else "right")
    for entry in status["sessions"]:
        clients.add_row(
            str(entry["session"]),
            str(entry["pid"]),
            str(entry["uid"]),
            entry["name"] if entry["attached"] else f"{entry['name']} (gone)",
            entry["priority"],
            str(entry["max_sockets"]),
            f"{entry['arena_bytes']:,}",
            f"{entry['seconds']:.0f}",
        )
    console.print(clients)


def _run(arguments: Sequence[str]) -> int:
    from pifus import _launcher, _policy

    parser = argparse.ArgumentParser(
        prog="pifus run",
        usage="pifus run [--backend NAME | --driver DRIVER …] [options] -- COMMAND …",
        description="Runs a command whose Python programs use the user-space stack. All other "
        "options of `pifus backend` may follow --driver.",
        allow_abbrev=False,
    )
    parser.add_argument("--backend", metavar="NAME", help="name, or path with a /, of the backend")
    parser.add_argument("--driver", metavar="DRIVER", action="append", help="of a private backend")
    for world in ("kernel", "stack"):
        parser.add_argument(
            f"--{world}",
            metavar="TARGET",
            action="append",
            dest="rules",
            type=functools.partial("{} {}".format, world),
            help=f"sockets that go to the {world}: ADDRESS[/BITS][:PORT[-PORT]]; the first rule "
            "that fits decides",
        )
    parser.add_argument(
        "--priority",
        metavar="[PORTS=]PRIORITY",
        action="append",
        default=[],
        help="of all sockets, or of those with a local or remote port: 502=high",
    )
    parser.add_argument(
        "--dns",
        metavar="ADDR[,ADDR…]",
        action="append",
        default=[],
        help="name servers to ask by the stack's sockets, instead of the system's resolver",
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file with rules and priorities")
    parser.add_argument("--strict", action="store_true", help="refuse what bypasses the stack")
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options, rest = parser.parse_known_args(arguments[:split])
    command = list(arguments[split + 1 :])
    if split == len(arguments) and not options.driver:
        command, rest = rest, []
    if not command:
        parser.error("a command is needed: pifus run -- python program.py")
    if rest and not options.driver:
        parser.error(f"unknown option {rest[0]}: options of a private backend need --driver")
    if options.driver and options.backend:
        parser.error("give either --backend or --driver")
    policy = _policy.parse(
        [
            *(options.rules or []),
            *(f"priority {text}" for text in options.priority),
            *(["strict"] if options.strict else []),
            *([f"dns {','.join(options.dns)}"] if options.dns else []),
        ]
    )
    return _launcher.run(
        _launcher.Plan(
            command=command,
            backend=options.backend,
            driver=[*(options.driver or []), *rest],
            policy=policy,
            config=options.config,
        )
    )


def _starts_command(arguments: Sequence[str], at: int) -> bool:
    """Whether the word is the first of the command, and not an option of ours or its value."""
    word = arguments[at]
    if word in ("--", "-m"):
        return True
    return not word.startswith("-") and (at == 0 or arguments[at - 1] != "--backend")


def _doctor(arguments: Sequence[str]) -> int:
    from pifus import _doctor as doctor

    parser = argparse.ArgumentParser(
        prog="pifus doctor",
        usage="pifus doctor [--backend NAME] [--json] [--] [COMMAND … | SCRIPT.py | MODULE]",
        description="Tells what of a program will and will not go through the stack, and why. The "
        "program is read, not run. Exit status: 0 all goes through the stack, 1 not all.",
        allow_abbrev=False,
    )
    parser.add_argument("--backend", metavar="NAME", help="name, or path with a /, of the backend")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = list(arguments)
    starts = [at for at, word in enumerate(arguments) if _starts_command(arguments, at)]
    split = starts[0] if starts else len(arguments)
    options = parser.parse_args(arguments[:split])
    command = arguments[split:]
    command = command[1:] if command[:1] == ["--"] else command
    report = doctor.examine(command, options.backend)
    if options.json:
        print(doctor.as_json(report))
    else:
        doctor.show(report)
    return 0 if report.ok else 1


def _bench(arguments: Sequence[str]) -> int:
    return int(importlib.import_module("pifus.bench").main(arguments) or 0)


def _demo(arguments: Sequence[str]) -> int:
    return int(importlib.import_module("pifus.demo").main(arguments) or 0)


_COMMANDS = {
    "backend": _backend,
    "status": _status,
    "run": _run,
    "doctor": _doctor,
    "bench": _bench,
    "demo": _demo,
}


if __name__ == "__main__":
    sys.exit(main())
