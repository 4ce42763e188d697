"""First on the path of the Python processes below `pifus run`: patches them before they start.

Without PIFUS_RUN=1 in the environment it only does what it stands in front of: the sitecustomize
that the interpreter would have imported otherwise.
"""

import os
import pathlib
import sys


def _patch() -> None:
    import pifus_patching  # type: ignore[import-not-found]

    pifus_patching.patch()


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
