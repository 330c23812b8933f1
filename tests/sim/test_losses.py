"""Hosts that are lost in a whole cloud: fenced, recovered, switched on again, heard again."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from cairn.core.ids import ServerId
from cairn.fleet import loss, loss_store
from cairn.fleet import service as fleet
from cairn.fleet.records import Node, NodeState
from cairn.sim import losses
from cairn.sim.checks import ALWAYS, is_shut_out
from cairn.sim.node import SimNode
from cairn.sim.tenant import Tenant
from cairn.sim.world import World

SEEDS = [1, 2, 3]  # of some hundred that were played; each that ever fails stays here

FRESH = {"restart_elsewhere": "fresh"}
MARKED = {"restart_elsewhere": "true"}


@pytest.mark.parametrize("seed", SEEDS)
def test_history(seed: int) -> None:
    assert losses.play(seed=seed, wishes=20).wishes == 20


class Losing:
    """A cloud of some hosts, with servers on the last of them: the one that will be lost."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tenant = Tenant(world, world.dice)
        world.run(seconds=3)
        world.do(self.tenant.settle_in())
        self.victim = world.nodes[-1]

    def servers(self, count: int, **fields: Any) -> list[ServerId]:
        """Of this many on the host that will be lost, the ids, once all run."""
        self._open(only=self.victim)
        made = [self.world.do(self._create(fields)) for _ in range(count)]
        self.world.until(partial(self._all_run, made), within_s=300, always=ALWAYS)
        assert {self.home(s) for s in made} == {self.victim.id}
        self._open(only=None)
        return made

    async def _create(self, fields: dict[str, Any]) -> ServerId:
        wish = {
            "name": "s", "imageRef": self.tenant._image, "flavorRef": self.tenant._flavor,
            "networks": [{"uuid": self.tenant._network}], **fields,
        }  # fmt: skip
        answer = await self.world.call("POST", "/compute/v2.1/servers", {"server": wish})
        assert answer.status == 202, answer.data
        return ServerId(answer.body["server"]["id"])

    def _open(self, *, only: SimNode | None) -> None:
        for node in self.world.nodes:
            is_open = only is None or node is only
            self.world.database.write_now(
                partial(fleet.set_enabled, node_id=node.id, enabled=is_open)
            )

    def _all_run(self, servers: list[ServerId]) -> bool:
        return all(self.home(s) is not None for s in servers)

    def home(self, server_id: ServerId) -> str | None:
        """Where it runs and can write; None: nowhere."""
        for node in self.world.nodes:
            guest = node.hypervisor.guests.get(server_id)
            if guest is not None and guest.running and not is_shut_out(self.world, node):
                return node.id
        return None

    def elsewhere(self, servers: list[ServerId]) -> bool:
        return all(self.home(s) not in (None, self.victim.id) for s in servers)

    def node(self) -> Node:
        return self.world.database.read_now(lambda tx: fleet.node(tx, self.victim.id))

    def is_in(self, *states: NodeState) -> bool:
        return self.node().state in states

    async def switch_on(self) -> None:
        self.victim.start_agent()

    def show(self, server_id: ServerId) -> Any:
        answer = self.world.do(self.world.call("GET", f"/compute/v2.1/servers/{server_id}"))
        return answer.body["server"]


@pytest.fixture
def power() -> Iterator[Losing]:
    with World(seed=11, nodes=3, has_power=True) as world:
        yield Losing(world)


@pytest.fixture
def pool() -> Iterator[Losing]:
    with World(seed=12, nodes=3, has_shared_pool=True) as world:
        yield Losing(world)


def test_a_host_that_is_cut_off_is_fenced_by_power_and_its_servers_run_elsewhere(
    power: Losing,
) -> None:
    (server_id,) = power.servers(1, metadata=FRESH)
    (kept,) = power.servers(1)
    power.victim.cut_off()
    power.world.until(partial(power.elsewhere, [server_id]), within_s=150, always=ALWAYS)
    assert not power.victim.is_running, "its power was cut"
    assert power.home(kept) is None
    assert power.show(server_id)["status"] == "ACTIVE"


def test_switched_on_again_while_cut_off_it_boots_only_what_is_surely_its_own(
    power: Losing,
) -> None:
    (server_id,) = power.servers(1, metadata=FRESH)
    (kept,) = power.servers(1)
    power.victim.cut_off()
    power.world.until(partial(power.elsewhere, [server_id]), within_s=150, always=ALWAYS)
    power.world.do(power.switch_on())
    power.world.run(seconds=120, always=ALWAYS)
    assert power.home(kept) == power.victim.id
    assert power.elsewhere([server_id])
    assert power.victim.switch is not None and power.victim.switch.is_on, "it is left on"
    power.victim.join_again()
    power.world.run(seconds=120, always=ALWAYS)
    assert set(power.victim.hypervisor.guests) == {kept}
    assert set(power.victim.volumes.volumes) == {kept}, "it removed what is no longer its own"
    assert power.is_in(NodeState.UP) and not power.node().enabled
    assert power.home(kept) == power.victim.id


def test_a_host_that_is_shut_out_keeps_shadows_that_go_before_it_is_let_in(pool: Losing) -> None:
    assert pool.world.pool is not None
    (server_id,) = pool.servers(1, metadata=MARKED)
    pool.victim.volumes.write(server_id, 5, 55)  # type: ignore[arg-type]
    pool.victim.cut_off()
    pool.world.until(partial(pool.elsewhere, [server_id]), within_s=150, always=ALWAYS)
    assert pool.victim.hypervisor.guests[server_id].running, "nobody could end it"
    home = next(n for n in pool.world.nodes if n.id == pool.home(server_id))
    assert home.volumes.read(server_id, 5) == 55, "its disk is the same"  # type: ignore[arg-type]
    pool.victim.join_again()
    pool.world.run(seconds=150, always=ALWAYS)
    assert pool.victim.hypervisor.guests == {}
    assert pool.world.pool.shut_out == frozenset()
    assert server_id in pool.world.pool.volumes
    assert pool.home(server_id) == home.id


