"""Which addresses belong to the stack; a socket with another one goes to the kernel."""

from __future__ import annotations

import _socket as _c
import contextlib
import ipaddress
import os
import socket as _names
from typing import TYPE_CHECKING, Any

from pifus._compat import _table

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint
    from pifus._core._client import CData
    from pifus._core._session import Session

# By session: whether its backend has a network beside the loopback.
_networked: dict[int, bool] = {}


def is_for_stack(endpoint: Endpoint, native: CData) -> bool:
    """True when a bind or connect to the `struct pf_addr` is the stack's.

    A stack that has nothing but its loopback has the loopback and wildcard addresses; one with a
    network has all.
    """
    if _has_network(endpoint.session):
        return True
    size = 4 if endpoint.family == _names.AF_INET else 16
    address = ipaddress.ip_address(bytes(native.ip)[:size])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def to_kernel(endpoint: Endpoint, fd: int) -> None:
    """Puts a socket of the kernel in the place of a fresh one of the stack, under its number.

    Raises:
        OSError: the kernel has none.
    """
    with contextlib.closing(_c.socket(endpoint.family, endpoint.type, endpoint.proto)) as kernel:
        for (level, name), value in endpoint.options.items():
            with contextlib.suppress(OSError):
                kernel.setsockopt(level, name, value)
        os.set_blocking(kernel.fileno(), os.get_blocking(fd))
        for number in list(endpoint.fds):
            inheritable = os.get_inheritable(number)
            last = _table.drop(number)
            os.dup2(kernel.fileno(), number, inheritable)
            if last is not None:
                last.finish()


def _has_network(session: Session) -> bool:
    known = _networked.get(id(session))
    if known is None:
        known = _networked[id(session)] = _ask(session)
    return known


def _ask(session: Session) -> bool:
    from pifus._core import _protocol

    # After the last session: only what is said of the backend itself.
    request = _protocol.Status(2**63 - 1)
    reply: dict[str, Any]
    reply, _ = session._channel.request(request, "status")
    return list(reply.get("drivers", ["loopback"])) != ["loopback"]
