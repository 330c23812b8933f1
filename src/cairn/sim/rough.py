"""Weather of a rougher kind, by dice of its own: full disks, slow hosts, jumping clocks, torn connections.

Apart from story.py's weather, so that a seed's blows there stay what they were. All of it mends.
"""

import random

from cairn.sim.node import SimNode
from cairn.sim.world import World

CHANCE = 0.15  # of a blow after each wish
SLOW_S = 3.0  # of each verb of a slow host's engine
JUMP_S_MAX = 900.0  # how far the control plane's clock may be off: less than a token lives
MENDS_S = 45.0  # how long a disk stays full and a host slow


class Rough:
    """One thing at a time is broken, besides what story.py's weather breaks."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self._world = world
        self._dice = dice
        self._full: tuple[SimNode, int] | None = None  # and what it could hold before
        self._slow: tuple[SimNode, float] | None = None
        self._mends_s = 0.0
        self.blows = 0

    async def pass_time(self) -> None:
        """Perhaps a blow; what has lasted long enough mends."""
        if self._world.now_s >= self._mends_s:
            self.mend()
        if self._dice.random() >= CHANCE:
            return
        self.blows += 1
        blow = self._dice.choice(
            [self._fill_a_disk, self._slow_down, self._jump, self._tear_a_connection]
        )
        blow()
        if self._world.cloud is not None:
            await self._world.sign_in()  # A token's life is measured by the clock that jumped.

    async def clear(self) -> None:
        self.mend()
        self._world.clock.wall_offset_s = 0.0
        await self._world.sign_in()

    def mend(self) -> None:
        if self._full is not None:
            node, capacity_gib = self._full
            node.volumes.capacity_gib = capacity_gib
            self._full = None
        if self._slow is not None:
            node, latency_s = self._slow
            node.hypervisor.latency_s = latency_s
            self._slow = None

    def _fill_a_disk(self) -> None:
        """Somebody else's data: nothing more fits into the host's pool."""
        if self._full is None:
            node = self._dice.choice(self._world.nodes)
            self._full = (node, node.volumes.capacity_gib)
            node.volumes.capacity_gib = 0
            self._mends_s = self._world.now_s + MENDS_S

    def _slow_down(self) -> None:
        if self._slow is None:
            node = self._dice.choice(self._world.nodes)
            self._slow = (node, node.hypervisor.latency_s)
            node.hypervisor.latency_s = SLOW_S
            self._mends_s = self._world.now_s + MENDS_S

    def _jump(self) -> None:
        """The wall clock is set, forwards or back; the loop's own time goes on."""
        self._world.clock.wall_offset_s = self._dice.uniform(-JUMP_S_MAX, JUMP_S_MAX)

    def _tear_a_connection(self) -> None:
        """The agent takes its connection for dead and opens another; what it sent still arrives."""
        wire = self._dice.choice(self._world.nodes).wire
        if wire is not None:
            wire.tear()
