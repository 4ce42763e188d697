"""TCP_INFO: the kernel's struct tcp_info, filled with what the stack knows of a connection."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pifus._core import _errors
from pifus._core._client import ffi, lib

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint

# struct pf_tcp_info of the ABI, and the kernel's struct tcp_info up to tcpi_total_rto_time.
_STACK: Final = struct.Struct("=8B14I4Q")
_KERNEL: Final = struct.Struct("=8B24I4Q6I4Q2I2Q6I2HI")
_PAGES: Final = _STACK.size // 32


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """`struct pf_tcp_info`: sizes in bytes, windows in segments, times in microseconds."""

    state: int
    retransmits: int
    probes: int
    backoff: int
    options: int
    snd_scale: int
    rcv_scale: int
    reserved0: int
    rto_us: int
    rtt_us: int
    rttvar_us: int
    snd_mss: int
    rcv_mss: int
    unacked: int
    sacked: int
    ssthresh: int
    cwnd: int
    total_retrans: int
    notsent_bytes: int
    rcv_space: int
    snd_wnd: int
    reserved1: int
    bytes_acked: int
    bytes_received: int
    reserved2: int
    reserved3: int


def read(endpoint: Endpoint) -> TcpInfo:
    """Asks the backend.

    Raises:
        OSError: the socket or the session is gone.
    """
    raw = b""
    done = ffi.new("struct pf_done *")
    handle = endpoint.enter()
    try:
        for page in range(_PAGES):
            result = endpoint.call(
                handle, lib.PF_OP_QUERY, offset=lib.PF_QUERY_INFO, length=page, done=done
            )
            if result < 0:
                raise _errors.os_error(-result)
            raw += ffi.buffer(ffi.addressof(done.addr), 24)[:] + struct.pack("=Q", done.token)
    finally:
        endpoint.leave()
    return TcpInfo(*_STACK.unpack(raw))


def pack(endpoint: Endpoint) -> bytes:
    """The bytes of TCP_INFO."""
    info = read(endpoint)
    advertised = max(info.snd_mss, info.rcv_mss)
    return _KERNEL.pack(
        info.state,
        0,  # congestion state: open
        info.retransmits,
        info.probes,
        info.backoff,
        info.options,
        info.snd_scale | info.rcv_scale << 4,
        0,
        *(info.rto_us, 0, info.snd_mss, info.rcv_mss),
        *(info.unacked, info.sacked, 0, 0, 0),
        *(0, 0, 0, 0),  # last_data_sent and so on: not kept
        *(0, info.rcv_space, info.rtt_us, info.rttvar_us),
        *(info.ssthresh, info.cwnd, advertised, 0, 0, info.rcv_space, info.total_retrans),
        *(0, 0, info.bytes_acked, info.bytes_received),
        *(0, 0, info.notsent_bytes, 0, 0, 0),
        *(0, 0, 0, 0),
        *(0, 0),
        *(0, 0),
        *(0, 0, 0, info.snd_wnd, 0, 0),
        *(0, 0, 0),
    )
