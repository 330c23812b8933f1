"""The table of hosts."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    bindparam,
    false,
    select,
    true,
)

from cairn.core.errors import NotFound
from cairn.core.ids import ImageId, NodeId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.fleet.records import NODE_LIFE, Node, NodeState, PowerAddress
from cairn.wire.report import EngineSeen, HealthSeen, HostFacts, NodeReport

nodes = Table(
    "nodes",
    metadata,
    id_column(primary_key=True),
    Column("hostname", String(255), nullable=False),
    Column("zone", String(255), nullable=False),
    Column("roles", Json(tuple[str, ...]), nullable=False),
    Column("has_network_role", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("state_since", Time, nullable=False),
    Column("generation", Integer, nullable=False, default=0),
    Column("spec_number", Integer, nullable=False, default=1),
    Column("report_number", BigInteger, nullable=False, default=0),
    Column("reported_spec_number", Integer, nullable=False, default=0),
    Column("facts", Json(HostFacts)),
    Column("engines", Json(tuple[EngineSeen, ...]), nullable=False, default=()),
    Column("images", Json(tuple[ImageId, ...]), nullable=False, default=()),
    Column("enabled", Boolean, nullable=False, default=True),
    Column("disabled_reason", Text),
    Column("rack", String(255), nullable=False, server_default=""),
    Column("labels", Json(dict[str, str]), nullable=False, server_default="{}"),
    Column("is_draining", Boolean, nullable=False, server_default=false()),
    Column("health", Json(tuple[HealthSeen, ...]), nullable=False, server_default="[]"),
    id_column("control_id"),
    Column("report_digest", LargeBinary),
    Column("power", Json(PowerAddress)),
    Column("power_on", Boolean, nullable=False, server_default=true()),
    Column("power_number", Integer, nullable=False, server_default="0"),
    Column("agent_version", String(64), nullable=False, server_default=""),
    Column("wire_version", Integer, nullable=False, server_default="0"),
    Column("key_digest", String(64), nullable=False, server_default=""),
    Index("ix_nodes_zone", "zone", "has_network_role"),
)

_NODE = [c for c in nodes.c if c.name != "has_network_role"]


_BY_ID = select(*_NODE).where(nodes.c.id == bindparam("wanted_id"))
"""Built once: composing a statement of this width costs more than running it."""


def _node(row: object) -> Node:
    values = dict(row._mapping)  # type: ignore[attr-defined]
    values["state"] = NodeState(values["state"])
    return Node(**values)


def node(tx: Tx, node_id: NodeId) -> Node:
    row = tx.execute(_BY_ID, {"wanted_id": node_id}).one_or_none()
    if row is None:
        raise NotFound(f"Host {node_id} could not be found.")
    return _node(row)


def all_nodes(tx: Tx) -> list[Node]:
    """Every host by name. Ten thousand at most: callers that only count should not ask for it."""
    return [_node(row) for row in tx.execute(select(*_NODE).order_by(nodes.c.hostname, nodes.c.id))]


def network_nodes(tx: Tx, zone: str) -> list[NodeId]:
    """Who writes the logical network of a zone."""
    where = (nodes.c.zone == zone) & nodes.c.has_network_role
    return list(tx.execute(select(nodes.c.id).where(where).order_by(nodes.c.id)).scalars())


def add_node(tx: Tx, node_id: NodeId, *, hostname: str, zone: str, roles: tuple[str, ...]) -> None:
    tx.execute(
        nodes.insert().values(
            id=node_id,
            hostname=hostname,
            zone=zone,
            roles=roles,
            has_network_role="network" in roles,
            state=NodeState.JOINING,
            state_since=tx.now,
        )
    )


def change_node(
    tx: Tx, node_id: NodeId, *, hostname: str, zone: str, roles: tuple[str, ...]
) -> None:
    tx.execute(
        nodes.update()
        .where(nodes.c.id == node_id)
        .values(hostname=hostname, zone=zone, roles=roles, has_network_role="network" in roles)
    )


def raise_spec_number(tx: Tx, node_id: NodeId) -> int:
    number = tx.execute(
        nodes.update()
        .where(nodes.c.id == node_id)
        .values(spec_number=nodes.c.spec_number + 1)
        .returning(nodes.c.spec_number)
    ).scalar_one_or_none()
    if number is None:
        raise NotFound(f"Host {node_id} could not be found.")
    return int(number)


def raise_generation(tx: Tx, node_id: NodeId) -> int:
    number = tx.execute(
        nodes.update()
        .where(nodes.c.id == node_id)
        .values(generation=nodes.c.generation + 1)
        .returning(nodes.c.generation)
    ).scalar_one_or_none()
    if number is None:
        raise NotFound(f"Host {node_id} is not enrolled here.")
    return int(number)


def move(tx: Tx, seen: Node, event: str) -> NodeState:
    """Write the state after `event`; the time only when it changes."""
    state = NODE_LIFE.move(seen.state, event)
    if state is not seen.state:
        tx.execute(
            nodes.update()
            .where(nodes.c.id == seen.id, nodes.c.state == seen.state)
            .values(state=state, state_since=tx.now)
        )
    return state


def record_report(tx: Tx, report: NodeReport) -> bool:
    """Write what a host said of itself; False when we already know something newer."""
    done = tx.execute(
        nodes.update()
        .where(nodes.c.id == report.node_id, nodes.c.report_number < report.number)
        .values(
            report_number=report.number,
            reported_spec_number=report.spec_number,
            facts=report.facts,
            hostname=report.facts.hostname,
            engines=report.engines,
            images=tuple(i.id for i in report.images if i.ready),
        )
    )
    return done.rowcount == 1


def set_enabled(tx: Tx, node_id: NodeId, *, enabled: bool, reason: str | None) -> None:
    tx.execute(
        nodes.update()
        .where(nodes.c.id == node_id)
        .values(enabled=enabled, disabled_reason=None if enabled else reason)
    )
