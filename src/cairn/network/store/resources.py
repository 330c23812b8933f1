"""What all tables share: tags, and adding, changing, removing and counting rows."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Table, delete, func, insert, select, update

from cairn.core.errors import NotFound
from cairn.db.engine import Tx
from cairn.network.store.tables import tags

IN_MAX = 500  # ids in one IN: SQLite allows many more, PostgreSQL plans well with some hundreds


def chunks(ids: Iterable[str]) -> list[list[str]]:
    """`ids` without repetition, in lists short enough for one IN."""
    whole = list(dict.fromkeys(ids))
    return [whole[i : i + IN_MAX] for i in range(0, len(whole), IN_MAX)]


def tags_of(tx: Tx, ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for some in chunks(ids):
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
    done = tx.execute(
        update(table)
        .where(table.c.id == resource_id)
        .values(changed_at=tx.now, revision=table.c.revision + 1, **values)
    )
    if done.rowcount == 0:
        raise NotFound(f"The resource {resource_id} could not be found.")


def remove(tx: Tx, table: Table, resource_id: str) -> None:
    """The row and its tags."""
    tx.execute(delete(tags).where(tags.c.resource_id == resource_id))
    tx.execute(delete(table).where(table.c.id == resource_id))


def count(tx: Tx, table: Table, project_id: str) -> int:
    where = table.c.project_id == project_id
    return int(tx.execute(select(func.count()).select_from(table).where(where)).scalar_one())
