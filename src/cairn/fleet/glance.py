"""What lists of other things show of hosts: a page of ids in, a few columns out.

A page of servers lies on at most as many hosts; reading all ten thousand, facts and engines included, would
cost more than the page itself.
"""

from collections.abc import Iterable

from msgspec import Struct
from sqlalchemy import bindparam, func, select

from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.fleet.records import NodeState
from cairn.fleet.store import nodes

IDS_MAX = 1000  # of one statement: a page

_QUERY = select(nodes.c.id, nodes.c.hostname, nodes.c.zone, nodes.c.enabled, nodes.c.state).where(
    nodes.c.id.in_(bindparam("ids", expanding=True))
)
_ZONES = select(nodes.c.zone).distinct()
_NAMED = select(nodes.c.id).where(nodes.c.hostname == bindparam("hostname")).order_by(nodes.c.id)
_COUNTS = select(nodes.c.state, func.count()).group_by(nodes.c.state)


class Glance(Struct, frozen=True, kw_only=True):
    """A host in one line."""

    id: NodeId
    hostname: str
    zone: str
    enabled: bool
    state: NodeState


def glance(tx: Tx, node_ids: Iterable[NodeId]) -> dict[NodeId, Glance]:
    """These hosts by id; ids of none are left out."""
    ids = sorted(set(node_ids))
    found: dict[NodeId, Glance] = {}
    for start in range(0, len(ids), IDS_MAX):
        for row in tx.execute(_QUERY, {"ids": ids[start : start + IDS_MAX]}):
            node_id, hostname, zone, enabled, state = tuple(row)
            found[node_id] = Glance(
                id=node_id, hostname=hostname, zone=zone, enabled=enabled, state=NodeState(state)
            )
    return found


def zones(tx: Tx) -> set[str]:
    """Every zone that has a host."""
    return set(tx.execute(_ZONES).scalars())


def named(tx: Tx, hostname: str) -> list[NodeId]:
    """Hosts of this name."""
    return [NodeId(i) for i in tx.execute(_NAMED, {"hostname": hostname}).scalars()]


def counts(tx: Tx) -> dict[NodeState, int]:
    """How many hosts are in each state."""
    return {NodeState(state): count for state, count in map(tuple, tx.execute(_COUNTS))}
