"""One seed's history: a tenant's wishes in bad weather, then calm, then the accounts are settled."""

import random
from collections.abc import Sequence

from msgspec import Struct

from cairn.core.errors import Unavailable
from cairn.sim.checks import ALWAYS, nothing_is_left_over, running
from cairn.sim.node import SimNode
from cairn.sim.rough import Rough
from cairn.sim.tenant import Tenant
from cairn.sim.world import Broken, World

CALM_S = 400.0  # long enough for every grace, backoff and lease to pass


class Outcome(Struct, frozen=True, kw_only=True):
    """What one history came to, for the report."""

    seed: int
    servers: int
    wishes: int
    blows: int
    virtual_s: float


def play(
    *, seed: int, nodes: int = 3, wishes: int = 60, moves: bool = False, rough: bool = False
) -> Outcome:
    """Play one history; Broken (with the line that replays it) if an invariant does not hold."""
    with World(seed=seed, nodes=nodes) as world:
        dice = random.Random(seed * 7919 + 1)  # noqa: S311 - reproducible on purpose
        tenant = Tenant(world, dice)
        tenant.moves = moves
        world.do(tenant.settle_in())
        world.run(seconds=3)  # Hosts must have reported before anything can be placed on them.
        weather = Weather(world, dice)
        if rough:
            world.how = f" --rough --wishes {wishes}"
        rougher = Rough(world, random.Random(seed * 104_729 + 3))  # noqa: S311 - the same
        for _ in range(wishes):
            world.do(tenant.do_something())
            if dice.random() < 0.25:
                world.do(weather.strike())
            world.run(seconds=dice.choice([0.0, 0.5, 2.0, 10.0]), always=ALWAYS)
            world.do(weather.pass_time())
            if rough:
                world.do(rougher.pass_time())
        world.do(weather.clear())
        if rough:
            world.do(rougher.clear())
        if moves:
            world.do(tenant.open_all_hosts())
        world.run(seconds=CALM_S, always=ALWAYS)
        settle(world, tenant)
        return Outcome(
            seed=seed,
            servers=len(tenant.servers),
            wishes=wishes,
            blows=weather.blows + rougher.blows,
            virtual_s=world.now_s,
        )


class Weather:
    """What goes wrong, by dice. At most one host is down at a time, and everything mends in the end."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self._world = world
        self._dice = dice
        self._down: SimNode | None = None
        self._cut: SimNode | None = None
        self.control_back_s = 0.0
        self.blows = 0

    async def strike(self) -> None:
        self.blows += 1
        await self._dice.choice(
            [
                self._restart_control, self._kill_agent, self._power_cycle, self._pull_cable,
                self._break_connection, self._crash_guest, self._end_guest, self._fail_engine,
            ]
        )()  # fmt: skip

    async def clear(self) -> None:
        """Mend everything that is still broken."""
        if self._world.cloud is None:
            await self._world.start_control()
        if self._down is not None:
            self._down.start_agent()
            self._down = None
        if self._cut is not None:
            self._cut.join_again()
            self._cut = None

    async def _restart_control(self) -> None:
        """Down with the next blow that falls on it; up again by itself after at most half a minute."""
        if self._world.cloud is not None:
            await self._world.kill_control()
            self.control_back_s = self._world.now_s + self._dice.uniform(0.0, 30.0)

    async def pass_time(self) -> None:
        """What mends by itself."""
        if self._world.cloud is None and self._world.now_s >= self.control_back_s:
            await self._world.start_control()

    async def _kill_agent(self) -> None:
        node = self._any_node()
        if node.is_running:
            await node.kill_agent()
            node.start_agent()

    async def _power_cycle(self) -> None:
        if self._down is not None:
            self._down.start_agent()
            self._down = None
            return
        node = self._any_node()
        if node.is_running:
            await node.cut_power()
            self._down = node

    async def _pull_cable(self) -> None:
        if self._cut is not None:
            self._cut.join_again()
            self._cut = None
            return
        self._cut = self._any_node()
        self._cut.cut_off()

    async def _break_connection(self) -> None:
        wire = self._any_node().wire
        if wire is not None:
            wire.cut()

    async def _crash_guest(self) -> None:
        node = self._any_node()
        alive = sorted(g.id for g in node.hypervisor.guests.values() if g.running)
        if alive:
            node.hypervisor.crash(self._dice.choice(alive))

    async def _end_guest(self) -> None:
        """A guest shuts itself down: its owner's wish, so it must not come back by itself."""
        node = self._any_node()
        alive = sorted(g.id for g in node.hypervisor.guests.values() if g.running)
        if alive:
            guest_id = self._dice.choice(alive)
            self._world.ended.add(guest_id)
            node.hypervisor.end(guest_id)

    async def _fail_engine(self) -> None:
        node = self._any_node()
        error = Unavailable("The engine stumbled.", because="simulated")
        verb = self._dice.choice(["boot", "plug_disk", "unplug_disk", "cut_off"])
        node.hypervisor.fail_next(verb, error)
        node.volumes.fail_next(self._dice.choice(["create", "snapshot", "remove"]), error)
        node.networks.fail_next(self._dice.choice(["plug", "unplug"]), error)

    def _any_node(self) -> SimNode:
        return self._dice.choice(self._world.nodes)


def settle(world: World, tenant: Tenant, known: Sequence[str] = ()) -> None:
    """After the calm: what was promised is so. `known`: what is wrong already."""
    wrong = [*known, *nothing_is_left_over(world)]
    for server in tenant.servers.values():
        answer = world.do(tenant.state_of(server.id))
        runs = running(world, server.id)
        if server.is_deleted:
            if answer.status != 404:
                wrong.append(f"server {server.id} was deleted and is still {answer.data!r}")
            continue
        if answer.status != 200:
            wrong.append(f"server {server.id} was accepted and is lost ({answer.status})")
            continue
        status, task = (
            answer.body["server"]["status"],
            answer.body["server"]["OS-EXT-STS:task_state"],
        )
        if task is not None:
            wrong.append(f"server {server.id} is still {task}")
        if status == "VERIFY_RESIZE":  # Moved, and nobody has said yet that it may stay there.
            status = "ACTIVE" if answer.body["server"]["OS-EXT-STS:power_state"] == 1 else "SHUTOFF"
        if status not in ("ACTIVE", "SHUTOFF", "ERROR"):
            wrong.append(f"server {server.id} is {status}")
        if (status == "ACTIVE") != runs:
            wrong.append(f"server {server.id} is {status} and {'runs' if runs else 'does not run'}")
        if status == "SHUTOFF" and server.should_run and server.id not in world.ended:
            wrong.append(f"server {server.id} should run")
    if wrong:
        raise Broken(world.story("; ".join(wrong)))
