"""The table of hosts."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    bindparam,
    false,
    literal,
    select,
    true,
    tuple_,
)

from cairn.core.errors import NotFound
from cairn.core.ids import ImageId, NodeId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared
from cairn.fleet.records import (
    NODE_LIFE,
    Coming,
    Node,
    NodeState,
    PowerAddress,
    SouthboundDoor,
)
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
    Column("address", String(255), nullable=False, server_default=""),
    Column("origin", String(255), nullable=False, server_default=""),
    Column("set_by_hand", Json(tuple[str, ...]), nullable=False, server_default="[]"),
    Column("wanted_images", Json(tuple[ImageId, ...]), nullable=False, server_default="[]"),
    Column("is_fencer", Boolean, nullable=False, server_default=false()),
    Index("ix_nodes_state", "state"),
    Index("ix_nodes_zone", "zone", "has_network_role"),
    Index("ix_nodes_hostname", "hostname", "id"),
    Index("ix_nodes_key_digest", "key_digest"),
    Index("ix_nodes_address", "address"),
)

_NODE = [c for c in nodes.c if c.name != "has_network_role"]


_NAMES = tuple(c.name for c in _NODE)
_BY_ID = Prepared(select(*_NODE).where(nodes.c.id == bindparam("node_id")))
_ALL = Prepared(select(*_NODE).order_by(nodes.c.hostname, nodes.c.id))
_STATES = {str(state): state for state in NodeState}


def _node(row: Iterable[Any]) -> Node:
    values = dict(zip(_NAMES, row, strict=True))
    values["state"] = _STATES[values["state"]]
    return Node(**values)


def find_node(tx: Tx, node_id: NodeId) -> Node | None:
    row = tx.run(_BY_ID, {"node_id": node_id}).first()
    return None if row is None else _node(row)


def node(tx: Tx, node_id: NodeId) -> Node:
    row = tx.run(_BY_ID, {"node_id": node_id}).first()
    if row is None:
        raise NotFound(f"Host {node_id} could not be found.")
    return _node(row)


def all_nodes(tx: Tx) -> list[Node]:
    """Every host by name. Ten thousand at most: callers that only count should not ask for it."""
    return [_node(row) for row in tx.run(_ALL)]


def find_nodes(tx: Tx, where: ColumnElement[bool], order: ColumnElement[Any]) -> list[Node]:
    return [_node(r) for r in tx.execute(select(*_NODE).where(where).order_by(order, nodes.c.id))]


def nodes_named(tx: Tx, hostname: str, limit: int) -> list[Node]:
    query = select(*_NODE).where(nodes.c.hostname == hostname).order_by(nodes.c.id).limit(limit)
    return [_node(row) for row in tx.execute(query)]


def list_nodes(
    tx: Tx, *, zone: str | None, state: str | None, after: Node | None, limit: int
) -> list[Node]:
    """A page of hosts by name, those after `after`."""
    query = select(*_NODE).order_by(nodes.c.hostname, nodes.c.id).limit(limit)
    if zone is not None:
        query = query.where(nodes.c.zone == zone)
    if state is not None:
        query = query.where(nodes.c.state == state)
    if after is not None:
        place = tuple_(nodes.c.hostname, nodes.c.id)
        query = query.where(place > tuple_(literal(after.hostname), literal(after.id)))
    return [_node(row) for row in tx.execute(query)]


def hostnames(tx: Tx) -> dict[NodeId, str]:
    return {row.id: row.hostname for row in tx.execute(select(nodes.c.id, nodes.c.hostname))}


def nodes_in_zone(tx: Tx, zone: str) -> list[NodeId]:
    """All hosts of a zone: for what concerns each of them."""
    query = select(nodes.c.id).where(nodes.c.zone == zone).order_by(nodes.c.id)
    return list(tx.execute(query).scalars())


def network_nodes(tx: Tx, zone: str) -> list[NodeId]:
    """Who writes the logical network of a zone."""
    where = (nodes.c.zone == zone) & nodes.c.has_network_role
    return list(tx.execute(select(nodes.c.id).where(where).order_by(nodes.c.id)).scalars())


def southbound_doors(tx: Tx, zone: str) -> list[SouthboundDoor]:
    """The network databases of a zone that hosts told of, in the order of the hosts' ids."""
    return [
        SouthboundDoor(node_id=node_id, state=_STATES[state], address=facts.southbound)
        for node_id, state, facts in tx.run(_DOORS, {"in_zone": zone})
        if facts is not None and facts.southbound
    ]


_DOORS = Prepared(
    select(nodes.c.id, nodes.c.state, nodes.c.facts)
    .where((nodes.c.zone == bindparam("in_zone")) & nodes.c.has_network_role)
    .order_by(nodes.c.id)
)


