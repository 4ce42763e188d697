"""`pifus doctor`: tells what of a program will and will not go through the stack, and why."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pifus
from pifus import _command, _imports, _policy

GOOD: Final = "good"
NOTE: Final = "note"
BAD: Final = "bad"
_STYLES: Final = {GOOD: "green", NOTE: "yellow", BAD: "red"}
_NET_ADMIN_BIT: Final = 12
_PATH_CODE: Final = "import sys; print('\\n'.join(sys.path))"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        topic: what was looked at.
        verdict: GOOD, NOTE or BAD.
        text: what was found.
    """

    topic: str
    verdict: str
    text: str


@dataclass(slots=True)
class Report:
    """All that was found out.

    Attributes:
        system: about this machine, the backend and the rules.
        program: about the program, if one was given.
        findings: what of it may go past the stack.
    """

    system: list[Check] = field(default_factory=list)
    program: list[Check] = field(default_factory=list)
    findings: list[_imports.Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing is broken and nothing goes past the stack."""
        checks = [*self.system, *self.program]
        return all(check.verdict != BAD for check in checks) and not any(
            finding.passes for finding in self.findings
        )


def examine(
    command: Sequence[str], backend: str | None, policy: _policy.Policy | None = None
) -> Report:
    """Looks at the system and, if one is given, at a program.

    Args:
        command: a command, the file of a script, or the name of a module; empty: none.
        backend: name or path of the backend; None: the one that would be found.
        policy: rules beside those of the environment.
    """
    report = Report()
    report.system += [_versions(), _core(), *_backend(backend), _tap(), *_rules(policy)]
    report.system += _names(policy)
    if command:
        _program(list(command), report)
    return report


# ---- the system ----


def _versions() -> Check:
    text = f"pifus {pifus.__version__}, {platform.python_implementation()} "
    text += f"{platform.python_version()}, Linux {platform.release()}"
    if sys.version_info[:2] > (3, 13):
        return Check("versions", NOTE, f"{text}: tested up to Python 3.13")
    return Check("versions", GOOD, text)


def _core() -> Check:
    try:
        from pifus._core import _protocol, _session  # noqa: F401 - loads the C library
    except ImportError as error:
        return Check("native core", BAD, f"{error}: not built for this interpreter?")
    return Check("native core", GOOD, f"ABI {_protocol.ABI_VERSION}")


def _backend(wanted: str | None) -> list[Check]:
    from pifus._core import _discovery, _paths, _protocol

    name = wanted or os.environ.get("PIFUS_BACKEND") or _paths.DEFAULT_NAME
    try:
        channel = _discovery.connect_to(name)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        if wanted or os.environ.get("PIFUS_BACKEND") or isinstance(error, PermissionError):
            return [Check("backend", BAD, text)]
        text = "none runs: a private one starts with the program, for the loopback"
        return [Check("backend", GOOD, text)]
    try:
        status, _ = channel.request(_protocol.Status(2**63 - 1), "status")
    except OSError as error:
        return [Check("backend", BAD, f"{name} does not answer: {error.strerror}")]
    finally:
        channel.close()
    text = f"{status['name']} (process {status['pid']}, up {status['seconds']:.0f} s), drivers "
    checks = [Check("backend", GOOD, text + ", ".join(status["drivers"]))]
    checks += [Check("link", GOOD, _link(link)) for link in status.get("links", ())]
    used, most = status["clients"], status["limits"]["max_clients"]
    if used >= most:
        checks.append(Check("backend", BAD, f"{used} clients: no more are allowed"))
    return checks


def _link(link: dict[str, Any]) -> str:
    text = f"{link['device']}: {', '.join(link['addresses'])}"
    if link["gateways"]:
        return f"{text}; everything else by {', '.join(link['gateways'])}"
    return f"{text}; no gateway: only what is on these networks goes to the stack"


def _tap() -> Check:
    device = Path("/dev/net/tun")
    if not device.exists():
        return Check("TAP devices", NOTE, "/dev/net/tun is missing: loopback only")
    if not os.access(device, os.W_OK):
        return Check("TAP devices", NOTE, "/dev/net/tun may not be opened: loopback only")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("CapEff:"))
    if int(line.split()[1], 16) >> _NET_ADMIN_BIT & 1:
        return Check("TAP devices", GOOD, "may be made (CAP_NET_ADMIN)")
    return Check("TAP devices", NOTE, "only those that an administrator has made for this user")


def _rules(extra: _policy.Policy | None) -> list[Check]:
    try:
        policy = (extra or _policy.Policy()).before(_policy.from_environment())
    except (ValueError, OSError) as error:
        return [Check("rules", BAD, str(error))]
    words = str(replace(policy, dns=()))
    rest = "to the stack alone" if policy.strict else "what the backend reaches to the stack"
    if not words:
        return [Check("rules", GOOD, f"none: {rest}, the rest to the kernel")]
    return [Check("rules", GOOD, f"{words}; where none fits: {rest}")]


def _names(extra: _policy.Policy | None) -> list[Check]:
    try:
        servers = (extra or _policy.Policy()).before(_policy.from_environment()).dns
    except (ValueError, OSError):
        return []  # told with the rules
    if not servers:
        return [
            Check("names", GOOD, "by the system's resolver, which asks by the kernel's sockets")
        ]
    if importlib.util.find_spec("dns") is None:
        return [Check("names", BAD, _policy.NO_DNSPYTHON)]
    return [Check("names", GOOD, f"by the stack, of {', '.join(map(str, servers))}")]


# ---- the program ----


def _program(command: list[str], report: Report) -> None:
    target, path = _target(command, report)
    if target is None:
        return
    try:
        survey = _imports.survey(target, path)
    except FileNotFoundError as error:
        report.program.append(Check("program", BAD, str(error)))
        return
    report.findings += survey.findings
    text = f"{survey.modules} modules read beside the standard library, none executed"
    verdict = GOOD if survey.complete else NOTE
    report.program.append(
        Check("imports", verdict, text if survey.complete else f"{text}: the rest is not known")
    )
    passing = [finding for finding in survey.findings if finding.passes]
    if passing:
        names = ", ".join(finding.what for finding in passing)
        report.program.append(Check("native code", BAD, f"past the stack: {names}"))
    else:
        report.program.append(Check("native code", GOOD, "none that opens sockets by itself"))


def _target(command: list[str], report: Report) -> tuple[Path | str | None, list[str]]:
    """What to read, and where its modules are."""
    if command[0] == "-m":
        return (command[1] if len(command) > 1 else ""), ["", *sys.path]
    first = Path(command[0])
    if len(command) == 1 and first.suffix == ".py":
        return first, [str(first.parent), *sys.path]
    python = _command.understand(command)
    if python is None:
        if len(command) == 1 and all(part.isidentifier() for part in command[0].split(".")):
            return command[0], ["", *sys.path]
        text = "not a Python program: only Python processes that it starts use the stack"
        report.program.append(Check("program", NOTE, text))
        return None, []
    return _of_python(python, report)


def _of_python(
    python: _command.PythonCommand, report: Report
) -> tuple[Path | str | None, list[str]]:
    if python.is_blind:
        text = f"{' '.join(python.flags)}: PYTHONPATH is ignored; pifus run starts it by boot.py, "
        report.program.append(Check("interpreter", NOTE, text + "its children are not reached"))
    try:
        asked = subprocess.run(
            [python.interpreter, *python.flags, "-c", _PATH_CODE],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        report.program.append(Check("interpreter", BAD, f"{python.interpreter}: {error}"))
        return None, []
    report.program.append(Check("interpreter", GOOD, python.interpreter))
    path = asked.stdout.splitlines()
    if python.kind == "script":
        script = Path(python.target)
        return script, [str(script.parent), *path]
    if python.kind == "-m":
        return python.target, ["", *path]
    report.program.append(Check("program", NOTE, "code of the command line is not read"))
    return None, []


# ---- showing it ----


def show(report: Report) -> None:
    """Prints the report as tables."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for title, checks in (("system", report.system), ("program", report.program)):
        if not checks:
            continue
        table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for check in checks:
            verdict = Text(check.verdict, style=_STYLES[check.verdict])
            table.add_row(check.topic, verdict, Text(check.text))
        console.print(table)
    if report.findings:
        table = Table(title="past the stack, or nearly", title_justify="left", box=box.SIMPLE)
        for heading in ("what", "why", "reached by"):
            table.add_column(heading, overflow="fold")
        for finding in report.findings:
            style = _STYLES[BAD if finding.passes else NOTE]
            chain = "\n".join(finding.chain)
            table.add_row(Text(finding.what, style=style), Text(finding.why), Text(chain))
        console.print(table)
    good = "everything goes through the stack, as far as can be seen without running it"
    console.print(good if report.ok else "not everything goes through the stack")


def as_json(report: Report) -> str:
    """The report for programs."""
    import json
    from dataclasses import asdict

    return json.dumps({**asdict(report), "ok": report.ok}, indent=2)
