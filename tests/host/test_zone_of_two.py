"""Two hosts as one zone, on the real OVN: what one host gives its guests, two give theirs, over geneve.

One zone for the whole file (see ovn_zone.py); each test leaves it as it found it. web and open live on
host 2, peer and far on host 1, which alone has the databases and the way outside.
"""

import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from msgspec.structs import replace

from cairn.core.clock import SystemClock
from cairn.core.errors import Unavailable
from cairn.core.ids import NodeId, PortId
from cairn.drivers.networks import layout
from cairn.drivers.networks.layout import TlsFiles
from cairn.drivers.networks.ovn import OvnNetworks
from cairn.host import certs
from tests.host import ovn_rig
from tests.host.ovn_rig import NODE, OUTSIDE_IP, inside, ip, northbound, run
from tests.host.ovn_world import ADDRESSES, FLOATING_IP, MTU, ROUTER_IP
from tests.host.ovn_zone import ADDRESS, NODE_2, Zone

pytestmark = pytest.mark.host

SOUTHBOUND = f"ssl:{ADDRESS[NODE]}:6642"
BOTH = (NODE, NODE_2)


@pytest.fixture(scope="module")
def zone() -> Iterator[Zone]:
    made = Zone()
    try:
        made.start()
        before = {node_id: links_of(made, node_id) for node_id in BOTH}
        assert not any("cvu" in link or "und" in link for link in before[NODE] - {"und0"})
        waits_for_the_database(made)
        made.do(NODE_2, lambda w: w.engine.join((SOUTHBOUND,)))
        router = made.worlds[NODE].zone.routers[0]
        floating = tuple(replace(f, mac="") for f in router.floating)  # host 2 has no way outside
        made.do(NODE, lambda w: w.change_router(floating=floating))
        made.boot(NODE, "peer", "far")
        made.boot(NODE_2, "web", "open")
        servers = [
            ovn_rig.serve(made.worlds[NODE_2].guests["web"].namespace, port)
            for port in (7000, 7005)
        ]
        servers.append(ovn_rig.serve(made.worlds[NODE_2].guests["open"].namespace, 7100))
        servers.append(ovn_rig.serve(made.lab.outside, 8080))
        yield made
        for server in servers:
            server.close()
    finally:
        made.close()


def waits_for_the_database(zone: Zone) -> None:
    with pytest.raises(Unavailable, match="waits for the zone's network database"):
        zone.do(NODE_2, lambda w: w.plug("web"))


def test_a_host_tells_where_its_database_is(zone: Zone) -> None:
    assert zone.worlds[NODE].engine.facts().southbound == SOUTHBOUND
    assert zone.worlds[NODE_2].engine.facts().southbound == ""


def test_a_host_knows_which_database_it_follows(zone: Zone) -> None:
    assert zone.do(NODE, lambda w: w.engine.look()).southbound == ()
    assert zone.do(NODE_2, lambda w: w.engine.look()).southbound == (SOUTHBOUND,)


def test_the_host_without_the_role_runs_no_database(zone: Zone) -> None:
    seen = zone.do(NODE_2, lambda w: w.engine.look()).engines
    assert {e.name for e in seen} == {"ovsdb-conf", "ovs-vswitchd", "ovn-controller"}


def test_leases_are_given_on_every_host(zone: Zone) -> None:
    lease = zone.worlds[NODE_2].guests["web"].dhcp()
    assert (lease["ip"], lease["mtu"]) == (ADDRESSES["web"], str(MTU))


def test_guests_of_one_network_reach_each_other_with_full_packets(zone: Zone) -> None:
    web, peer = zone.worlds[NODE_2].guests["web"], zone.worlds[NODE].guests["peer"]
    assert web.pings(ADDRESSES["peer"])
    assert web.pings(ADDRESSES["peer"], "-M", "do", "-s", str(MTU - 28))
    assert peer.pings(ADDRESSES["web"], "-M", "do", "-s", str(MTU - 28))


def test_a_router_joins_networks_across_hosts(zone: Zone) -> None:
    assert zone.worlds[NODE].guests["far"].pings(ADDRESSES["web"])


def test_security_groups_hold_across_hosts(zone: Zone) -> None:
    peer, far = (
        zone.worlds[NODE].guests["peer"].namespace,
        zone.worlds[NODE].guests["far"].namespace,
    )
    assert soon(lambda: ovn_rig.fetch(peer, ADDRESSES["web"], 7000) == ADDRESSES["peer"])
    assert ovn_rig.fetch(peer, ADDRESSES["web"], 7005, within_s=2) is None
    assert ovn_rig.fetch(peer, ADDRESSES["open"], 7100) == ADDRESSES["peer"]  # of group "web"
    assert ovn_rig.fetch(far, ADDRESSES["open"], 7100, within_s=2) is None


