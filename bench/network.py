"""TCP between two guests' ports on one host, against the same two ends joined by a raw veth pair.

The ports are made, plugged and wired by the real OVN driver: switch, security groups with connection
tracking, DHCP answers. A guest would add the cost of its own virtual card, and a process that carries
frames in its place would hide everything else behind itself; so in place of each tap, and under its name,
the driver finds one end of a veth pair whose other end is the guest. What differs between the two sides is
then exactly the path through Cairn.
"""

import asyncio
import json
import statistics
import subprocess
import sys

from tests.host import ovn_rig
from tests.host.ovn_rig import Lab, ip
from tests.host.ovn_rig import run as run_program
from tests.host.ovn_world import ADDRESSES, MTU, World

from bench.table import Result, ratio
from cairn.core.ids import PortId
from cairn.drivers.networks import layout

ROUNDS = 3
SECONDS = 2.0
PORT = 7000  # which the security group admits
END = """
import json, socket, sys, time
role, address, port, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
if role == "listen":
    listener = socket.create_server((address, port))
    print("ready", flush=True)
    link, _ = listener.accept()
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = bytearray(1 << 20)
    while (got := link.recv_into(buffer, 1)) and buffer[0] == 1:
        link.sendall(buffer[:1])
    count, began = 0, time.perf_counter()
    while got := link.recv_into(buffer):
        count += got
    print(json.dumps(count * 8 / (time.perf_counter() - began)))
else:
    for _ in range(50):
        try:
            link = socket.create_connection((address, port), timeout=5)
            break
        except OSError:
            time.sleep(0.2)
    link.settimeout(30)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    took, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        link.sendall(b"\\1")
        link.recv(1)
        took.append(time.perf_counter() - began)
    link.sendall(b"\\2")
    data, end = bytes(1 << 20), time.perf_counter() + seconds
    while time.perf_counter() < end:
        link.sendall(data)
    link.close()
    print(json.dumps(sorted(took)[len(took) // 2]))
"""

Measured = tuple[float, float]  # bits a second, seconds a round trip


def run() -> list[Result]:
    with ovn_rig.lab() as lab:
        return [asyncio.run(_compare(lab))]


async def _compare(lab: Lab) -> Result:
    world = World(lab, lab.options())
    try:
        await world.start()
        names = ("web", "peer")
        spaces = {name: _stand_in(lab, name, world.id(name)) for name in names}
        taps = {name: await world.plug(name) for name in names}
        for name, tap in taps.items():
            _set_up(spaces[name], f"{ADDRESSES[name]}/24", tap.mtu, tap.mac, tap.checksum_offload)
        await world.until_up(*names)
        offload = taps["web"].checksum_offload
        raw = _pair(lab, "r", "10.7.0.1", "10.7.0.2", mtu=1500, offload=True)
        plain = _pair(lab, "p", "10.8.0.1", "10.8.0.2", mtu=MTU, offload=False)
        paths = {
            "raw veth pair": (*raw, "10.7.0.2"),
            "veth pair, each packet by itself": (*plain, "10.8.0.2"),
            "two ports of Cairn": (spaces["peer"], spaces["web"], ADDRESSES["web"]),
        }
        found: dict[str, list[Measured]] = {name: [] for name in paths}
        for _ in range(ROUNDS):
            for name, path in paths.items():
                found[name].append(await asyncio.to_thread(_measure, *path))
        datapath = "the kernel's" if offload else "OVS in userspace (this kernel has no module)"
    finally:
        await world.end()
    middle = {name: _middle(rounds) for name, rounds in found.items()}
    bits, seconds = middle["raw veth pair"]
    return Result(
        title="TCP between two guests' ports on one host, against raw veth",
        columns=("path", "throughput", "of raw veth", "round trip", "of raw veth"),
        rows=tuple(
            (
                name,
                f"{b / 1e9:.2f} Gbit/s",
                ratio(b, bits),
                f"{s * 1e6:.0f} µs",
                ratio(s, seconds),
            )
            for name, (b, s) in middle.items()
        ),
        notes=(
            f"Datapath: {datapath}. Median of {ROUNDS}, {SECONDS:.0f} s each, one connection.",
            "A raw pair hands over 64 KiB at a time and never makes a checksum; the second row is"
            " the same pair with packets as a userspace datapath needs them.",
        ),
    )


def _middle(rounds: list[Measured]) -> Measured:
    bits, seconds = zip(*rounds, strict=True)
    return statistics.median(bits), statistics.median(seconds)


def _stand_in(lab: Lab, name: str, port_id: str) -> str:
    """A namespace in the guest's place, and its link under the name that the port's tap would have."""
    space, outer = lab.add_namespace(f"b-{name}"), layout.tap_name(PortId(port_id))
    ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
    return space


def _pair(
    lab: Lab, name: str, left: str, right: str, *, mtu: int, offload: bool
) -> tuple[str, str]:
    """Two namespaces joined by a veth pair."""
    spaces = lab.add_namespace(f"{name}-l"), lab.add_namespace(f"{name}-r")
    ip("link", "add", "eth0", "netns", spaces[0], "type", "veth",
       "peer", "name", "eth0", "netns", spaces[1])  # fmt: skip
    for space, address in zip(spaces, (left, right), strict=True):
        _set_up(space, f"{address}/24", mtu, None, offload)
    return spaces


def _set_up(space: str, address: str, mtu: int, mac: str | None, offload: bool) -> None:
    named = ["address", mac] if mac else []
    ip("-n", space, "link", "set", "eth0", "mtu", str(mtu), *named, "up")
    ip("-n", space, "addr", "add", address, "dev", "eth0")
    if not offload:
        inside = ("ip", "netns", "exec", space)
        run_program(*inside, "ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off")


def _measure(sender: str, receiver: str, address: str) -> Measured:
    def command(space: str, role: str) -> list[str]:
        words = [sys.executable, "-c", END, role, address, str(PORT), str(SECONDS)]
        return ["nsenter", f"--net=/run/netns/{space}", *words]

    with subprocess.Popen(
        command(receiver, "listen"), stdout=subprocess.PIPE, text=True
    ) as listener:
        assert listener.stdout is not None
        try:
            listener.stdout.readline()
            said = subprocess.run(
                command(sender, "send"), check=True, capture_output=True, text=True, timeout=90
            )
            return json.loads(listener.stdout.readline()), json.loads(said.stdout)
        except subprocess.SubprocessError as error:
            listener.kill()
            raise SystemExit(f"bench: nothing came through: {error}") from error
