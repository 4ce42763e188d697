"""Socket options of stack streams: acts on the table in `_option_table`."""

from __future__ import annotations

import errno
import socket as _names
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pifus._compat import _connecting, _datagram_options, _option_table, _tcp_info
from pifus._core import _errors
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from pifus._compat._endpoint import Endpoint
    from pifus._compat._option_table import Row
    from pifus._core._client import CData

SOCKET: Final = int(_names.SOL_SOCKET)
TCP: Final = int(_names.IPPROTO_TCP)
IP: Final = int(_names.IPPROTO_IP)
IPV6: Final = int(_names.IPPROTO_IPV6)

LINGER: Final = (SOCKET, 13)
RCVBUF: Final = (SOCKET, 8)
SNDBUF: Final = (SOCKET, 7)
PRIORITY: Final = (SOCKET, 12)
RCVLOWAT: Final = (SOCKET, 18)
RCVTIMEO: Final = (SOCKET, 20)
SNDTIMEO: Final = (SOCKET, 21)
DEVICE: Final = (SOCKET, 25)
IFINDEX: Final = (SOCKET, 62)
NODELAY: Final = (TCP, 1)
MAXSEG: Final = (TCP, 2)
WINDOW_CLAMP: Final = (TCP, 10)
FASTOPEN: Final = (TCP, 23)
INFO: Final = (TCP, 11)
CONGESTION: Final = (TCP, 13)

_UNKNOWN: Final = _option_table.Row("SO_UNKNOWN", 0, _option_table.REFUSED, "")
_BUFFER_MAX: Final = 1024
_DEVICE_BYTES: Final = 16
_NO_LIMIT: Final = 2**31 - 1
_BUFFER_DEFAULT: Final = 131072

# ---- getsockopt ----


def getsockopt(endpoint: Endpoint, level: int, name: int, size: int) -> int | bytes:
    """`socket.getsockopt`; `size` 0: as a number."""
    if endpoint.datagram:
        return _datagram_options.getsockopt(endpoint, level, name, size)
    if not 0 <= size <= _BUFFER_MAX:
        raise OSError("getsockopt buflen out of range")
    endpoint.enter()
    endpoint.leave()
    key = (level, name)
    row = _find(endpoint, key, reading=True)
    if row.get_errno:
        raise _errors.os_error(row.get_errno)
    told = _TOLD.get(key)
    value = told(endpoint) if told else endpoint.options.get(key, row.default)
    if key == DEVICE and value and size < _DEVICE_BYTES:
        raise _errors.os_error(errno.EINVAL)
    raw = value if isinstance(value, bytes) else struct.pack("i", value)
    if size:
        return raw[:size]
    return value if isinstance(value, int) else int.from_bytes(raw[:4], "little")


def _device_name(endpoint: Endpoint) -> bytes:
    return endpoint.device + b"\0" if endpoint.device else b""


def _segment(endpoint: Endpoint) -> int:
    asked = endpoint.options.get(MAXSEG) or 536
    return _tcp_info.read(endpoint).snd_mss if endpoint.connected else asked


def _clamp(endpoint: Endpoint) -> int:
    own = endpoint.options.get(WINDOW_CLAMP, 0)
    # A connection always has one: programs set again what they have read, and 0 is refused then.
    if own or not endpoint.connected:
        return own
    return endpoint.options.get(RCVBUF, _BUFFER_DEFAULT) // 2


def _timeval(seconds: float | None) -> bytes:
    micros = 0 if seconds is None else round(seconds * 1e6)
    return struct.pack("ll", *divmod(micros, 1_000_000))


_TOLD: Final[dict[tuple[int, int], Callable[[Endpoint], int | bytes]]] = {
    (SOCKET, 3): lambda endpoint: endpoint.type,
    (SOCKET, 39): lambda endpoint: endpoint.family,
    (SOCKET, 38): lambda endpoint: endpoint.proto or TCP,
    (SOCKET, 30): lambda endpoint: int(endpoint.listening),
    (SOCKET, 4): _connecting.take_error,
    LINGER: lambda endpoint: struct.pack("ii", *endpoint.lingers),
    DEVICE: _device_name,
    RCVTIMEO: lambda endpoint: _timeval(endpoint.receive_patience),
    SNDTIMEO: lambda endpoint: _timeval(endpoint.send_patience),
    INFO: _tcp_info.pack,
    MAXSEG: _segment,
    WINDOW_CLAMP: _clamp,
}


