"""The tables of volumes, attachments, snapshots and types."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    Select,
    String,
    Table,
    Text,
    bindparam,
    false,
    func,
    select,
)

from cairn.core.errors import Conflict, NotFound
from cairn.core.ids import NodeId, ProjectId, ServerId, SnapshotId, VolumeId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared
from cairn.volume import listing
from cairn.volume.records import (
    DEFAULT_TYPE,
    SNAPSHOT_LIFE,
    VOLUME_LIFE,
    Attachment,
    Snapshot,
    SnapshotState,
    Usage,
    Volume,
    VolumeState,
    VolumeType,
)

volumes = Table(
    "volumes",
    metadata,
    id_column(primary_key=True),
    id_column("project_id", nullable=False),
    id_column("user_id", nullable=False),
    Column("name", String(255)),
    Column("description", Text),
    Column("size_gib", Integer, nullable=False),
    Column("seen_size_gib", Integer, nullable=False),
    Column("state", String(32), nullable=False),
    id_column("type_id", nullable=False),
    Column("zone", String(255), nullable=False),
    id_column("node_id"),
    id_column("image_id"),
    id_column("snapshot_id"),
    id_column("source_id"),
    Column("image_metadata", Json(dict[str, str]), nullable=False),
    Column("metadata", Json(dict[str, str]), nullable=False),
    Column("is_bootable", Boolean, nullable=False),
    Column("is_readonly", Boolean),
    Column("trouble", Text),
    Column("gone_number", BigInteger),
    Column("seen_number", BigInteger, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time),
    Column("is_moving", Boolean, nullable=False, server_default=false()),
    Index("ix_volumes_project", "project_id", "created_at", "id"),
    Index("ix_volumes_created", "created_at", "id"),
    Index("ix_volumes_node", "node_id"),
    Index("ix_volumes_source", "source_id"),
    Index("ix_volumes_snapshot", "snapshot_id"),
    Index("ix_volumes_type", "type_id"),
)

attachments = Table(
    "volume_attachments",
    metadata,
    id_column(primary_key=True),
    # One attachment a volume: two servers must never write to one file.
    Column("volume_id", String(64), ForeignKey("volumes.id"), nullable=False, unique=True),
    id_column("server_id", nullable=False),
    id_column("project_id", nullable=False),
    Column("device", String(32), nullable=False),
    Column("made_at", Time, nullable=False),
    Column("attached_at", Time),
    Index("ix_volume_attachments_server", "server_id"),
    Index("ix_volume_attachments_project", "project_id"),
)

snapshots = Table(
    "volume_snapshots",
    metadata,
    id_column(primary_key=True),
    Column("volume_id", String(64), ForeignKey("volumes.id"), nullable=False),
    id_column("project_id", nullable=False),
    id_column("user_id", nullable=False),
    Column("name", String(255)),
    Column("description", Text),
    Column("size_gib", Integer, nullable=False),
    Column("state", String(32), nullable=False),
    Column("metadata", Json(dict[str, str]), nullable=False),
    Column("trouble", Text),
    Column("gone_number", BigInteger),
    Column("seen_number", BigInteger, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time),
    Index("ix_volume_snapshots_volume", "volume_id"),
    Index("ix_volume_snapshots_project", "project_id", "created_at", "id"),
)

types = Table(
    "volume_types",
    metadata,
    id_column(primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("description", Text),
    Column("is_public", Boolean, nullable=False),
    Column("extra_specs", Json(dict[str, str]), nullable=False),
)


class Listing(Struct, frozen=True, kw_only=True):
    """Which rows, in which order, from where on."""

    where: tuple[ColumnElement[bool], ...] = ()
    metadata: dict[str, str] = {}  # that a row must have at least
    keys: tuple[listing.SortKey, ...] = ()
    limit: int = 1000
    marker: str | None = None
    offset: int = 0


VOLUME_SORT = {
    "id": volumes.c.id,
    "created_at": volumes.c.created_at,
    "updated_at": func.coalesce(volumes.c.updated_at, volumes.c.created_at),
    "name": func.coalesce(volumes.c.name, ""),
    "display_name": func.coalesce(volumes.c.name, ""),
    "size": volumes.c.size_gib,
    "status": volumes.c.state,
    "availability_zone": volumes.c.zone,
    "bootable": volumes.c.is_bootable,
}
SNAPSHOT_SORT = {
    "id": snapshots.c.id,
    "created_at": snapshots.c.created_at,
    "updated_at": func.coalesce(snapshots.c.updated_at, snapshots.c.created_at),
    "name": func.coalesce(snapshots.c.name, ""),
    "display_name": func.coalesce(snapshots.c.name, ""),
    "size": snapshots.c.size_gib,
    "volume_size": snapshots.c.size_gib,
    "status": snapshots.c.state,
    "volume_id": snapshots.c.volume_id,
}


# --- volumes -----------------------------------------------------------------------------------------


def volume(tx: Tx, reach: ProjectId | None, volume_id: VolumeId) -> Volume:
    found = _volumes(tx, select(volumes).where(volumes.c.id == volume_id, *_reach(volumes, reach)))
    if not found:
        raise NotFound(f"Volume {volume_id[:64]} could not be found.")
    return found[0]


_WATCHED = Prepared(
    select(
        volumes.c.id,
        volumes.c.size_gib,
        volumes.c.seen_size_gib,
        volumes.c.state,
        volumes.c.trouble,
    )
    .where(volumes.c.node_id == bindparam("node_id"))
    .order_by(volumes.c.id)
)
_SNAPSHOTS_MOVING = Prepared(
    select(snapshots)
    .join(volumes, volumes.c.id == snapshots.c.volume_id)
    .where(volumes.c.node_id == bindparam("node_id"))
    .where(snapshots.c.state != SnapshotState.AVAILABLE)
)
_ON_NODE = Prepared(
    select(volumes).where(volumes.c.node_id == bindparam("node_id")).order_by(volumes.c.id)
)
_VOLUME_NAMES = tuple(c.name for c in volumes.c)
_SNAPSHOT_NAMES = tuple(c.name for c in snapshots.c)


class Watched(NamedTuple):
    """What decides whether a host's report says anything new of a volume."""

    id: VolumeId
    size_gib: int
    seen_size_gib: int
    state: str
    trouble: str | None


