"""What deaths, new agents, reboots and the end do to the real OVN: each test has a world of its own."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from cairn.core.errors import Invalid, Unavailable
from cairn.drivers.contracts import NetworksView
from cairn.drivers.networks.layout import OvnOptions, PhysicalNetwork
from cairn.drivers.networks.ovn import OvnNetworks, tear_down
from cairn.wire.spec import ZoneSpec
from tests.host import ovn_rig
from tests.host.ovn_rig import OUTSIDE_IP, Lab
from tests.host.ovn_world import ADDRESSES, FLOATING_IP, ROUTER_IP, World

pytestmark = pytest.mark.host

ENGINES = (
    "ovsdb-conf", "ovsdb-nb", "ovsdb-sb", "ovs-vswitchd", "ovn-northd", "ovn-controller",
)  # fmt: skip


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ovn_rig.lab() as made:
        yield made


@pytest.fixture
async def world(lab: Lab) -> AsyncIterator[World]:
    made = World(lab, lab.options())
    try:
        await made.start()
        yield made
    finally:
        await made.end()


async def boot_with_leases(world: World, *names: str) -> None:
    await world.boot(*names)
    for name in names:
        assert (await world.dhcp(name))["ip"] == ADDRESSES[name]


async def assert_all_works(world: World) -> None:
    """Neighbours, routes, the way out, the way in."""
    assert await world.pings("peer", ADDRESSES["web"], within_s=10)
    assert await world.pings("far", ADDRESSES["web"], within_s=10)
    assert await world.fetches("peer", OUTSIDE_IP, 8080, ROUTER_IP)
    assert await world.outside_pings(FLOATING_IP)


@contextmanager
def no_lost_pings(world: World, name: str, address: str) -> Iterator[None]:
    """Ten pings a second go from the guest for three seconds; some may be late, none may be lost."""
    namespace = world.guests[name].namespace
    command = ["ip", "netns", "exec", namespace, "ping", "-q", "-c30", "-i0.1", "-W3", address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield
        said, _ = process.communicate()
    assert " 0% packet loss" in said, said


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_killed_daemon_is_back_within_seconds_and_all_works(
    world: World, engine: str
) -> None:
    await boot_with_leases(world, "web", "peer", "far")
    server = ovn_rig.serve(world.lab.outside, 8080)
    before = await world.engine_seen(engine)
    os.kill(before.pid, signal.SIGKILL)

    def is_back(view: NetworksView) -> bool:
        now = next(e for e in view.engines if e.name == engine)
        return now.up and now.pid != before.pid

    async with asyncio.timeout(3):
        await world.until(is_back)
    after = await world.engine_seen(engine)
    assert after.restarts == 1 and after.trouble is None and after.since >= before.since
    await assert_all_works(world)
    # What comes later works too: a guest more, and a changed zone.
    await boot_with_leases(world, "open")
    await world.change_port("web", enabled=False)
    assert await world.cannot_ping("peer", ADDRESSES["web"])
    server.close()


async def test_all_daemons_may_die_at_once(world: World) -> None:
    await boot_with_leases(world, "web", "peer", "far")
    server = ovn_rig.serve(world.lab.outside, 8080)
    before = {e.pid for e in (await world.engine.look()).engines}
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await world.until(lambda view: all(e.up and e.pid not in before for e in view.engines))
    await assert_all_works(world)
    await boot_with_leases(world, "open")
    server.close()


@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "ovs-vswitchd"])
async def test_traffic_goes_on_while_a_daemon_beside_the_datapath_dies(
    world: World, engine: str
) -> None:
    await boot_with_leases(world, "web", "peer")
    assert await world.pings("peer", ADDRESSES["web"])
    with no_lost_pings(world, "peer", ADDRESSES["web"]):
        os.kill((await world.engine_seen(engine)).pid, signal.SIGKILL)
        await world.until(lambda view: any(e.restarts and e.up for e in view.engines))
        await asyncio.to_thread(ovn_rig.settle, world.options)


async def test_traffic_goes_on_while_the_agent_is_replaced(world: World) -> None:
    await boot_with_leases(world, "web", "peer")
    pids = [e.pid for e in (await world.engine.look()).engines]
    assert await world.pings("peer", ADDRESSES["web"])
    with no_lost_pings(world, "peer", ADDRESSES["web"]):
        await world.engine.close()
        world.engine = OvnNetworks(world.options)
        await world.start()
        await world.until_up("web", "peer")
        for name in ("web", "peer"):
            await world.plug(name)
    assert [e.pid for e in (await world.engine.look()).engines] == pids


async def test_a_daemon_that_died_without_an_agent_is_started_by_the_next(world: World) -> None:
    pids = {e.name: e.pid for e in (await world.engine.look()).engines}
    await world.engine.close()
    for name in ("ovn-controller", "ovsdb-conf"):
        os.kill(pids[name], signal.SIGKILL)
    world.engine = OvnNetworks(world.options)
    await world.start()
    await boot_with_leases(world, "web")


async def test_after_a_reboot_everything_comes_back_from_this_host_alone(world: World) -> None:
    """Processes, taps, namespaces and flows are gone; the zone is not applied again."""
    metadata = world.front.metadata_port
    assert metadata is not None
    await boot_with_leases(world, "web", "peer", "far")
    await world.engine.open_metadata(metadata)
    engines = (await world.engine.look()).engines
    await world.engine.close()
    for engine in engines:
        os.kill(engine.pid, signal.SIGKILL)
    await asyncio.to_thread(ovn_rig.forget_links, world.options)

    world.engine = OvnNetworks(world.options)
    await world.engine.start(world.changed.set)
    view = await world.engine.look()
    assert view.ports == () and view.metadata_networks == ()
    for name in ("web", "peer", "far"):
        world.guests[name].reopen(await world.plug(name))
    await world.engine.open_metadata(metadata)
    await world.until_up("web", "peer", "far")
    for name in ("web", "peer", "far"):
        assert (await world.dhcp(name))["ip"] == ADDRESSES[name]
    server = ovn_rig.serve(world.lab.outside, 8080)
    await assert_all_works(world)
    with ovn_rig.answering(world.engine.metadata_socket(metadata.network_id)):
        assert await world.fetch("web", "169.254.169.254", 80) == ADDRESSES["web"]
    server.close()


async def test_a_tap_that_vanished_is_plugged_again(world: World) -> None:
    await boot_with_leases(world, "web", "peer")
    tap = await world.plug("peer")
    ovn_rig.ip("link", "del", tap.name)
    assert world.id("peer") not in {p.id for p in (await world.engine.look()).ports}
    world.guests["peer"].reopen(await world.plug("peer"))
    await world.until_up("peer")
    assert await world.pings("peer", ADDRESSES["web"], within_s=10)


async def test_leftovers_of_a_crash_are_cleared_at_the_start(world: World) -> None:
    await world.plug("web")
    await world.engine.close()
    ovn_rig.ip("tuntap", "add", "dev", "cvt00000000000", "mode", "tap")
    ovn_rig.ip("link", "set", "cvt00000000000", "alias", world.options.alias)
    ovn_rig.ip("tuntap", "add", "dev", "cvt99999999999", "mode", "tap")  # not of this Cairn
    world.engine = OvnNetworks(world.options)
    await world.start()
    names = {name for _, name in socket.if_nameindex()}
    assert "cvt00000000000" not in names and "cvt99999999999" in names
    assert [p.id for p in (await world.engine.look()).ports] == [world.id("web")]


async def test_rows_that_the_zone_no_longer_has_are_removed_and_strangers_stay(
    world: World,
) -> None:
    northbound = ovn_rig.northbound(world.options)
    northbound("ls-add", "somebody-elses")
    await world.engine.apply_zone(ZoneSpec())
    assert northbound("--bare", "--columns=name", "list", "Logical_Switch") == "somebody-elses"
    for table in ("Logical_Switch_Port", "Logical_Router", "ACL", "NAT", "DHCP_Options"):
        assert northbound("list", table) == ""


async def test_rows_that_somebody_damaged_are_repaired(world: World) -> None:
    northbound = ovn_rig.northbound(world.options)
    northbound("lsp-set-addresses", world.id("web"), "unknown")
    northbound("lr-nat-del", world.id("router"))
    await asyncio.to_thread(ovn_rig.settle, world.options)
    await world.engine.apply_zone(world.zone)
    addresses = northbound("lsp-get-addresses", world.id("web"))
    assert ADDRESSES["web"] in addresses and "unknown" not in addresses
    assert FLOATING_IP in northbound("lr-nat-list", world.id("router"))


EMPTY: tuple[list[str], list[str], list[str], str] = (["lo", "nic0"], [], [], "")


async def test_the_end_leaves_nothing(world: World) -> None:
    metadata = world.front.metadata_port
    assert metadata is not None
    await boot_with_leases(world, "web")
    await world.engine.open_metadata(metadata)
    assert everything(world.lab) != EMPTY
    world.guests["web"].close()
    await world.engine.close()
    for _ in range(2):
        await tear_down(world.options)
        assert everything(world.lab) == EMPTY


async def test_after_the_end_comes_a_new_beginning(world: World) -> None:
    await boot_with_leases(world, "web")
    await world.engine.close()
    await tear_down(world.options)
    await world.engine.start(world.changed.set)
    assert (await world.engine.look()).ports == ()
    world.guests["web"].reopen(await world.plug("web"))
    await world.until_up("web")
    assert (await world.dhcp("web"))["ip"] == ADDRESSES["web"]


async def test_the_end_needs_no_daemon_that_works(world: World) -> None:
    await world.plug("web")
    engines = (await world.engine.look()).engines
    await world.engine.close()
    for engine in engines:
        os.kill(engine.pid, signal.SIGKILL)
    await tear_down(world.options)
    assert everything(world.lab) == EMPTY


def everything(lab: Lab) -> tuple[list[str], list[str], list[str], str]:
    """Links, namespaces, processes and packet filter of the host."""
    links = sorted(name for _, name in socket.if_nameindex())
    namespaces = sorted(path.name for path in Path("/run/netns").glob("cvm-*"))
    ours = [name for name in namespaces if lab.owns(name)]
    processes = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(lab.home).encode() in ovn_rig.read_if_there(path)
    ]
    return links, ours, processes, ovn_rig.run("nft", "list", "ruleset")


@asynccontextmanager
async def running(options: OvnOptions) -> AsyncIterator[OvnNetworks]:
    engine = OvnNetworks(options)
    try:
        await engine.start(lambda: None)
        yield engine
    finally:
        await engine.close()
        await tear_down(options)


async def test_a_host_without_a_spare_card_is_itself_the_outside(lab: Lab) -> None:
    physical = PhysicalNetwork(name="external", host_address=f"{OUTSIDE_IP}/24")
    world = World(lab, lab.options(physical_networks=(physical,)))
    try:
        await world.start()
        await boot_with_leases(world, "web", "peer")
        web = ovn_rig.serve(world.guests["web"].namespace, 7000)
        host = ovn_rig.serve(lab.host, 8080)
        answer = await asyncio.to_thread(ovn_rig.fetch, lab.host, FLOATING_IP, 7000)
        assert answer == OUTSIDE_IP
        assert await world.fetch("peer", OUTSIDE_IP, 8080) == ROUTER_IP
        web.close()
        host.close()
    finally:
        await world.end()


async def test_a_card_with_an_address_is_refused_by_name(lab: Lab) -> None:
    ovn_rig.ip("addr", "add", "192.0.2.7/24", "dev", "nic0")
    with pytest.raises(Invalid, match=r"external: interface nic0 has the address 192\.0\.2\.7/24"):
        async with running(lab.options()):
            pass


async def test_a_card_that_is_not_there_is_refused_by_name(lab: Lab) -> None:
    physical = PhysicalNetwork(name="external", interface="nic7")
    with pytest.raises(Invalid, match="external: there is no interface nic7"):
        async with running(lab.options(physical_networks=(physical,))):
            pass


async def test_an_engine_that_is_not_installed_is_named(lab: Lab) -> None:
    with pytest.raises(Unavailable, match="cannot run ovsdb-tool"):
        async with running(lab.options(engine_dir=Path("/nowhere"))):
            pass


async def test_a_host_without_the_role_has_no_zone(lab: Lab) -> None:
    options = lab.options(has_network_role=False)
    async with running(options) as engine:
        names = {e.name for e in (await engine.look()).engines}
        assert names == {"ovsdb-conf", "ovs-vswitchd", "ovn-controller"}
        with pytest.raises(Unavailable, match="does not hold"):
            await engine.apply_zone(ZoneSpec())
