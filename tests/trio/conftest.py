"""A backend for this directory, and runs of trio and asyncio with a limit on their time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import BackendProcess, launch_backend


@pytest.fixture(scope="module")
def module_backend() -> Iterator[BackendProcess]:
    backend = launch_backend("trio")
    yield backend
    backend.stop()
