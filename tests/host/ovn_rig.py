"""A small world for the OVN driver: a host in a namespace of its own, neighbours outside, guests behind taps.

While a `Lab` is open the test's main thread stands in the host's namespace, so that the driver under test
works there and the machine's own network is never touched. A guest is a namespace with a tap of its own;
a thread carries frames between it and the tap that the driver made, which is all that QEMU does for a
virtio card too.
"""

import ctypes
import fcntl
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cairn.core.ids import NodeId
from cairn.drivers.contracts import Tap
from cairn.drivers.networks.layout import OvnOptions, PhysicalNetwork
from cairn.host.engines import ensure_ovs

T = TypeVar("T")

NODE = NodeId("node-1")
OUTSIDE_IP = "203.0.113.1"

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_UDHCPC = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip -4 addr flush dev $interface; ip addr add $ip/$mask dev $interface
ip link set $interface mtu ${mtu:-1500}
ip route replace default via $router
echo "lease ip=$ip mtu=$mtu dns=$dns router=$router routes=$staticroutes host=$hostname"
set -- $staticroutes
while [ $# -ge 2 ]; do [ "$1" = 0.0.0.0/0 ] || ip route replace "$1" via "$2"; shift 2; done
"""


class Lab:
    """One host, its state directory, and everything around it."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="cvlab", dir="/tmp"))
        self.name = f"cvlab-{self.home.name[5:]}"
        self._namespaces: list[str] = []
        self._guests: list[Guest] = []
        self.host = self.add_namespace("h")
        self.outside = self.add_namespace("o")
        script = self.home / "udhcpc.sh"
        script.write_text(_UDHCPC)
        script.chmod(0o755)

    def options(self, **changes: object) -> OvnOptions:
        """Options of a driver with a provider network whose other end is `outside`."""
        given: dict[str, object] = {
            "state_dir": self.home / "s",
            "node_id": NODE,
            "engine_dir": ensure_ovs(),
            "physical_networks": (PhysicalNetwork(name="external", interface="nic0"),),
        }
        return OvnOptions(**{**given, **changes})  # type: ignore[arg-type]

    def add_namespace(self, what: str) -> str:
        name = f"{self.name}-{what}"
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        self._namespaces.append(name)
        return name

    def wire_outside(self) -> None:
        """The host's card `nic0`, and the world at its other end."""
        ip("link", "add", "nic0", "netns", self.host, "type", "veth",
           "peer", "name", "eth0", "netns", self.outside)  # fmt: skip
        ip("-n", self.host, "link", "set", "nic0", "up")
        ip("-n", self.outside, "addr", "add", f"{OUTSIDE_IP}/24", "dev", "eth0")
        ip("-n", self.outside, "link", "set", "eth0", "up")
        run("ip", "netns", "exec", self.outside, "ethtool", "-K", "eth0", "tx", "off")

    def guest(self, tap: Tap) -> "Guest":
        guest = Guest(self, self.add_namespace(f"g{len(self._guests)}"), tap)
        self._guests.append(guest)
        return guest

    def owns(self, namespace: str) -> bool:
        """Whether a namespace carries the mark of a driver of this lab."""
        shown = subprocess.run(
            ["ip", "-n", namespace, "link", "show", "lo"], capture_output=True, text=True
        )
        return str(self.home) in shown.stdout

    def close(self) -> None:
        for guest in self._guests:
            guest.close()
        for namespace in self._namespaces:
            ip("netns", "del", namespace)
        shutil.rmtree(self.home)


class Guest:
    """A stand-in for a virtual machine: a namespace whose `eth0` is the guest's end of a tap."""

    def __init__(self, lab: Lab, namespace: str, tap: Tap) -> None:
        self.namespace = namespace
        self.mac = tap.mac
        self._script = str(lab.home / "udhcpc.sh")
        self._ours = open_tap(tap.name)
        self._theirs = inside(namespace, lambda: open_tap("eth0"))
        ip("-n", namespace, "link", "set", "eth0", "address", tap.mac, "up")
        self._stop, self._stop_end = os.pipe()
        self._pump = threading.Thread(target=self._carry, daemon=True)
        self._pump.start()

    def dhcp(self) -> dict[str, str]:
        """Ask for a lease and use it; what the server said, by name. {} when nobody answered."""
        done = self.run(
            "busybox", "udhcpc", "-i", "eth0", "-s", self._script, "-n", "-q", "-f",
            "-t", "8", "-T", "1", "-O", "mtu", "-O", "staticroutes", "-O", "hostname",
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("lease ")]
        if not lines:
            return {}
        parts = lines[-1].removeprefix("lease ")
        keys = ("ip", "mtu", "dns", "router", "routes", "host")
        found, rest = {}, parts
        for key in reversed(keys):
            rest, _, value = rest.rpartition(f"{key}=")
            found[key] = value.strip()
        return found

    def dhcp6(self) -> str:
        """The IPv6 address that a DHCPv6 server offers; "" when none answers."""
        return inside(self.namespace, lambda: solicit(self.mac))

    def pings(self, address: str, *extra: str, within_s: float = 20) -> bool:
        """Whether an echo comes back in time."""
        return pings(self.namespace, address, *extra, within_s=within_s)

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["ip", "netns", "exec", self.namespace, *command],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def reopen(self, tap: Tap) -> None:
        """The guest's process starts again on a tap that was made anew."""
        os.close(self._ours)
        self._ours = open_tap(tap.name)

    def close(self) -> None:
        if not self._pump.is_alive():
            return
        os.write(self._stop_end, b"x")
        self._pump.join()
        for fd in (self._ours, self._theirs, self._stop, self._stop_end):
            os.close(fd)

    def _carry(self) -> None:
        while True:
            ready, _, _ = select.select([self._ours, self._theirs, self._stop], [], [], 0.5)
            if self._stop in ready:
                return
            for source in ready:
                target = self._theirs if source == self._ours else self._ours
                try:
                    os.write(target, os.read(source, 65536))
                except OSError:
                    time.sleep(0.01)  # the tap is down or gone for the moment


@contextmanager
def lab() -> Iterator[Lab]:
    """A lab, with the calling thread inside the host's namespace."""
    made = Lab()
    back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        made.wire_outside()
        enter(made.host)
        yield made
    finally:
        set_namespace(back)
        os.close(back)
        made.close()


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Run `work` in the namespace, in a thread that is not used again."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            enter(namespace)
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def serve(namespace: str, port: int) -> socket.socket:
    """A TCP server that answers each connection with the address it came from, until closed."""
    listener = inside(namespace, lambda: socket.create_server(("", port)))
    _answer(listener)
    return listener


@contextmanager
def answering(listener: socket.socket) -> Iterator[None]:
    """The same on a socket that listens already."""
    _answer(listener)
    try:
        yield
    finally:
        listener.close()


def _answer(listener: socket.socket) -> None:
    listener.settimeout(0.1)

    def answer() -> None:
        while listener.fileno() >= 0:
            try:
                connection, peer = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            with connection:
                connection.sendall(peer[0].encode())

    threading.Thread(target=answer, daemon=True).start()


def fetch(namespace: str, address: str, port: int, *, within_s: float = 3) -> str | None:
    """What a server in `serve`'s manner answers; None when no connection comes about."""

    def ask() -> str | None:
        try:
            with socket.create_connection((address, port), timeout=within_s) as connection:
                return connection.recv(100).decode()
        except OSError:
            return None

    return inside(namespace, ask)


def solicit(mac: str) -> str:
    """Ask all DHCPv6 servers of the link (RFC 8415, section 18.2.1) and read the first offer."""
    identity = struct.pack("!HH", 3, 1) + bytes.fromhex(mac.replace(":", ""))  # DUID-LL
    message = b"\x01\x0a\x0b\x0c" + b"".join(
        struct.pack("!HH", code, len(body)) + body
        for code, body in ((1, identity), (3, struct.pack("!III", 7, 0, 0)), (8, b"\0\0"))
    )
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1)
        asking.bind(("::", 546))
        for _ in range(8):
            asking.sendto(message, ("ff02::1:2", 547, 0, socket.if_nametoindex("eth0")))
            try:
                answer = asking.recv(2000)
            except TimeoutError:
                continue
            options = _options6(answer[4:])
            offered = _options6(options[3][12:])[5]  # IA_NA holds an IAADDR
            return socket.inet_ntop(socket.AF_INET6, offered[:16])
    return ""


