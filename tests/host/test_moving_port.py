"""A port on its way from one host to another, on the real OVN: plugged on both, its traffic on one."""

import asyncio
import re
import socket
from collections.abc import Iterator

import pytest

from tests.host.ovn_rig import NODE, Guest, inside, ip
from tests.host.ovn_world import ADDRESSES, MTU
from tests.host.ovn_zone import ADDRESS, NODE_2, Zone

pytestmark = pytest.mark.host

SOUTHBOUND = f"ssl:{ADDRESS[NODE]}:6642"
ETHERTYPE_RARP = 0x8035


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    made = Zone()
    try:
        made.start()
        made.do(NODE_2, lambda w: w.engine.join((SOUTHBOUND,)))
        made.boot(NODE, "peer")
        made.boot(NODE_2, "web")
        yield made
    finally:
        made.close()


def lost(guest: Guest, address: str, count: int) -> int:
    """Of so many echoes, a tenth of a second apart."""
    done = guest.run("ping", "-n", "-c", str(count), "-i", "0.1", "-W", "1", address)
    found = re.search(r"(\d+) received", done.stdout)
    assert found is not None, done.stdout + done.stderr
    return count - int(found[1])


def announce(guest: Guest) -> None:
    """What QEMU sends for a guest that has come (RFC 903, a reverse request about itself)."""
    mac = bytes.fromhex(guest.mac.replace(":", ""))
    head = b"\xff" * 6 + mac + ETHERTYPE_RARP.to_bytes(2, "big")
    body = bytes.fromhex("0001080006040003") + mac + bytes(4) + mac + bytes(4)

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            raw.send((head + body).ljust(60, b"\0"))

    inside(guest.namespace, send)


def test_a_waiting_host_takes_nothing_until_the_guest_announces_itself(zone: Zone) -> None:
    old_world, new_world = zone.worlds[NODE_2], zone.worlds[NODE]
    peer = new_world.guests["peer"]
    assert peer.pings(ADDRESSES["web"])
    zone.do(NODE, lambda w: w.change_port("web", hosts=(NODE_2, NODE)))
    tap = zone.do(NODE, lambda w: w.plug("web"))
    come = zone.do(NODE, lambda w: asyncio.to_thread(w.lab.guest, tap))
    ip("-n", come.namespace, "link", "set", "eth0", "mtu", str(MTU))
    ip("-n", come.namespace, "addr", "add", f"{ADDRESSES['web']}/24", "dev", "eth0")
    assert peer.pings(ADDRESSES["web"], within_s=10)
    assert lost(peer, ADDRESSES["web"], 50) == 0, "plugged there, it still has its traffic here"
    assert old_world.guests["web"].pings(ADDRESSES["peer"])

    ip("-n", old_world.guests["web"].namespace, "link", "set", "eth0", "down")
    for _ in range(3):
        announce(come)
    assert peer.pings(ADDRESSES["web"], within_s=5), "before the control plane has said anything"

    zone.do(NODE, lambda w: w.change_port("web", hosts=(NODE,)))
    zone.do(NODE_2, lambda w: w.engine.unplug(w.id("web")))
    zone.do(NODE, lambda w: w.until_up("web"))
    assert lost(peer, ADDRESSES["web"], 50) <= 1
    assert come.pings(ADDRESSES["peer"])
