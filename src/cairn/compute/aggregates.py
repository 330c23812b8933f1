"""Aggregates: named sets of hosts with metadata, which flavors may ask for, and zones by their old name.

The metadata `availability_zone` of an aggregate is the zone of its hosts: there is one truth, the host's
own zone, and the verbs here keep to Nova's rules when they change it.
Source: Nova's api-ref, "Host aggregates"; nova/compute/api.py, class AggregateAPI.
"""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import Column, Index, Integer, String, Table, delete, select, update

from cairn.compute import store
from cairn.compute.records import Flavor
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import NodeId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.fleet import hosts
from cairn.fleet import service as fleet
from cairn.fleet.records import DEFAULT_ZONE, HostLoad, Node
from cairn.network import service as network
from cairn.placement import service as placement
from cairn.volume import service as volumes

ZONE = "availability_zone"
SCOPE = "aggregate_instance_extra_specs:"
METADATA_MAX = 128  # keys of an aggregate

aggregates = Table(
    "aggregates",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    id_column("uuid", nullable=False, unique=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("metadata", Json(dict[str, str]), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time),
)

members = Table(
    "aggregate_hosts",
    metadata,
    Column("aggregate_id", Integer, primary_key=True, autoincrement=False),
    id_column("node_id", primary_key=True),
    Index("ix_aggregate_hosts_node_id", "node_id"),
)


class Aggregate(Struct, frozen=True, kw_only=True):
    id: int
    uuid: str
    name: str
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime | None = None
    node_ids: tuple[NodeId, ...] = ()

    @property
    def zone(self) -> str | None:
        return self.metadata.get(ZONE)


# --- verbs -------------------------------------------------------------------------------------------


def list_all(tx: Tx) -> list[Aggregate]:
    """Every aggregate by number. They are made by hand, so they are few."""
    return _aggregates(tx, select(aggregates).order_by(aggregates.c.id))


def get(tx: Tx, aggregate_id: int) -> Aggregate:
    found = _aggregates(tx, select(aggregates).where(aggregates.c.id == aggregate_id))
    if not found:
        raise NotFound(f"Aggregate {aggregate_id} could not be found.")
    return found[0]


def create(tx: Tx, *, name: str, zone: str | None) -> Aggregate:
    _require_free_name(tx, name)
    row = aggregates.insert().values(
        uuid=tx.new_id(),
        name=name,
        metadata={ZONE: _zone_name(zone)} if zone is not None else {},
        created_at=tx.now,
    )
    number = tx.execute(row.returning(aggregates.c.id)).scalar_one()
    return get(tx, int(number))


def rename(tx: Tx, aggregate_id: int, name: str) -> None:
    if get(tx, aggregate_id).name != name:
        _require_free_name(tx, name)
        _write(tx, aggregate_id, name=name)


def change_metadata(tx: Tx, aggregate_id: int, changes: Mapping[str, str | None]) -> None:
    """Merge; None takes a key away. A changed zone moves the aggregate's hosts. Raises Conflict."""
    known = get(tx, aggregate_id)
    merged = known.metadata | {k: v for k, v in changes.items() if v is not None}
    kept = {k: v for k, v in sorted(merged.items()) if changes.get(k, "") is not None}
    if len(kept) > METADATA_MAX:
        raise Invalid(f"metadata: an aggregate has at most {METADATA_MAX} keys.")
    if ZONE in kept:
        _zone_name(kept[ZONE])
    after = msgspec.structs.replace(known, metadata=kept)
    if after.zone != known.zone:
        _require_one_zone(tx, after, after.node_ids)
        for node in _nodes(tx, after):
            _move(tx, node, after.zone or DEFAULT_ZONE)
    _write(tx, aggregate_id, metadata=kept)


def remove(tx: Tx, aggregate_id: int) -> None:
    known = get(tx, aggregate_id)
    if _nodes(tx, known):
        raise Conflict(_refused("delete", known, "Host aggregate is not empty"))
    tx.execute(delete(members).where(members.c.aggregate_id == aggregate_id))
    tx.execute(delete(aggregates).where(aggregates.c.id == aggregate_id))


def add_host(tx: Tx, aggregate_id: int, host: str) -> None:
    """Raises NotFound (no such host), Conflict (it is in, or in another zone for good reason)."""
    known, node = get(tx, aggregate_id), _compute_host(tx, host)
    if node.id in known.node_ids:
        raise Conflict(f"Aggregate {aggregate_id} already has host {node.hostname}.")
    _require_one_zone(tx, known, (node.id,))
    if known.zone is not None:
        _move(tx, node, known.zone)
    tx.execute(members.insert().values(aggregate_id=aggregate_id, node_id=node.id))
    _write(tx, aggregate_id)
    fleet.wake_placers(tx)


def remove_host(tx: Tx, aggregate_id: int, host: str) -> None:
    """The host goes back to the default zone, if the aggregate gave it another."""
    known, node = get(tx, aggregate_id), _compute_host(tx, host)
    if node.id not in known.node_ids:
        raise NotFound(f"Aggregate {aggregate_id} has no host {node.hostname}.")
    this = (members.c.aggregate_id == aggregate_id) & (members.c.node_id == node.id)
    tx.execute(delete(members).where(this))
    _write(tx, aggregate_id)
    is_held = any(a.zone for a in list_all(tx) if node.id in a.node_ids)
    if known.zone is not None and not is_held:
        _move(tx, node, DEFAULT_ZONE)


def forget_host(tx: Tx, node_id: NodeId) -> None:
    """The host is no member of the cloud any more."""
    tx.execute(delete(members).where(members.c.node_id == node_id))


# --- what flavors ask for ----------------------------------------------------------------------------


def eligible_nodes(tx: Tx, flavor: Flavor) -> frozenset[NodeId] | None:
    """Hosts that are in aggregates with what the flavor's extra specs ask for; None: it asks nothing.

    As Nova's AggregateInstanceExtraSpecsFilter: each `aggregate_instance_extra_specs:KEY` must match a
    value that one of the host's aggregates has under KEY."""
    wishes = {
        key.removeprefix(SCOPE): wish
        for key, wish in flavor.extra_specs.items()
        if key.startswith(SCOPE)
    }
    if not wishes:
        return None
    found = list_all(tx)
    matching = (
        {
            node_id
            for aggregate in found
            if key in aggregate.metadata and matches(aggregate.metadata[key], wish)
            for node_id in aggregate.node_ids
        }
        for key, wish in wishes.items()
    )
    return frozenset(set.intersection(*matching))


_NUMBERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.ge,  # Nova's "=" means "at least", for reasons of its history
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
}
_TEXTS: Mapping[str, Callable[[str, str], bool]] = {
    "s==": operator.eq,
    "s!=": operator.ne,
    "s<": operator.lt,
    "s<=": operator.le,
    "s>": operator.gt,
    "s>=": operator.ge,
}


