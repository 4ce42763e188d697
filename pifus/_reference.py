"""docs/REFERENCE.md out of docstrings and signatures: `python -m pifus._reference`."""

from __future__ import annotations

import enum
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

FILE: Final = Path(__file__).resolve().parents[1] / "docs" / "REFERENCE.md"

# Those with names of our own. `pifus.compat.socket` and `pifus.compat.ssl` have those of `socket`
# and `ssl`.
MODULES: Final = ("pifus", "pifus.trio", "pifus.aio", "pifus.monkey")

_HEAD: Final = """\
# Reference

Every public name, by module. Generated from signatures and docstrings (`python -m
pifus._reference`). [GUIDE.md](GUIDE.md) is the tutorial; the drop-in `pifus.compat.socket` and
`pifus.compat.ssl` have the names of `socket` and `ssl` ([DROP_IN.md](DROP_IN.md),
[SOCKET_OPTIONS.md](SOCKET_OPTIONS.md)). The commands tell about themselves: `pifus COMMAND --help`.
"""
_SECTIONS: Final = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:")


class _Bare(str):
    """A text that `inspect.Signature` shows as it is."""

    __slots__ = ()
    __repr__ = str.__str__


def modules() -> Iterator[ModuleType]:
    """The public modules that there are."""
    for name in MODULES:
        if importlib.util.find_spec(name):
            yield importlib.import_module(name)


def public(module: ModuleType) -> dict[str, Any]:
    """What a module offers: `__all__`, else what it defines itself."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    return {name: getattr(module, name) for name in names if not name.startswith("_")}


def members(cls: type) -> dict[str, Any]:
    """Methods and properties of a class and of its private bases, in the order of the code."""
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] != "pifus":
            continue
        for name, value in vars(base).items():
            is_member = isinstance(value, (property, classmethod, staticmethod))
            if not name.startswith("_") and (is_member or inspect.isfunction(value)):
                found.setdefault(name, value)
    return found


def render() -> str:
    """The text of the page."""
    parts = [_HEAD]
    for module in modules():
        parts.append(f"\n## `{module.__name__}`\n\n{text_of(module)}")
        for name, value in public(module).items():
            parts.append(f"\n### `{name}`\n\n{_describe(name, value)}")
    return "".join(parts)


def _describe(name: str, value: Any) -> str:
    if not callable(value) or isinstance(value, enum.Enum):
        shown = f"{type(value).__name__}.{value.name}" if isinstance(value, enum.Enum) else value
        return f"`{name} = {shown}`\n"
    if not inspect.isclass(value):
        return _call(name, value) + text_of(value)
    if issubclass(value, enum.Enum):
        return text_of(value) + f"\n{', '.join(f'`{each.name}`' for each in value)}\n"
    if issubclass(value, BaseException):
        bases = ", ".join(f"`{base.__name__}`" for base in value.__bases__)
        return f"An exception: {bases}.\n\n{text_of(value)}"
    return _describe_class(name, value)


def _describe_class(name: str, cls: Any) -> str:
    parts = []
    constructor = vars(cls).get("__init__")
    if constructor is not None and inspect.getdoc(constructor) != "For the client only.":
        parts.append(_call(name, cls))
    parts.append(text_of(cls))
    if constructor is not None and constructor.__doc__ and parts[1:]:
        parts.append(f"\n{text_of(constructor)}")
    for member, value in members(cls).items():
        if isinstance(value, property):
            kind = str(inspect.signature(_required(value.fget)).return_annotation)
            parts.append(f"\n#### `{name}.{member}: {kind}`\n\n{text_of(value)}")
        else:
            function = getattr(value, "__func__", value)
            heading = f"\n#### `{name}.{member}`\n\n"
            parts.append(heading + _call(member, function) + text_of(function))
    return "".join(parts)


def _required(function: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    assert function is not None
    return function


def _call(name: str, function: Callable[..., Any]) -> str:
    """How it is called, as code."""
    signature = inspect.signature(function)
    shown = []
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        default = parameter.default
        if isinstance(default, enum.Enum):
            default = _Bare(f"{type(default).__name__}.{default.name}")
        annotation = parameter.annotation
        if isinstance(annotation, str):
            annotation = _Bare(annotation)
        shown.append(parameter.replace(default=default, annotation=annotation))
    returned = signature.return_annotation
    if isinstance(returned, str):
        returned = signature.empty if inspect.isclass(function) else _Bare(returned)
    prefix = "async def " if inspect.iscoroutinefunction(function) else ""
    text = str(inspect.Signature(shown, return_annotation=returned))
    return f"```python\n{prefix}{name}{text}\n```\n\n"


def text_of(value: Any) -> str:
    """A docstring as Markdown: parameters, errors and the like become lists."""
    lines: list[str] = []
    section = ""
    for line in (inspect.getdoc(value) or "").splitlines():
        if line in _SECTIONS or line.startswith("Raised by "):
            section = line
            lines += ["", f"*{line.rstrip(':')}*", ""]
        elif section and line and not line.startswith(" "):
            section = ""
            lines += ["", line]
        elif section:
            lines += _entry(line)
        else:
            lines.append(line)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return f"{text}\n" if text else ""


def _entry(line: str) -> list[str]:
    """A line of a section: an item "name: text", or the continuation of one."""
    item = re.fullmatch(r"    ([\w*][\w*, .]*?): (.*)", line)
    if item:
        names = ", ".join(f"`{name}`" for name in item[1].split(", "))
        return [f"- {names}: {item[2]}"]
    return [f"  {line.strip()}"] if line.startswith("     ") else [line.strip()]


def main() -> None:
    """Writes the page."""
    FILE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
