"""Limits of projects, for all services: a row where a project differs from the defaults, and one where an
operator changed a default.

Each slice declares its own table of limits (core/limits.py). What counts against a limit is counted by the
slice that owns it, in the transaction that adds to it: writes stand in one line (db/engine.py), so two
requests cannot both take the last. The rows are the same ones whichever API sets them: Nova's and Cinder's
quota sets and classes, Neutron's quotas, unified limits, `cairn quota`.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct
from sqlalchemy import BigInteger, Column, String, Table, Text, bindparam, or_, select

from cairn.core.ids import ProjectId
from cairn.core.limits import UNLIMITED, Limits
from cairn.db.columns import id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared

EVERYBODY = ProjectId("")
"""In the place of a project: what holds for all that have no row of their own."""

quota_limits = Table(
    "quota_limits",
    metadata,
    id_column("project_id", primary_key=True),
    Column("name", String(64), primary_key=True),  # "instances", "gigabytes", "floatingip"
    Column("maximum", BigInteger, nullable=False),  # -1: unlimited
    Column("description", Text),
)


class Row(Struct, frozen=True, kw_only=True):
    """What a project may have, where it differs from the default."""

    project_id: ProjectId
    name: str
    maximum: int
    description: str | None = None


def limit(tx: Tx, project_id: ProjectId | None, table: Limits, name: str) -> int:
    """How many of `name` the project may have; -1 is unlimited."""
    return limits_of(tx, project_id, table)[name]


def limits_of(tx: Tx, project_id: ProjectId | None, table: Limits) -> dict[str, int]:
    """Every limit of a service as it holds for the project."""
    return limits_in(tx, project_id, table.defaults)


def defaults_of(tx: Tx, table: Limits) -> dict[str, int]:
    """Every limit of a service as it holds for those that have none of their own."""
    return limits_in(tx, EVERYBODY, table.defaults)


def limits_in(tx: Tx, project_id: ProjectId | None, declared: Mapping[str, int]) -> dict[str, int]:
    """What holds for the project, of the limits in `declared`."""
    found = dict(declared)
    # In two rounds, so that the project's own come last.
    rows = tx.run(_LIMITS_OF, {"project": project_id or EVERYBODY}).rows
    for is_own in (False, True):
        for owner, name, maximum in rows:
            if bool(owner) is is_own and name in found:
                found[name] = maximum
    return found


_LIMITS_OF = Prepared(
    select(quota_limits.c.project_id, quota_limits.c.name, quota_limits.c.maximum).where(
        or_(
            quota_limits.c.project_id == bindparam("project"),
            quota_limits.c.project_id == bindparam("everybody", value=EVERYBODY),
        )
    )
)


def limits_by_project(tx: Tx, names: tuple[str, ...]) -> dict[ProjectId, dict[str, int]]:
    """Every project that differs from the defaults in one of `names`, and in which."""
    found: dict[ProjectId, dict[str, int]] = {}
    for row in rows_of(tx, names=names):
        found.setdefault(row.project_id, {})[row.name] = row.maximum
    return found


def rows_of(
    tx: Tx, *, project_ids: Iterable[str] | None = None, names: Iterable[str] | None = None
) -> list[Row]:
    """Where projects differ from the defaults; only these projects, only these names."""
    query = select(quota_limits).where(quota_limits.c.project_id != EVERYBODY)
    if project_ids is not None:
        query = query.where(quota_limits.c.project_id.in_(set(project_ids)))
    if names is not None:
        query = query.where(quota_limits.c.name.in_(set(names)))
    rows = tx.execute(query.order_by(quota_limits.c.project_id, quota_limits.c.name))
    return [Row(**row._mapping) for row in rows]


def changed_defaults(tx: Tx) -> dict[str, Row]:
    """What holds for everybody by an operator's word, by name."""
    rows = tx.execute(select(quota_limits).where(quota_limits.c.project_id == EVERYBODY))
    return {row.name: Row(**row._mapping) for row in rows}


def set_limit(tx: Tx, project_id: ProjectId, name: str, maximum: int) -> None:
    _put(tx, project_id, name, {"maximum": maximum})


def set_default(tx: Tx, name: str, maximum: int) -> None:
    """What projects may have that have no limit of their own."""
    _put(tx, EVERYBODY, name, {"maximum": maximum})


def put(tx: Tx, row: Row) -> None:
    """With its description."""
    _put(tx, row.project_id, row.name, {"maximum": row.maximum, "description": row.description})


def _put(tx: Tx, project_id: ProjectId, name: str, values: dict[str, object]) -> None:
    maximum = values["maximum"]
    assert isinstance(maximum, int) and maximum >= UNLIMITED, "a limit is a count or -1"
    is_it = (quota_limits.c.project_id == project_id, quota_limits.c.name == name)
    done = tx.execute(quota_limits.update().where(*is_it).values(**values))
    if done.rowcount == 0:
        tx.execute(quota_limits.insert().values(project_id=project_id, name=name, **values))


def reset_limits(tx: Tx, project_id: ProjectId, names: tuple[str, ...] | None = None) -> None:
    """Back to the defaults: all limits of the project, or only those in `names`."""
    assert project_id != EVERYBODY, "a project's limits end with it, the defaults with nothing"
    _reset(tx, project_id, names)


def forget_limits(tx: Tx, names: tuple[str, ...]) -> None:
    """Of every project, and the defaults: what they limited is gone."""
    tx.execute(quota_limits.delete().where(quota_limits.c.name.in_(names)))


def reset_defaults(tx: Tx, names: tuple[str, ...]) -> None:
    """Back to what the slices declare."""
    _reset(tx, EVERYBODY, names)


def _reset(tx: Tx, project_id: ProjectId, names: tuple[str, ...] | None) -> None:
    mine = quota_limits.delete().where(quota_limits.c.project_id == project_id)
    tx.execute(mine if names is None else mine.where(quota_limits.c.name.in_(names)))