def add_node(
    tx: Tx, node_id: NodeId, *, hostname: str, zone: str, roles: tuple[str, ...], origin: str
) -> None:
    tx.execute(
        nodes.insert().values(
            id=node_id,
            hostname=hostname,
            zone=zone,
            roles=roles,
            has_network_role="network" in roles,
            origin=origin,
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


class Presence(NamedTuple):
    """What must be known of a host when its agent connects."""

    state: NodeState
    generation: int
    spec_number: int
    report_digest: bytes | None


_PRESENCE = Prepared(
    select(nodes.c.state, nodes.c.generation, nodes.c.spec_number, nodes.c.report_digest).where(
        nodes.c.id == bindparam("node_id")
    )
)
_TAKE_IN = Prepared(
    nodes.update()
    .where(nodes.c.id == bindparam("node_id"))
    .values(
        generation=bindparam("new_generation"),
        control_id=bindparam("by"),
        agent_version=bindparam("version"),
        wire_version=bindparam("wire"),
    )
)
_RAISE_SPEC = Prepared(
    nodes.update()
    .where(nodes.c.id == bindparam("node_id"))
    .values(spec_number=nodes.c.spec_number + 1)
    .returning(nodes.c.spec_number)
)
_FACTS = Prepared(select(nodes.c.facts).where(nodes.c.id == bindparam("node_id")))
_RECORD = Prepared(
    nodes.update()
    .where(nodes.c.id == bindparam("node_id"), nodes.c.report_number < bindparam("number"))
    .values(
        report_number=bindparam("number"),
        reported_spec_number=bindparam("said_spec_number"),
        report_digest=bindparam("digest"),
        facts=bindparam("said_facts", type_=nodes.c.facts.type),
        hostname=bindparam("name"),
        engines=bindparam("said_engines", type_=nodes.c.engines.type),
        images=bindparam("said_images", type_=nodes.c.images.type),
        health=bindparam("said_health", type_=nodes.c.health.type),
    )
)


_LIGHT_NAMES = tuple(
    name for name in _NAMES if name not in ("engines", "images", "health", "power", "wanted_images")
)
_SELECT_LIGHT = select(*(nodes.c[name] for name in _LIGHT_NAMES)).order_by(nodes.c.id)
_LIGHT = Prepared(_SELECT_LIGHT)
_LIGHT_IN_ZONE = Prepared(_SELECT_LIGHT.where(nodes.c.zone == bindparam("in_zone")))


def candidates(tx: Tx, zone: str | None) -> list[Node]:
    """Every host (of a zone) without what no placer asks about: its engines, images, health and power."""
    found = []
    for row in tx.run(_LIGHT) if zone is None else tx.run(_LIGHT_IN_ZONE, {"in_zone": zone}):
        values = dict(zip(_LIGHT_NAMES, row, strict=True))
        values["state"] = _STATES[values["state"]]
        found.append(Node(**values))
    return found


def presence(tx: Tx, node_id: NodeId) -> Presence | None:
    row = tx.run(_PRESENCE, {"node_id": node_id}).first()
    return None if row is None else Presence(NodeState(row[0]), *row[1:])


def take_in(tx: Tx, taken: Sequence[tuple[Coming, int]]) -> None:
    """Write each host's new generation, and by whom and how it is connected."""
    rows = [
        {
            "node_id": coming.node_id,
            "new_generation": generation,
            "by": coming.control_id,
            "version": coming.agent_version[:64],
            "wire": coming.wire_version,
        }
        for coming, generation in taken
    ]
    tx.run_many(_TAKE_IN, rows)


def spec_numbers(tx: Tx) -> dict[NodeId, int]:
    query = select(nodes.c.id, nodes.c.spec_number)
    return {row.id: row.spec_number for row in tx.execute(query)}


def ids_in_state(tx: Tx, state: NodeState) -> list[NodeId]:
    query = select(nodes.c.id).where(nodes.c.state == state).order_by(nodes.c.id)
    return list(tx.execute(query).scalars())


def facts_of(tx: Tx, node_id: NodeId) -> HostFacts | None:
    found: HostFacts | None = tx.run(_FACTS, {"node_id": node_id}).scalar()
    return found


def raise_spec_number(tx: Tx, node_id: NodeId) -> int:
    number = tx.run(_RAISE_SPEC, {"node_id": node_id}).scalar()
    if number is None:
        raise NotFound(f"Host {node_id} could not be found.")
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
    said = {
        "node_id": report.node_id,
        "number": report.number,
        "said_spec_number": report.spec_number,
        "digest": report.digest or None,
        "said_facts": report.facts,
        "name": report.facts.hostname,
        "said_engines": report.engines,
        "said_images": tuple(i.id for i in report.images if i.ready),
        "said_health": report.health,
    }
    return tx.run(_RECORD, said).rowcount == 1


def arrange(tx: Tx, node: Node) -> None:
    """Write what an operator may choose of a host."""
    tx.execute(
        nodes.update()
        .where(nodes.c.id == node.id)
        .values(
            zone=node.zone,
            roles=node.roles,
            has_network_role="network" in node.roles,
            rack=node.rack,
            labels=node.labels,
            power=node.power,
            set_by_hand=node.set_by_hand,
        )
    )


def want_images(tx: Tx, node_id: NodeId, wanted: tuple[ImageId, ...]) -> None:
    tx.execute(nodes.update().where(nodes.c.id == node_id).values(wanted_images=wanted))


def set_draining(tx: Tx, node_id: NodeId, *, is_draining: bool) -> None:
    where = nodes.c.id == node_id
    tx.execute(nodes.update().where(where).values(is_draining=is_draining))


def set_enabled(tx: Tx, node_id: NodeId, *, enabled: bool, reason: str | None) -> None:
    tx.execute(
        nodes.update()
        .where(nodes.c.id == node_id)
        .values(enabled=enabled, disabled_reason=None if enabled else reason)
    )
