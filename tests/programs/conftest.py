"""Every script runs twice, unmodified, in a process of its own: over the kernel, and over pifus."""

from __future__ import annotations

import pytest

from tests.certificates import Certificates, make


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and what it issued."""
    return make(tmp_path_factory.mktemp("certificates"))
