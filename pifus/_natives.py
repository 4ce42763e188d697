"""Native code that opens INET sockets by itself: known modules, and how to see it in a library."""

from __future__ import annotations

import importlib.machinery
import os
import struct
import sys
import sysconfig
from pathlib import Path
from typing import Final

# Module, as it is imported: the library that opens the sockets.
KNOWN: Final = {
    "uvloop": "libuv",
    "psycopg2": "libpq",
    "psycopg_c": "libpq",
    "psycopg_binary": "libpq",
    "grpc": "gRPC's C core",
    "zmq": "libzmq",
    "pycurl": "libcurl",
    "curl_cffi": "libcurl",
    "MySQLdb": "libmysqlclient",
    "_mysql_connector": "libmysqlclient",
    "pymssql": "FreeTDS",
    "pyodbc": "its ODBC drivers",
    "cx_Oracle": "Oracle's client",
    "confluent_kafka": "librdkafka",
    "pynng": "nng",
    "ldap": "libldap",
    "nanomsg": "nanomsg",
    "primp": "a Rust HTTP client",
    "rnet": "a Rust HTTP client",
}
_SYSTEM_PLACES: Final = ("/lib", "/usr/lib", "/usr/local/lib", "/lib64", "/usr/lib64")
# Libraries that every program has, or that open sockets only when they are told to.
_INNOCENT: Final = (
    *("libc.", "libm.", "libpthread", "libdl", "librt", "libgcc", "libstdc++", "ld-linux"),
    *("libssl", "libcrypto", "libresolv", "libpython", "libz."),
)
_ELF_BYTES_MAX: Final = 256 << 20
_DEPTH_MAX: Final = 4


def sentence(name: str) -> str:
    """What there is to say of a known module."""
    return f"{name} opens sockets past the stack, by {KNOWN[name]}"


def suspects() -> str:
    """The loaded modules that may have opened a socket by themselves."""
    known = [f"{name} ({KNOWN[name]})" for name in KNOWN if _is_real(name)]
    if known:
        return " or ".join(known)
    found = []
    inside = sysconfig.get_paths()["stdlib"]
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None) or ""
        if not path.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
            continue
        own = path.startswith(inside) and "site-packages" not in path
        if not own and not name.startswith("pifus") and opens_sockets(Path(path)):
            found.append(name)
    if found:
        return " or ".join(sorted(found)[:4])
    return "native code (ctypes is loaded)" if "ctypes" in sys.modules else "native code"


def _is_real(name: str) -> bool:
    """False for a module that is not loaded, and for our stand-in."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and spec.origin != "pifus"


def opens_sockets(path: Path, depth: int = 0) -> str | None:
    """The library, this one or one it needs, that calls `socket` of the C library; None: none."""
    try:
        imports, needed, places = _read(path)
    except (OSError, ValueError, OverflowError, struct.error, IndexError):
        return None
    if "socket" in imports and "connect" in imports:
        return path.name
    for name in needed if depth < _DEPTH_MAX else ():
        if name.startswith(_INNOCENT):
            continue
        library = _find(name, path.parent, places)
        found = opens_sockets(library, depth + 1) if library is not None else None
        if found is not None:
            return found
    return None


def _find(name: str, origin: Path, places: list[str]) -> Path | None:
    machine = f"{os.uname().machine}-linux-gnu"
    own = [Path(place.replace("$ORIGIN", str(origin))) for place in places if place]
    system = [Path(place) for top in _SYSTEM_PLACES for place in (f"{top}/{machine}", top)]
    for place in (*own, *system):
        if (place / name).is_file():
            return place / name
    return None


def _read(path: Path) -> tuple[set[str], list[str], list[str]]:
    """Of an ELF library: the symbols it imports, the libraries it needs, where it looks for them.

    Raises:
        ValueError, struct.error, IndexError, OSError: it is none, or not of this machine.
    """
    if path.stat().st_size > _ELF_BYTES_MAX:
        raise ValueError("too large")
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no 64-bit little-endian ELF file")
    offset, size, count = struct.unpack_from("<Q10xHH", data, 40)
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", data, offset + index * size) for index in range(count)
    ]
    imports: set[str] = set()
    needed: list[str] = []
    places: list[str] = []
    for section in sections:
        if section[1] == 11:  # SHT_DYNSYM
            names = sections[section[6]][4]
            for at in range(section[4], section[4] + section[5], 24):
                name, _, _, index = struct.unpack_from("<IBBH", data, at)
                if index == 0 and name:
                    imports.add(_text(data, names + name))
        elif section[1] == 6:  # SHT_DYNAMIC
            names = sections[section[6]][4]
            for at in range(section[4], section[4] + section[5], 16):
                tag, value = struct.unpack_from("<qQ", data, at)
                if tag == 1:
                    needed.append(_text(data, names + value))
                elif tag in (15, 29):  # DT_RPATH, DT_RUNPATH
                    places += _text(data, names + value).split(":")
    return imports, needed, places


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("ascii", "replace").partition("@")[0]
