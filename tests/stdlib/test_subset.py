"""A part of CPython's own tests that takes half a minute; `./dev stdlib-tests` runs all of them.

Left out is what mostly waits for a clock, and what does the same by another class.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.stdlib import interpreters, report
from tests.stdlib.runner import Job, ModuleRun, run

JOBS = [
    Job(
        "test_socket",
        r"(TCP|Connection|GeneralModule|FileObject|Sendfile|Nonblock|CreateServer|Inherit|TestExc)",
        r"Timeout|interrupted|NetworkConnectionBehaviour|TCPCloser|VSOCK",
    ),
    Job("test_socketserver", "TCP|Misc"),
    Job("test_ssl", skip=r"test_echo|_timeout"),
    Job("test_epoll"),
    Job("test_asyncio.test_sock_lowlevel", "EPoll"),
    Job("test_asyncio.test_sendfile", "EPoll"),
    Job("test_asyncio.test_server"),
    Job("test_asyncio.test_streams"),
    Job("test_httplib"),
    Job("test_httpservers"),
    Job("test_xmlrpc", "Keepalive|Gzip"),
    Job("test_ftplib", r"TestFTPClass|IPv6|TestTLS_FTPClass\."),
    Job("test_poplib", "TestPOP3Class"),
]


def over_the_kernel(python: str, job: Job, names: list[str], log: Path) -> ModuleRun:
    """The kernel's run of these tests only."""
    these = "^(" + "|".join(re.escape(name) for name in names) + ")$"
    return run(python, Job(job.module, these), "kernel", log)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.module)
def test_what_passes_over_the_kernel_passes_over_the_stack(job: Job, tmp_path: Path) -> None:
    try:
        python, version = interpreters.find(None)
    except SystemExit as reason:
        pytest.skip(str(reason))
    stack = run(python, job, "pifus", tmp_path / "pifus")
    assert not stack.problem
    # Without its fixture a class does not run: its tests would be missed by nobody.
    assert not [words for words in stack.fixtures.values() if not words.startswith("skip")]
    assert any(test.sockets for test in stack.tests.values())
    known = report.expectations(version)
    others = [name for name in stack.tests if name not in known and name not in stack.passed()]
    if others:
        kernel = over_the_kernel(python, job, others, tmp_path / "kernel")
        assert set(kernel.tests) == set(others)
        assert {name: stack.tests[name].words for name in kernel.passed()} == {}
