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
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1
SETTINGS = {
    # The kernel tells a peer of each refused datagram: else of six, and then of one a second.
    "ipv4/icmp_ratelimit": "0",
    "ipv6/icmp/ratelimit": "0",
    # A new namespace lets no group have ICMP sockets.
    "ipv4/ping_group_range": "0 2147483647",
}

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
