"""Leases: of several control processes, one does the work of a kind, to save the others' effort.

Never for correctness: a lease may be lost while its holder works, clocks differ, and a round is safe on
two processes at once anyhow. So a lease is one row, taken by whoever finds it free, and nobody asks for
it while there is nothing to do: a cloud at rest has leases that ran out.
"""

from datetime import datetime, timedelta

from msgspec import Struct
from sqlalchemy import Column, Table, or_, select

from cairn.core.clock import Clock
from cairn.core.errors import Conflict
from cairn.db.columns import Time, id_column, metadata
from cairn.db.engine import Database, Tx
from cairn.db.feed import EVERYTHING
from cairn.life.reconcile import Reconciler, Round

LEASE = timedelta(seconds=6)  # after a holder's sudden end, its work waits for so long
CLOCKS_S = 1.0  # by which machines' clocks may differ before two work at once

leases = Table(
    "leases",
    metadata,
    id_column("name", primary_key=True),
    id_column("holder", nullable=False),
    Column("until", Time, nullable=False),
)


class Held(Struct, frozen=True, kw_only=True):
    """Who has a lease, and until when."""

    holder: str
    until: datetime


def take(tx: Tx, name: str, holder: str) -> Held:
    """Take the lease, or prolong it, if it is free or the holder's; who has it now."""
    until = tx.now + LEASE
    done = tx.execute(
        leases.update()
        .where(leases.c.name == name)
        .where(or_(leases.c.holder == holder, leases.c.until < tx.now))
        .values(holder=holder, until=until)
    )
    if done.rowcount == 1:
        return Held(holder=holder, until=until)
    row = tx.execute(select(leases).where(leases.c.name == name)).one_or_none()
    if row is not None:
        return Held(holder=row.holder, until=row.until)
    tx.execute(leases.insert().values(name=name, holder=holder, until=until))
    return Held(holder=holder, until=until)


def release(tx: Tx, holder: str) -> None:
    """Give back all that the holder has, and tell those who wait."""
    gone = tx.execute(
        leases.delete().where(leases.c.holder == holder).returning(leases.c.name)
    ).scalars()
    for name in gone:
        tx.wake(name)
        tx.wake(_released(name))


class Leased:
    """A reconciler that works where its lease is. Elsewhere it looks again when the lease runs out, so
    that a hint which the holder took with it to its grave is heard after all."""

    def __init__(self, inner: Reconciler, database: Database, *, holder: str, clock: Clock) -> None:
        self.name = inner.name
        self._inner = inner
        self._database = database
        self._holder = holder
        self._clock = clock
        self._held: Held | None = None
        database.on_wake(self._hint)

    async def run_once(self) -> Round:
        held = await self._hold()
        if held.holder == self._holder:
            return await self._inner.run_once()
        return Round(again_s=self._left_s(held) + CLOCKS_S)

    async def _hold(self) -> Held:
        """Who has the lease. Its holder asks the database when half of it is over, the others when all
        is."""
        held = self._held
        if held is not None:
            enough_s = LEASE.total_seconds() / 2 if held.holder == self._holder else 0.0
            if self._left_s(held) > enough_s:
                return held
        try:
            held = await self._database.write(lambda tx: take(tx, self.name, self._holder))
        except Conflict:  # Another took it for the first time at the same moment.
            held = await self._database.write(lambda tx: take(tx, self.name, self._holder))
        self._held = held
        return held

    def _left_s(self, held: Held) -> float:
        return max(0.0, (held.until - self._clock.now()).total_seconds())

    def _hint(self, topic: str) -> None:
        if topic in (_released(self.name), EVERYTHING):
            self._held = None


def _released(name: str) -> str:
    return f"lease:{name}"
