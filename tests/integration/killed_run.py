"""The run that test_killed_run.py kills; not collected by itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

from tests.conftest import BackendProcess
from tests.contract import legs
from tests.guard import Guard
from tests.integration.test_tap import may_make_devices


def test_waits_to_be_killed(runtime_dir: Path, guard: Guard, backend: BackendProcess) -> None:
    with contextlib.ExitStack() as stack:
        processes = {"backend": backend.pid}
        if may_make_devices():
            wire = stack.enter_context(contextlib.contextmanager(legs.started_wire)())
            processes["backend of the wire"] = wire.tap.backend.pid
        # This one has not the environment of what the run has started: it never called exec.
        if not (child := os.fork()):
            os.closerange(0, 3)
            signal.pause()
        processes["fork"] = child
        told = {"directory": str(runtime_dir), "guard": guard.pid, "processes": processes}
        print(f"\n{json.dumps(told)}", flush=True)
        signal.pause()
