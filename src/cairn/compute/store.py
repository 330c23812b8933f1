"""The tables of servers, their disks and their nics.

A server's row holds all that a list shows of it but its volumes and addresses, so that a thousand
servers cost one query each for rows, disks and ports. Who writes which column: service.py the wishes,
control.py the places, reports.py the sightings.
"""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    String,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    func,
    not_,
    or_,
    select,
)

from cairn.compute.records import (
    POWER_STATES,
    SERVER_LIFE,
    Disk,
    Fault,
    Flavor,
    Nic,
    Search,
    Server,
    ServerState,
    Usage,
)
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import NodeId, PortId, ProjectId, ServerId, VolumeId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared, deleting, inserting, updating
from cairn.wire.report import GuestState, Trouble
from cairn.wire.spec import Power

servers = Table(
    "servers",
    metadata,
    id_column(primary_key=True),
    id_column("project_id", nullable=False),
    id_column("user_id", nullable=False),
    Column("name", String(255), nullable=False),
    Column("description", String(255)),
    Column("hostname", String(255), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("flavor", Json(Flavor), nullable=False),
    Column("flavor_id", String(255), nullable=False),  # of `flavor`, for filters and sums
    Column("vcpus", Integer, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    id_column("image_id"),
    Column("root_gib", Integer, nullable=False),
    Column("key_name", String(255)),
    Column("public_key", Text),
    Column("admin_password", Text),
    Column("user_data", Text),
    Column("has_config_drive", Boolean, nullable=False),
    Column("metadata", Json(dict[str, str]), nullable=False),
    Column("tags", Json(tuple[str, ...]), nullable=False),
    Column("groups", Json(tuple[str, ...]), nullable=False),
    Column("zone_wish", String(255)),
    Column("disk_config", String(8), nullable=False),
    Column("access_ipv4", String(64), nullable=False),
    Column("access_ipv6", String(64), nullable=False),
    Column("reservation_id", String(32), nullable=False),
    Column("launch_index", Integer, nullable=False),
    Column("is_locked", Boolean, nullable=False),
    Column("locked_reason", String(255)),
    Column("power", String(16), nullable=False),
    Column("boot_number", Integer, nullable=False),
    Column("is_soft_reboot", Boolean, nullable=False),
    Column("stop_grace_s", Integer, nullable=False),
    Column("is_doomed", Boolean, nullable=False),
    Column("gone_number", Integer),
    id_column("node_id"),
    Column("zone", String(255)),
    Column("incarnation", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("fault", Json(Fault)),
    Column("launched_at", Time),
    Column("seen_state", String(16)),
    Column("seen_boot", Integer, nullable=False),
    Column("seen_number", BigInteger, nullable=False),
    Column("trouble", Json(Trouble)),
    Column("restart_default", String(8), nullable=False, server_default="false"),
    Column("mark_number", Integer, nullable=False, server_default="0"),
    Column("evicted_incarnation", Integer, nullable=False, server_default="0"),
    Column("pool_zone", String(255)),
    id_column("migration_id"),
    Column("moving", String(8)),
    Index("ix_servers_project", "project_id", "created_at", "id"),
    Index("ix_servers_created", "created_at", "id"),
    Index("ix_servers_node", "node_id"),
    Index("ix_servers_state", "state"),
    Index("ix_servers_flavor", "flavor_id"),
    Index("ix_servers_usage", "project_id", "vcpus", "memory_mib"),
    Index("ix_servers_unplaced", "state", "node_id", "created_at"),
)

disks = Table(
    "server_disks",
    metadata,
    id_column(primary_key=True),
    id_column("server_id", nullable=False),
    id_column("volume_id", nullable=False),
    Column("device", String(32), nullable=False),
    Column("is_boot", Boolean, nullable=False),
    Column("delete_on_termination", Boolean, nullable=False),
    Column("tag", String(60)),
    Column("is_wanted", Boolean, nullable=False),
    Column("want_number", Integer, nullable=False),
    Column("is_plugged", Boolean, nullable=False),
    Column("made_at", Time, nullable=False),
    Index("ix_server_disks_server", "server_id"),
    Index("ix_server_disks_volume", "volume_id", unique=True),
)

nics = Table(
    "server_nics",
    metadata,
    id_column("port_id", primary_key=True),
    id_column("server_id", nullable=False),
    Column("position", Integer, nullable=False),
    Column("is_owned", Boolean, nullable=False),
    Column("tag", String(60)),
    Column("is_wanted", Boolean, nullable=False),
    Column("want_number", Integer, nullable=False),
    Column("made_at", Time, nullable=False),
    Index("ix_server_nics_server", "server_id"),
)

SERVER_COLUMNS = [c for c in servers.c if c.name not in ("flavor_id", "vcpus", "memory_mib")]

# Asked at every look at a server, so prepared once: building a statement costs more than running it.
_SELECT = select(*SERVER_COLUMNS)
_BY_ID = Prepared(_SELECT.where(servers.c.id == bindparam("id")))
_BY_ID_IN = Prepared(
    _SELECT.where(servers.c.id == bindparam("id"), servers.c.project_id == bindparam("project_id"))
)
_ON_NODE = Prepared(_SELECT.where(servers.c.node_id == bindparam("node_id")).order_by(servers.c.id))
_WATCHED_NAMES = (
    "id", "incarnation", "is_doomed", "gone_number", "root_gib", "state", "power", "boot_number",
    "is_soft_reboot", "node_id", "seen_state", "seen_boot", "seen_number", "trouble",
    "migration_id", "moving",
)  # fmt: skip
_WATCHED = Prepared(
    select(*(servers.c[name] for name in _WATCHED_NAMES))
    .where(servers.c.node_id == bindparam("node_id"))
    .order_by(servers.c.id)
)
_RECORD_SEEN = Prepared(
    servers.update()
    .where(
        servers.c.id == bindparam("server_id"),
        servers.c.incarnation == bindparam("of_incarnation"),
        servers.c.seen_number < bindparam("number"),
    )
    .values(
        seen_state=bindparam("state"),
        seen_boot=bindparam("boot"),
        seen_number=bindparam("number"),
        trouble=bindparam("with_trouble", type_=servers.c.trouble.type),
    )
)
_PLACE = Prepared(
    servers.update()
    .where(
        servers.c.id == bindparam("server_id"),
        servers.c.node_id.is_(None),
        servers.c.incarnation == bindparam("was"),
        servers.c.is_doomed.is_(False),
    )
    .values(
        node_id=bindparam("node"),
        zone=bindparam("in_zone"),
        incarnation=bindparam("becomes"),
        updated_at=bindparam("at", type_=servers.c.updated_at.type),
    )
)
_ON_THIS_NODE = servers.c.node_id == bindparam("node_id")
_DISKS_ON = Prepared(
    select(disks)
    .join(servers, servers.c.id == disks.c.server_id)
    .where(_ON_THIS_NODE)
    .order_by(disks.c.made_at, disks.c.device)
)
_DISKS_MOVING_ON = Prepared(
    select(disks)
    .join(servers, servers.c.id == disks.c.server_id)
    .where(_ON_THIS_NODE, not_(and_(disks.c.is_wanted, disks.c.is_plugged)))
    .order_by(disks.c.made_at, disks.c.device)
)
_NICS_ON = Prepared(
    select(nics)
    .join(servers, servers.c.id == nics.c.server_id)
    .where(_ON_THIS_NODE)
    .order_by(nics.c.position)
)
_NICS_MOVING_ON = Prepared(
    select(nics)
    .join(servers, servers.c.id == nics.c.server_id)
    .where(_ON_THIS_NODE, not_(nics.c.is_wanted))
    .order_by(nics.c.position)
)
_DISKS_OF_ONE = Prepared(
    select(disks)
    .where(disks.c.server_id == bindparam("server_id"))
    .order_by(disks.c.made_at, disks.c.device)
)
_NICS_OF_ONE = Prepared(
    select(nics).where(nics.c.server_id == bindparam("server_id")).order_by(nics.c.position)
)
_DISKS = (
    select(disks)
    .where(disks.c.server_id.in_(bindparam("ids", expanding=True)))
    .order_by(disks.c.made_at, disks.c.device)
)

SORT = {
    "created_at": servers.c.created_at,
    "updated_at": servers.c.updated_at,
    "launched_at": func.coalesce(servers.c.launched_at, 0),
    "uuid": servers.c.id,
    "id": servers.c.id,
    "name": servers.c.name,
    "display_name": servers.c.name,
    "display_description": func.coalesce(servers.c.description, ""),
    "hostname": servers.c.hostname,
    "instance_type_id": servers.c.flavor_id,
    "image_ref": func.coalesce(servers.c.image_id, ""),
    "key_name": func.coalesce(servers.c.key_name, ""),
    "availability_zone": func.coalesce(servers.c.zone, ""),
    "host": func.coalesce(servers.c.node_id, ""),
    "node": func.coalesce(servers.c.node_id, ""),
    "project_id": servers.c.project_id,
    "user_id": servers.c.user_id,
    "vm_state": servers.c.state,
    "task_state": servers.c.is_doomed,
    "power_state": func.coalesce(servers.c.seen_state, ""),
    "locked": servers.c.is_locked,
    "locked_by": servers.c.is_locked,
    "config_drive": servers.c.has_config_drive,
    "launch_index": servers.c.launch_index,
    "root_device_name": servers.c.id,
    "progress": servers.c.state,
    "access_ip_v4": servers.c.access_ipv4,
    "access_ip_v6": servers.c.access_ipv6,
}
"""What lists can be sorted by, under the API's names."""


# --- servers -----------------------------------------------------------------------------------------


def server(tx: Tx, reach: ProjectId | None, server_id: ServerId) -> Server:
    if reach is None:
        row = tx.run(_BY_ID, {"id": server_id}).first()
    else:
        row = tx.run(_BY_ID_IN, {"id": server_id, "project_id": reach}).first()
    if row is None:
        raise NotFound(f"Instance {server_id[:64]} could not be found.")
    return _server(row)


def list_servers(tx: Tx, reach: ProjectId | None, search: Search) -> list[Server]:
    """One page. Raises Invalid for a marker or a sort key that does not exist."""
    query = select(*SERVER_COLUMNS).where(*_reach(reach), *_matching(search))
    keys = _sort_keys(search)
    if search.marker is not None:
        wanted = select(*(SORT[k] for k, _ in keys)).where(servers.c.id == search.marker)
        row = tx.execute(wanted.where(*_reach(reach))).one_or_none()
        if row is None:
            raise Invalid(f"marker [{search.marker[:64]}] not found")
        query = query.where(_after(keys, tuple(row)))
    query = query.order_by(*(SORT[k].desc() if down else SORT[k].asc() for k, down in keys))
    return [_server(row) for row in tx.execute(query.limit(search.limit))]


def servers_on(tx: Tx, node_id: NodeId) -> list[Server]:
    """Every server of a host, doomed ones too, by id."""
    return [_server(row) for row in tx.run(_ON_NODE, {"node_id": node_id})]


class Watched(NamedTuple):
    """What decides whether a host's report says anything new of a server."""

    id: ServerId
    incarnation: int
    is_doomed: bool
    gone_number: int | None
    root_gib: int
    state: ServerState
    power: Power
    boot_number: int
    is_soft_reboot: bool
    node_id: NodeId | None
    seen_state: GuestState | None
    seen_boot: int
    seen_number: int
    trouble: Trouble | None
    migration_id: str | None
    moving: str | None


def watched_on(tx: Tx, node_id: NodeId) -> list[Watched]:
    """Every server of a host, doomed ones too, by id: a tenth of the cost of `servers_on`."""
    found = []
    for row in tx.run(_WATCHED, {"node_id": node_id}):
        values = list(row)
        values[5], values[6] = _STATES[row[5]], _POWERS[row[6]]
        values[10] = _SEEN_STATES[row[10]]
        found.append(Watched._make(values))
    return found


_WAITING = (
    (servers.c.state == ServerState.BUILDING)
    & servers.c.node_id.is_(None)
    & servers.c.is_doomed.is_(False)
)
_UNPLACED_IDS = Prepared(
    select(servers.c.id)
    .where(_WAITING)
    .order_by(servers.c.created_at, servers.c.id)
    .limit(bindparam("most"))
)
_STILL_UNPLACED = (
    _SELECT.where(_WAITING, servers.c.id.in_(bindparam("ids", expanding=True)))
).order_by(servers.c.created_at, servers.c.id)


def unplaced_ids(tx: Tx, limit: int) -> list[ServerId]:
    """Servers that wait for a host, the oldest first."""
    return tx.run(_UNPLACED_IDS, {"most": limit}).scalars()


def still_unplaced(tx: Tx, ids: Collection[ServerId]) -> list[Server]:
    """Those of them that still wait, the oldest first."""
    return [_server(row) for row in tx.execute(_STILL_UNPLACED, {"ids": list(ids)})]


def names_by_node(tx: Tx, node_ids: Collection[NodeId]) -> dict[NodeId, list[tuple[ServerId, str]]]:
    """Id and name of the servers of these hosts, by name."""
    query = select(servers.c.node_id, servers.c.id, servers.c.name)
    query = query.where(servers.c.node_id.in_(node_ids)).order_by(servers.c.name, servers.c.id)
    found: dict[NodeId, list[tuple[ServerId, str]]] = {}
    for row in tx.execute(query):
        found.setdefault(row.node_id, []).append((row.id, row.name))
    return found


def names_of(tx: Tx, server_ids: Collection[ServerId]) -> dict[ServerId, str]:
    """Of those that exist."""
    query = select(servers.c.id, servers.c.name).where(servers.c.id.in_(list(server_ids)))
    return {ServerId(row.id): row.name for row in tx.execute(query)}


def add_server(tx: Tx, new: Server) -> None:
    values = {name: getattr(new, name) for name in _NAMES}
    values |= {
        "flavor_id": new.flavor.id,
        "vcpus": new.flavor.vcpus,
        "memory_mib": new.flavor.memory_mib,
    }
    tx.run(inserting(servers, tuple(values)), values)


def change_server(tx: Tx, server_id: ServerId, **values: Any) -> None:
    """Write what its user says of it."""
    tx.execute(
        servers.update().where(servers.c.id == server_id).values(updated_at=tx.now, **values)
    )


def wish(tx: Tx, of: Server, **values: Any) -> None:
    """Write what should become of it. Raises Conflict when somebody wished something else meanwhile."""
    done = tx.execute(
        servers.update()
        .where(
            servers.c.id == of.id,
            servers.c.state == of.state,
            servers.c.boot_number == of.boot_number,
            servers.c.power == of.power,
            servers.c.is_doomed.is_(False),
        )
        .values(updated_at=tx.now, **values)
    )
    if done.rowcount == 0:
        raise Conflict(f"Instance {of.id} was changed by somebody else just now.")


def doom(tx: Tx, server_id: ServerId, gone_number: int | None) -> None:
    values = {"is_doomed": True, "gone_number": gone_number, "updated_at": tx.now}
    tx.run(updating(servers, ("id",), tuple(values)), {"is_id": server_id, **values})


def place(tx: Tx, of: Server, node_id: NodeId, zone: str) -> bool:
    """Write where a server lives; False when it was placed or given up meanwhile."""
    values = {
        "server_id": of.id,
        "was": of.incarnation,
        "becomes": of.incarnation + 1,
        "node": node_id,
        "in_zone": zone,
        "at": tx.now,
    }
    return tx.run(_PLACE, values).rowcount == 1


def evict(tx: Tx, of: Server, *, pool_zone: str | None) -> None:
    """Take a server's place away; what its host saw of it counts no more. Raises Conflict: somebody was
    first."""
    done = tx.execute(
        servers.update()
        .where(
            servers.c.id == of.id,
            servers.c.node_id == of.node_id,
            servers.c.incarnation == of.incarnation,
        )
        .values(
            state=SERVER_LIFE.move(of.state, "evict"),
            node_id=None,
            fault=None,
            seen_state=None,
            seen_boot=0,
            seen_number=0,
            trouble=None,
            mark_number=0,
            evicted_incarnation=of.incarnation,
            pool_zone=pool_zone,
            updated_at=tx.now,
        )
    )
    if done.rowcount == 0:
        raise Conflict(f"Instance {of.id} was changed by somebody else just now.")


def evicted_servers(tx: Tx, limit: int) -> list[Server]:
    """Servers that lost their place and have found no other yet, the oldest first."""
    query = (
        select(*SERVER_COLUMNS)
        .where(servers.c.node_id.is_(None), servers.c.is_doomed.is_(False))
        .where(servers.c.incarnation > 0, servers.c.evicted_incarnation == servers.c.incarnation)
        .order_by(servers.c.created_at, servers.c.id)
        .limit(limit)
    )
    return [_server(row) for row in tx.execute(query)]


def give_remains(tx: Tx, server_id: ServerId, node_id: NodeId, gone_number: int) -> None:
    """The disk of a server that is no more is this host's to remove."""
    tx.execute(
        servers.update()
        .where(servers.c.id == server_id)
        .values(is_doomed=True, node_id=node_id, gone_number=gone_number, updated_at=tx.now)
    )


def move(tx: Tx, of: Server, event: str, **values: Any) -> ServerState:
    """Write the state after `event`. Raises Conflict: not from this state, or somebody was first."""
    state = SERVER_LIFE.move(of.state, event)
    values |= {"state": state, "updated_at": tx.now}
    done = tx.run(
        updating(servers, ("id", "state"), tuple(values)),
        {"is_id": of.id, "is_state": of.state, **values},
    )
    if done.rowcount == 0:
        raise Conflict(f"Instance {of.id} was changed by somebody else just now.")
    return state


def record_seen(
    tx: Tx,
    of: Server,
    number: int,
    *,
    state: GuestState | None,
    boot: int,
    trouble: Trouble | None,
) -> bool:
    """Write what its host saw; False when we already know something newer."""
    seen = {
        "server_id": of.id,
        "of_incarnation": of.incarnation,
        "number": number,
        "state": state,
        "boot": boot,
        "with_trouble": trouble,
    }
    return tx.run(_RECORD_SEEN, seen).rowcount == 1


def record_ended(tx: Tx, of: Server) -> bool:
    """The guest shut itself down: its owner's wish, unless somebody wished otherwise since."""
    done = tx.execute(
        servers.update()
        .where(
            servers.c.id == of.id,
            servers.c.boot_number == of.boot_number,
            servers.c.power == Power.RUNNING,
        )
        .values(power=Power.STOPPED)
    )
    return done.rowcount == 1


def remove_server(tx: Tx, server_id: ServerId) -> None:
    tx.run(deleting(disks, ("server_id",)), {"is_server_id": server_id})
    tx.run(deleting(nics, ("server_id",)), {"is_server_id": server_id})
    tx.run(deleting(servers, ("id",)), {"is_id": server_id})


def usage(tx: Tx, project_id: ProjectId) -> Usage:
    query = select(
        func.count().label("instances"),
        func.coalesce(func.sum(servers.c.vcpus), 0).label("cores"),
        func.coalesce(func.sum(servers.c.memory_mib), 0).label("ram"),
    ).where(servers.c.project_id == project_id)
    row = tx.execute(query).one()
    return Usage(instances=row.instances, cores=row.cores, ram=row.ram)


def running_by_node(tx: Tx) -> dict[NodeId, int]:
    """How many servers each host has."""
    query = select(servers.c.node_id, func.count().label("total")).where(
        servers.c.node_id.is_not(None)
    )
    rows = tx.execute(query.group_by(servers.c.node_id))
    return {NodeId(row.node_id): row.total for row in rows}


# --- disks -------------------------------------------------------------------------------------------


def disks_of(tx: Tx, server_ids: Collection[ServerId]) -> dict[ServerId, list[Disk]]:
    """Of all these servers, by device."""
    if len(server_ids) == 1:
        (one,) = server_ids
        return _by_server(Disk, _DISK_NAMES, tx.run(_DISKS_OF_ONE, {"server_id": one}))
    if not server_ids:
        return {}
    return _by_server(Disk, _DISK_NAMES, tx.execute(_DISKS, {"ids": list(server_ids)}))


def disks_on(tx: Tx, node_id: NodeId) -> dict[ServerId, list[Disk]]:
    """Of every server of a host."""
    return _by_server(Disk, _DISK_NAMES, tx.run(_DISKS_ON, {"node_id": node_id}))


def disks_moving_on(tx: Tx, node_id: NodeId) -> dict[ServerId, list[Disk]]:
    """Of every server of a host, those that are being plugged or unplugged."""
    return _by_server(Disk, _DISK_NAMES, tx.run(_DISKS_MOVING_ON, {"node_id": node_id}))


def add_disk(tx: Tx, new: Disk) -> None:
    tx.execute(disks.insert().values({c.name: getattr(new, c.name) for c in disks.c}))


def change_disk(tx: Tx, disk_id: str, **values: Any) -> None:
    tx.execute(disks.update().where(disks.c.id == disk_id).values(**values))


def remove_disk(tx: Tx, disk_id: str) -> None:
    tx.execute(disks.delete().where(disks.c.id == disk_id))


# --- nics --------------------------------------------------------------------------------------------


def nics_of(tx: Tx, server_ids: Collection[ServerId]) -> dict[ServerId, list[Nic]]:
    """Of all these servers, in their order."""
    if len(server_ids) == 1:
        (one,) = server_ids
        return _by_server(Nic, _NIC_NAMES, tx.run(_NICS_OF_ONE, {"server_id": one}))
    if not server_ids:
        return {}
    query = select(nics).where(nics.c.server_id.in_(server_ids))
    return _by_server(Nic, _NIC_NAMES, tx.execute(query.order_by(nics.c.position)))


def nics_on(tx: Tx, node_id: NodeId) -> dict[ServerId, list[Nic]]:
    """Of every server of a host."""
    return _by_server(Nic, _NIC_NAMES, tx.run(_NICS_ON, {"node_id": node_id}))


def nics_moving_on(tx: Tx, node_id: NodeId) -> dict[ServerId, list[Nic]]:
    """Of every server of a host, those that are being unplugged."""
    return _by_server(Nic, _NIC_NAMES, tx.run(_NICS_MOVING_ON, {"node_id": node_id}))


def add_nic(tx: Tx, new: Nic) -> None:
    tx.execute(nics.insert().values({c.name: getattr(new, c.name) for c in nics.c}))


def change_nic(tx: Tx, port_id: PortId, **values: Any) -> None:
    tx.execute(nics.update().where(nics.c.port_id == port_id).values(**values))


def remove_nic(tx: Tx, port_id: PortId) -> None:
    tx.execute(nics.delete().where(nics.c.port_id == port_id))


def want_numbers(tx: Tx, server_id: ServerId, number: int) -> None:
    """The server was placed: its disks and nics are in its node's spec from this number on."""
    for table in (disks, nics):
        tx.execute(table.update().where(table.c.server_id == server_id).values(want_number=number))


def server_with_volume(tx: Tx, volume_id: VolumeId) -> ServerId | None:
    query = select(disks.c.server_id).where(disks.c.volume_id == volume_id)
    return tx.execute(query).scalar_one_or_none()


# --- conditions --------------------------------------------------------------------------------------


def _reach(reach: ProjectId | None) -> tuple[ColumnElement[bool], ...]:
    return () if reach is None else (servers.c.project_id == reach,)


def _matching(search: Search) -> list[ColumnElement[bool]]:
    c = servers.c
    found: list[ColumnElement[bool]] = [
        column == value
        for column, value in (
            (c.project_id, search.project_id),
            (c.user_id, search.user_id),
            (c.flavor_id, search.flavor_id),
            (c.image_id, search.image_id),
            (c.zone, search.zone),
            (c.key_name, search.key_name),
            (c.hostname, search.hostname),
            (c.description, search.description),
            (c.reservation_id, search.reservation_id),
            (c.is_locked, search.is_locked),
            (c.has_config_drive, search.has_config_drive),
        )
        if value is not None
    ]
    if search.name is not None:
        found.append(c.name.regexp_match(search.name))
    if search.states is not None:
        found.append(c.state.in_(search.states))
    if search.node_ids is not None:
        found.append(c.node_id.in_(search.node_ids))
    if search.server_ids is not None:
        found.append(c.id.in_(search.server_ids))
    if search.changed_since is not None:
        found.append(c.updated_at >= search.changed_since)
    if search.changed_before is not None:
        found.append(c.updated_at <= search.changed_before)
    if search.power_state is not None:
        states = [s for s, n in POWER_STATES.items() if n == search.power_state and s is not None]
        where = c.seen_state.in_(states)
        found.append(or_(where, c.seen_state.is_(None)) if search.power_state == 0 else where)
    return [*found, *_tagged(search)]


def _tagged(search: Search) -> list[ColumnElement[bool]]:
    """Tags lie in their row as a JSON list. No tag holds a comma, so a quoted one is found exactly."""

    def has(tag: str) -> ColumnElement[bool]:
        text = msgspec.json.encode(tag).decode()
        return cast(servers.c.tags, Text).contains(text, autoescape=True)

    found = [has(tag) for tag in search.tags_all]
    if search.tags_any:
        found.append(or_(*map(has, search.tags_any)))
    if search.tags_not_all:
        found.append(not_(and_(*map(has, search.tags_not_all))))
    found += [not_(has(tag)) for tag in search.tags_not_any]
    return found


def _sort_keys(search: Search) -> list[tuple[str, bool]]:
    for key, _ in search.sort:
        if key not in SORT:
            raise Invalid(f"Query parameter 'sort_key': cannot sort by '{key[:60]}'.")
    keys = list(search.sort) or [("created_at", True)]
    if all(key not in ("id", "uuid") for key, _ in keys):
        keys.append(("id", keys[-1][1]))  # makes the order total
    return keys


def _after(keys: list[tuple[str, bool]], marker: tuple[Any, ...]) -> ColumnElement[bool]:
    """Rows that come after the one whose sort keys are `marker`."""
    steps = []
    for index, (key, down) in enumerate(keys):
        equal = [SORT[k] == marker[i] for i, (k, _) in enumerate(keys[:index])]
        further = SORT[key] < marker[index] if down else SORT[key] > marker[index]
        steps.append(and_(*equal, further))
    return or_(*steps)


_NAMES = tuple(c.name for c in SERVER_COLUMNS)
_DISK_NAMES = tuple(c.name for c in disks.c)
_NIC_NAMES = tuple(c.name for c in nics.c)
D = TypeVar("D", Disk, Nic)
# Looked up, not constructed: a list makes three of them for each of a thousand rows.
_POWERS = {str(power): power for power in Power}
_STATES = {str(state): state for state in ServerState}
_SEEN_STATES: dict[str | None, GuestState | None] = {str(state): state for state in GuestState}
_SEEN_STATES[None] = None


def _server(row: Any) -> Server:
    values = dict(zip(_NAMES, row, strict=True))
    values["power"] = _POWERS[values["power"]]
    values["state"] = _STATES[values["state"]]
    values["seen_state"] = _SEEN_STATES[values["seen_state"]]
    return Server(**values)


def _by_server(
    kind: type[D], names: tuple[str, ...], rows: Iterable[Any]
) -> dict[ServerId, list[D]]:
    found: dict[ServerId, list[D]] = {}
    for row in rows:
        one = kind(**dict(zip(names, row, strict=True)))
        found.setdefault(one.server_id, []).append(one)
    return found


def placed_servers(tx: Tx) -> list[ServerId]:
    """Every server that has a host, sorted."""
    rows = tx.execute(
        select(servers.c.id).where(servers.c.node_id.is_not(None)).order_by(servers.c.id)
    )
    return [ServerId(i) for i in rows.scalars()]
