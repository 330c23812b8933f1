"""Packets through the real OVN: what guests get, what they may, and where they may not.

One world for the whole file (see ovn_world.py); each test leaves it as it found it.
"""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest
import pytest_asyncio
from msgspec.structs import replace

from cairn.wire.spec import AddressPair, GroupRuleSpec
from tests.host import ovn_rig
from tests.host.ovn_rig import OUTSIDE_IP
from tests.host.ovn_world import ADDRESSES, FLOATING_IP, MTU, ROUTER_IP, World

pytestmark = [pytest.mark.host, pytest.mark.asyncio(loop_scope="module")]

SOON_S = 2  # how long a packet that must not arrive is given


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    with ovn_rig.lab() as lab:
        made = World(lab, lab.options())
        try:
            await made.start()
            await made.boot("web", "peer", "open", "far")
            for name in made.guests:
                assert (await made.dhcp(name))["ip"] == ADDRESSES[name]
            servers = [ovn_rig.serve(made.guests["web"].namespace, port) for port in (7000, 7005)]
            servers.append(ovn_rig.serve(made.guests["open"].namespace, 7100))
            servers.append(ovn_rig.serve(made.guests["far"].namespace, 7000))
            servers.append(ovn_rig.serve(lab.outside, 8080))
            yield made
            for server in servers:
                server.close()
        finally:
            await made.end()


async def test_a_lease_tells_mtu_name_servers_routes_and_name(world: World) -> None:
    assert await world.dhcp("web") == {
        "ip": ADDRESSES["web"],
        "mtu": str(MTU),
        "dns": "9.9.9.9 1.1.1.1",
        "router": "10.1.0.1",
        "routes": "169.254.169.254/32 10.1.0.2 0.0.0.0/0 10.1.0.1",
        "host": "web",
    }


async def test_guests_of_one_network_reach_each_other_with_full_packets(world: World) -> None:
    assert await world.pings("web", ADDRESSES["peer"], "-M", "do", "-s", str(MTU - 28))


async def test_a_router_joins_networks(world: World) -> None:
    assert await world.pings("far", ADDRESSES["web"])


async def test_ipv6_addresses_itself_and_reaches_its_neighbour(world: World) -> None:
    assert await world.pings("web", world.ipv6("peer"), within_s=10)


async def test_a_stateful_network_hands_out_ipv6_addresses(world: World) -> None:
    offer = await asyncio.to_thread(world.guests["far"].dhcp6)
    assert offer and ip_address(offer) == ip_address(world.ipv6("far", world.back))


async def test_a_guest_may_be_plugged_into_the_outside_network_itself(world: World) -> None:
    await world.boot("direct")
    lease = await world.dhcp("direct")
    assert (lease["ip"], lease["router"], lease["mtu"]) == (ADDRESSES["direct"], OUTSIDE_IP, "1500")
    assert await world.fetch("direct", OUTSIDE_IP, 8080) == ADDRESSES["direct"]
    assert await world.outside_pings(ADDRESSES["direct"])


async def test_tcp_goes_where_a_rule_allows_it_and_nowhere_else(world: World) -> None:
    assert await world.fetch("peer", ADDRESSES["web"], 7000) == ADDRESSES["peer"]
    assert await world.fetch("peer", ADDRESSES["web"], 7005, SOON_S) is None
    assert await world.fetch("peer", ADDRESSES["far"], 7000, SOON_S) is None


async def test_a_rule_for_a_remote_group_admits_its_members_only(world: World) -> None:
    assert await world.fetch("web", ADDRESSES["open"], 7100) == ADDRESSES["web"]
    assert await world.fetch("far", ADDRESSES["open"], 7100, SOON_S) is None


async def test_a_changed_rule_counts_at_once(world: World) -> None:
    before = next(g.rules for g in world.zone.groups if g.id == world.id("group web"))
    more = GroupRuleSpec(direction="ingress", ethertype="IPv4", protocol="6", port_min=7005)
    await world.change_rules("web", (*before, more))
    assert await world.fetches("peer", ADDRESSES["web"], 7005, ADDRESSES["peer"])
    await world.change_rules("web", before)
    assert await world.fetches("peer", ADDRESSES["web"], 7005, None)


async def test_a_guest_without_rules_gets_its_lease_and_no_more(world: World) -> None:
    await world.boot("shut")
    assert (await world.dhcp("shut"))["ip"] == ADDRESSES["shut"]
    assert await world.cannot_ping("shut", ADDRESSES["web"])
    assert await world.cannot_ping("far", ADDRESSES["shut"])


async def test_guests_go_out_under_the_address_of_their_router(world: World) -> None:
    assert await world.fetch("peer", OUTSIDE_IP, 8080) == ROUTER_IP
    assert await world.fetch("far", OUTSIDE_IP, 8080) == ROUTER_IP


