"""What ends the trail: entries that are older than the operator wants to keep are deleted."""

from datetime import timedelta

from cairn.audit import store
from cairn.db.engine import Database, Tx
from cairn.life.reconcile import Round

BATCH = 1000  # entries deleted in one transaction: others write between two
PAUSE_S = 0.2  # between two batches
LOOK_S_MIN = 3600.0  # what expires within an hour goes together


class AuditKeeper:
    """Deletes what has expired, and knows when the next does: nothing is asked until then."""

    name = "audit.keeper"

    def __init__(self, database: Database, *, days: int) -> None:
        """`days`: for which entries are kept; 0: for ever."""
        self._database = database
        self._kept = timedelta(days=days)

    async def run_once(self) -> Round:
        if not self._kept:
            return Round()
        left_s = await self._database.read(self._left_s)
        if left_s > 0:
            return Round(again_s=max(left_s, LOOK_S_MIN))
        gone = await self._database.write(
            lambda tx: store.forget(tx, before=tx.now - self._kept, most=BATCH)
        )
        return Round(found=gone, done=gone, again_s=PAUSE_S if gone == BATCH else LOOK_S_MIN)

    def _left_s(self, tx: Tx) -> float:
        """How long until the oldest entry expires."""
        oldest = store.oldest(tx)
        if oldest is None:
            return self._kept.total_seconds()
        return (oldest + self._kept - tx.now).total_seconds()