def watched_on(tx: Tx, node_id: NodeId) -> list[Watched]:
    """Every volume of a host, by id."""
    return [Watched._make(row) for row in tx.run(_WATCHED, {"node_id": node_id})]


def snapshots_moving_on(tx: Tx, node_id: NodeId) -> dict[VolumeId, list[Snapshot]]:
    """Snapshots on a host that are being made or removed, or could not be, by volume."""
    found: dict[VolumeId, list[Snapshot]] = {}
    for row in tx.run(_SNAPSHOTS_MOVING, {"node_id": node_id}):
        values = dict(zip(_SNAPSHOT_NAMES, row, strict=True))
        values["state"] = SnapshotState(values["state"])
        found.setdefault(values["volume_id"], []).append(Snapshot(**values))
    return found


def find_volume(tx: Tx, volume_id: VolumeId) -> Volume | None:
    found = _volumes(tx, select(volumes).where(volumes.c.id == volume_id))
    return found[0] if found else None


def volumes_by_id(tx: Tx, volume_ids: Collection[VolumeId]) -> dict[VolumeId, Volume]:
    return {v.id: v for v in _volumes(tx, select(volumes).where(volumes.c.id.in_(volume_ids)))}


def list_volumes(tx: Tx, reach: ProjectId | None, wanted: Listing) -> list[Volume]:
    """A page of volumes. Raises NotFound for a marker that does not exist."""
    query = select(volumes).where(*_reach(volumes, reach), *wanted.where)
    if wanted.marker is not None:
        marker_where = (volumes.c.id == wanted.marker, *_reach(volumes, reach))
        query = query.where(_after(tx, wanted, VOLUME_SORT, marker_where, "Volume"))
    query = listing.ordered(query, wanted.keys, VOLUME_SORT)
    return _volumes(tx, *_cut(query, wanted))


