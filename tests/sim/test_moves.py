"""Guests that move while hosts, agents, cables and the control plane fail under them."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cairn.compute import store_migrations as rows
from cairn.compute.migration_records import Migration
from cairn.core.errors import Unavailable
from cairn.core.ids import ServerId, VolumeId
from cairn.sim import checks
from cairn.sim.checks import ALWAYS, nothing_is_left_over
from cairn.sim.node import SimNode
from cairn.sim.story import play
from cairn.sim.tenant import Tenant
from cairn.sim.world import World

SEEDS = [*range(1, 9)]
CALM_S = 150.0
VERSION = {"openstack-api-version": "compute 2.65"}


@pytest.mark.parametrize("seed", SEEDS)
def test_history_with_moves(seed: int) -> None:
    play(seed=seed, nodes=3, wishes=40, moves=True)


def test_the_same_seed_moves_the_same_servers() -> None:
    first = play(seed=71, nodes=3, wishes=25, moves=True)
    assert play(seed=71, nodes=3, wishes=25, moves=True) == first


class Stage:
    """Two hosts, one running server with something on its disk, and a spare moment."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.run(seconds=3)
        tenant = Tenant(world, world.dice)
        world.do(tenant.settle_in())
        world.do(tenant._create())
        (self.server_id,) = tenant.servers
        world.until(self.runs, within_s=60, always=ALWAYS)
        world.run(seconds=2, always=ALWAYS)
        self.old = self.holder()
        self.new = next(n for n in world.nodes if n is not self.old)
        self.old.volumes.write(self.root, 7, 42)

    @property
    def root(self) -> VolumeId:
        return VolumeId(self.server_id)

    def runs(self) -> bool:
        return checks.running(self.world, self.server_id)

    def holder(self) -> SimNode:
        """Where it runs."""
        return next(
            n
            for n in self.world.nodes
            if self.server_id in n.hypervisor.guests and n.hypervisor.guests[self.server_id].running
        )

    def ask(self, action: dict[str, Any]) -> int:
        path = f"/compute/v2.1/servers/{self.server_id}/action"
        return self.world.do(self.world.call("POST", path, action, headers=VERSION)).status

    def move(self, *, live: bool = True) -> None:
        body: dict[str, Any] = {"migrate": None}
        if live:
            body = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
        assert self.ask(body) == 202

    def last(self) -> Migration:
        found = self.world.database.read_now(
            lambda tx: rows.of_server(tx, ServerId(self.server_id))
        )
        return found[0]

    def shown(self) -> dict[str, Any]:
        path = f"/compute/v2.1/servers/{self.server_id}"
        answer = self.world.do(self.world.call("GET", path))
        assert answer.status == 200, answer.data
        body: dict[str, Any] = answer.body["server"]
        return body


@pytest.fixture
def stage() -> Iterator[Stage]:
    with World(seed=11, nodes=2) as world:
        yield Stage(world)


async def revive(world: World, stage: Stage) -> None:
    if world.cloud is None:
        await world.start_control()
    for node in world.nodes:
        node.join_again()
        if not node.is_running:
            node.start_agent()


# --- blows -------------------------------------------------------------------------------------------


async def old_host_dies(stage: Stage) -> None:
    await stage.old.cut_power()


async def new_host_dies(stage: Stage) -> None:
    await stage.new.cut_power()


async def both_hosts_die(stage: Stage) -> None:
    await stage.old.cut_power()
    await stage.new.cut_power()


async def old_host_is_unseen(stage: Stage) -> None:
    stage.old.cut_off()


async def new_host_is_unseen(stage: Stage) -> None:
    stage.new.cut_off()


async def control_dies(stage: Stage) -> None:
    await stage.world.kill_control()


async def old_host_dies_without_control(stage: Stage) -> None:
    await stage.world.kill_control()
    await stage.old.cut_power()
    stage.old.start_agent()


async def agents_die(stage: Stage) -> None:
    for node in (stage.old, stage.new):
        await node.kill_agent()
        node.start_agent()


async def guest_dies(stage: Stage) -> None:
    for node in (stage.old, stage.new):
        view = node.hypervisor.guests.get(stage.server_id)
        if view is not None and view.running:
            node.hypervisor.crash(stage.server_id)


async def engines_stumble(stage: Stage) -> None:
    error = Unavailable("The engine stumbled.", because="simulated")
    stage.old.hypervisor.fail_next("send", error)
    stage.new.hypervisor.fail_next("receive", error)
    stage.new.volumes.fail_next("create", error)


