"""The packets by which sessions attach are kept for the next one, and not without end."""

from __future__ import annotations

import json
import os

from pifus._core import _settings
from pifus._core._settings import Settings


def test_a_program_whose_clients_all_have_names_keeps_few() -> None:
    kept = _settings._packets
    for number in range(10 * _settings._PACKETS_MAX):
        settings = Settings(name=f"client {number}")
        for _ in range(2):  # made, and taken from what is kept
            message = json.loads(settings.packet())
            assert (message["name"], message["pid"]) == (settings.name, os.getpid())
        assert settings in kept
        assert len(kept) <= _settings._PACKETS_MAX