def volumes_on(tx: Tx, node_id: NodeId) -> list[Volume]:
    """Every volume of a host, by id."""
    rows = tx.run(_ON_NODE, {"node_id": node_id}).rows
    held = _attachments(tx, [row[0] for row in rows])
    found = []
    for row in rows:
        values = dict(zip(_VOLUME_NAMES, row, strict=True))
        values["state"] = VolumeState(values["state"])
        found.append(Volume(**values, attachments=tuple(held.get(values["id"], ()))))
    return found


def unplaced_volumes(tx: Tx, limit: int) -> list[Volume]:
    """Volumes that no server waits for and that have no host yet, the oldest first."""
    has_attachment = select(attachments.c.id).where(attachments.c.volume_id == volumes.c.id)
    return _volumes(
        tx,
        select(volumes)
        .where(volumes.c.node_id.is_(None), volumes.c.state == VolumeState.CREATING)
        .where(~has_attachment.exists())
        .order_by(volumes.c.created_at, volumes.c.id)
        .limit(limit),
    )


def counts_by_node(tx: Tx) -> dict[NodeId, int]:
    """How many volumes each host holds."""
    query = (
        select(volumes.c.node_id, func.count())
        .where(volumes.c.node_id.is_not(None))
        .group_by(volumes.c.node_id)
    )
    rows: Iterable[Any] = tx.execute(query)
    return {NodeId(node_id): int(total) for node_id, total in rows}


def claimed_gib(tx: Tx) -> dict[NodeId, int]:
    """GiB promised to volumes, by host."""
    query = (
        select(volumes.c.node_id, func.sum(volumes.c.size_gib))
        .where(volumes.c.node_id.is_not(None))
        .group_by(volumes.c.node_id)
    )
    rows: Iterable[Any] = tx.execute(query)
    return {NodeId(node_id): int(total) for node_id, total in rows}


def is_source_in_use(
    tx: Tx, *, volume_id: VolumeId | None = None, snapshot_id: SnapshotId | None = None
) -> bool:
    """Whether a volume is still being made from this volume or snapshot."""
    source = (
        volumes.c.source_id == volume_id
        if volume_id is not None
        else volumes.c.snapshot_id == snapshot_id
    )
    query = select(volumes.c.id).where(
        source, volumes.c.seen_size_gib == 0, volumes.c.state != VolumeState.DELETING
    )
    return tx.execute(query.limit(1)).first() is not None


def usage(tx: Tx, project_id: ProjectId) -> Usage:
    count, size_gib = _count_and_size(tx, volumes, (volumes.c.project_id == project_id,))
    of_snapshots = _count_and_size(tx, snapshots, (snapshots.c.project_id == project_id,))
    return Usage(volumes=count, snapshots=of_snapshots[0], gigabytes=size_gib + of_snapshots[1])


def usage_by_type(tx: Tx, project_id: ProjectId) -> dict[str, Usage]:
    """The same for each volume type of which the project has anything."""
    of_volumes = (
        select(
            volumes.c.type_id, func.count().label("n"), func.sum(volumes.c.size_gib).label("gib")
        )
        .where(volumes.c.project_id == project_id)
        .group_by(volumes.c.type_id)
    )
    of_snapshots = (
        select(
            volumes.c.type_id, func.count().label("n"), func.sum(snapshots.c.size_gib).label("gib")
        )
        .join_from(snapshots, volumes, snapshots.c.volume_id == volumes.c.id)
        .where(snapshots.c.project_id == project_id)
        .group_by(volumes.c.type_id)
    )
    counted = {row.type_id: (row.n, int(row.gib)) for row in tx.execute(of_volumes)}
    copied = {row.type_id: (row.n, int(row.gib)) for row in tx.execute(of_snapshots)}
    nothing = (0, 0)
    return {
        type_id: Usage(
            volumes=counted.get(type_id, nothing)[0],
            snapshots=copied.get(type_id, nothing)[0],
            gigabytes=counted.get(type_id, nothing)[1] + copied.get(type_id, nothing)[1],
        )
        for type_id in counted.keys() | copied.keys()
    }


def totals(tx: Tx, reach: ProjectId | None) -> tuple[int, int]:
    """Number of volumes and the sum of their sizes."""
    return _count_and_size(tx, volumes, _reach(volumes, reach))


