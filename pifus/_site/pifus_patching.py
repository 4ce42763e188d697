"""Patches an interpreter that may have no pifus of its own. Imports nothing that is not needed."""

import os
import sys

# The directory that this file is in, the package, and where the package is.
HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs more
ROOT = os.path.dirname(os.path.dirname(HERE))  # noqa: PTH120


def patch() -> None:
    """Puts the stack under this process; a process that cannot have it is told, and goes on."""
    before = list(sys.path)
    try:
        try:
            from pifus import monkey
        except ModuleNotFoundError as error:
            # Another interpreter than that of `pifus run`, or one without its site-packages.
            if error.name not in ("pifus", "_cffi_backend"):
                raise
            sys.path.extend(os.environ.get("PIFUS_PATH", ROOT).split(os.pathsep))
            # Now, while it can be found: the program's own path is not ours to change.
            import pifus._core._address  # noqa: F401
            from pifus import monkey
        monkey.patch()
    except Exception as error:  # noqa: BLE001 - the program must start, and be told
        text = f"pifus run: {sys.executable} uses the kernel's sockets: {error}"
        if "strict" in os.environ.get("PIFUS_RULES", ""):
            raise SystemExit(text) from None
        print(text, file=sys.stderr)
    finally:
        sys.path[:] = before
