"""What keeps lost hosts on their way: suspect, lost, fenced. What follows is compute's (recovery.py)."""

from functools import partial

from cairn.core.clock import Clock
from cairn.core.errors import CloudError
from cairn.db.engine import Database, Tx
from cairn.fleet import loss, loss_store
from cairn.fleet.records import Hold, Loss, Node, NodeState
from cairn.life.reconcile import Round

LOST_AFTER_S = 60.0  # of suspicion
RETRY_S = 15.0  # before it is tried again to find somebody who can fence a host, or let it in


class LossKeeper:
    """Gives up hosts that stay away, and has them fenced. While all are well it asks for nothing."""

    name = loss.LOSS

    def __init__(
        self, database: Database, clock: Clock, *, lost_after_s: float = LOST_AFTER_S
    ) -> None:
        self._database = database
        self._clock = clock
        self._lost_after_s = lost_after_s
        self._has_begun = False

    async def run_once(self) -> Round:
        if not self._has_begun:
            await self._database.write(loss.begin)
            self._has_begun = True
        gone = await self._database.read(loss_store.gone_nodes)
        opening = await self._database.read(loss_store.opening)
        if not gone and not opening:
            return Round()
        if sum(n.state is NodeState.SUSPECT for n in gone) >= loss.TOGETHER_MIN:
            await self._database.write(loss.hold_zones)
        failed: list[str] = []
        waits_s: list[float] = []
        for node in gone:
            try:
                wait_s = await self._see_to(node)
            except CloudError as error:
                failed.append(f"host {node.hostname}: {error.message}")
                wait_s = RETRY_S
            if wait_s is not None:
                waits_s.append(wait_s)
        for one in opening:
            await self._database.write(partial(loss.open_door, node_id=one.node_id))
            waits_s.append(RETRY_S)
        failed += await self._database.read(_stuck)
        return Round(
            found=len(gone) + len(opening),
            done=len(gone) + len(opening) - len(failed),
            failed=tuple(failed),
            again_s=min(waits_s, default=None),
        )

    async def _see_to(self, node: Node) -> float | None:
        """The next thing to do about a host; after how many seconds it wants to be looked at again."""
        if node.state is NodeState.SUSPECT:
            left_s = self._lost_after_s - (self._clock.now() - node.state_since).total_seconds()
            if left_s > 0:
                return left_s
            give_up = partial(loss.give_up, node_id=node.id, lost_after_s=self._lost_after_s)
            return 0.0 if await self._database.write(give_up) else None
        if node.state is NodeState.LOST:
            await self._database.write(partial(loss.fence, node_id=node.id))
            return RETRY_S
        return None


def _stuck(tx: Tx) -> list[str]:
    """Lost hosts that nobody can fence: said aloud in each round."""
    lost = loss_store.nodes_in(tx, NodeState.LOST)
    if not lost:
        return []
    losses, holds = loss_store.all_losses(tx), loss_store.all_holds(tx)
    found = []
    for node in lost:
        known = losses.get(node.id, Loss(node_id=node.id))
        hold: Hold | None = holds.get(node.zone)
        is_asked = known.power_by is not None or known.door_by is not None
        if known.trouble and not is_asked and not loss.why_held(known, hold):
            found.append(f"host {node.hostname}: {loss.words(node, known, hold)}")
    return found
