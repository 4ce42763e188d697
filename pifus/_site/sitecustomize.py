"""First on the path of the Python processes below `pifus run`: patches them before they start.

Without PIFUS_RUN=1 in the environment it only does what it stands in front of: the sitecustomize
that the interpreter would have imported otherwise.
"""

import os
import pathlib
import sys


def _patch() -> None:
    root = str(pathlib.Path(__file__).resolve().parents[2])
    before = list(sys.path)
    try:
        try:
            from pifus import monkey
        except ModuleNotFoundError as error:
            # Another interpreter than that of `pifus run`: it has no pifus of its own.
            if error.name not in ("pifus", "_cffi_backend"):
                raise
            places = os.environ.get("PIFUS_PATH", root).split(os.pathsep)
            sys.path.extend(places)
            from pifus import monkey
        monkey.patch()
    except Exception as error:  # noqa: BLE001 - the program must start, and be told
        print(f"pifus run: {sys.executable} uses the kernel's sockets: {error}", file=sys.stderr)
    finally:
        sys.path[:] = before


def _chain() -> None:
    import importlib.machinery
    import importlib.util

    here = pathlib.Path(__file__).resolve().parent
    path = [place for place in sys.path if pathlib.Path(place or ".").resolve() != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if os.environ.get("PIFUS_RUN") == "1":
    _patch()
_chain()