def test_a_guest_of_another_host_goes_outside_through_the_gateway(zone: Zone) -> None:
    guest = zone.worlds[NODE_2].guests["open"]
    assert guest.pings(OUTSIDE_IP)
    assert ovn_rig.fetch(guest.namespace, OUTSIDE_IP, 8080) == ROUTER_IP


def test_a_floating_address_leads_to_a_guest_of_another_host(zone: Zone) -> None:
    assert ovn_rig.pings(zone.lab.outside, FLOATING_IP)
    assert soon(lambda: ovn_rig.fetch(zone.lab.outside, FLOATING_IP, 7000) == OUTSIDE_IP)
    web = zone.worlds[NODE_2].guests["web"].namespace
    assert ovn_rig.fetch(web, OUTSIDE_IP, 8080) == FLOATING_IP


def test_metadata_is_answered_by_the_guests_own_host(zone: Zone) -> None:
    world = zone.worlds[NODE_2]
    metadata = world.front.metadata_port
    assert metadata is not None
    zone.do(NODE_2, lambda w: w.engine.open_metadata(metadata))
    listener = zone.machines[NODE_2].call(lambda: world.engine.metadata_socket(world.front.id))
    with ovn_rig.answering(listener):
        web = world.guests["web"].namespace
        assert soon(lambda: ovn_rig.fetch(web, "169.254.169.254", 80) == ADDRESSES["web"])
    zone.do(NODE_2, lambda w: w.engine.close_metadata(world.front.id))


def test_the_hosts_own_address_stays_where_it_was(zone: Zone) -> None:
    for node_id in BOTH:
        shown = run(
            "ip", "-j", "-n", zone.machines[node_id].namespace, "addr", "show", "dev", "und0"
        )
        held = [a["local"] for a in json.loads(shown)[0]["addr_info"] if a["family"] == "inet"]
        assert held == [ADDRESS[node_id]]
    assert ovn_rig.pings(zone.machines[NODE].namespace, ADDRESS[NODE_2])


@pytest.mark.parametrize("node_id", BOTH)
@pytest.mark.parametrize("engine", ["ovs-vswitchd", "ovn-controller"])
def test_a_killed_daemon_heals(zone: Zone, node_id: NodeId, engine: str) -> None:
    seen = zone.do(node_id, lambda w: w.engine_seen(engine))
    os.kill(seen.pid, signal.SIGKILL)
    assert soon(lambda: zone.do(node_id, lambda w: w.engine_seen(engine)).pid not in (0, seen.pid))
    assert zone.worlds[NODE_2].guests["web"].pings(ADDRESSES["peer"], within_s=40)
    assert ovn_rig.pings(zone.machines[NODE].namespace, ADDRESS[NODE_2])


@pytest.mark.parametrize("node_id", BOTH)
def test_a_new_agent_goes_on_in_the_zone(zone: Zone, node_id: NodeId) -> None:
    before = zone.do(node_id, lambda w: w.engine.look())
    zone.start_driver_again(node_id)
    after = zone.do(node_id, lambda w: w.engine.look())
    assert after.southbound == before.southbound
    assert [e.pid for e in after.engines] == [e.pid for e in before.engines]
    assert {p.id for p in after.ports} == {p.id for p in before.ports}
    assert zone.worlds[NODE_2].guests["web"].pings(ADDRESSES["peer"])