def test_nothing_is_fenced_that_the_new_control_plane_has_not_heard(power: Losing) -> None:
    (server_id,) = power.servers(1, metadata=FRESH)
    power.victim.cut_off()
    power.world.do(power.world.kill_control())
    power.world.run(seconds=20, always=ALWAYS)
    power.world.do(power.world.start_control())
    power.world.run(seconds=300, always=ALWAYS)
    assert power.is_in(NodeState.LOST)
    assert power.home(server_id) == power.victim.id
    path = f"/cairn/v1/hosts/{power.victim.id}"
    shown = power.world.do(power.world.call("GET", path)).body["host"]["loss"]
    assert "not been heard of since the control plane started" in shown
    answer = power.world.do(power.world.call("POST", path + "/recover", {}))
    assert answer.status == 202, answer.data
    power.world.until(partial(power.elsewhere, [server_id]), within_s=60, always=ALWAYS)


def test_when_most_of_a_zone_falls_silent_nothing_is_done_until_a_person_says_so() -> None:
    with World(seed=13, nodes=5, has_power=True) as world:
        cloud = Losing(world)
        (server_id,) = cloud.servers(1, metadata=FRESH)
        for node in world.nodes[2:]:
            node.cut_off()
        world.run(seconds=400, always=ALWAYS)
        assert cloud.is_in(NodeState.SUSPECT)
        assert cloud.home(server_id) == cloud.victim.id
        assert all(node.is_running for node in world.nodes)
        told = world.do(world.call("GET", "/cairn/v1/status")).body["held_zones"]
        assert "3 of its 5 hosts fell silent" in told["nova"]
        health = world.do(world.call("GET", "/healthz")).body
        assert "zones held until a person says so: 1" in health["checks"]["losses"]
        answer = world.do(world.call("POST", "/cairn/v1/zones/nova/recover", {}))
        assert (answer.status, answer.body["released"]) == (202, 1)
        world.until(partial(cloud.elsewhere, [server_id]), within_s=60, always=ALWAYS)


def test_when_nobody_can_fence_it_waits_for_a_persons_word() -> None:
    with World(seed=14, nodes=3) as world:
        cloud = Losing(world)
        (server_id,) = cloud.servers(1, metadata=FRESH)
        world.do(cloud.victim.cut_power())
        world.run(seconds=300, always=ALWAYS)
        assert cloud.is_in(NodeState.LOST)
        path = f"/cairn/v1/hosts/{cloud.victim.id}"
        refused = world.do(world.call("POST", path + "/fence", {"fence": {}}))
        assert refused.status == 409
        assert b"--by-hand" in refused.data
        answer = world.do(world.call("POST", path + "/fence", {"fence": {"by_hand": True}}))
        assert answer.status == 202, answer.data
        world.until(partial(cloud.elsewhere, [server_id]), within_s=60, always=ALWAYS)


def test_the_fencer_dies_on_the_way_and_another_takes_over() -> None:
    with World(seed=15, nodes=4, has_shared_pool=True) as world:
        cloud = Losing(world)
        (server_id,) = cloud.servers(1, metadata=MARKED)
        cloud.victim.cut_off()
        world.until(partial(cloud.is_in, NodeState.SUSPECT), within_s=60)
        world.run(seconds=55)
        world.do(world.nodes[0].cut_power())  # It would have been asked.
        world.until(partial(cloud.elsewhere, [server_id]), within_s=150, always=ALWAYS)
        asked = world.database.read_now(loss_store.all_losses)[cloud.victim.id]
        assert asked.fenced_by.startswith("storage, through host")


def test_a_lost_host_of_a_hundred_servers_runs_elsewhere_within_a_minute_of_its_fencing() -> None:
    with World(seed=16, nodes=4, has_power=True) as world:
        cloud = Losing(world)
        flavor = {"flavor": {"name": "tiny", "vcpus": 1, "ram": 64, "disk": 1}}
        answer = world.do(world.call("POST", "/compute/v2.1/flavors", flavor))
        cloud.tenant._flavor = answer.body["flavor"]["id"]
        project = world.do(world.call("GET", "/identity/v3/auth/projects")).body["projects"][0]
        quota = {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}
        path = f"/compute/v2.1/os-quota-sets/{project['id']}"
        assert world.do(world.call("PUT", path, quota)).status == 200
        path = f"/network/v2.0/quotas/{project['id']}"
        assert world.do(world.call("PUT", path, {"quota": {"port": -1}})).status == 200
        servers = cloud.servers(100, metadata=FRESH)
        world.do(cloud.victim.cut_power())
        fenced = partial(cloud.is_in, NodeState.FENCED, NodeState.RECOVERED)
        world.until(fenced, within_s=150, always=ALWAYS)
        fenced_s = world.now_s
        world.until(partial(cloud.elsewhere, servers), within_s=60, always=ALWAYS)
        assert 15 < world.now_s - fenced_s < 60, "at the limited rate, and in time"
        assert cloud.is_in(NodeState.RECOVERED)
        assert world.database.read_now(loss.explain_all)[1] == {}
