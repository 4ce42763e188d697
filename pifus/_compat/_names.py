"""`getaddrinfo` and its relatives: the system's, or, by the option `dns`, over the stack.

What of a call is not about names (services, numeric addresses, kinds of sockets, wrong arguments)
the system's functions answer in either case: called with numeric addresses they ask nobody.
"""

from __future__ import annotations

import _socket as _c
import contextlib
import importlib.util
import ipaddress
from typing import Any

from pifus import _policy
from pifus._compat import _hosts

_INET = (_c.AF_INET, _c.AF_INET6)
# What only concerns the choice of names and addresses.
_CHOOSING = _c.AI_CANONNAME | _c.AI_ADDRCONFIG | _c.AI_V4MAPPED | _c.AI_ALL | _c.AI_PASSIVE
_UNIQUE_LOCAL = ipaddress.IPv6Network("fc00::/7")
_DISCARD = 9
_UNKNOWN_HOST, _TRY_AGAIN = (1, "Unknown host"), (2, "Host name lookup failure")  # of netdb.h


def prepare(policy: _policy.Policy) -> None:
    """Loads what the policy needs, while it can be found.

    Raises:
        ImportError: dnspython is missing.
    """
    if policy.dns:
        if importlib.util.find_spec("dns") is None:
            raise ImportError(_policy.NO_DNSPYTHON)
        from pifus._compat import _dns  # noqa: F401


def are_ours() -> bool:
    """True when name servers are asked by the stack's sockets."""
    return bool(_policy.current().dns)


def getaddrinfo(
    host: Any,
    port: Any,
    family: int = 0,
    type: int = 0,  # noqa: A002 - as it is called in `_socket`
    proto: int = 0,
    flags: int = 0,
) -> Any:
    """getaddrinfo(host, port[, family, type, proto, flags]) -> list of
    (family, type, proto, canonname, sockaddr)
    """
    if host is None or not are_ours():
        return _c.getaddrinfo(host, port, family, type, proto, flags)
    try:
        return _c.getaddrinfo(host, port, family, type, proto, flags | _c.AI_NUMERICHOST)
    except _c.gaierror as error:
        if error.errno != _c.EAI_NONAME or flags & _c.AI_NUMERICHOST or not host:
            raise
    kept = flags & ~_CHOOSING | _c.AI_NUMERICHOST
    own = "::1" if family == _c.AF_INET6 else "127.0.0.1"
    _c.getaddrinfo(own, port, family, type, proto, kept)  # raises, if it is the service
    name = _text(host)
    found = _lookup(name, family, flags)
    result = []
    for kind, address in found.addresses:
        result += _c.getaddrinfo(address, port, kind, type, proto, kept)
    if flags & _c.AI_CANONNAME:
        result[0] = (*result[0][:3], found.name, result[0][4])
    return result


def getnameinfo(sockaddr: Any, flags: int, /) -> Any:
    """getnameinfo(sockaddr, flags) -> (host, port)"""
    if not are_ours() or flags & _c.NI_NUMERICHOST:
        return _c.getnameinfo(sockaddr, flags)
    numeric = (flags | _c.NI_NUMERICHOST) & ~_c.NI_NAMEREQD
    host, service = _c.getnameinfo(sockaddr, numeric)
    found = _of_address(host)
    if found is not None:
        return found.name, service
    if flags & _c.NI_NAMEREQD:
        raise _c.gaierror(_c.EAI_NONAME, "Name or service not known")
    return host, service


def gethostbyname(hostname: Any, /) -> str:
    """gethostbyname(host) -> address"""
    if _is_plain(hostname, _c.AF_INET):
        return _c.gethostbyname(hostname)
    return _lookup(_text(hostname), _c.AF_INET, 0).addresses[0][1]


def gethostbyname_ex(hostname: Any, /) -> tuple[str, list[str], list[str]]:
    """gethostbyname_ex(host) -> (name, aliaslist, addresslist)"""
    if _is_plain(hostname, _c.AF_INET):
        return _c.gethostbyname_ex(hostname)
    found = _lookup(_text(hostname), _c.AF_INET, 0)
    return found.name, list(found.aliases), [address for _, address in found.addresses]


