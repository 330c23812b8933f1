"""The tables of migrations and of hosts that are being emptied."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    String,
    Table,
    Text,
    bindparam,
    func,
    or_,
    select,
)

from cairn.compute.migration_records import (
    MIGRATION_LIFE,
    OPEN,
    WORKING,
    Cause,
    Drain,
    Migration,
    MigrationState,
    Way,
)
from cairn.compute.store import disks, nics, servers
from cairn.core.errors import Conflict, NotFound
from cairn.core.ids import NodeId, ServerId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared
from cairn.wire.spec import DiskDoor

migrations = Table(
    "migrations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    id_column("id", nullable=False, unique=True),
    id_column("server_id", nullable=False),
    id_column("project_id", nullable=False),
    id_column("user_id", nullable=False),
    Column("cause", String(8), nullable=False),
    Column("way", String(8), nullable=False),
    Column("asks_confirmation", Boolean, nullable=False),
    Column("was_running", Boolean, nullable=False),
    id_column("from_node", nullable=False),
    id_column("to_node"),
    Column("state", String(16), nullable=False),
    Column("why", Text),
    Column("incarnation", Integer, nullable=False),
    Column("secret", String(64), nullable=False),
    Column("is_cancelled", Boolean, nullable=False),
    Column("is_cleared", Boolean, nullable=False),
    Column("prepare_number", BigInteger, nullable=False),
    Column("stop_number", BigInteger, nullable=False),
    Column("ask_number", BigInteger, nullable=False),
    Column("memory_port", Integer, nullable=False),
    Column("disks", Json(tuple[DiskDoor, ...]), nullable=False),
    Column("total_bytes", BigInteger, nullable=False),
    Column("left_bytes", BigInteger, nullable=False),
    Column("pause_ms", Integer, nullable=False),
    Column("progress_at", Time, nullable=False),
    Column("confirmation", String(16)),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("ended_at", Time),
    Index("ix_migrations_server", "server_id"),
    Index("ix_migrations_to", "to_node", "state"),
    Index("ix_migrations_from", "from_node", "created_at"),
    Index("ix_migrations_state", "state"),
    Index("ix_migrations_created", "created_at", "number"),
)

drains = Table(
    "drains",
    metadata,
    id_column("node_id", primary_key=True),
    Column("began_at", Time, nullable=False),
    id_column("user_id", nullable=False),
    id_column("project_id", nullable=False),
)

_BY_ID = Prepared(select(migrations).where(migrations.c.id == bindparam("id")))
_ARRIVING = Prepared(
    select(migrations)
    .where(
        migrations.c.to_node == bindparam("node_id"),
        or_(*(migrations.c.state == str(state) for state in WORKING)),
    )
    .order_by(migrations.c.number)
)
_NAMES = tuple(c.name for c in migrations.c)


# --- migrations --------------------------------------------------------------------------------------


def add(tx: Tx, **values: Any) -> None:
    tx.execute(migrations.insert().values(**values))


def find(tx: Tx, migration_id: str) -> Migration | None:
    row = tx.run(_BY_ID, {"id": migration_id}).first()
    return None if row is None else _migration(row)


def numbered(tx: Tx, server_id: ServerId, number: int) -> Migration:
    """Raises NotFound."""
    query = select(migrations).where(
        migrations.c.server_id == server_id, migrations.c.number == number
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"Migration {number} for server {server_id} could not be found.")
    return _migration(row)


def arriving(tx: Tx, node_id: NodeId) -> list[Migration]:
    """What this host makes ready for or receives."""
    return [_migration(row) for row in tx.run(_ARRIVING, {"node_id": node_id})]


def open_ones(tx: Tx) -> list[Migration]:
    """All that are not over, the oldest first."""
    query = select(migrations).where(migrations.c.state.in_(OPEN)).order_by(migrations.c.number)
    return [_migration(row) for row in tx.execute(query)]


def of_server(tx: Tx, server_id: ServerId) -> list[Migration]:
    """The newest first."""
    query = select(migrations).where(migrations.c.server_id == server_id)
    return [_migration(row) for row in tx.execute(query.order_by(migrations.c.number.desc()))]


def leaving_since(tx: Tx, node_id: NodeId, since: datetime) -> list[Migration]:
    """What left, or tried to leave, a host since then; the oldest first."""
    query = select(migrations).where(
        migrations.c.from_node == node_id, migrations.c.created_at >= since
    )
    return [_migration(row) for row in tx.execute(query.order_by(migrations.c.number))]


def listed(
    tx: Tx,
    *,
    where: dict[str, Any],
    nodes: Collection[NodeId] | None,
    changed_since: datetime | None,
    changed_before: datetime | None,
    after: Migration | None,
    limit: int,
) -> list[Migration]:
    """A page, the newest first."""
    query = select(migrations)
    for name, value in where.items():
        column = migrations.c[name]
        query = query.where(column.in_(value) if isinstance(value, tuple) else column == value)
    if nodes is not None:
        query = query.where(or_(migrations.c.from_node.in_(nodes), migrations.c.to_node.in_(nodes)))
    if changed_since is not None:
        query = query.where(migrations.c.updated_at >= changed_since)
    if changed_before is not None:
        query = query.where(migrations.c.updated_at <= changed_before)
    if after is not None:
        query = query.where(migrations.c.number < after.number)
    query = query.order_by(migrations.c.number.desc()).limit(limit)
    return [_migration(row) for row in tx.execute(query)]


def move(tx: Tx, of: Migration, event: str, **values: Any) -> None:
    """Write the state after `event`. Raises Conflict: not from this state, or somebody was first."""
    state = MIGRATION_LIFE.move(of.state, event)
    done = tx.execute(
        migrations.update()
        .where(migrations.c.id == of.id, migrations.c.state == of.state)
        .values(state=state, updated_at=tx.now, **values)
    )
    if done.rowcount == 0:
        raise Conflict(f"Migration {of.number} was changed by somebody else just now.")


def change(tx: Tx, migration_id: str, **values: Any) -> None:
    tx.execute(
        migrations.update()
        .where(migrations.c.id == migration_id)
        .values(updated_at=tx.now, **values)
    )


def note_pause(tx: Tx, migration_id: str, from_node: NodeId, pause_ms: int) -> None:
    """Unless it is known already."""
    tx.execute(
        migrations.update()
        .where(
            migrations.c.id == migration_id,
            migrations.c.from_node == from_node,
            migrations.c.state == MigrationState.DONE,
            migrations.c.pause_ms == 0,
        )
        .values(pause_ms=pause_ms)
    )


def forget_old(tx: Tx, before: datetime) -> int:
    """Remove what ended before then, unless somebody must still confirm it."""
    where = (
        migrations.c.ended_at < before,
        or_(migrations.c.confirmation.is_(None), migrations.c.confirmation != "waiting"),
    )
    return int(tx.execute(migrations.delete().where(*where)).rowcount)


def claimants(tx: Tx) -> set[str]:
    """Who of them holds room: for checks of the whole, not for requests."""
    holds = or_(migrations.c.state.in_(WORKING), migrations.c.confirmation == "waiting")
    return {f"migration:{i}" for i in tx.execute(select(migrations.c.id).where(holds)).scalars()}


def _migration(row: Any) -> Migration:
    values = dict(zip(_NAMES, row, strict=True))
    values["state"] = MigrationState(values["state"])
    values["way"] = Way(values["way"])
    values["cause"] = Cause(values["cause"])
    return Migration(**values)


# --- their servers -----------------------------------------------------------------------------------


def set_moving(
    tx: Tx, server_id: ServerId, *, migration_id: str | None, moving: str | None, **values: Any
) -> None:
    tx.execute(
        servers.update()
        .where(servers.c.id == server_id)
        .values(migration_id=migration_id, moving=moving, updated_at=tx.now, **values)
    )


def unplugged_servers(tx: Tx, node_id: NodeId) -> set[ServerId]:
    """Servers of a host of which a disk or a nic is being plugged or unplugged."""
    here = servers.c.node_id == node_id
    of_disks = (
        select(servers.c.id)
        .join(disks, disks.c.server_id == servers.c.id)
        .where(here, or_(disks.c.is_wanted.is_(False), disks.c.is_plugged.is_(False)))
    )
    of_nics = (
        select(servers.c.id)
        .join(nics, nics.c.server_id == servers.c.id)
        .where(here, nics.c.is_wanted.is_(False))
    )
    return {*tx.execute(of_disks).scalars(), *tx.execute(of_nics).scalars()}


def server_count(tx: Tx, node_id: NodeId) -> int:
    query = select(func.count()).select_from(servers).where(servers.c.node_id == node_id)
    return int(tx.execute(query).scalar_one())


# --- drains ------------------------------------------------------------------------------------------


def drain_of(tx: Tx, node_id: NodeId) -> Drain | None:
    row = tx.execute(select(drains).where(drains.c.node_id == node_id)).one_or_none()
    return None if row is None else Drain(**row._mapping)


def all_drains(tx: Tx) -> list[Drain]:
    return [Drain(**row._mapping) for row in tx.execute(select(drains).order_by(drains.c.node_id))]


def add_drain(tx: Tx, new: Drain) -> None:
    tx.execute(
        drains.insert().values(
            node_id=new.node_id,
            began_at=new.began_at,
            user_id=new.user_id,
            project_id=new.project_id,
        )
    )


def remove_drain(tx: Tx, node_id: NodeId) -> bool:
    return tx.execute(drains.delete().where(drains.c.node_id == node_id)).rowcount == 1
