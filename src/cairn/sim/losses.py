"""Histories of clouds that lose hosts: cut off, without power, switched on again while still cut off.

Dice of their own, so that what other histories come to does not change. Half of the clouds switch each
other's power, half have a shared pool, some have neither: there a person goes and looks.
"""

import contextlib
import random
from functools import partial
from typing import Any

from sqlalchemy import select

from cairn.compute import store as compute_store
from cairn.core.errors import CloudError
from cairn.core.ids import NodeId, ServerId
from cairn.db.engine import Tx
from cairn.fleet import loss, loss_store
from cairn.fleet import service as fleet
from cairn.fleet.records import Loss, NodeState
from cairn.sim.checks import ALWAYS
from cairn.sim.node import SimNode
from cairn.sim.story import CALM_S, Outcome, Weather, settle
from cairn.sim.tenant import Promised, Tenant
from cairn.sim.world import World

MARKS = (None, "true", "fresh", "fresh")


def play(*, seed: int, nodes: int = 4, wishes: int = 40, moves: bool = False) -> Outcome:
    """Play one history; Broken if an invariant does not hold."""
    dice = random.Random(seed * 104729 + 5)  # noqa: S311 - reproducible on purpose
    kind = dice.choice(["power", "pool", "both", "neither"])
    with World(
        seed=seed,
        nodes=nodes,
        has_power=kind in ("power", "both"),
        has_shared_pool=kind in ("pool", "both"),
    ) as world:
        world.how = f" --losses --wishes {wishes}"
        tenant = MarkingTenant(world, dice)
        tenant.moves = moves
        world.do(tenant.settle_in())
        world.run(seconds=3)
        weather = LossWeather(world, dice)
        watch = Watch(weather)
        always = (*ALWAYS, watch.nothing_is_recovered_while_it_is_held)
        for _ in range(wishes):
            world.do(tenant.do_something())
            if dice.random() < 0.35:
                world.do(weather.strike())
            world.run(seconds=dice.choice([0.5, 2.0, 10.0, 30.0, 90.0]), always=always)
            world.do(weather.pass_time())
        # Twice: a host may come back in the very second in which it is fenced.
        for calm_s in (60.0, CALM_S):
            world.do(weather.clear())
            world.run(seconds=calm_s, always=always)
        wrong = [] if moves else list(watch.each_was_evicted_as_often_as_placed_anew(world))
        settle(world, tenant, wrong)
        return Outcome(
            seed=seed,
            servers=len(tenant.servers),
            wishes=wishes,
            blows=weather.blows,
            virtual_s=world.now_s,
        )


class MarkingTenant(Tenant):
    """One that says of some servers that they may start elsewhere."""

    async def _create(self) -> None:
        self._count += 1
        server: dict[str, Any] = {
            "name": f"s{self._count}", "imageRef": self._image, "flavorRef": self._flavor,
            "networks": [{"uuid": self._network}],
        }  # fmt: skip
        if (mark := self._dice.choice(MARKS)) is not None:
            server["metadata"] = {"restart_elsewhere": mark}
        answer = await self._call("POST", "/compute/v2.1/servers", {"server": server})
        if answer.status == 202:
            server_id = ServerId(answer.body["server"]["id"])
            self.servers[server_id] = Promised(id=server_id)


class LossWeather(Weather):
    """At most one host at a time is gone; it may be gone in two ways at once."""

    def __init__(self, world: World, dice: random.Random) -> None:
        super().__init__(world, dice)
        self.gone: SimNode | None = None
        self.has_released = False  # a person did, since the last look of the watch

    async def strike(self) -> None:
        self.blows += 1
        doing = self._dice.choice(
            [
                self._restart_control, self._kill_agent, self._break_connection, self._crash_guest,
                self._fail_engine, self._lose, self._lose, self._lose, self._switch_on,
                self._switch_on, self._come_back, self._person, self._person,
            ]
        )  # fmt: skip
        await doing()

    async def clear(self) -> None:
        await super().clear()
        await self._come_back()
        for node in self._world.nodes:
            if not node.is_running:
                node.start_agent()
        await self._release()

    async def _lose(self) -> None:
        """The cable is pulled, or the power is gone, of one host or on top of the other."""
        node = self.gone or self._any_node()
        self.gone = node
        if self._dice.random() < 0.6:
            node.cut_off()
        elif node.is_running:
            await node.cut_power()

    async def _switch_on(self) -> None:
        """Somebody presses the button, whether or not the cable is in."""
        if self.gone is not None and not self.gone.is_running:
            self.gone.start_agent()

    async def _come_back(self) -> None:
        if self.gone is not None:
            self.gone.join_again()
            if not self.gone.is_running:
                self.gone.start_agent()
            self.gone = None

    async def _person(self) -> None:
        """Somebody looks: what is off is fenced by hand, what was held is released."""
        node = self.gone
        if node is not None and not node.is_running and self._world.cloud is not None:
            self.has_released = True
            with contextlib.suppress(CloudError):  # It may not be suspect yet.
                await self._world.database.write(partial(loss.fence_by_hand, node_id=node.id))
        elif self._dice.random() < 0.5:
            await self._release()

    async def _release(self) -> None:
        if self._world.cloud is not None:
            self.has_released = True
            await self._world.database.write(partial(loss.recover_zone, zone="nova"))


class Watch:
    """Looks at each step who lost its place, and whether that was allowed."""

    def __init__(self, weather: LossWeather) -> None:
        self._weather = weather
        self._places: dict[ServerId, tuple[NodeId | None, int]] = {}
        self._held: dict[NodeId, str] = {}
        self._counted: set[tuple[ServerId, int]] = set()
        self.evictions: dict[ServerId, int] = {}

    def nothing_is_recovered_while_it_is_held(self, world: World) -> list[str]:
        places, held, evicted = world.database.read_now(_look)
        wrong = []
        for server_id, (was, incarnation) in self._places.items():
            if was is None or evicted.get(server_id) != incarnation:
                continue  # It is where it was, or gone with its owner's will.
            if (server_id, incarnation) in self._counted:
                continue
            self._counted.add((server_id, incarnation))
            self.evictions[server_id] = self.evictions.get(server_id, 0) + 1
            why = self._held.get(was)
            if why and not self._weather.has_released:
                wrong.append(f"server {server_id} was taken off {was}, which is held: {why}")
        self._places, self._held = places, held
        self._weather.has_released = False
        return wrong

    def each_was_evicted_as_often_as_placed_anew(self, world: World) -> list[str]:
        places, _, _ = world.database.read_now(_look)
        return [
            f"server {server_id} is incarnation {n} after {self.evictions.get(server_id, 0)} losses"
            for server_id, (node_id, n) in places.items()
            if node_id is not None and n != 1 + self.evictions.get(server_id, 0)
        ]


def _look(
    tx: Tx,
) -> tuple[dict[ServerId, tuple[NodeId | None, int]], dict[NodeId, str], dict[ServerId, int]]:
    """Where servers are, which hosts are held and why, and which incarnation lost its place last."""
    c = compute_store.servers.c
    rows = tx.execute(select(c.id, c.node_id, c.incarnation, c.evicted_incarnation)).all()
    losses, holds = loss_store.all_losses(tx), loss_store.all_holds(tx)
    held = {
        n.id: loss.why_held(losses.get(n.id, Loss(node_id=n.id)), holds.get(n.zone))
        for n in fleet.nodes(tx)
        if n.state is not NodeState.UP
    }
    places = {ServerId(r.id): (r.node_id, r.incarnation) for r in rows}
    return places, held, {ServerId(r.id): r.evicted_incarnation for r in rows}