def all_metadata(tx: Tx, reach: ProjectId | None) -> list[dict[str, str]]:
    """The metadata of every volume in reach, the oldest first."""
    query = select(volumes.c.metadata).where(*_reach(volumes, reach))
    return list(tx.execute(query.order_by(volumes.c.created_at, volumes.c.id)).scalars())


def count_volumes(tx: Tx, reach: ProjectId | None, wanted: Listing) -> int:
    if wanted.metadata:  # Known only once the rows' JSON is read.
        everything = Listing(where=wanted.where, metadata=wanted.metadata, limit=1 << 31)
        query = select(volumes).where(*_reach(volumes, reach), *wanted.where)
        return len(_volumes(tx, *_cut(query, everything)))
    query = select(func.count()).select_from(volumes)
    return int(tx.execute(query.where(*_reach(volumes, reach), *wanted.where)).scalar_one())


def add_volume(tx: Tx, new: Volume) -> None:
    values = {c.name: getattr(new, c.name) for c in volumes.c}
    tx.execute(volumes.insert().values(values))
    for attachment in new.attachments:
        add_attachment(tx, attachment)


def change_volume(tx: Tx, volume_id: VolumeId, **values: Any) -> None:
    """Write wishes that are no state."""
    tx.execute(
        volumes.update().where(volumes.c.id == volume_id).values(updated_at=tx.now, **values)
    )


def move_volume(tx: Tx, of: Volume, event: str, **values: Any) -> VolumeState:
    """Write the state after `event`. Raises Conflict: not from this state, or somebody was first."""
    state = VOLUME_LIFE.move(of.state, event)
    done = tx.execute(
        volumes.update()
        .where(volumes.c.id == of.id, volumes.c.state == of.state)
        .values(state=state, updated_at=tx.now, **values)
    )
    if done.rowcount == 0:
        raise Conflict(f"Volume {of.id} was changed by somebody else just now.")
    return state


def record_seen(tx: Tx, of: Volume, number: int, **values: Any) -> bool:
    """Write what a report says of a volume; False when we already know something newer."""
    done = tx.execute(
        volumes.update()
        .where(volumes.c.id == of.id, volumes.c.seen_number < number)
        .values(seen_number=number, **values)
    )
    return done.rowcount == 1


def place_volume(tx: Tx, volume_id: VolumeId, node_id: NodeId) -> bool:
    """Write where a volume lives, once; False when it lives somewhere already."""
    done = tx.execute(
        volumes.update()
        .where(volumes.c.id == volume_id, volumes.c.node_id.is_(None))
        .values(node_id=node_id, trouble=None)
    )
    return done.rowcount == 1


def unplace_volume(tx: Tx, volume_id: VolumeId) -> None:
    """Reports are numbered by host: the next one has said nothing yet."""
    where = volumes.c.id == volume_id
    tx.execute(volumes.update().where(where).values(node_id=None, seen_number=0))


def move_care(tx: Tx, volume_id: VolumeId, node_id: NodeId, gone_number: int | None) -> None:
    values = {"node_id": node_id, "seen_number": 0, "gone_number": gone_number}
    tx.execute(volumes.update().where(volumes.c.id == volume_id).values(**values))


def move_home(tx: Tx, volume_id: VolumeId, node_id: NodeId) -> None:
    """It lives elsewhere now, where nothing was said of it yet."""
    where = volumes.c.id == volume_id
    tx.execute(volumes.update().where(where).values(node_id=node_id, seen_number=0))


def set_moving(tx: Tx, volume_ids: Collection[VolumeId], is_moving: bool) -> None:
    where = volumes.c.id.in_(list(volume_ids))
    tx.execute(volumes.update().where(where).values(is_moving=is_moving))


def remove_volume(tx: Tx, volume_id: VolumeId) -> None:
    tx.execute(attachments.delete().where(attachments.c.volume_id == volume_id))
    tx.execute(snapshots.delete().where(snapshots.c.volume_id == volume_id))
    tx.execute(volumes.delete().where(volumes.c.id == volume_id))


# --- attachments -------------------------------------------------------------------------------------


def add_attachment(tx: Tx, new: Attachment) -> None:
    tx.execute(attachments.insert().values({c.name: getattr(new, c.name) for c in attachments.c}))