def _find(endpoint: Endpoint, key: tuple[int, int], reading: bool) -> Row:
    row = _option_table.find(key)
    known = (SOCKET, TCP, IP, IPV6) if endpoint.family == _names.AF_INET6 else (SOCKET, TCP, IP)
    if key[0] not in known and reading and endpoint.family == _names.AF_INET:
        raise _errors.os_error(errno.EOPNOTSUPP)
    if row is None or key[0] not in known:
        raise _errors.os_error(errno.ENOPROTOOPT)
    return row


# ---- setsockopt ----


def setsockopt(
    endpoint: Endpoint,
    level: int,
    name: int,
    value: int | ReadableBuffer | None,
    length: int | None = None,
) -> None:
    """`socket.setsockopt`: to a number, to bytes, or to NULL and a length."""
    if endpoint.datagram:
        _datagram_options.setsockopt(endpoint, level, name, value)
        return
    key = (level, name)
    handle = endpoint.enter()
    try:
        if level in (SOCKET, TCP) and _option_table.find(key) is None:
            _raw(_UNKNOWN, value, length)  # what is too short is told first
        row = _find(endpoint, key, reading=False)
        raw = _raw(row, value, length)
        if row.set_errno:
            if row.how == _option_table.REFUSED and not raw and row.name == "IP_OPTIONS":
                return  # none were, none are sent
            raise _errors.os_error(row.set_errno)
        special = _SET.get(key)
        if special is not None:
            special(endpoint, handle, raw)
        else:
            _set_number(endpoint, handle, row, raw)
        endpoint.requested.pop(key, None)
        endpoint.requested[key] = raw
    finally:
        endpoint.leave()


def _raw(row: Row, value: int | ReadableBuffer | None, length: int | None) -> bytes:
    """The bytes that a kernel would get; not too few."""
    if value is None:
        return _null(row, length)
    raw = _packed(value)
    if len(raw) < row.size or (not raw and row.size == -1):
        raise _errors.os_error(errno.EINVAL)
    return raw


def _null(row: Row, length: int | None) -> bytes:
    """What no value, of this length, is to the kernel."""
    if length is None:
        raise TypeError("a bytes-like object is required, not 'NoneType'")
    simple = row.level in (SOCKET, TCP)
    if length < (min(row.size, 4) if simple else row.size) or (not length and row.size == -1):
        raise _errors.os_error(errno.EINVAL)
    if row.level == IPV6:
        return bytes(length)  # there, no value is the value 0
    if length and (simple or row.null_errno or not row.set_errno):
        raise _errors.os_error(errno.EFAULT)
    return b""


def _packed(value: int | ReadableBuffer) -> bytes:
    if isinstance(value, int):
        if not _option_table.INT_MIN <= value <= _option_table.INT_MAX:
            raise OverflowError("Python int too large to convert to C int")
        return struct.pack("i", value)
    return bytes(memoryview(value).cast("B"))


def _number(row: Row, raw: bytes) -> int:
    if len(raw) >= 4:
        number: int = struct.unpack_from("i", raw)[0]
        return number
    return raw[0] if raw and row.size in (0, -1) else 0


def _set_number(endpoint: Endpoint, handle: CData, row: Row, raw: bytes) -> None:
    number = row.keep(_number(row, raw))
    if row.native and not _is_so_already(endpoint, row, number):
        option = getattr(lib, row.native)
        _tell(endpoint, handle, option, max(number, 0) or int(row.name == "IPV6_UNICAST_HOPS"))
    endpoint.options[row.key] = number


def _is_so_already(endpoint: Endpoint, row: Row, number: int) -> bool:
    """Spares a round trip for what almost every program sets."""
    return row.key == NODELAY and number == 1 and row.key not in endpoint.options


def _tell(endpoint: Endpoint, handle: CData, option: int, value: int) -> None:
    result = endpoint.call(handle, lib.PF_OP_SETOPT, offset=option, token=value)
    if result < 0:
        raise _errors.os_error(-result)


def _keep(endpoint: Endpoint, key: tuple[int, int], raw: bytes) -> int:
    row = _option_table.TABLE[key]
    number = endpoint.options[key] = row.keep(_number(row, raw))
    return number


