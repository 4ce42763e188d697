"""Which addresses belong to the stack; a socket with another one goes to the kernel.

A socket is the stack's until it is bound or connected: only then is known where it belongs. The
user's rules decide (`pifus._policy`); where none fits, what the backend's drivers reach.
"""

from __future__ import annotations

import _socket as _c
import contextlib
import errno
import functools
import ipaddress
import os
import socket as _names
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pifus import _ambient, _policy
from pifus._compat import _option_table, _table
from pifus._core._client import lib

if TYPE_CHECKING:
    from pifus._compat._endpoint import Endpoint
    from pifus._core._client import CData
    from pifus._core._session import Session

_LEVELS = {
    "high": lib.PF_PRIORITY_HIGH,
    "medium": lib.PF_PRIORITY_MEDIUM,
    "low": lib.PF_PRIORITY_LOW,
}


_IPV4 = int(_names.AF_INET)
_MEDIUM = int(lib.PF_PRIORITY_MEDIUM)

# Where the machine's own resolver listens (systemd-resolved(8)): it can only be the kernel's.
_STUB_RESOLVERS = frozenset({"127.0.0.53", "127.0.0.54"})


@dataclass(frozen=True, slots=True)
class Reach:
    """What a backend's drivers lead to.

    Attributes:
        networks: on its links; empty: it has nothing but the loopback.
        addresses: its own.
        everywhere: the IP versions for which it has a gateway.
        devices: the names of its links.
    """

    networks: tuple[_policy.Network, ...] = ()
    addresses: tuple[_policy.Address, ...] = ()
    everywhere: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()

    def holds(self, address: _policy.Address, binding: bool) -> bool:
        """True when an address is the stack's, to be bound to or connected to."""
        if address.is_unspecified:
            return True
        if not self.networks:
            return address.is_loopback and (binding or str(address) not in _STUB_RESOLVERS)
        if address.is_loopback:
            return False
        if binding:
            return address in self.addresses or address.is_multicast
        if address.version in self.everywhere or address.is_multicast or address.is_link_local:
            return True
        return any(address in network for network in self.networks)


# What the backend of a session reaches.
_reaches: WeakKeyDictionary[Session, Reach] = WeakKeyDictionary()


class _Decided:
    """Destinations that were found to be the stack's, so that the next connect need not ask.

    Attributes:
        rules: the policy for which that holds.
        session: the session for which it does, weakly.
        natives: by what the program says, the `struct pf_addr`, which nobody changes.
    """

    def __init__(self, rules: _policy.Policy, session: Session) -> None:
        self.rules = rules
        self.session = weakref.ref(session)
        self.natives: dict[tuple[str, int], CData] = {}


_decided: _Decided | None = None
_DECIDED_MAX = 256

policy = _policy.current
set_policy = _policy.set_current


def is_for_stack(endpoint: Endpoint, native: CData, binding: bool = False) -> bool:
    """True when a bind (`binding`) or connect to the `struct pf_addr` is the stack's."""
    if endpoint.wants_kernel:
        return False
    address = _address_of(endpoint.family, native)
    rules = policy()
    world = rules.world(address, native.port)
    if world is not None:
        return world == "stack"
    if rules.strict:
        return True
    reach = reach_of(endpoint.session)
    if reach.holds(address, binding):
        return True
    # A server on the wildcard address of the stack is asked for on the loopback, too.
    return (
        address.is_loopback and bool(reach.networks) and not binding and _listens(endpoint, native)
    )


def decided(endpoint: Endpoint, address: Any) -> CData | None:
    """The native address of a destination to which a fresh stream socket goes by the stack.

    None: that has to be found out. A program that connects often does so to few addresses.
    """
    known = _decided
    if (
        known is None
        or known.rules is not policy()
        or known.session() is not endpoint.session
        or type(address) is not tuple
        or len(address) != 2
        or type(address[0]) is not str
        or type(address[1]) is not int
        or endpoint.family != _IPV4
        or endpoint.wants_kernel
        or endpoint.datagram
        or not endpoint.is_fresh()
    ):
        return None
    return known.natives.get(address)


