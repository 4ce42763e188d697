"""docs/SOCKET_OPTIONS.md out of the option table: `python -m pifus._compat._option_docs`."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from pifus._compat import _option_table
from pifus._compat._option_table import Row

FILE: Final = Path(__file__).resolve().parents[2] / "docs" / "SOCKET_OPTIONS.md"

_HEAD: Final = """\
# Socket options

What `setsockopt` and `getsockopt` do on a TCP socket of the stack. This page is generated from the
table in `pifus/_compat/_option_rows.py` (`python -m pifus._compat._option_docs`);
`tests/contract/test_option_table.py` compares every row with the kernel: values that are kept or
clamped, short buffers, errors. *Differs* is what that test finds different, and why.

| how | means |
|---|---|
| backend | done by the stack |
| client | done in the program's process |
| state | read-only: told from the connection's state |
| no-op | checked and remembered as by the kernel, without effect; the note says why |
| refused | with this errno |

Options without a row are refused with ENOPROTOOPT, as are those of another address family. Options
of datagram sockets have their own implementation; those marked *datagrams* mean more there than on
a stream.
"""


def render() -> str:
    """The text of the page."""
    parts = [_HEAD]
    prefixes = dict.fromkeys(row.name.partition("_")[0] for row in _option_table.rows())
    for prefix in prefixes:
        parts.append(f"\n## {_option_table.LEVEL_NAMES[prefix]}\n\n")
        parts.append("| option | how | what | default | differs |\n|---|---|---|---|---|\n")
        parts += [_line(row) for row in _option_table.rows() if row.name.startswith(f"{prefix}_")]
    return "".join(parts)


def _line(row: Row) -> str:
    how = row.how
    if row.set_errno and how == _option_table.REFUSED:
        how += f" ({errno.errorcode[row.set_errno]})"
    note = row.note + (" · *datagrams*" if row.datagrams else "")
    default = "" if row.get_errno else _default(row)
    return f"| `{row.name}` | {how} | {note} | {default} | {row.differs} |\n"


def _default(row: Row) -> str:
    if isinstance(row.default, int):
        return str(row.default)
    text = row.default.rstrip(b"\0")
    if text.isalpha():
        return f'"{text.decode()}"'
    return f"{len(row.default)} bytes" if row.default else ""


def main() -> None:
    """Writes the page."""
    FILE.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
