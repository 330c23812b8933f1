"""Limits of projects, for all services: a row where a project differs from a service's default.

What counts against a limit is counted by the service that owns it, in the transaction that adds to it.
"""

from sqlalchemy import BigInteger, Column, String, Table, bindparam, select

from cairn.core.ids import ProjectId
from cairn.db.columns import id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared

UNLIMITED = -1

quota_limits = Table(
    "quota_limits",
    metadata,
    id_column("project_id", primary_key=True),
    Column("name", String(64), primary_key=True),  # "instances", "gigabytes", "floatingip"
    Column("maximum", BigInteger, nullable=False),  # -1: unlimited
)


def limit(tx: Tx, project_id: ProjectId, name: str, default: int) -> int:
    """How many of `name` the project may have; -1 is unlimited."""
    found = tx.execute(
        select(quota_limits.c.maximum).where(
            quota_limits.c.project_id == project_id, quota_limits.c.name == name
        )
    ).scalar()
    return default if found is None else int(found)


def limits_of(tx: Tx, project_id: ProjectId) -> dict[str, int]:
    """Every limit in which the project differs from the defaults."""
    return dict(tx.run(_LIMITS_OF, {"project": project_id}).rows)


_LIMITS_OF = Prepared(
    select(quota_limits.c.name, quota_limits.c.maximum).where(
        quota_limits.c.project_id == bindparam("project")
    )
)


def limits_by_project(tx: Tx, names: tuple[str, ...]) -> dict[ProjectId, dict[str, int]]:
    """Every project that differs from the defaults in one of `names`, and in which."""
    query = (
        select(quota_limits)
        .where(quota_limits.c.name.in_(names))
        .order_by(quota_limits.c.project_id, quota_limits.c.name)
    )
    found: dict[ProjectId, dict[str, int]] = {}
    for row in tx.execute(query):
        found.setdefault(row.project_id, {})[row.name] = row.maximum
    return found


def set_limit(tx: Tx, project_id: ProjectId, name: str, maximum: int) -> None:
    assert maximum >= UNLIMITED, "a limit is a count or -1"
    is_mine = (quota_limits.c.project_id == project_id, quota_limits.c.name == name)
    done = tx.execute(quota_limits.update().where(*is_mine).values(maximum=maximum))
    if done.rowcount == 0:
        tx.execute(quota_limits.insert().values(project_id=project_id, name=name, maximum=maximum))


def reset_limits(tx: Tx, project_id: ProjectId, names: tuple[str, ...] | None = None) -> None:
    """Back to the defaults: all limits of the project, or only those in `names`."""
    mine = quota_limits.delete().where(quota_limits.c.project_id == project_id)
    tx.execute(mine if names is None else mine.where(quota_limits.c.name.in_(names)))
