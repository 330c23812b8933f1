"""One suite for every network engine: what `contracts.Networks` promises, held by each.

The engines: the fake on a fabric, and OVN in a namespace of its own (needs root, marker `host`). That
packets flow, and what a killed daemon or a rebooted host does to them, is in tests/host/test_ovn.py.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable

import pytest
from tests.host import ovn_rig

from cairn.core.errors import CloudError, NotFound, Unavailable
from cairn.core.ids import NetworkId, PortId, ServerId, SubnetId
from cairn.drivers.contracts import Networks, NetworksView
from cairn.drivers.networks.fake import Fabric, FakeNetworks
from cairn.drivers.networks.layout import LINK_NAME_MAX
from cairn.drivers.networks.ovn import OvnNetworks, tear_down
from cairn.wire.spec import (
    MetadataNetworkSpec,
    PortSpec,
    SubnetSpec,
    SwitchPortSpec,
    SwitchSpec,
    ZoneSpec,
)

WAIT_S = 10


class Bench:
    """An engine, a network of its own, and who is told of changes."""

    def __init__(self, engine: Networks, again: Callable[[], Networks]) -> None:
        self.engine = engine
        self.again = again  # the engine as a new agent on the same host would make it
        self.changed = asyncio.Event()
        self.network_id = NetworkId(str(uuid.uuid4()))
        self.port = self.new_port(11)
        self.metadata = MetadataNetworkSpec(
            network_id=self.network_id,
            port_id=PortId(str(uuid.uuid4())),
            mac="fa:16:3e:00:00:fe",
            addresses=("10.1.0.2/24",),
        )

    def new_port(self, number: int) -> PortSpec:
        return PortSpec(
            id=PortId(str(uuid.uuid4())),
            network_id=self.network_id,
            server_id=ServerId(str(uuid.uuid4())),
            mac=f"fa:16:3e:00:00:{number}",
            mtu=1442,
        )

    def zone(self, *ports: PortSpec) -> ZoneSpec:
        subnet = SubnetSpec(id=SubnetId(str(uuid.uuid4())), cidr="10.1.0.0/24", ip_version=4)
        switch = SwitchSpec(id=self.network_id, name="n", mtu=1442, subnets=(subnet,))
        return ZoneSpec(
            switches=(switch,),
            ports=tuple(
                SwitchPortSpec(
                    id=port.id,
                    network_id=port.network_id,
                    mac=port.mac,
                    addresses=((subnet.id, f"10.1.0.{port.mac[-2:]}"),),
                )
                for port in ports
            ),
        )

    async def until(self, holds: Callable[[NetworksView], bool]) -> NetworksView:
        """Look at each news until it holds; being told is part of the promise."""
        async with asyncio.timeout(WAIT_S):
            while True:
                self.changed.clear()
                if holds(view := await self.engine.look()):
                    return view
                await self.changed.wait()

    async def plugged(self) -> list[PortId]:
        return [port.id for port in (await self.engine.look()).ports]


@pytest.fixture(params=["fake", pytest.param("ovn", marks=pytest.mark.host)])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "fake":
        fake = FakeNetworks(fabric=Fabric())
        made = Bench(fake, again=lambda: fake)
        await fake.start(made.changed.set)
        yield made
        return
    with ovn_rig.lab() as lab:
        options = lab.options()
        made = Bench(OvnNetworks(options), again=lambda: OvnNetworks(options))
        try:
            await made.engine.start(made.changed.set)
            yield made
        finally:
            await made.engine.close()
            await tear_down(options)


async def test_a_started_engine_has_daemons_and_no_ports(bench: Bench) -> None:
    view = await bench.engine.look()
    assert view.ports == () and view.metadata_networks == ()
    assert view.engines and all(engine.up and engine.pid for engine in view.engines)
    facts = bench.engine.facts()
    assert facts.datapath in ("system", "netdev")
    assert facts.physical_networks == ("external",)


async def test_an_engine_that_is_not_started_says_so(bench: Bench) -> None:
    await bench.engine.close()
    other = FakeNetworks() if isinstance(bench.engine, FakeNetworks) else bench.again()
    with pytest.raises(Unavailable):
        await other.look()


async def test_plugging_twice_gives_the_same_tap(bench: Bench) -> None:
    first = await bench.engine.plug(bench.port)
    assert await bench.engine.plug(bench.port) == first
    assert first.port_id == bench.port.id
    assert (first.mac, first.mtu) == (bench.port.mac, bench.port.mtu)
    assert 0 < len(first.name) <= LINK_NAME_MAX
    await bench.until(lambda view: [p.id for p in view.ports] == [bench.port.id])


async def test_ports_have_taps_of_their_own(bench: Bench) -> None:
    other = bench.new_port(12)
    names = {(await bench.engine.plug(port)).name for port in (bench.port, other)}
    assert len(names) == 2
    await bench.until(lambda view: {p.id for p in view.ports} == {bench.port.id, other.id})


async def test_a_port_is_up_once_it_is_plugged_and_in_the_zone(bench: Bench) -> None:
    await bench.engine.plug(bench.port)
    view = await bench.until(lambda view: bool(view.ports))
    assert not view.ports[0].up
    await bench.engine.apply_zone(bench.zone(bench.port))
    await bench.until(lambda view: [p.up for p in view.ports] == [True])


async def test_a_port_may_be_in_the_zone_before_it_is_plugged(bench: Bench) -> None:
    await bench.engine.apply_zone(bench.zone(bench.port))
    await bench.engine.plug(bench.port)
    await bench.until(lambda view: [p.up for p in view.ports] == [True])


async def test_a_port_that_leaves_the_zone_goes_down(bench: Bench) -> None:
    other = bench.new_port(12)
    for port in (bench.port, other):
        await bench.engine.plug(port)
    await bench.engine.apply_zone(bench.zone(bench.port, other))
    await bench.until(lambda view: [p.up for p in view.ports] == [True, True])
    await bench.engine.apply_zone(bench.zone(other))
    await bench.until(lambda view: {p.id for p in view.ports if p.up} == {other.id})


async def test_unplugging_what_is_not_there_is_no_error(bench: Bench) -> None:
    await bench.engine.unplug(bench.port.id)
    await bench.engine.plug(bench.port)
    for _ in range(2):
        await bench.engine.unplug(bench.port.id)
    await bench.until(lambda view: view.ports == ())


async def test_a_port_can_be_plugged_again(bench: Bench) -> None:
    await bench.engine.apply_zone(bench.zone(bench.port))
    for _ in range(2):
        await bench.engine.plug(bench.port)
        await bench.until(lambda view: [p.up for p in view.ports] == [True])
        await bench.engine.unplug(bench.port.id)
        await bench.until(lambda view: view.ports == ())


async def test_an_equal_zone_may_be_applied_again(bench: Bench) -> None:
    zone = bench.zone(bench.port)
    for _ in range(3):
        await bench.engine.apply_zone(zone)


async def test_the_empty_zone_is_a_zone(bench: Bench) -> None:
    await bench.engine.apply_zone(bench.zone(bench.port))
    await bench.engine.apply_zone(ZoneSpec())


async def test_metadata_opens_and_closes(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.engine.metadata_socket(bench.network_id)
    for _ in range(2):
        await bench.engine.open_metadata(bench.metadata)
    await bench.until(lambda view: view.metadata_networks == (bench.network_id,))
    for _ in range(2):  # one socket for each call
        bench.engine.metadata_socket(bench.network_id).close()
    for _ in range(2):
        await bench.engine.close_metadata(bench.network_id)
    await bench.until(lambda view: view.metadata_networks == ())
    with pytest.raises(NotFound):
        bench.engine.metadata_socket(bench.network_id)


async def test_a_new_agent_finds_what_the_old_one_plugged(bench: Bench) -> None:
    await bench.engine.apply_zone(bench.zone(bench.port))
    tap = await bench.engine.plug(bench.port)
    await bench.engine.open_metadata(bench.metadata)
    before = await bench.until(lambda view: [p.up for p in view.ports] == [True])
    await bench.engine.close()

    bench.engine = bench.again()
    await bench.engine.start(bench.changed.set)
    after = await bench.engine.look()
    assert after.ports == before.ports
    assert after.metadata_networks == (bench.network_id,)
    assert [e.pid for e in after.engines] == [e.pid for e in before.engines]
    assert await bench.engine.plug(bench.port) == tap
    bench.engine.metadata_socket(bench.network_id).close()


async def test_a_host_with_the_role_follows_its_own_database(bench: Bench) -> None:
    assert (await bench.engine.look()).southbound == ()
    await bench.engine.apply_zone(bench.zone(bench.port))
    for _ in range(2):
        await bench.engine.join(())
    assert (await bench.engine.look()).southbound == ()
    await bench.engine.plug(bench.port)
    await bench.until(lambda view: [p.up for p in view.ports] == [True])


@pytest.fixture(params=["fake", pytest.param("ovn", marks=pytest.mark.host)])
async def roleless(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """An engine on a host without the network role."""
    if request.param == "fake":
        fake = FakeNetworks(has_network_role=False)
        made = Bench(fake, again=lambda: fake)
        await fake.start(made.changed.set)
        yield made
        return
    with ovn_rig.lab() as lab:
        options = lab.options(has_network_role=False, physical_networks=())
        made = Bench(OvnNetworks(options), again=lambda: OvnNetworks(options))
        try:
            await made.engine.start(made.changed.set)
            yield made
        finally:
            await made.engine.close()
            await tear_down(options)


async def test_ports_wait_for_the_zones_database(roleless: Bench) -> None:
    for _ in range(2):
        with pytest.raises(Unavailable, match="waits for the zone's network database"):
            await roleless.engine.plug(roleless.port)
        await roleless.engine.join(())  # which is no database either
    assert await roleless.plugged() == []


async def test_a_host_without_the_role_refuses_a_zone(roleless: Bench) -> None:
    with pytest.raises(Unavailable):
        await roleless.engine.apply_zone(ZoneSpec())


async def test_the_fake_plugs_once_it_has_joined() -> None:
    fake = FakeNetworks(has_network_role=False)
    bench = Bench(fake, again=lambda: fake)
    await fake.start(bench.changed.set)
    fake.fail_next("join", Unavailable("as ordered"))
    with pytest.raises(Unavailable, match="as ordered"):
        await fake.join(("ssl:192.0.2.2:6642",))
    await fake.join(("ssl:192.0.2.2:6642",))
    assert (await fake.look()).southbound == ("ssl:192.0.2.2:6642",)
    await fake.plug(bench.port)
    assert await bench.plugged() == [bench.port.id]


async def test_the_fake_fails_on_order() -> None:
    fake = FakeNetworks()
    await fake.start(lambda: None)
    fake.fail_next("look", CloudError("as ordered"))
    with pytest.raises(CloudError, match="as ordered"):
        await fake.look()
    assert (await fake.look()).ports == ()


async def test_the_fake_loses_taps_but_no_databases_with_its_power() -> None:
    fabric = Fabric()
    fake = FakeNetworks(fabric=fabric)
    bench = Bench(fake, again=lambda: fake)
    await fake.start(bench.changed.set)
    await fake.apply_zone(bench.zone(bench.port))
    await fake.plug(bench.port)
    fake.power_cut()
    await fake.start(bench.changed.set)
    assert await bench.plugged() == []
    await fake.plug(bench.port)
    assert [p.up for p in (await fake.look()).ports] == [True]
