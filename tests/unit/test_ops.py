"""Pure parts of the completion API: layouts, times, addresses, errors."""

from __future__ import annotations

import copy
import errno
import gc
import math
import pickle
import socket
import subprocess
import sys
import weakref

import pytest

import pifus
from pifus._core import _address, _errors, _ops
from pifus._core._client import ffi, lib


def test_layout_of_a_completion() -> None:
    assert ffi.sizeof("struct pf_done") == _ops.DONE_BYTES
    done = ffi.new("struct pf_done *")
    done.op_id = 2**63 + 1
    done.result = -errno.ECONNRESET
    done.opcode = lib.PF_OP_ACCEPT
    done.flags = lib.PF_CQE_MORE
    done.slot = 5
    done.generation = 6
    done.token = 7
    done.submitted_ns = 8
    done.picked_ns = 9
    done.completed_ns = 10
    raw = ffi.buffer(done, _ops.DONE_BYTES)[:]
    completion = _ops.Completion()
    completion._raw = raw
    assert completion.op == 2**63 + 1
    assert completion.opcode is pifus.Opcode.ACCEPT
    assert completion.more
    assert (completion.submitted_ns, completion.picked_ns, completion.completed_ns) == (8, 9, 10)
    assert completion.errno == errno.ECONNRESET
    assert completion.data is None
    assert completion.accepted is None
    with pytest.raises(ConnectionResetError):
        completion.check()
    assert _ops.slot_of(raw) == (5, 6)
    assert _ops.token_of(raw) == 7
    assert _ops.result_of(_ops.with_result(raw, 3)) == 3
    assert len(_ops.with_result(raw, 3)) == len(raw)


def test_a_completion_holds_what_was_written_and_nothing_else() -> None:
    completion = _ops.Completion()
    for wrong in (b"", b"short", bytes(_ops.DONE_BYTES + 1)):
        with pytest.raises(ValueError, match="pf_done"):
            completion._raw = wrong
    raw = bytes(range(_ops.DONE_BYTES))
    completion._raw = raw
    assert completion._raw == raw
    with pytest.raises(AttributeError):
        _ = completion.sock
    with pytest.raises(TypeError):
        del completion._raw


def test_a_copy_of_a_completion_is_the_completion() -> None:
    completion = _ops.Completion()
    completion._raw = bytes(range(_ops.DONE_BYTES))
    assert copy.copy(completion) is completion
    assert copy.deepcopy({"kept": [completion]})["kept"][0] is completion
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError):  # its socket is this process's
            pickle.dumps(completion, protocol)


class Holder:
    """As a socket whose client's callback keeps completions."""

    done: _ops.Completion


def test_a_completion_is_collected_with_what_it_belongs_to() -> None:
    holder = Holder()
    holder.done = _ops.Completion()
    holder.done._sock = holder  # type: ignore[assignment]
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None


def test_every_operation_of_the_abi_is_known() -> None:
    native = {
        name.removeprefix("PF_OP_"): value
        for name, value in ffi.typeof("enum pf_opcode").relements.items()
    }
    # Made by the client core on its own account.
    for name in ("INVALID", "OPEN", "ADOPT", "MIRROR", "QUERY", "COUNT"):
        del native[name]
    assert native == {opcode.name: int(opcode) for opcode in pifus.Opcode}
    options = dict(ffi.typeof("enum pf_option").relements)
    del options["PF_OPT_BINDTODEVICE"]  # its value is no number
    del options["PF_OPT_ICMP_FILTER"]  # of raw sockets, which only the drop-in has
    assert {name.removeprefix("PF_OPT_"): value for name, value in options.items()} == {
        option.name: int(option) for option in pifus.Option
    }


@pytest.mark.parametrize(
    ("seconds", "nanoseconds"), [(0, 0), (1, 10**9), (0.5, 5 * 10**8), (1e-10, 1), (2.0, 2 * 10**9)]
)
def test_timeouts(seconds: float, nanoseconds: int) -> None:
    assert _ops.timeout_ns(seconds) == nanoseconds