def matches(value: str, wish: str) -> bool:
    """Whether a value is what an extra spec asks for, in the language of nova's extra_specs_ops."""
    words = wish.split()
    if not words:
        return value == wish
    head, rest = words[0], words[1:]
    if head == "<or>":
        return value in re.split(r"\s*<or>\s*", wish.strip())[1:]
    if head == "<in>":
        return bool(rest) and rest[0] in value
    if head == "<all-in>":
        return all(word in value for word in rest)
    if head in _TEXTS:
        return len(rest) == 1 and _TEXTS[head](value, rest[0])
    if head in _NUMBERS:
        return len(rest) == 1 and _compare(_NUMBERS[head], value, rest[0])
    return value == wish


def _compare(does: Callable[[Any, Any], bool], value: str, wish: str) -> bool:
    try:
        return does(float(value), float(wish))
    except ValueError:
        return False


# --- what hosts carry --------------------------------------------------------------------------------


def loads(tx: Tx, nodes: Sequence[Node]) -> dict[NodeId, HostLoad]:
    """What these hosts carry: a fixed number of statements, whatever their number."""
    rooms = placement.rooms(tx, list(nodes))
    servers, held = store.running_by_node(tx), volumes.counts_by_node(tx)
    networks = network.counts_by_zone(tx)
    groups: dict[NodeId, list[Aggregate]] = {}
    for aggregate in list_all(tx):
        for node_id in aggregate.node_ids:
            groups.setdefault(node_id, []).append(aggregate)
    found = {}
    for node in nodes:
        load = HostLoad(
            servers=servers.get(node.id, 0),
            volumes=held.get(node.id, 0),
            zone_networks=networks.get(node.zone, 0),
            aggregates=tuple(a.name for a in groups.get(node.id, ())),
            zone_held_by=next((f"'{a.name}'" for a in groups.get(node.id, ()) if a.zone), ""),
        )
        if (room := rooms.get(node.id)) is not None:
            load = msgspec.structs.replace(
                load,
                vcpus=room.capacity.vcpus,
                vcpus_taken=room.taken.vcpus,
                memory_mib=room.capacity.memory_mib,
                memory_mib_taken=room.taken.memory_mib,
                disk_gib=room.capacity.disk_gib,
                disk_gib_taken=room.taken.disk_gib,
            )
        found[node.id] = load
    return found