def _set_receive_buffer(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    _keep(endpoint, RCVBUF, raw)
    _set_window(endpoint, handle)


def _set_clamp(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    unlimited = not _number(_option_table.TABLE[WINDOW_CLAMP], raw)
    if unlimited and (endpoint.connected or endpoint.listening):
        raise _errors.os_error(errno.EINVAL)
    _keep(endpoint, WINDOW_CLAMP, raw)
    _set_window(endpoint, handle)


def _set_fast_open(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    del handle
    if endpoint.connected:
        raise _errors.os_error(errno.EINVAL)
    _keep(endpoint, FASTOPEN, raw)


def _set_window(endpoint: Endpoint, handle: CData) -> None:
    buffer = endpoint.options.get(RCVBUF, 0) // 2 or _NO_LIMIT
    clamp = endpoint.options.get(WINDOW_CLAMP, 0) or _NO_LIMIT
    _tell(endpoint, handle, lib.PF_OPT_RCVBUF, min(buffer, clamp))


def _set_send_buffer(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    # The kernel's figure counts its own overhead; half of it are the program's bytes.
    limit = _keep(endpoint, SNDBUF, raw) // 2
    lib.pf_socket_set_send_limit(handle, endpoint.slot, limit)


def _set_low_water(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    del handle
    endpoint.low_water = _keep(endpoint, RCVLOWAT, raw)


def _set_segment(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    number = _keep(endpoint, MAXSEG, raw)
    _tell(endpoint, handle, lib.PF_OPT_MAXSEG, number or 0xFFFF)


def _set_linger(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    del handle
    on, seconds = struct.unpack_from("ii", raw)
    # As in the kernel: switched off, the time stays what it was.
    endpoint.lingers = (int(on != 0), seconds if on else endpoint.lingers[1])


def _seconds(raw: bytes) -> float | None:
    seconds, micros = struct.unpack_from("ll", raw)
    if not 0 <= micros < 1_000_000:
        raise _errors.os_error(errno.EDOM)
    if seconds < 0:
        return 0.0
    return seconds + micros / 1e6 if seconds or micros else None


def _set_receive_patience(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    del handle
    endpoint.receive_patience = _seconds(raw)


def _set_send_patience(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    del handle
    endpoint.send_patience = _seconds(raw)


def _set_device(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    name = raw.partition(b"\0")[0][: _DEVICE_BYTES - 1]
    native = ffi.new("struct pf_addr *")
    ffi.memmove(native.ip, name, len(name))
    option = lib.PF_OPT_BINDTODEVICE
    result = endpoint.call(handle, lib.PF_OP_SETOPT, offset=option, addr=native)
    if result == -errno.ENODEV and endpoint.is_fresh() and _is_kernels(name):
        # A device of the machine: the socket belongs there.
        endpoint.requested[DEVICE] = name
        endpoint.wants_kernel = True
    elif result < 0:
        raise _errors.os_error(-result)
    else:
        endpoint.wants_kernel = False
    endpoint.device = name


def _is_kernels(name: bytes) -> bool:
    try:
        return _names.if_nametoindex(name.decode()) > 0
    except (OSError, UnicodeError):
        return False


def _set_interface(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    index = _keep(endpoint, IFINDEX, raw)
    try:
        name = _names.if_indextoname(index) if index else ""
    except OSError:
        raise _errors.os_error(errno.ENODEV) from None
    _set_device(endpoint, handle, name.encode())


def _set_congestion(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    del endpoint, handle
    if not raw:
        raise _errors.os_error(errno.EINVAL)
    if raw.partition(b"\0")[0] != b"reno":
        raise _errors.os_error(errno.ENOENT)


def _set_priority(endpoint: Endpoint, handle: CData, raw: bytes) -> None:
    """The kernel's 0 is best effort, 1 and 2 are filler and bulk, 6 and more interactive."""
    from pifus._compat import _rules

    number = _keep(endpoint, PRIORITY, raw)
    if number == 0:
        priority = _rules.first_priority()
    elif number < 3:
        priority = lib.PF_PRIORITY_LOW
    else:
        priority = lib.PF_PRIORITY_MEDIUM if number < 6 else lib.PF_PRIORITY_HIGH
    _tell(endpoint, handle, lib.PF_OPT_PRIORITY, priority)
    endpoint.priority = priority
    endpoint.priority_chosen = number != 0


_SET: Final[dict[tuple[int, int], Callable[[Endpoint, CData, bytes], None]]] = {
    LINGER: _set_linger,
    RCVBUF: _set_receive_buffer,
    SNDBUF: _set_send_buffer,
    RCVLOWAT: _set_low_water,
    PRIORITY: _set_priority,
    RCVTIMEO: _set_receive_patience,
    SNDTIMEO: _set_send_patience,
    DEVICE: _set_device,
    IFINDEX: _set_interface,
    MAXSEG: _set_segment,
    WINDOW_CLAMP: _set_clamp,
    FASTOPEN: _set_fast_open,
    CONGESTION: _set_congestion,
}