def _options6(rest: bytes) -> dict[int, bytes]:
    found = {}
    while rest:
        code, length = struct.unpack("!HH", rest[:4])
        found[code], rest = rest[4 : 4 + length], rest[4 + length :]
    return found


def pings(namespace: str, address: str, *extra: str, within_s: float = 20) -> bool:
    command = ["ip", "netns", "exec", namespace, "ping", "-c1", "-W1", *extra, address]
    until = time.monotonic() + within_s
    while True:
        if subprocess.run(command, capture_output=True).returncode == 0:
            return True
        if time.monotonic() > until:
            return False


def settle(options: OvnOptions) -> None:
    """Return when every daemon has taken in what the northbound database says now."""
    northbound(options)("--wait=hv", "sync")


def northbound(options: OvnOptions) -> Callable[..., str]:
    """ovn-nbctl on the databases of these options."""

    def call(*words: str) -> str:
        program = options.program("ovn-nbctl")
        return run(program, f"--db={options.socket('nb.sock')}", "--timeout=20", *words).strip()

    return call


def forget_links(options: OvnOptions) -> None:
    """What a reboot does to links and namespaces of ours; cards stay."""
    for name in [name for _, name in socket.if_nameindex() if name.startswith("cv")]:
        if name in {name for _, name in socket.if_nameindex()}:  # pairs go together
            ip("link", "del", name)
    for path in Path("/run/netns").glob("cvm-*"):
        shown = subprocess.run(
            ["ip", "-n", path.name, "link", "show", "lo"], capture_output=True, text=True
        )
        if options.alias in shown.stdout:
            ip("netns", "del", path.name)


def read_if_there(path: Path) -> bytes:
    """b"" when the process ended meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def open_tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return fd


def ip(*words: str) -> None:
    run("ip", *words)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def enter(namespace: str) -> None:
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        set_namespace(fd)
    finally:
        os.close(fd)


def set_namespace(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
