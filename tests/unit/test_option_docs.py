"""docs/SOCKET_OPTIONS.md tells what the table says."""

from __future__ import annotations

from pifus._compat import _option_docs, _option_table


def test_the_page_is_current() -> None:
    """Otherwise: python -m pifus._compat._option_docs."""
    assert _option_docs.FILE.read_text(encoding="utf-8") == _option_docs.render()


def test_every_row_is_on_the_page() -> None:
    text = _option_docs.render()
    for row in _option_table.rows():
        assert f"| `{row.name}` |" in text