@pytest.mark.parametrize("seconds", [-1, -1e-9, math.nan])
def test_bad_timeouts(seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        _ops.timeout_ns(seconds)


def test_endless_timeout_fits() -> None:
    assert _ops.timeout_ns(math.inf) < 2**63
    assert _ops.deadline_ns(1e300) < 2**63


@pytest.mark.parametrize(
    ("family", "address", "back"),
    [
        (socket.AF_INET, ("127.0.0.1", 80), ("127.0.0.1", 80)),
        (socket.AF_INET, ("", 0), ("0.0.0.0", 0)),
        (socket.AF_INET, ("<broadcast>", 1), ("255.255.255.255", 1)),
        (socket.AF_INET, (b"10.0.0.1", 65535), ("10.0.0.1", 65535)),
        (socket.AF_INET6, ("::1", 80), ("::1", 80, 0, 0)),
        (socket.AF_INET6, ("fe80::1", 80, 0, 3), ("fe80::1", 80, 0, 3)),
        (socket.AF_INET6, ("", 0), ("::", 0, 0, 0)),
    ],
)
def test_addresses(family: int, address: tuple[str, int], back: tuple[str, int]) -> None:
    native = _address.to_native(family, address, "bind")
    assert _address.from_bytes(ffi.buffer(native, 24)[:]) == back
    assert _address.from_native(native[0]) == back


def test_address_forms() -> None:
    native = _address.to_native(socket.AF_INET, ("1.2.3.4", 5), "bind")
    packed = ffi.buffer(native, 24)[:]
    assert _address.from_bytes(packed, socket.AF_INET6) == ("::ffff:1.2.3.4", 5, 0, 0)
    assert _address.from_bytes(bytes(24)) is None
    named = _address.to_native(socket.AF_INET, ("localhost", 5), "bind")
    assert _address.from_native(named[0]) == ("127.0.0.1", 5)
    with pytest.raises(OSError, match="family 1") as caught:
        _address.native_family(socket.AF_UNIX)
    assert caught.value.errno == errno.EAFNOSUPPORT


@pytest.mark.parametrize(
    ("family", "address", "kind"),
    [
        (socket.AF_INET, "127.0.0.1", TypeError),
        (socket.AF_INET, ("127.0.0.1",), TypeError),
        (socket.AF_INET, ("127.0.0.1", 1, 2), TypeError),
        (socket.AF_INET, ("127.0.0.1", "80"), TypeError),
        (socket.AF_INET, ("127.0.0.1", 65536), OverflowError),
        (socket.AF_INET, ("127.0.0.1", -1), OverflowError),
        (socket.AF_INET, (7, 80), TypeError),
        (socket.AF_INET, ("no.such.host.invalid", 80), socket.gaierror),
        (socket.AF_INET, ("::1", 80), socket.gaierror),
        (socket.AF_INET6, ("::1", 80, 1 << 20, 0), OverflowError),
        (socket.AF_INET6, ("::1", 80, "x"), TypeError),
    ],
)
def test_bad_addresses_raise_what_the_kernel_sockets_raise(
    family: int, address: object, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        _address.to_native(family, address, "connect")
    with socket.socket(family) as kernel:
        kernel.setblocking(False)
        with pytest.raises(kind):
            kernel.connect(address)


def test_scope_out_of_range_is_not_cut_off() -> None:
    with pytest.raises(OverflowError, match="scopeid"):
        _address.to_native(socket.AF_INET6, ("fe80::1", 80, 0, 1 << 32), "connect")


def test_errors_can_be_caught_as_the_kernels() -> None:
    assert issubclass(pifus.QueueFull, BlockingIOError)
    assert issubclass(pifus.ArenaFull, BlockingIOError)
    assert issubclass(pifus.BackendGone, ConnectionResetError)
    assert _errors.queue_full(4).errno == errno.EAGAIN
    assert _errors.arena_full(4, 2).errno == errno.ENOBUFS
    assert _errors.backend_gone(3).errno == errno.ECONNRESET
    assert "shut down" in str(_errors.backend_gone(3))
    assert "reason 99" in str(_errors.backend_gone(99))
    assert isinstance(_errors.os_error(errno.ECONNREFUSED), ConnectionRefusedError)
    assert isinstance(_errors.os_error(errno.ETIMEDOUT), TimeoutError)


def test_every_end_of_a_session_has_its_reason() -> None:
    ends = set(ffi.typeof("enum pf_ended").elements) - {lib.PF_ENDED_NOT}
    assert set(_errors.ENDED_REASONS) == ends


def test_public_names() -> None:
    for name in pifus.__all__:
        assert getattr(pifus, name) is not None
    assert set(pifus.__all__) <= set(dir(pifus))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pifus.nothing


def test_importing_pifus_loads_nothing_heavy() -> None:
    program = (
        "import sys; before = set(sys.modules); import pifus; "
        "print(*sorted(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert found.stdout.split() == [b"pifus"]