async def somebody_aborts(stage: Stage) -> None:
    path = f"/compute/v2.1/servers/{stage.server_id}/migrations/{stage.last().number}"
    await stage.world.call("DELETE", path, headers=VERSION)


BLOWS: tuple[Callable[[Stage], Any], ...] = (
    old_host_dies, new_host_dies, both_hosts_die, old_host_is_unseen, new_host_is_unseen,
    control_dies, old_host_dies_without_control, agents_die, guest_dies, engines_stumble,
    somebody_aborts,
)  # fmt: skip
# Around each step of the way: asked, prepared, sent the word, copied (3 s), handed over, told, cleared.
MOMENTS_S = (0.3, 3.3, 3.85, 4.1)


@pytest.mark.parametrize("blow", BLOWS, ids=lambda b: b.__name__)
@pytest.mark.parametrize("live", [True, False], ids=["live", "cold"])
def test_blow_at_any_moment_loses_no_guest_and_no_byte(
    blow: Callable[[Stage], Any], live: bool
) -> None:
    for moment_s, seed in itertools.product(MOMENTS_S, (11,)):
        with World(seed=seed, nodes=2) as world:
            stage = Stage(world)
            stage.move(live=live)
            world.run(seconds=moment_s, always=ALWAYS)
            world.do(blow(stage))
            world.run(seconds=30, always=ALWAYS)
            world.do(revive(world, stage))
            world.run(seconds=CALM_S, always=ALWAYS)
            where = f"{blow.__name__} at {moment_s} s"
            assert stage.runs(), f"{where}: it does not run: {stage.last()}"
            assert stage.holder().volumes.read(stage.root, 7) == 42, f"{where}: its disk is empty"
            assert stage.shown()["OS-EXT-STS:task_state"] is None, where
            assert not list(nothing_is_left_over(world)), where
            assert not stage.last().is_open, where


# --- one thing at a time -----------------------------------------------------------------------------


def test_server_moves_live_with_its_disk_and_is_booted_once(stage: Stage) -> None:
    stage.move()
    stage.world.run(seconds=30, always=ALWAYS)
    assert stage.holder() is stage.new
    assert stage.new.hypervisor.boots.get(stage.server_id, 0) == 0, "it was not booted but received"
    assert stage.new.volumes.read(stage.root, 7) == 42
    assert stage.root not in stage.old.volumes.volumes, "the old host has cleared it away"
    assert stage.server_id not in stage.old.hypervisor.guests
    assert stage.last().pause_ms > 0
    assert stage.shown()["status"] == "ACTIVE"


def test_server_goes_there_and_back_again(stage: Stage) -> None:
    for turn in range(4):
        was = stage.holder()
        was.volumes.write(stage.root, 7, turn)
        stage.move()
        stage.world.run(seconds=20, always=ALWAYS)
        assert stage.holder() is not was
        assert stage.holder().volumes.read(stage.root, 7) == turn


def test_cold_move_stops_it_and_starts_it_there(stage: Stage) -> None:
    stage.move(live=False)
    stage.world.run(seconds=30, always=ALWAYS)
    assert stage.holder() is stage.new
    assert stage.new.hypervisor.boots[stage.server_id] == 1
    assert stage.shown()["status"] == "VERIFY_RESIZE"
    assert stage.ask({"revertResize": None}) == 202
    stage.world.run(seconds=30, always=ALWAYS)
    assert stage.holder() is stage.old
    assert stage.old.volumes.read(stage.root, 7) == 42
    assert stage.shown()["status"] == "ACTIVE"


def test_host_is_drained_by_itself_even_over_a_restart_of_the_control_plane() -> None:
    with World(seed=3, nodes=3) as world:
        world.run(seconds=3)
        tenant = Tenant(world, world.dice)
        world.do(tenant.settle_in())
        for _ in range(9):
            world.do(tenant._create())
        world.run(seconds=30, always=ALWAYS)
        node = world.nodes[0]
        assert node.hypervisor.guests
        answer = world.do(world.call("POST", f"/cairn/v1/hosts/{node.id}/drain"))
        assert answer.status == 202
        world.run(seconds=2, always=ALWAYS)
        world.do(world.kill_control())
        world.run(seconds=5, always=ALWAYS)
        world.do(world.start_control())
        world.run(seconds=120, always=ALWAYS)
        assert not node.hypervisor.guests and not node.volumes.volumes
        assert all(checks.running(world, server) for server in tenant.servers)
        shown = world.do(world.call("GET", f"/cairn/v1/hosts/{node.id}/drain")).body["drain"]
        assert {g["state"] for g in shown["servers"]} == {"done"}
