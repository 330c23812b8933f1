"""Opening a tap interface that the network driver made, so that QEMU gets it as a descriptor."""

import errno
import fcntl
import os
import socket
import struct

from cairn.core.errors import Conflict, NotFound, Unavailable
from cairn.drivers.contracts import Tap

# linux/if_tun.h
TUNSETIFF = 0x400454CA
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000


def open_tap(tap: Tap) -> int:
    """A descriptor of the tap. NotFound: there is no such tap; Conflict: another process has it."""
    # TUNSETIFF would silently make a missing tap, which no datapath knows. Not asked of /sys: that may be
    # another network namespace's.
    try:
        socket.if_nametoindex(tap.name)
    except OSError as error:
        raise NotFound(
            f"port {tap.port_id} is not plugged on this host", because=f"no tap named {tap.name}"
        ) from error
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    request = struct.pack("16sH22x", tap.name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    try:
        fcntl.ioctl(fd, TUNSETIFF, request)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EBUSY:
            raise Conflict(
                f"port {tap.port_id} is in use by another guest", because=f"{tap.name} is busy"
            ) from error
        raise Unavailable(
            f"port {tap.port_id} could not be opened", because=f"{tap.name}: {error}"
        ) from error
    return fd
