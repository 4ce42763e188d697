"""A network of the tests' own, so that nothing they do is done to the machine.

A network namespace has devices, addresses, ports and limits of its own. All of it goes with the
last process that is inside, so that not even a killed run leaves anything behind. Making one needs
CAP_SYS_ADMIN; without it the tests run in the machine's network, and leave that alone.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
IFF_UP = 1
SETTINGS = {
    # The kernel tells a peer of each refused datagram: else of six, and then of one a second.
    "ipv4/icmp_ratelimit": "0",
    "ipv6/icmp/ratelimit": "0",
    # A new namespace lets no group have ICMP sockets.
    "ipv4/ping_group_range": "0 2147483647",
}

# With 127.0.0.1 and ::1 alone getaddrinfo() takes a machine for one without a network, and resolves
# nothing where only families in use are asked for (AI_ADDRCONFIG). These are for documentation.
ADDRESS, ADDRESS6 = "198.51.100.1", "2001:db8::1"

# Whether this process is in such a network.
own = False


def enter() -> None:
    """Moves this process, and whatever it starts, into a new network, if it may."""
    global own
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        if error in (errno.EPERM, errno.ENOSYS, errno.EINVAL):  # no right, or no such kernel
            return
        raise OSError(error, f"unshare: {os.strerror(error)}")
    own = True
    bring_up("lo")
    add_addresses()
    for name, value in SETTINGS.items():
        setting = Path("/proc/sys/net", name)
        # A container may have it read-only, and a kernel no IPv6.
        if os.access(setting, os.W_OK):
            setting.write_text(value)


def bring_up(device: str) -> None:
    """As `ip link set DEVICE up`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", device.encode(), 0)
        _, flags = struct.unpack("16sh14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", device.encode(), flags | IFF_UP))


def add_addresses() -> None:
    """As `ip address add ADDRESS/32 dev lo`, and that of IPv6 if there is any."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command, text in ((SIOCSIFADDR, ADDRESS), (SIOCSIFNETMASK, "255.255.255.255")):
            number = socket.inet_aton(text)
            fcntl.ioctl(
                control, command, struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, number)
            )
    if Path("/proc/sys/net/ipv6").exists():
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
            number = socket.inet_pton(socket.AF_INET6, ADDRESS6)
            address = struct.pack("16sIi", number, 128, socket.if_nametoindex("lo"))
            fcntl.ioctl(control, SIOCSIFADDR, address)
