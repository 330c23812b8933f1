"""What all tables share: tags, and adding, changing, removing and counting rows."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Table, bindparam, delete, func, insert, select, update

from cairn.core.errors import NotFound
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared, deleting
from cairn.network.store.tables import tags

IN_MAX = 500  # ids in one IN: SQLite allows many more, PostgreSQL plans well with some hundreds


def chunks(ids: Iterable[str]) -> list[list[str]]:
    """`ids` without repetition, in lists short enough for one IN."""
    whole = list(dict.fromkeys(ids))
    return [whole[i : i + IN_MAX] for i in range(0, len(whole), IN_MAX)]


_TAGS_OF_ONE = Prepared(
    select(tags.c.tag).where(tags.c.resource_id == bindparam("resource_id")).order_by(tags.c.tag)
)


def tags_of(tx: Tx, ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for some in chunks(ids):
        if len(some) == 1:
            if of_one := tx.run(_TAGS_OF_ONE, {"resource_id": some[0]}).scalars():
                found[some[0]] = tuple(of_one)
            continue
        rows = tx.execute(
            select(tags.c.resource_id, tags.c.tag)
            .where(tags.c.resource_id.in_(some))
            .order_by(tags.c.tag)
        )
        for row in rows:
            found[row.resource_id] = (*found.get(row.resource_id, ()), row.tag)
    return found


def set_tags(tx: Tx, resource_id: str, wanted: Iterable[str]) -> None:
    """Exactly these."""
    tx.execute(delete(tags).where(tags.c.resource_id == resource_id))
    rows = [{"resource_id": resource_id, "tag": tag} for tag in sorted(set(wanted))]
    if rows:
        tx.execute(insert(tags), rows)


def add(tx: Tx, table: Table, **values: Any) -> None:
    """A new row, made now."""
    tx.execute(table.insert().values(made_at=tx.now, changed_at=tx.now, **values))


def change(tx: Tx, table: Table, resource_id: str, values: Mapping[str, Any]) -> None:
    """Write `values` (none: only the revision) and raise the revision."""
    statement = _changing(table, tuple(values))
    done = tx.run(statement, {"resource_id": resource_id, "now_at": tx.now, **values})
    if done.rowcount == 0:
        raise NotFound(f"The resource {resource_id} could not be found.")


@cache
def _changing(table: Table, columns: tuple[str, ...]) -> Prepared:
    values = {name: bindparam(name, type_=table.c[name].type) for name in columns}
    values["changed_at"] = bindparam("now_at", type_=table.c.changed_at.type)
    return Prepared(
        update(table)
        .where(table.c.id == bindparam("resource_id"))
        .values({**values, "revision": table.c.revision + 1})
    )


def remove(tx: Tx, table: Table, resource_id: str) -> None:
    """The row and its tags."""
    tx.run(deleting(tags, ("resource_id",)), {"is_resource_id": resource_id})
    tx.run(deleting(table, ("id",)), {"is_id": resource_id})


def count(tx: Tx, table: Table, project_id: str) -> int:
    where = table.c.project_id == project_id
    return int(tx.execute(select(func.count()).select_from(table).where(where)).scalar_one())
