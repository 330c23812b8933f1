"""What a run promised, held against the rows and against what the hosts' engines hold."""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Collection, Iterator

from sqlalchemy import select

from cairn.compute import service as compute_service
from cairn.compute import store as compute
from cairn.db.engine import Tx
from cairn.placement import service as placement
from cairn.sim.load.agents import GuestHere, Told
from cairn.sim.load.prefill import capacity_of
from cairn.sim.load.show import Show

CHECKS = (
    "every server whose creation was accepted is there, unless its deletion was accepted",
    "every server whose deletion was accepted is gone",
    "every ACTIVE server runs on its host in its newest incarnation, and nowhere else",
    "no host runs a server that the control plane does not know",
    "no host is promised twice: claims are the placed servers, and no capacity is passed",
    "no engine was asked for what must not be",
)
SETTLE_S_MAX = 60.0


async def verify(show: Show) -> list[str]:
    """What is wrong, a line each. What is still under way may take a minute to come right."""
    deadline_s = time.monotonic() + SETTLE_S_MAX
    while True:
        told = await asyncio.gather(*(a.order("look") for a in show.agents))
        wrong = show.database.read_now(functools.partial(_all_wrong, show=show, told=told))
        if not wrong or time.monotonic() > deadline_s:
            return wrong
        show.tell(f"checking: {len(wrong)} things are not right yet, such as: {wrong[0]}")
        await asyncio.sleep(2.0)


def _all_wrong(tx: Tx, *, show: Show, told: list[Told]) -> list[str]:
    return list(_wrong(tx, show, told))


def _wrong(tx: Tx, show: Show, told: list[Told]) -> Iterator[str]:
    table = compute.servers
    query = select(table.c.id, table.c.node_id, table.c.incarnation, table.c.state)
    rows = {row.id: row for row in tx.execute(query)}
    for server_id in show.accepted - show.doomed - rows.keys():
        yield f"server {server_id} was accepted and is lost"
    for server_id in show.doomed & rows.keys():
        yield f"server {server_id} was deleted and is still {rows[server_id].state}"
    guests = [guest for each in told for guest in each.guests]
    running = {(g.id, g.node_id, g.incarnation) for g in guests if g.runs}
    yield from _not_as_the_rows(rows, guests)
    for row in rows.values():
        if row.state == "building":
            yield f"server {row.id} is still building"
        if row.state == "active" and (row.id, row.node_id, row.incarnation) not in running:
            yield f"server {row.id} is ACTIVE and does not run on {row.node_id}"
    placed = set(compute_service.placed_servers(tx))
    claimed = set(placement.claimants(tx))
    for server_id in placed ^ claimed:
        yield f"server {server_id} has a place or a claim, but not both"
    yield from capacity_of(tx)
    for each in told:
        yield from each.violations


def _not_as_the_rows(rows: Collection[str], guests: list[GuestHere]) -> Iterator[str]:
    times = Counter(guest.id for guest in guests if guest.runs)
    for server_id, count in times.items():
        if count > 1:
            yield f"server {server_id} runs {count} times"
    for guest in guests:
        if guest.id not in rows:
            yield f"host {guest.node_id} holds guest {guest.id}, which is no server's"
