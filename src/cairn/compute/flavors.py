"""Flavors: sizes that servers come in, who may use them, and what else they ask for.

A server keeps a copy of its flavor, so that a flavor may change or go without touching anyone.
"""

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    String,
    Table,
    Text,
    and_,
    or_,
    select,
)

from cairn.compute import marks
from cairn.compute.records import Flavor
from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import FlavorId, ProjectId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx

flavors = Table(
    "flavors",
    metadata,
    Column("id", String(255), primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("disk_gib", Integer, nullable=False),
    Column("ephemeral_gib", Integer, nullable=False),
    Column("swap_mib", Integer, nullable=False),
    Column("rxtx_factor", Float, nullable=False),
    Column("is_public", Boolean, nullable=False),
    Column("is_disabled", Boolean, nullable=False),
    Column("description", Text),
    Column("extra_specs", Json(dict[str, str]), nullable=False),
    Column("created_at", Time, nullable=False),
)

access = Table(
    "flavor_access",
    metadata,
    Column("flavor_id", String(255), primary_key=True),
    id_column("project_id", primary_key=True),
    Index("ix_flavor_access_project", "project_id"),
)

_FLAVOR = [c for c in flavors.c if c.name != "created_at"]
SORT = {
    "flavorid": flavors.c.id,
    "id": flavors.c.id,
    "name": flavors.c.name,
    "vcpus": flavors.c.vcpus,
    "memory_mb": flavors.c.memory_mib,
    "root_gb": flavors.c.disk_gib,
    "ephemeral_gb": flavors.c.ephemeral_gib,
    "swap": flavors.c.swap_mib,
    "rxtx_factor": flavors.c.rxtx_factor,
    "is_public": flavors.c.is_public,
    "disabled": flavors.c.is_disabled,
    "created_at": flavors.c.created_at,
}


def get(tx: Tx, who: Caller, flavor_id: FlavorId) -> Flavor:
    """Raises NotFound, also for flavors that the caller's project may not use."""
    query = select(*_FLAVOR).where(flavors.c.id == flavor_id, *_usable(who))
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"Flavor {flavor_id[:255]} could not be found.")
    return Flavor(**row._mapping)


def list_flavors(
    tx: Tx,
    who: Caller,
    *,
    is_public: bool | None = True,
    disk_gib_min: int = 0,
    memory_mib_min: int = 0,
    sort_key: str = "flavorid",
    descending: bool = False,
    limit: int = 1000,
    marker: FlavorId | None = None,
) -> list[Flavor]:
    """One page. `is_public` None lists both kinds. Raises Invalid for a bad marker or sort key."""
    if sort_key not in SORT:
        raise Invalid(f"Query parameter 'sort_key': cannot sort by '{sort_key[:60]}'.")
    where = [*_usable(who)]
    if is_public is not None:
        where.append(flavors.c.is_public.is_(is_public))
    if disk_gib_min:
        where.append(flavors.c.disk_gib >= disk_gib_min)
    if memory_mib_min:
        where.append(flavors.c.memory_mib >= memory_mib_min)
    column = SORT[sort_key]
    if marker is not None:
        row = tx.execute(select(column).where(flavors.c.id == marker, *_usable(who))).one_or_none()
        if row is None:
            raise Invalid(f"marker [{marker[:255]}] not found")
        further = column < row[0] if descending else column > row[0]
        where.append(or_(further, and_(column == row[0], flavors.c.id > marker)))
    order = column.desc() if descending else column.asc()
    query = select(*_FLAVOR).where(*where).order_by(order, flavors.c.id).limit(limit)
    return [Flavor(**row._mapping) for row in tx.execute(query)]


def create(tx: Tx, new: Flavor) -> Flavor:
    """Raises Conflict when id or name is taken."""
    same = select(flavors.c.id, flavors.c.name).where(
        or_(flavors.c.id == new.id, flavors.c.name == new.name)
    )
    taken = tx.execute(same).first()
    if taken is not None:
        what = f"ID {new.id}" if taken.id == new.id else f"name {new.name}"
        raise Conflict(f"Flavor with {what} already exists.")
    values = {c.name: getattr(new, c.name) for c in _FLAVOR}
    tx.execute(flavors.insert().values(**values, created_at=tx.now))
    return new


def describe(tx: Tx, who: Caller, flavor_id: FlavorId, description: str | None) -> Flavor:
    get(tx, who, flavor_id)
    _change(tx, flavor_id, description=description)
    return get(tx, who, flavor_id)


def delete(tx: Tx, who: Caller, flavor_id: FlavorId) -> None:
    """Servers that were made of it keep their copy."""
    get(tx, who, flavor_id)
    tx.execute(access.delete().where(access.c.flavor_id == flavor_id))
    tx.execute(flavors.delete().where(flavors.c.id == flavor_id))


def set_extra_specs(tx: Tx, who: Caller, flavor_id: FlavorId, specs: dict[str, str]) -> Flavor:
    """Add or replace these keys; the others stay."""
    found = get(tx, who, flavor_id)
    marks.require_mark(specs, marks.FLAVOR_KEY)
    _change(tx, flavor_id, extra_specs={**found.extra_specs, **specs})
    return get(tx, who, flavor_id)


def remove_extra_spec(tx: Tx, who: Caller, flavor_id: FlavorId, key: str) -> None:
    """Raises NotFound when the flavor has no such key."""
    found = get(tx, who, flavor_id)
    if key not in found.extra_specs:
        raise NotFound(f"Flavor {flavor_id} has no extra specs with key {key[:255]}.")
    rest = {k: v for k, v in found.extra_specs.items() if k != key}
    _change(tx, flavor_id, extra_specs=rest)


def projects_with_access(tx: Tx, who: Caller, flavor_id: FlavorId) -> list[ProjectId]:
    """Raises NotFound for a public flavor: everyone may use it, so there is no list."""
    if get(tx, who, flavor_id).is_public:
        raise NotFound("Access list not available for public flavors.")
    query = select(access.c.project_id).where(access.c.flavor_id == flavor_id)
    return list(tx.execute(query.order_by(access.c.project_id)).scalars())


def grant(tx: Tx, who: Caller, flavor_id: FlavorId, project_id: ProjectId) -> None:
    """Raises Conflict: public, or granted already."""
    if get(tx, who, flavor_id).is_public:
        raise Conflict("Can not add access to a public flavor.")
    if project_id in projects_with_access(tx, who, flavor_id):
        raise Conflict(
            f"Flavor access already exists for flavor {flavor_id} and project {project_id} combination."
        )
    tx.execute(access.insert().values(flavor_id=flavor_id, project_id=project_id))


def revoke(tx: Tx, who: Caller, flavor_id: FlavorId, project_id: ProjectId) -> None:
    """Raises Conflict: public. NotFound: never granted."""
    if get(tx, who, flavor_id).is_public:
        raise Conflict("Can not remove access from a public flavor.")
    done = tx.execute(
        access.delete().where(access.c.flavor_id == flavor_id, access.c.project_id == project_id)
    )
    if done.rowcount == 0:
        raise NotFound(f"Flavor access not found for {flavor_id} / {project_id} combination.")


def _usable(who: Caller) -> list[ColumnElement[bool]]:
    if who.reach is None:
        return []
    granted = select(access.c.flavor_id).where(access.c.project_id == who.reach)
    return [or_(flavors.c.is_public.is_(True), flavors.c.id.in_(granted))]


def _change(tx: Tx, flavor_id: FlavorId, **values: Any) -> None:
    tx.execute(flavors.update().where(flavors.c.id == flavor_id).values(**values))
