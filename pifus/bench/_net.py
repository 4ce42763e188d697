"""Networks for the benchmarks: a TAP device with a stack behind it, a veth pair to a namespace.

Both vanish with the process that holds them: the TAP device belongs to the backend, the veth pair
to a nameless namespace in which one worker lives.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import os
import secrets
import shutil
import socket
import struct
from types import TracebackType

from pifus.bench._run import Backend, Worker, run_tool
from pifus.bench._worker import State

# The range for benchmarks (RFC 2544), in pieces of four addresses.
_RANGE = ipaddress.IPv4Network("198.18.0.0/15")
_PIECES = _RANGE.num_addresses // 4

_SIOCETHTOOL = 0x8946
_ETHTOOL_SSG, _ETHTOOL_STSO, _ETHTOOL_SGSO, _ETHTOOL_SGRO = 0x19, 0x1F, 0x24, 0x2C
# Scatter-gather first on the way up, last on the way down: the others need it.
_SEGMENTATION = (_ETHTOOL_SSG, _ETHTOOL_STSO, _ETHTOOL_SGSO, _ETHTOOL_SGRO)


def new_pair() -> tuple[str, str]:
    """Two addresses of a /30 of their own that no interface here has."""
    while True:
        base = int(_RANGE.network_address) + 4 * secrets.randbelow(_PIECES)
        first, second = (str(ipaddress.IPv4Address(base + offset)) for offset in (1, 2))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((first, 0))
            except OSError:
                return first, second


def new_name(kind: str) -> str:
    """A name for a device that no other run uses, and that tells this process."""
    return f"pf{kind}{os.getpid():06x}{secrets.token_hex(2)}"


class Tap:
    """A backend with a TAP device.

    Attributes:
        backend: it.
        host: the kernel's address.
        stack: the address of the stack.
    """

    def __init__(self, *options: str) -> None:
        """Starts it.

        Raises:
            OSError: it cannot start; the text says why.
        """
        self.host, self.stack = new_pair()
        self.name = new_name("t")
        self.backend = Backend(
            *("tap", "--tap-name", self.name, "--tap-ipv4", f"{self.stack}/30"),
            *("--tap-host-ipv4", f"{self.host}/30", *options),
        )

    def __enter__(self) -> Tap:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.backend.close()


class Veth:
    """A worker in a namespace of its own, at the other end of a veth pair.

    Attributes:
        worker: it.
        near: our address.
        far: its address.
    """

    def __init__(self, *, offload: bool = True) -> None:
        """Makes it.

        Raises:
            OSError: it cannot be made; the text says why.
        """
        if shutil.which("unshare") is None:
            raise FileNotFoundError("the program unshare (util-linux) is missing")
        self.near, self.far = new_pair()
        self._name = new_name("v")
        peer = new_name("w")
        self.worker = Worker(prefix=["unshare", "--net"])
        try:
            self.worker.call(ready)
            pid = str(self.worker.process.pid)
            run_tool(
                *("ip", "link", "add", self._name, "type", "veth"),
                *("peer", "name", peer, "netns", pid),
            )
            run_tool("ip", "address", "add", f"{self.near}/30", "dev", self._name)
            run_tool("ip", "link", "set", self._name, "up")
            self.worker.call(configure, name=peer, address=self.far, offload=offload)
            set_offload(self._name, offload)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Veth:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.worker.close()
        # The kernel removes it with the namespace, but takes its time.
        if is_device(self._name):
            try:
                run_tool("ip", "link", "delete", self._name)
            except OSError:
                if is_device(self._name):
                    raise


def is_device(name: str) -> bool:
    """Whether this network has it; /sys may be mounted of another one."""
    return name in (device for _, device in socket.if_nameindex())


def ready(_state: State) -> None:
    """In a worker: nothing; it lives, and in its namespace, once this is answered."""


def configure(_state: State, name: str, address: str, offload: bool) -> None:
    """In the worker of a namespace: brings its end of the pair up."""
    run_tool("ip", "address", "add", f"{address}/30", "dev", name)
    run_tool("ip", "link", "set", name, "up")
    set_offload(name, offload)


def set_offload(name: str, on: bool) -> None:
    """Segmentation and receive offloads of a device, as `ethtool -K NAME tso … gso … gro …`.

    Raises:
        OSError: the device refuses.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in _SEGMENTATION if on else reversed(_SEGMENTATION[1:]):
            value = array.array("B", struct.pack("=II", command, int(on)))
            address, _ = value.buffer_info()
            request = struct.pack("16sP", name.encode(), address).ljust(40, b"\0")
            fcntl.ioctl(control, _SIOCETHTOOL, request)