# --- parts -------------------------------------------------------------------------------------------


def _aggregates(tx: Tx, query: Any) -> list[Aggregate]:
    rows = list(tx.execute(query))
    wanted = [row.id for row in rows]
    in_them = select(members).where(members.c.aggregate_id.in_(wanted)).order_by(members.c.node_id)
    by_id: dict[int, list[NodeId]] = {}
    for member in tx.execute(in_them) if wanted else ():
        by_id.setdefault(member.aggregate_id, []).append(NodeId(member.node_id))
    return [Aggregate(**row._mapping, node_ids=tuple(by_id.get(row.id, ()))) for row in rows]


def _write(tx: Tx, aggregate_id: int, **values: Any) -> None:
    where = aggregates.c.id == aggregate_id
    tx.execute(update(aggregates).where(where).values(updated_at=tx.now, **values))


def _require_free_name(tx: Tx, name: str) -> None:
    if tx.execute(select(aggregates.c.id).where(aggregates.c.name == name)).first() is not None:
        raise Conflict(f"Aggregate {name} already exists.")


def _zone_name(zone: str) -> str:
    hosts.require_word(zone, ZONE)
    return zone


def _compute_host(tx: Tx, host: str) -> Node:
    node = hosts.find(tx, host)
    if "compute" not in node.roles:
        raise NotFound(f"Compute host {host[:255]} could not be found.")
    return node


def _nodes(tx: Tx, aggregate: Aggregate) -> list[Node]:
    """Its hosts that are still members of the cloud."""
    return [node for node in fleet.nodes(tx) if node.id in aggregate.node_ids]


def _require_one_zone(tx: Tx, aggregate: Aggregate, node_ids: Iterable[NodeId]) -> None:
    """A host is in one zone, so all its aggregates that name one must name the same."""
    if aggregate.zone is None:
        return
    asked = set(node_ids)
    others = {
        other.zone
        for other in list_all(tx)
        if other.id != aggregate.id and other.zone and asked & set(other.node_ids)
    } - {aggregate.zone}
    if others:
        named = ", ".join(sorted(f"'{zone}'" for zone in others if zone))
        reason = f"One or more hosts already in availability zone(s) [{named}]"
        raise Conflict(_refused("change the zone of", aggregate, reason))


def _move(tx: Tx, node: Node, zone: str) -> None:
    """Raises Conflict while the host holds guests: see fleet/hosts.py."""
    if node.zone != zone:
        load = msgspec.structs.replace(loads(tx, [node])[node.id], zone_held_by="")
        hosts.arrange(tx, node, hosts.Wish(zone=zone), load)


def _refused(action: str, aggregate: Aggregate, reason: str) -> str:
    return f"Cannot {action} aggregate {aggregate.id}. Reason: {reason}."
