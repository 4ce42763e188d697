"""The header, the C code and the Python enums tell the same story."""

from __future__ import annotations

import re
from pathlib import Path

import pifus
from pifus._core._client import ffi, lib
from pifus.backend import _stack

ROOT = Path(__file__).resolve().parents[2]


def enum_members(name: str) -> dict[int, str]:
    return dict(ffi.typeof(f"enum {name}").elements)


def test_every_opcode_is_public() -> None:
    numbers = set(enum_members("pf_opcode")) - {lib.PF_OP_INVALID, lib.PF_OP_COUNT}
    public = {int(member) for member in pifus.Opcode}
    assert public <= numbers
    # How sockets come to be, and what the drop-in asks: not operations of the API.
    internal = {lib.PF_OP_OPEN, lib.PF_OP_ADOPT, lib.PF_OP_MIRROR, lib.PF_OP_QUERY}
    assert numbers - public <= internal


def test_opcodes_are_dense() -> None:
    assert sorted(enum_members("pf_opcode")) == list(range(lib.PF_OP_COUNT + 1))


def test_priorities_match() -> None:
    assert {int(priority) for priority in pifus.Priority} == set(range(lib.PF_PRIORITIES))


def test_both_modules_were_built_from_the_same_header() -> None:
    for name in ("pf_sqe", "pf_cqe", "pf_socket_b2c", "pf_socket_c2b", "pf_b2c_header"):
        assert ffi.sizeof(f"struct {name}") == _stack.ffi.sizeof(f"struct {name}")


def test_every_operation_has_a_row_in_the_dispatch_table() -> None:
    text = (ROOT / "native" / "backend" / "dispatch.c").read_text(encoding="utf-8")
    rows = set(re.findall(r"\[(PF_OP_\w+)\] =", text))
    names = set(enum_members("pf_opcode").values()) - {"PF_OP_COUNT"}
    assert rows == names
