"""What operators have said of hosts' parts in the network."""

from sqlalchemy import select

from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.network.store.tables import agents


def said_of_nodes(tx: Tx) -> dict[NodeId, tuple[str, bool]]:
    """(description, enabled) of every host of which anything was said."""
    rows = tx.execute(select(agents))
    return {row.node_id: (row.description, row.is_enabled) for row in rows}


def say(tx: Tx, node_id: NodeId, *, description: str, is_enabled: bool) -> None:
    values = {"description": description, "is_enabled": is_enabled}
    done = tx.execute(agents.update().where(agents.c.node_id == node_id).values(**values))
    if done.rowcount == 0:
        tx.execute(agents.insert().values(node_id=node_id, **values))
