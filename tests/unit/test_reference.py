"""docs/REFERENCE.md tells of every public name what the code says."""

from __future__ import annotations

import inspect

import pytest

from pifus import _reference


def test_the_page_is_current() -> None:
    """Otherwise: python -m pifus._reference."""
    assert _reference.FILE.read_text(encoding="utf-8") == _reference.render()


@pytest.mark.parametrize("module", list(_reference.modules()), ids=lambda module: module.__name__)
def test_every_public_name_is_on_the_page_and_says_what_it_is(module: object) -> None:
    page = _reference.render()
    for name, value in _reference.public(module).items():  # type: ignore[arg-type]
        assert f"\n### `{name}`\n" in page
        if not inspect.isclass(value):
            continue
        assert inspect.getdoc(value), name
        for member, function in _reference.members(value).items():
            assert f"\n#### `{name}.{member}" in page
            assert inspect.getdoc(function), f"{name}.{member}"
