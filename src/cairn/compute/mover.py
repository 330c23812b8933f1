"""What keeps moves going: finds hosts for queued ones, ends what takes too long, empties drained hosts.

A round costs one question when nothing moves, and is asked for only by hints and while something does.
"""

from collections import Counter
from datetime import timedelta
from functools import partial

from cairn.compute import drain, migrations
from cairn.compute import store_migrations as rows
from cairn.compute.migration_records import WORKING, Migration, MigrationState
from cairn.core.errors import CloudError
from cairn.core.ids import NodeId
from cairn.db.engine import Database, Tx
from cairn.life.reconcile import Round

PERIOD_S = 10.0  # while something moves
RETRY_S = 30.0  # while a host that is drained has servers that could not go
AT_ONCE = 2
KEPT = timedelta(days=30)


class Mover:
    """`at_once` moves at a time from each host and to each host: more would only share the same wire."""

    name = migrations.MOVER

    def __init__(self, database: Database, *, at_once: int = AT_ONCE) -> None:
        self._database = database
        self._at_once = at_once

    async def run_once(self) -> Round:
        failed: list[str] = []
        done = 0
        for one in await self._database.read(rows.all_drains):
            begin = partial(drain.begin_some, node_id=one.node_id, at_once=self._at_once)
            await self._database.write(begin)
        waiting = await self._database.read(rows.open_ones)
        for move in waiting:
            try:
                if move.state is MigrationState.QUEUED:
                    why = await self._database.write(partial(self._prepare, migration_id=move.id))
                else:
                    why = None
                    look = partial(migrations.look_at, migration_id=move.id)
                    await self._database.write(look)
            except CloudError as error:
                why = error.message
            if why is None:
                done += 1
            else:
                failed.append(f"migration of server {move.server_id}: {why}")
        is_draining = bool(await self._database.read(drain.unfinished))
        again_s = PERIOD_S if waiting else RETRY_S if is_draining else None
        return Round(found=len(waiting), done=done, failed=tuple(failed), again_s=again_s)

    def _prepare(self, tx: Tx, migration_id: str) -> str | None:
        """Unless its old host, or the one that was asked for, is busy enough."""
        busy = load_of(rows.open_ones(tx))
        move = rows.find(tx, migration_id)
        if move is None or busy[move.from_node] >= self._at_once:
            return None
        if move.to_node is not None and busy[move.to_node] >= self._at_once:
            return None
        full = frozenset(n for n, count in busy.items() if count >= self._at_once)
        return migrations.prepare(tx, migration_id, but_not=full)


def load_of(moves: list[Migration]) -> Counter[NodeId]:
    """How many moves each host is busy with."""
    busy: Counter[NodeId] = Counter()
    for move in moves:
        if move.state in WORKING:
            busy[move.from_node] += 1
            if move.to_node is not None:
                busy[move.to_node] += 1
    return busy


def forget_old(tx: Tx) -> int:
    """What was moved long ago."""
    return rows.forget_old(tx, tx.now - KEPT)
