"""What keeps compute's records in order without being asked. The placer is in placing.py."""

from datetime import timedelta

from sqlalchemy import select

from cairn.compute import mover, store, store_actions
from cairn.db.engine import Database, Tx
from cairn.life.reconcile import Round

JANITOR_PERIOD_S = 6 * 3600.0
ACTIONS_KEPT = timedelta(days=30)  # of servers that are gone


class Janitor:
    """Forgets what nobody will ask for any more: old actions of gone servers, unused console keys."""

    name = "compute.janitor"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> Round:
        count = await self._database.write(forget_old)
        return Round(found=count, done=count, again_s=JANITOR_PERIOD_S)


def forget_old(tx: Tx) -> int:
    """Remove them; how many there were."""
    present = select(store.servers.c.id)
    gone = mover.forget_old(tx)
    gone += store_actions.forget_actions(tx, tx.now - ACTIONS_KEPT, present)
    return gone + store_actions.forget_screen_keys(tx)
