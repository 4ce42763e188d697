"""Runs a Python program after patching: for interpreters that ignore PYTHONPATH (-I, -E, -S).

    python -I boot.py SCRIPT ARG…
    python -I boot.py -m MODULE ARG…
    python -I boot.py -c CODE ARG…

The program finds what it would have found: sys.argv, sys.path and its `__main__` are its own.
"""

import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120


def _prepare() -> "tuple[str, str]":
    """What to run, as ("script" | "-m" | "-c", text); leaves the program's own sys.argv."""
    if sys.path and os.path.abspath(sys.path[0]) == _here:  # noqa: PTH100
        del sys.path[0]
    sys.path.insert(0, _here)
    import pifus_patching  # type: ignore[import-not-found]

    pifus_patching.patch()
    sys.path.remove(_here)
    arguments = sys.argv[1:]
    kind = "script"
    if arguments[0] in ("-c", "-m"):
        kind = arguments.pop(0)
    text = arguments[0]
    sys.argv[:] = [text if kind == "script" else kind, *arguments[1:]]
    if not getattr(sys.flags, "safe_path", False):
        place = os.path.dirname(os.path.abspath(text)) if kind == "script" else ""  # noqa: PTH100, PTH120
        sys.path.insert(0, os.getcwd() if kind == "-m" else place)  # noqa: PTH109
    return kind, text


def _run() -> None:
    main = sys.modules["__main__"].__dict__
    kind, text = _prepare()
    for name in ("_prepare", "_run", "_here", "os", "sys", "__cached__"):
        main.pop(name, None)
    main["__doc__"] = None
    if kind == "-m":
        import runpy

        runpy._run_module_as_main(text)  # type: ignore[attr-defined]
        return
    if kind == "-c":
        main.pop("__file__", None)
        exec(compile(text, "<string>", "exec"), main)
        return
    main["__file__"] = text
    with open(text, "rb") as file:
        code = compile(file.read(), text, "exec")
    exec(code, main)


_run()