def decide(endpoint: Endpoint, address: Any, native: CData) -> None:
    """`address` was found to be the stack's: remembered, where nothing but the rules tells."""
    global _decided
    rules, session = policy(), endpoint.session
    if (
        endpoint.family != _IPV4
        or endpoint.datagram
        or rules.priorities
        or type(address) is not tuple
        or len(address) != 2
        or type(address[0]) is not str
        or type(address[1]) is not int
        or not _is_numeric(address[0])
    ):
        return  # a name may come to mean another address
    place = _address_of(_IPV4, native)
    world = rules.world(place, address[1])
    if world != "stack" and (
        world or not (rules.strict or reach_of(session).holds(place, binding=False))
    ):
        return  # because of a listener, which may go
    known = _decided
    if known is None or known.rules is not rules or known.session() is not session:
        known = _decided = _Decided(rules, session)
    if len(known.natives) >= _DECIDED_MAX:
        known.natives.clear()
    known.natives[address] = native


def _is_numeric(host: str) -> bool:
    try:
        _c.inet_pton(_IPV4, host)
    except OSError:
        return False
    return True


def _address_of(family: int, native: CData) -> _policy.Address:
    size = 4 if family == _names.AF_INET else 16
    return _address(bytes(native.ip)[:size])


@functools.lru_cache(maxsize=256)
def _address(packed: bytes) -> _policy.Address:
    """One object for each address: a program that connects often does so to few."""
    address = ipaddress.ip_address(packed)
    return getattr(address, "ipv4_mapped", None) or address


def _listens(endpoint: Endpoint, native: CData) -> bool:
    handle = endpoint.enter()
    try:
        count = endpoint.call(handle, lib.PF_OP_QUERY, offset=lib.PF_QUERY_LISTENERS, addr=native)
    finally:
        endpoint.leave()
    return count > 0


# ---- priorities ----


def first_priority() -> int:
    """The enum pf_priority of a new socket: that of the context, else the program's."""
    name = _ambient.current() or policy().priority
    return int(_LEVELS[name]) if name else _MEDIUM


def prioritise(endpoint: Endpoint, native: CData) -> None:
    """Gives a socket that is bound or connected to a port the priority of the rule for it."""
    if not policy().priorities or endpoint.priority_chosen or _ambient.current():
        return
    name = policy().priority_of(native.port)
    if name is None or _LEVELS[name] == endpoint.priority:
        return
    handle = endpoint.enter()
    try:
        level = _LEVELS[name]
        result = endpoint.call(handle, lib.PF_OP_SETOPT, offset=lib.PF_OPT_PRIORITY, token=level)
    finally:
        endpoint.leave()
    if result == 0:  # else the backend does not grant it: the rule is no reason to fail
        endpoint.priority = level


# ---- into the kernel ----


def may_leave(endpoint: Endpoint, connecting: bool) -> bool:
    """True while it is not decided where the socket belongs.

    A socket that is bound to the wildcard address is told by its peer.
    """
    if endpoint.is_fresh():
        return True
    if endpoint.datagram:
        return False  # bound, it may have many peers: one of them cannot take it away
    if not connecting or not endpoint.bound or endpoint.listening or endpoint.connect_op:
        return False
    if endpoint.connected or endpoint.stage or endpoint.spent:
        return False
    return ipaddress.ip_address(_name(endpoint)[0]).is_unspecified


def _name(endpoint: Endpoint) -> Any:
    from pifus._compat import _connection

    return _connection.getsockname(endpoint)


def free_kernel_port(endpoint: Endpoint) -> int:
    """A port that is free for every address of the kernel, 0 if it has none for such a socket."""
    try:
        with contextlib.closing(_c.socket(endpoint.family, endpoint.type)) as kernel:
            kernel.bind(("", 0))
            return int(kernel.getsockname()[1])
    except OSError:
        return 0


def to_kernel(endpoint: Endpoint, fd: int) -> None:
    """Puts a socket of the kernel in the place of one of the stack, under its number.

    What was set and, to the wildcard address, bound before holds for it, too.

    Raises:
        OSError: the kernel has none, or the port is in use there.
    """
    with contextlib.closing(_c.socket(endpoint.family, endpoint.type, endpoint.proto)) as kernel:
        for (level, name), value in endpoint.replay():
            with contextlib.suppress(OSError):
                kernel.setsockopt(level, name, value)
        if endpoint.bound:
            kernel.bind(_name(endpoint))
        os.set_blocking(kernel.fileno(), os.get_blocking(fd))
        _table.know(kernel.fileno())
        for number in list(endpoint.fds):
            inheritable = os.get_inheritable(number)
            last = _table.drop(number)
            _table.replace_file(kernel.fileno(), number, inheritable)
            if last is not None:
                last.finish()