async def test_a_floating_address_works_both_ways(world: World) -> None:
    assert await world.outside_pings(FLOATING_IP)
    assert await world.fetch("outside", FLOATING_IP, 7000) == OUTSIDE_IP
    assert await world.fetch("outside", FLOATING_IP, 7005, SOON_S) is None
    assert await world.fetch("web", OUTSIDE_IP, 8080) == FLOATING_IP


async def test_guests_reach_each_other_by_floating_address(world: World) -> None:
    assert await world.fetch("far", FLOATING_IP, 7000) is not None


async def test_a_floating_address_may_move(world: World) -> None:
    floating = world.zone.routers[0].floating
    moved = replace(floating[0], fixed_ip=ADDRESSES["peer"], port_id=world.id("peer"))
    await world.change_router(floating=(moved,))
    assert await world.fetches("peer", OUTSIDE_IP, 8080, FLOATING_IP)
    assert await world.fetches("web", OUTSIDE_IP, 8080, ROUTER_IP)
    await world.change_router(floating=floating)
    assert await world.fetches("web", OUTSIDE_IP, 8080, FLOATING_IP)


async def test_a_disabled_router_routes_nothing(world: World) -> None:
    await world.change_router(enabled=False)
    assert await world.cannot_ping("far", ADDRESSES["web"])
    await world.change_router(enabled=True)
    assert await world.pings("far", ADDRESSES["web"])


async def test_metadata_sees_the_address_of_the_guest_that_asks(world: World) -> None:
    metadata = world.front.metadata_port
    assert metadata is not None
    await world.engine.open_metadata(metadata)
    door = world.engine.metadata_socket(metadata.network_id)
    with ovn_rig.answering(door):
        assert await world.fetch("web", "169.254.169.254", 80) == ADDRESSES["web"]
        assert await world.fetch("peer", "169.254.169.254", 80) == ADDRESSES["peer"]
    await world.engine.close_metadata(metadata.network_id)
    assert await world.fetches("web", "169.254.169.254", 80, None)


async def test_a_foreign_address_is_not_let_out_unless_the_port_may(world: World) -> None:
    guest = world.guests["peer"]
    ovn_rig.ip("-n", guest.namespace, "addr", "add", "10.1.0.99/32", "dev", "eth0")
    from_foreign = (ADDRESSES["web"], "-I", "10.1.0.99")
    assert await world.cannot_ping("peer", *from_foreign)
    await world.change_port("peer", allowed_pairs=(AddressPair(ip="10.1.0.96/28"),))
    assert await world.pings("peer", *from_foreign)
    await world.change_port("peer", allowed_pairs=())
    ovn_rig.ip("-n", guest.namespace, "addr", "del", "10.1.0.99/32", "dev", "eth0")


async def test_a_foreign_mac_is_not_let_out(world: World) -> None:
    namespace, mac = world.guests["peer"].namespace, world.mac("peer")
    ovn_rig.ip("-n", namespace, "link", "set", "eth0", "address", "fa:16:3e:77:77:77")
    assert await world.cannot_ping("peer", ADDRESSES["web"])
    ovn_rig.ip("-n", namespace, "link", "set", "eth0", "address", mac)
    assert (await world.dhcp("peer"))["ip"] == ADDRESSES["peer"]
    assert await world.pings("peer", ADDRESSES["web"])


async def test_a_port_without_security_may_send_as_anyone(world: World) -> None:
    guest = world.guests["peer"]
    ovn_rig.ip("-n", guest.namespace, "addr", "add", "10.1.0.99/32", "dev", "eth0")
    await world.change_port("peer", port_security=False)
    assert await world.pings("peer", ADDRESSES["web"], "-I", "10.1.0.99")
    await world.change_port("peer", port_security=True)
    assert await world.cannot_ping("peer", ADDRESSES["web"], "-I", "10.1.0.99")
    ovn_rig.ip("-n", guest.namespace, "addr", "del", "10.1.0.99/32", "dev", "eth0")


async def test_a_disabled_port_is_cut_off(world: World) -> None:
    await world.change_port("peer", enabled=False)
    assert await world.cannot_ping("peer", ADDRESSES["web"])
    await world.change_port("peer", enabled=True)
    assert await world.pings("peer", ADDRESSES["web"])


async def test_guests_cannot_reach_the_hosts_own_addresses(world: World) -> None:
    """The kernel sees the frames of a userspace datapath too, and would answer for the host."""
    ovn_rig.ip("addr", "add", "198.51.100.1/32", "dev", "lo")
    namespace = world.guests["web"].namespace
    ovn_rig.ip("-n", namespace, "route", "add", "198.51.100.1/32", "dev", "eth0")
    assert await world.cannot_ping("web", "198.51.100.1")
    neighbours = ovn_rig.run("ip", "-n", namespace, "neigh", "show", "198.51.100.1")
    assert "lladdr" not in neighbours
    ovn_rig.ip("addr", "del", "198.51.100.1/32", "dev", "lo")
    ovn_rig.ip("-n", namespace, "route", "del", "198.51.100.1/32", "dev", "eth0")