def attachments_of(tx: Tx, server_ids: Collection[ServerId]) -> list[Attachment]:
    """Of all these servers, by server and device."""
    query = select(attachments).where(attachments.c.server_id.in_(server_ids))
    query = query.order_by(attachments.c.server_id, attachments.c.made_at, attachments.c.device)
    return [Attachment(**row._mapping) for row in tx.execute(query)]


def list_attachments(
    tx: Tx, reach: ProjectId | None, where: Iterable[ColumnElement[bool]], limit: int
) -> list[Attachment]:
    query = select(attachments).where(*_reach(attachments, reach), *where)
    query = query.order_by(attachments.c.made_at, attachments.c.id).limit(limit)
    return [Attachment(**row._mapping) for row in tx.execute(query)]


def set_attached(tx: Tx, attachment_id: str) -> None:
    tx.execute(
        attachments.update()
        .where(attachments.c.id == attachment_id, attachments.c.attached_at.is_(None))
        .values(attached_at=tx.now)
    )


def remove_attachment(tx: Tx, attachment_id: str) -> None:
    tx.execute(attachments.delete().where(attachments.c.id == attachment_id))


# --- snapshots ---------------------------------------------------------------------------------------


def snapshot(tx: Tx, reach: ProjectId | None, snapshot_id: SnapshotId) -> Snapshot:
    query = select(snapshots).where(snapshots.c.id == snapshot_id, *_reach(snapshots, reach))
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"Snapshot {snapshot_id[:64]} could not be found.")
    return _snapshot(row)


def list_snapshots(tx: Tx, reach: ProjectId | None, wanted: Listing) -> list[Snapshot]:
    """A page of snapshots. Raises NotFound for a marker that does not exist."""
    query = select(snapshots).where(*_reach(snapshots, reach), *wanted.where)
    if wanted.marker is not None:
        marker_where = (snapshots.c.id == wanted.marker, *_reach(snapshots, reach))
        query = query.where(_after(tx, wanted, SNAPSHOT_SORT, marker_where, "Snapshot"))
    query, wanted_metadata, limit, offset = _cut(
        listing.ordered(query, wanted.keys, SNAPSHOT_SORT), wanted
    )
    found = [_snapshot(row) for row in tx.execute(query)]
    return _having(found, wanted_metadata, limit, offset)


def count_snapshots(tx: Tx, reach: ProjectId | None, wanted: Listing) -> int:
    if wanted.metadata:
        everything = Listing(where=wanted.where, metadata=wanted.metadata, limit=1 << 31)
        return len(list_snapshots(tx, reach, everything))
    query = select(func.count()).select_from(snapshots)
    return int(tx.execute(query.where(*_reach(snapshots, reach), *wanted.where)).scalar_one())


def snapshots_of(tx: Tx, volume_ids: Collection[VolumeId]) -> dict[VolumeId, list[Snapshot]]:
    """Of all these volumes, the oldest first."""
    found: dict[VolumeId, list[Snapshot]] = {}
    if not volume_ids:
        return found
    query = select(snapshots).where(snapshots.c.volume_id.in_(volume_ids))
    for row in tx.execute(query.order_by(snapshots.c.created_at, snapshots.c.id)):
        found.setdefault(row.volume_id, []).append(_snapshot(row))
    return found


def add_snapshot(tx: Tx, new: Snapshot) -> None:
    tx.execute(snapshots.insert().values({c.name: getattr(new, c.name) for c in snapshots.c}))


def change_snapshot(tx: Tx, snapshot_id: SnapshotId, **values: Any) -> None:
    tx.execute(
        snapshots.update().where(snapshots.c.id == snapshot_id).values(updated_at=tx.now, **values)
    )


def move_snapshot(tx: Tx, of: Snapshot, event: str, **values: Any) -> SnapshotState:
    """Write the state after `event`. Raises Conflict: not from this state, or somebody was first."""
    state = SNAPSHOT_LIFE.move(of.state, event)
    done = tx.execute(
        snapshots.update()
        .where(snapshots.c.id == of.id, snapshots.c.state == of.state)
        .values(state=state, updated_at=tx.now, **values)
    )
    if done.rowcount == 0:
        raise Conflict(f"Snapshot {of.id} was changed by somebody else just now.")
    return state