# ---- out of the kernel ----


def from_kernel(sock: _c.socket, fd: int) -> Endpoint | None:
    """Puts a socket of the stack in the place of a fresh one of the kernel, under its number.

    Options that the kernel's was set to hold for it, too. None: it is bound or connected already.
    """
    from pifus._compat import _making

    plain = _c.socket
    with contextlib.suppress(OSError):
        plain.getpeername(sock)
        return None
    if plain.getsockname(sock)[1] or plain.getsockopt(sock, _c.SOL_SOCKET, _c.SO_ACCEPTCONN):
        return None
    was_set = _differing(sock)
    inheritable = os.get_inheritable(fd)
    blocking = os.get_blocking(fd)
    ours, endpoint = _making.make(int(sock.family), int(sock.type), int(sock.proto))
    _table.replace_file(ours, fd, inheritable)
    _table.adopt(fd)
    _table.close(ours)
    os.set_blocking(fd, blocking)
    _set_again(endpoint, was_set)
    endpoint.arm()  # its number may have been asked for before
    return endpoint


def _differing(sock: _c.socket) -> list[tuple[int, int, bytes]]:
    """The options of a kernel socket that are not as in a new one, and can be set."""
    found = []
    with contextlib.closing(_c.socket(sock.family, sock.type, sock.proto)) as fresh:
        for row in _option_table.rows():
            if row.set_errno or row.how == _option_table.NO_OP:
                continue
            with contextlib.suppress(OSError):
                value = _c.socket.getsockopt(sock, row.level, row.number, 64)
                if value != _c.socket.getsockopt(fresh, row.level, row.number, 64):
                    found.append((row.level, row.number, value))
    return found


def _set_again(endpoint: Endpoint, was_set: list[tuple[int, int, bytes]]) -> None:
    from pifus._compat import _options

    for level, number, raw in was_set:
        if (level, number) in (_options.SNDBUF, _options.RCVBUF):
            # What the kernel tells is twice what was asked for.
            raw = (int.from_bytes(raw, "little") // 2).to_bytes(4, "little")  # noqa: PLW2901
        with contextlib.suppress(OSError):
            _options.setsockopt(endpoint, level, number, raw)


# ---- what the backend has ----


def reach_of(session: Session) -> Reach:
    """What the backend of a session leads to; asked for once."""
    known = _reaches.get(session)
    if known is None:
        known = _reaches[session] = _reach(_ask(session))
    return known


def _ask(session: Session) -> dict[str, Any]:
    from pifus._core import _protocol

    # After the last session: only what is said of the backend itself.
    request = _protocol.Status(2**63 - 1)
    reply: dict[str, Any]
    reply, _ = session._channel.request(request, "status")
    return reply


def _reach(status: dict[str, Any]) -> Reach:
    links = status.get("links", [])
    interfaces = [
        ipaddress.ip_interface(text) for link in links for text in link.get("addresses", ())
    ]
    gateways = [ipaddress.ip_address(text) for link in links for text in link.get("gateways", ())]
    return Reach(
        tuple(interface.network for interface in interfaces),
        tuple(interface.ip for interface in interfaces),
        tuple(gateway.version for gateway in gateways),
        tuple(str(link.get("device", "")) for link in links),
    )


def no_way() -> OSError:
    """What a strict program gets for a socket that only the kernel could carry."""
    return OSError(
        errno.ENETUNREACH,
        "pifus --strict: this socket would go to the kernel; name it by a rule (--kernel …)",
    )


def leave_to_kernel(endpoint: Endpoint, native: CData, fd: int, binding: bool = False) -> bool:
    """Decides where a socket belongs that is bound or connected, if it is not decided yet.

    True: a kernel socket stands in its place now.
    """
    if not may_leave(endpoint, connecting=not binding):
        return False
    if is_for_stack(endpoint, native, binding):
        prioritise(endpoint, native)
        return False
    to_kernel(endpoint, fd)
    return True