def test_a_rebooted_host_builds_its_way_to_the_others_again(zone: Zone) -> None:
    world = zone.worlds[NODE_2]
    zone.do(NODE_2, lambda w: w.engine.close())
    for engine in ("ovn-controller", "ovs-vswitchd", "ovsdb-conf"):
        pid = int((world.options.run_dir / f"{engine}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
    zone.machines[NODE_2].call(lambda: ovn_rig.forget_links(world.options))
    run("nsenter", f"--net=/run/netns/{zone.machines[NODE_2].namespace}", "nft", "flush", "ruleset")
    zone.start_driver_again(NODE_2)
    for name in ("web", "open"):
        tap = zone.do(NODE_2, lambda w, name=name: w.plug(name))  # type: ignore[misc]
        zone.machines[NODE_2].call(lambda name=name, tap=tap: world.guests[name].reopen(tap))  # type: ignore[misc]
    zone.do(NODE_2, lambda w: w.until_up("web", "open"))
    assert world.guests["web"].pings(ADDRESSES["peer"], within_s=40)


def test_the_last_other_host_takes_the_way_with_it(zone: Zone) -> None:
    """And its chassis: what was taken apart is no member of the zone."""
    first, second = zone.worlds[NODE], zone.worlds[NODE_2]
    zone.do(NODE_2, lambda w: w.end())
    assert soon(lambda: not any("cvu" in link for link in links_of(zone, NODE)))
    assert first.options.underlay_bridge not in links_of(zone, NODE)
    assert links_of(zone, NODE_2) == {"lo", "und0"}
    shown = run("nsenter", f"--net=/run/netns/{zone.machines[NODE].namespace}",
                "nft", "list", "tables", "netdev")  # fmt: skip
    assert shown == ""
    second.engine = OvnNetworks(second.options)
    zone.do(NODE_2, lambda w: w.engine.start(w.changed.set))
    for name in ("web", "open"):
        tap = zone.do(NODE_2, lambda w, name=name: w.plug(name))  # type: ignore[misc]
        zone.machines[NODE_2].call(lambda name=name, tap=tap: second.guests[name].reopen(tap))  # type: ignore[misc]
    assert second.guests["web"].pings(ADDRESSES["peer"], within_s=40)


def test_a_certificate_of_a_stranger_is_refused(zone: Zone) -> None:
    stranger = certs.new_authority(SystemClock())
    ours = zone.worlds[NODE_2].options.tls
    assert ours is not None
    theirs = zone.tls(NodeId("node-x"), stranger)
    assert "Southbound" in databases_of(zone, ours)
    with pytest.raises(ssl.SSLError):
        databases_of(zone, replace(theirs, authority=ours.authority))


def test_nobody_comes_in_without_a_certificate(zone: Zone) -> None:
    ours = zone.worlds[NODE_2].options.tls
    assert ours is not None
    with pytest.raises((ssl.SSLError, ConnectionError)):
        databases_of(zone, ours, shows_itself=False)


def test_renewed_certificates_are_used_without_a_restart(zone: Zone) -> None:
    options = zone.worlds[NODE].options
    tls = options.tls
    assert tls is not None
    before = zone.do(NODE, lambda w: w.engine_seen("ovsdb-sb")).pid
    zone.tls(NODE)  # writes new ones in place
    renewed = ssl.PEM_cert_to_DER_cert(tls.certificate.read_text())

    def shown() -> bytes | None:
        context = ssl.create_default_context(cafile=str(tls.authority))
        context.check_hostname = False
        context.load_cert_chain(tls.certificate, tls.key)
        with (
            socket.create_connection((ADDRESS[NODE], 6642), timeout=5) as plain,
            context.wrap_socket(plain) as connection,
        ):
            return connection.getpeercert(binary_form=True)

    assert soon(lambda: inside(zone.machines[NODE_2].namespace, shown) == renewed)
    assert zone.do(NODE, lambda w: w.engine_seen("ovsdb-sb")).pid == before


def test_gateways_are_watched_closely(zone: Zone) -> None:
    ask = northbound(zone.worlds[NODE].options)
    assert ask("get", "nb_global", ".", "options:bfd-min-rx") == '"200"'


def test_a_host_may_change_only_what_is_its_own(zone: Zone) -> None:
    """By OVN's roles: node-2's certificate does not let it speak for node-1's chassis."""
    options = zone.worlds[NODE_2].options
    tls = options.tls
    assert tls is not None

    def change(chassis: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                "nsenter", f"--net=/run/netns/{zone.machines[NODE_2].namespace}",
                options.program("ovn-sbctl"), f"--db={SOUTHBOUND}", "--timeout=10",
                f"--private-key={tls.key}", f"--certificate={tls.certificate}",
                f"--ca-cert={tls.authority}",
                "set", "chassis", chassis, "external_ids:test=1",
            ],
            capture_output=True, text=True,
        )  # fmt: skip

    assert change(NODE_2).returncode == 0
    refused = change(NODE)
    assert refused.returncode != 0 and "permission" in refused.stderr


def test_a_database_that_nobody_serves_is_waited_for(zone: Zone) -> None:
    with pytest.raises(Unavailable, match="database does not answer"):
        zone.do(NODE_2, lambda w: w.engine.join(("ssl:172.30.0.77:6642",)))
    zone.do(NODE_2, lambda w: w.engine.join((SOUTHBOUND,)))
    assert zone.worlds[NODE_2].guests["web"].pings(ADDRESSES["peer"], within_s=40)


def test_a_port_of_two_hosts_follows_its_guest(zone: Zone) -> None:
    """As in a live migration. Last, for peer moves to host 2 for good."""
    first, second = zone.worlds[NODE], zone.worlds[NODE_2]
    peer, far = second.id("peer"), first.guests["far"]
    zone.do(NODE, lambda w: w.change_port("peer", hosts=(NODE, NODE_2)))
    tap = zone.do(NODE_2, lambda w: w.plug("peer"))
    zone.do(NODE_2, lambda w: w.until_up("peer"))
    assert far.pings(ADDRESSES["peer"], "-c20", "-i0.1", within_s=0)  # the old host has it all

    first.guests["peer"].close()
    moved = zone.machines[NODE_2].call(lambda: zone.lab.guest(tap))
    ip("-n", moved.namespace, "addr", "add", f"{ADDRESSES['peer']}/24", "dev", "eth0")
    ip("-n", moved.namespace, "route", "add", "default", "via", "10.1.0.1")
    run("nsenter", f"--net=/run/netns/{moved.namespace}", "ethtool", "-K", "eth0", "tx", "off")
    assert not far.pings(ADDRESSES["peer"], within_s=1)
    inside(moved.namespace, lambda: announce(moved.mac))
    assert far.pings(ADDRESSES["peer"], within_s=10)

    zone.do(NODE, lambda w: w.change_port("peer", hosts=(NODE_2,)))
    assert peer in {p.id for p in zone.do(NODE, lambda w: w.engine.look()).ports}
    assert far.pings(
        ADDRESSES["peer"], "-c30", "-i0.1", within_s=0
    )  # though the old tap is there yet
    zone.do(NODE, lambda w: w.engine.unplug(PortId(peer)))
    assert far.pings(ADDRESSES["peer"], within_s=5)


def test_larger_packets_between_hosts_are_found_and_used() -> None:
    made = Zone(underlay_mtu=9000)
    try:
        made.start()
        made.do(NODE_2, lambda w: w.engine.join((SOUTHBOUND,)))
        for node_id in BOTH:
            assert made.worlds[node_id].engine.facts().underlay_mtu == 9000
            made.do(node_id, lambda w: w.boot("peer" if w is made.worlds[NODE] else "web"))
        peer, web = made.worlds[NODE].guests["peer"], made.worlds[NODE_2].guests["web"]
        assert peer.dhcp() and web.dhcp()
        for node_id, name in ((NODE, "peer"), (NODE_2, "web")):
            world = made.worlds[node_id]
            tap = layout.tap_name(PortId(world.id(name)))
            ip("-n", made.machines[node_id].namespace, "link", "set", tap, "mtu", "8942")
            ip("-n", world.guests[name].namespace, "link", "set", "eth0", "mtu", "8942")
        assert peer.pings(ADDRESSES["web"], "-M", "do", "-s", str(8942 - 28))
    finally:
        made.close()


def test_two_hosts_with_the_role_are_one_zone_whichever_leads() -> None:
    made = Zone(second_has_role=True)
    other = f"ssl:{ADDRESS[NODE_2]}:6642"
    try:
        made.start()
        made.do(NODE_2, lambda w: w.engine.apply_zone(w.zone))  # both keep it, whomever they follow
        made.do(NODE_2, lambda w: w.engine.join((SOUTHBOUND,)))
        made.boot(NODE, "peer")
        made.boot(NODE_2, "web")
        web = made.worlds[NODE_2].guests["web"]
        assert web.pings(ADDRESSES["peer"])
        # The first is given up: the second leads, and the first follows when it is back.
        made.do(NODE_2, lambda w: w.engine.join(()))
        made.do(NODE, lambda w: w.engine.join((other,)))
        assert made.do(NODE, lambda w: w.engine.look()).southbound == (other,)
        assert web.pings(ADDRESSES["peer"], within_s=40)
        made.start_driver_again(NODE)
        assert made.do(NODE, lambda w: w.engine.look()).southbound == (other,)
        assert web.pings(ADDRESSES["peer"], within_s=40)
    finally:
        made.close()


def announce(mac: str) -> None:
    """What QEMU sends for a guest that has arrived (RFC 903)."""
    own = bytes.fromhex(mac.replace(":", ""))
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 3) + (own + b"\0" * 4) * 2
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sending:
        sending.bind(("eth0", 0))
        sending.send(b"\xff" * 6 + own + b"\x80\x35" + body.ljust(46, b"\0"))


def databases_of(zone: Zone, tls: TlsFiles, *, shows_itself: bool = True) -> str:
    """What the southbound server answers when asked for its databases (RFC 7047, section 4.1.1)."""
    context = ssl.create_default_context(cafile=str(tls.authority))
    context.check_hostname = False
    if shows_itself:
        context.load_cert_chain(tls.certificate, tls.key)

    def ask() -> str:
        with (
            socket.create_connection((ADDRESS[NODE], 6642), timeout=5) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.sendall(b'{"id":1,"method":"list_dbs","params":[]}')
            answer = connection.recv(1000)
            if not answer:
                raise ConnectionError("closed")
            return answer.decode()

    return inside(zone.machines[NODE_2].namespace, ask)


def links_of(zone: Zone, node_id: NodeId) -> set[str]:
    shown = run("ip", "-j", "-n", zone.machines[node_id].namespace, "link", "show")
    return {link["ifname"] for link in json.loads(shown)}


def soon(holds: Callable[[], bool], within_s: float = 30) -> bool:
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