def gethostbyaddr(ip_address: Any, /) -> tuple[str, list[str], list[str]]:
    """gethostbyaddr(host) -> (name, aliaslist, addresslist)"""
    if not are_ours() or not ip_address or not isinstance(ip_address, (str, bytes)):
        return _c.gethostbyaddr(ip_address)
    address = str(getaddrinfo(ip_address, None, 0, _c.SOCK_STREAM)[0][4][0])
    try:
        found = _of_address(address)
    except _c.gaierror:
        raise _c.herror(*_TRY_AGAIN) from None
    if found is None:
        raise _c.herror(*_UNKNOWN_HOST)
    return found.name, list(found.aliases), [address]


def numeric(family: int, address: Any) -> Any:
    """The address that a method of a socket was given, with the address of its host's name.

    Raises:
        OSError: socket.gaierror, when the name is not known.
    """
    if not are_ours() or family not in _INET or not isinstance(address, tuple):
        return address
    if not address or _is_plain(address[0], family):
        return address
    return (_lookup(_text(address[0]), family, 0).addresses[0][1], *address[1:])


def _is_plain(host: Any, family: int) -> bool:
    """True for what no name server is needed for."""
    if not are_ours() or not host or not isinstance(host, (str, bytes, bytearray)):
        return True
    if host in ("<broadcast>", b"<broadcast>"):
        return True
    with contextlib.suppress(_c.gaierror):
        host = bytes(host) if isinstance(host, bytearray) else host
        _c.getaddrinfo(host, None, family, 0, 0, _c.AI_NUMERICHOST)
        return True
    return False


def _text(host: str | bytes | bytearray) -> str:
    encoded = host.encode("idna") if isinstance(host, str) else bytes(host)
    return encoded.decode("latin-1")


# ---- looking up ----


def _lookup(name: str, family: int, flags: int) -> _hosts.Found:
    """What is known of a name, its addresses in the order in which they should be tried.

    Raises:
        OSError: socket.gaierror.
    """
    mapped = family == _c.AF_INET6 and flags & _c.AI_V4MAPPED
    families = _INET if mapped or not family else (family,)
    found = _hosts.of_name(name, families)
    local = found is not None
    if found is None:
        from pifus._compat import _dns

        found = _dns.of_name(name, families)
    six = [pair for pair in found.addresses if pair[0] == _c.AF_INET6]
    four = [pair for pair in found.addresses if pair[0] == _c.AF_INET]
    if mapped:
        if six and not flags & _c.AI_ALL:
            four = []
        four = [(_c.AF_INET6, f"::ffff:{address}") for _, address in four]
    elif six and four:
        source = _source_to(six[0][1])
        if source is None and flags & _c.AI_ADDRCONFIG and not local:
            six = []
        elif source is None or _label(source) != _label(ipaddress.IPv6Address(six[0][1])):
            six, four = four, six
    return _hosts.Found(found.name, found.aliases, (*six, *four))


def _source_to(address: str) -> ipaddress.IPv6Address | None:
    """From where an IPv6 address is reached, in the world that the rules choose for it.

    None: there is no way to it.
    """
    from pifus._compat import _methods

    try:
        with contextlib.closing(_methods.socket(_c.AF_INET6, _c.SOCK_DGRAM)) as probe:
            probe.connect((address, _DISCARD))  # of a datagram socket: nothing is sent
            return ipaddress.IPv6Address(probe.getsockname()[0])
    except OSError:
        return None


def _label(address: ipaddress.IPv6Address) -> tuple[bool, ...]:
    """What the rules of RFC 6724 come to: sources that are of another kind make IPv4 better."""
    return address.is_loopback, address.is_link_local, address in _UNIQUE_LOCAL


def _of_address(host: str) -> _hosts.Found | None:
    address = host.partition("%")[0]
    found = _hosts.of_address(address)
    if found is not None:
        return found
    from pifus._compat import _dns

    return _dns.of_address(address)
