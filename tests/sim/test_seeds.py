"""Whole histories: every seed that ever failed stays here, and some that never did."""

from collections.abc import Iterator

import pytest

from cairn.core.ids import ServerId, VolumeId
from cairn.drivers.volumes.fake import GIB
from cairn.sim import checks
from cairn.sim.checks import ALWAYS
from cairn.sim.node import SimNode
from cairn.sim.story import play
from cairn.sim.tenant import Tenant
from cairn.sim.world import Broken, World

SEEDS = [*range(1, 13)]  # 9: a repeated report pushed out a newer one that was not taken yet

ROUGH_SEEDS = [*range(1, 5)]


@pytest.mark.parametrize("seed", SEEDS)
def test_history(seed: int) -> None:
    outcome = play(seed=seed, nodes=3, wishes=40)
    assert outcome.wishes == 40


@pytest.mark.parametrize("seed", ROUGH_SEEDS)
def test_history_with_full_disks_slow_hosts_and_jumping_clocks(seed: int) -> None:
    outcome = play(seed=seed, nodes=3, wishes=40, rough=True)
    assert outcome.wishes == 40


def test_history_that_once_left_a_server_powering_off() -> None:
    assert play(seed=21, nodes=3, wishes=60).wishes == 60


def test_the_same_seed_gives_the_same_history() -> None:
    assert play(seed=99, nodes=2, wishes=15) == play(seed=99, nodes=2, wishes=15)


@pytest.fixture
def world() -> Iterator[World]:
    with World(seed=5, nodes=2) as made:
        yield made


def settled(world: World) -> ServerId:
    """One running server."""
    world.run(seconds=3)  # Hosts must have reported before anything can be placed on them.
    tenant = Tenant(world, world.dice)
    world.do(tenant.settle_in())
    world.do(tenant._create())
    (server_id,) = tenant.servers
    world.until(lambda: checks.running(world, server_id), within_s=60, always=ALWAYS)
    return server_id


async def switched_on(node: SimNode) -> None:
    node.start_agent()


def test_checks_see_a_server_that_runs_twice(world: World) -> None:
    server_id = settled(world)
    home = next(n for n in world.nodes if server_id in n.hypervisor.guests)
    other = next(n for n in world.nodes if n is not home)
    other.hypervisor._guests[server_id] = home.hypervisor.guests[server_id]
    with pytest.raises(Broken, match="runs 2 times"):
        world.require([checks.one_guest_per_server])


def test_checks_see_what_is_left_over(world: World) -> None:
    server_id = settled(world)
    home = next(n for n in world.nodes if server_id in n.hypervisor.guests)
    stranger = ServerId("00000000-0000-4000-8000-00000000dead")
    home.hypervisor._guests[stranger] = home.hypervisor.guests[server_id]
    assert any(stranger in line for line in checks.nothing_is_left_over(world))


def test_what_a_guest_grows_is_larger_in_the_pool(world: World) -> None:
    server_id = settled(world)
    home = next(n for n in world.nodes if server_id in n.hypervisor.guests)
    world.do(home.hypervisor.resize_disk(server_id, VolumeId(server_id), 9))
    assert home.volumes.volumes[VolumeId(server_id)].disk.size_bytes == 9 * GIB


def test_a_host_that_boots_while_control_is_down_brings_its_guests_back(world: World) -> None:
    server_id = settled(world)
    home = next(n for n in world.nodes if server_id in n.hypervisor.guests)
    world.do(world.kill_control())
    world.do(home.cut_power())
    assert not checks.running(world, server_id)
    world.do(switched_on(home))
    world.until(lambda: checks.running(world, server_id), within_s=30)
    world.do(world.start_control())
    world.run(seconds=60, always=ALWAYS)
    assert checks.running(world, server_id)


def test_a_host_that_is_only_unseen_keeps_its_guests_and_nothing_starts_elsewhere(
    world: World,
) -> None:
    server_id = settled(world)
    home = next(n for n in world.nodes if server_id in n.hypervisor.guests)
    home.cut_off()
    world.run(seconds=300, always=ALWAYS)
    assert checks.running(world, server_id)
    home.join_again()
    world.run(seconds=60, always=ALWAYS)
    assert home.hypervisor.boots[server_id] == 1
