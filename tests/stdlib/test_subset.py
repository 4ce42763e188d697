"""A part of CPython's own tests that takes a few minutes; `./dev stdlib-tests` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stdlib import interpreters, report
from tests.stdlib.runner import Job, run

WANTED_PERCENT = 98.0
JOBS = [
    Job(
        "test_socket",
        r"(TCP|Connection|GeneralModule|FileObject|Sendfile|Nonblock|CreateServer|Inherit|TestExc)",
    ),
    Job("test_socketserver", "TCP|Misc"),
    Job("test_ssl"),
    Job("test_epoll"),
    Job("test_asyncio.test_sock_lowlevel"),
    Job("test_asyncio.test_sendfile"),
    Job("test_asyncio.test_server"),
    Job("test_asyncio.test_streams"),
    Job("test_httplib"),
    Job("test_httpservers"),
    Job("test_xmlrpc", "Keepalive|Gzip"),
    Job("test_ftplib"),
    Job("test_poplib"),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.module)
def test_what_passes_over_the_kernel_passes_over_the_stack(job: Job, tmp_path: Path) -> None:
    try:
        python, version = interpreters.find(None)
    except SystemExit as reason:
        pytest.skip(str(reason))
    runs = {kind: run(python, job, kind, tmp_path / kind) for kind in ("kernel", "pifus")}
    score = report.compare(runs["kernel"], runs["pifus"])
    assert not runs["pifus"].problem
    assert score.kernel > 0
    assert score.with_sockets > 0
    known = report.expectations(version)
    news = {name: words for name, words in score.failed.items() if name not in known}
    assert not news
    assert score.percent >= WANTED_PERCENT or set(score.failed) <= set(known)
