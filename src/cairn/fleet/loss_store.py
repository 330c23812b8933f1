"""The tables of hosts that are gone, and of zones whose hosts seem to be: both empty while all is well."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Column, Index, Integer, String, Table, Text, func, or_, select

from cairn.core.ids import NodeId
from cairn.db.columns import Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.fleet.records import Door, Hold, Loss, Node, NodeState
from cairn.fleet.store import find_nodes, nodes

losses = Table(
    "fleet_losses",
    metadata,
    id_column("node_id", primary_key=True),
    Column("hold", Text, nullable=False),
    Column("may_recover", Boolean, nullable=False),
    id_column("power_by"),
    Column("power_number", Integer, nullable=False),
    Column("door", String(16), nullable=False),
    id_column("door_by"),
    Column("door_number", Integer, nullable=False),
    Column("trouble", Text, nullable=False),
    Column("fenced_by", Text, nullable=False),
    Index("ix_fleet_losses_door", "door"),
)

holds = Table(
    "fleet_holds",
    metadata,
    Column("zone", String(255), primary_key=True),
    Column("since", Time, nullable=False),
    Column("reason", Text, nullable=False),
    Column("released_at", Time),
)

GONE = (NodeState.SUSPECT, NodeState.LOST, NodeState.FENCED)


def loss(tx: Tx, node_id: NodeId) -> Loss | None:
    row = tx.execute(select(losses).where(losses.c.node_id == node_id)).one_or_none()
    return None if row is None else _loss(row)


def write(tx: Tx, wanted: Loss) -> None:
    """The row as a whole, whether or not there was one."""
    values = {c.name: getattr(wanted, c.name) for c in losses.c}
    done = tx.execute(losses.update().where(losses.c.node_id == wanted.node_id).values(**values))
    if done.rowcount == 0:
        tx.execute(losses.insert().values(**values))


def remove(tx: Tx, node_id: NodeId) -> None:
    tx.execute(losses.delete().where(losses.c.node_id == node_id))


def all_losses(tx: Tx) -> dict[NodeId, Loss]:
    return {row.node_id: _loss(row) for row in tx.execute(select(losses))}


def asked_of(tx: Tx, node_id: NodeId) -> list[Loss]:
    """What a host was asked to do about others."""
    c = losses.c
    query = select(losses).where(or_(c.power_by == node_id, c.door_by == node_id))
    return [_loss(row) for row in tx.execute(query.order_by(c.node_id))]


def gone_nodes(tx: Tx) -> list[Node]:
    """Hosts that are suspect, lost or fenced, those longest so first."""
    return find_nodes(tx, nodes.c.state.in_(GONE), nodes.c.state_since)


def nodes_in(tx: Tx, state: NodeState) -> list[Node]:
    return find_nodes(tx, nodes.c.state == state, nodes.c.state_since)


def opening(tx: Tx) -> list[Loss]:
    query = select(losses).where(losses.c.door == Door.OPENING).order_by(losses.c.node_id)
    return [_loss(row) for row in tx.execute(query)]


def living_of_zone(tx: Tx, zone: str) -> list[Node]:
    where = (nodes.c.zone == zone) & (nodes.c.state == NodeState.UP)
    return find_nodes(tx, where, nodes.c.id)


def count_of_zone(tx: Tx, zone: str) -> int:
    query = select(func.count()).select_from(nodes).where(nodes.c.zone == zone)
    return int(tx.execute(query).scalar_one())


def change_node(tx: Tx, node_id: NodeId, **values: Any) -> None:
    tx.execute(nodes.update().where(nodes.c.id == node_id).values(**values))


def raise_power_number(tx: Tx, node_id: NodeId) -> int:
    """The number of the next wish about a host's power or its door: it outlives every loss."""
    done = tx.execute(
        nodes.update()
        .where(nodes.c.id == node_id)
        .values(power_number=nodes.c.power_number + 1)
        .returning(nodes.c.power_number)
    )
    return int(done.scalar_one())


def all_holds(tx: Tx) -> dict[str, Hold]:
    """Of every zone that was ever held."""
    return {row.zone: Hold(**row._mapping) for row in tx.execute(select(holds))}


def hold(tx: Tx, zone: str) -> Hold | None:
    row = tx.execute(select(holds).where(holds.c.zone == zone)).one_or_none()
    return None if row is None else Hold(**row._mapping)


def add_hold(tx: Tx, zone: str, reason: str) -> None:
    tx.execute(holds.delete().where(holds.c.zone == zone))
    tx.execute(holds.insert().values(zone=zone, since=tx.now, reason=reason, released_at=None))


def release_hold(tx: Tx, zone: str, at: datetime) -> bool:
    """Keep the row: who was silent before then is not counted again. False: it is not held."""
    where = (holds.c.zone == zone) & holds.c.released_at.is_(None)
    return tx.execute(holds.update().where(where).values(released_at=at)).rowcount == 1


def release_losses(tx: Tx, node_ids: Collection[NodeId]) -> int:
    where = losses.c.node_id.in_(node_ids) & (losses.c.hold != "")
    return int(tx.execute(losses.update().where(where).values(hold="")).rowcount)


def _loss(row: Any) -> Loss:
    values = dict(row._mapping)
    values["door"] = Door(values["door"])
    return Loss(**values)
