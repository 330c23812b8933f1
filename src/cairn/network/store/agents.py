"""What operators have said of hosts' parts in the network, and what the hosts were seen to reach."""

from typing import Any

from sqlalchemy import Text, bindparam, cast, select

from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared
from cairn.network.store.tables import agents, ports


def said_of_nodes(tx: Tx) -> dict[NodeId, tuple[str, bool]]:
    """(description, enabled) of every host of which anything was said."""
    rows = tx.execute(select(agents))
    return {row.node_id: (row.description, row.is_enabled) for row in rows}


def reaching(tx: Tx) -> dict[NodeId, tuple[str, ...]]:
    """The physical networks of each host that reaches any and was not switched off as a gateway."""
    seen = agents.c.seen_physical_networks
    query = select(agents.c.node_id, seen).where(agents.c.is_enabled, seen.is_not(None))
    rows = tx.execute(query.where(cast(seen, Text) != "[]").order_by(agents.c.node_id))
    return {NodeId(row.node_id): row.seen_physical_networks for row in rows}


def say(tx: Tx, node_id: NodeId, *, description: str, is_enabled: bool) -> None:
    _write(tx, node_id, {"description": description, "is_enabled": is_enabled})


def seen_physical_networks(tx: Tx, node_id: NodeId) -> tuple[str, ...] | None:
    """What `record_physical_networks` has last written."""
    found: tuple[str, ...] | None = tx.run(_SEEN, {"node": node_id}).scalar()
    return found


_SEEN = Prepared(
    select(agents.c.seen_physical_networks).where(agents.c.node_id == bindparam("node"))
)


def record_physical_networks(tx: Tx, node_id: NodeId, seen: tuple[str, ...]) -> None:
    _write(tx, node_id, {"seen_physical_networks": seen})


def forget(tx: Tx, node_id: NodeId) -> None:
    """The host is no member any more: its ports are nowhere, and nothing is said of it."""
    tx.execute(agents.delete().where(agents.c.node_id == node_id))
    nowhere = {"node_id": None, "host": "", "is_up": False, "seen_number": 0}
    tx.execute(ports.update().where(ports.c.node_id == node_id).values(**nowhere))


def _write(tx: Tx, node_id: NodeId, values: dict[str, Any]) -> None:
    done = tx.execute(agents.update().where(agents.c.node_id == node_id).values(**values))
    if done.rowcount == 0:
        tx.execute(agents.insert().values(node_id=node_id, **values))