def remove_snapshot(tx: Tx, snapshot_id: SnapshotId) -> None:
    tx.execute(snapshots.delete().where(snapshots.c.id == snapshot_id))


# --- types -------------------------------------------------------------------------------------------


def all_types(tx: Tx) -> list[VolumeType]:
    """The default first, then by name."""
    rows = tx.execute(select(types).order_by(types.c.name))
    return [DEFAULT_TYPE, *(VolumeType(**row._mapping) for row in rows)]


def add_type(tx: Tx, new: VolumeType) -> None:
    tx.execute(types.insert().values({c.name: getattr(new, c.name) for c in types.c}))


def change_type(tx: Tx, type_id: str, **values: Any) -> None:
    tx.execute(types.update().where(types.c.id == type_id).values(**values))


def remove_type(tx: Tx, type_id: str) -> None:
    tx.execute(types.delete().where(types.c.id == type_id))


def has_volumes_of_type(tx: Tx, type_id: str) -> bool:
    query = select(volumes.c.id).where(volumes.c.type_id == type_id).limit(1)
    return tx.execute(query).first() is not None


# --- rows to records ---------------------------------------------------------------------------------


def _reach(table: Table, reach: ProjectId | None) -> tuple[ColumnElement[bool], ...]:
    return () if reach is None else (table.c.project_id == reach,)


def _count_and_size(tx: Tx, table: Table, where: Iterable[ColumnElement[bool]]) -> tuple[int, int]:
    total = func.coalesce(func.sum(table.c.size_gib), 0)
    row: Any = tx.execute(select(func.count(), total).select_from(table).where(*where)).one()
    return int(row[0]), int(row[1])


def _after(
    tx: Tx, wanted: Listing, columns: dict[str, Any], where: Iterable[Any], what: str
) -> ColumnElement[bool]:
    keys = select(*(columns[k.name] for k in wanted.keys)).where(*where)
    row = tx.execute(keys).one_or_none()
    if row is None:
        raise NotFound(f"{what} {(wanted.marker or '')[:64]}, the page's marker, was not found.")
    return listing.after(wanted.keys, columns, tuple(row))


def _cut(query: Select[Any], wanted: Listing) -> tuple[Select[Any], dict[str, str], int, int]:
    """Cut the page in SQL; with a metadata filter only after the rows are read."""
    if not wanted.metadata:
        query = query.limit(wanted.limit).offset(wanted.offset or None)
    return query, wanted.metadata, wanted.limit, wanted.offset


def _having(found: list[Any], metadata: dict[str, str], limit: int, offset: int) -> list[Any]:
    if not metadata:
        return found
    matching = [r for r in found if metadata.items() <= r.metadata.items()]
    return matching[offset : offset + limit]


def _volumes(
    tx: Tx,
    query: Select[Any],
    with_metadata: dict[str, str] | None = None,
    limit: int = 0,
    offset: int = 0,
) -> list[Volume]:
    rows = tx.execute(query).all()
    if with_metadata:
        rows = _having(list(rows), with_metadata, limit, offset)
    held = _attachments(tx, [row.id for row in rows])
    return [_volume(row, tuple(held.get(row.id, ()))) for row in rows]


def _attachments(tx: Tx, volume_ids: Collection[str]) -> dict[str, list[Attachment]]:
    """Of all these volumes, by volume."""
    by_volume: dict[str, list[Attachment]] = {}
    if volume_ids:
        of_these = attachments.c.volume_id.in_(volume_ids)
        for found in tx.execute(select(attachments).where(of_these)):
            by_volume.setdefault(found.volume_id, []).append(Attachment(**found._mapping))
    return by_volume


def _volume(row: Any, attached: tuple[Attachment, ...]) -> Volume:
    values = dict(row._mapping)
    values["state"] = VolumeState(values["state"])
    return Volume(**values, attachments=attached)


def _snapshot(row: Any) -> Snapshot:
    values = dict(row._mapping)
    values["state"] = SnapshotState(values["state"])
    return Snapshot(**values)
