"""One way to list: filters by the API's attribute names, sort keys, pages by marker.

Each resource says which attributes mean which SQL (`Listing`); what it does not name is no filter. A page
is found by its marker's own sort values and not by an offset, so its cost does not grow with its number.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Select, Table, and_, exists, false, func, not_, or_, select

from cairn.core.errors import Invalid, NotFound
from cairn.db.engine import Tx
from cairn.network.records import Search
from cairn.network.store.tables import tags

Match = Callable[[tuple[str, ...]], ColumnElement[bool]]

_TRUE = ("true", "1", "yes", "on", "t", "y")
_FALSE = ("false", "0", "no", "off", "f", "n")
_NOTHING = ("", "none", "null")


class Listing(Struct, frozen=True, kw_only=True):
    """How one resource is searched."""

    what: str  # "Network": for messages
    table: Table
    filters: Mapping[str, Match]
    sorts: Mapping[str, ColumnElement[Any]]


def text(column: ColumnElement[Any]) -> Match:
    """Equal to one of the values; "" also finds what has none."""

    def match(values: tuple[str, ...]) -> ColumnElement[bool]:
        found = column.in_(values)
        return or_(found, column.is_(None)) if _says_nothing(values) else found

    return match


def boolean(column: ColumnElement[Any]) -> Match:
    return lambda values: column.in_([_boolean(v) for v in values])


def integer(column: ColumnElement[Any]) -> Match:
    def match(values: tuple[str, ...]) -> ColumnElement[bool]:
        numbers = [int(v) for v in values if v.removeprefix("-").isdecimal() and len(v) < 18]
        found = column.in_(numbers)
        return or_(found, column.is_(None)) if _says_nothing(values) else found

    return match


def listing(
    what: str, table: Table, filters: Mapping[str, Match], **sorts: ColumnElement[Any]
) -> Listing:
    """A listing with the attributes that every resource has besides its own."""
    shared: dict[str, Match] = {
        "id": text(table.c.id),
        "project_id": text(table.c.project_id),
        "tenant_id": text(table.c.project_id),
        "description": text(table.c.description),
        "revision_number": integer(table.c.revision),
    }
    order = {"id": table.c.id, "project_id": table.c.project_id, "tenant_id": table.c.project_id,
             "description": table.c.description, "created_at": table.c.made_at,
             "updated_at": table.c.changed_at}  # fmt: skip
    if "name" in table.c:
        shared["name"] = text(table.c.name)
        order["name"] = table.c.name
    return Listing(
        what=what,
        table=table,
        filters={**shared, **_tag_filters(table), **filters},
        sorts={**order, **sorts},
    )


def find(tx: Tx, kind: Listing, search: Search, visible: ColumnElement[bool] | None) -> list[Any]:
    """The rows of one page, in the order asked for. Invalid on what cannot be searched by."""
    query = select(kind.table)
    if visible is not None:
        query = query.where(visible)
    for name, values in search.filters:
        if name not in kind.filters:
            raise Invalid(f"HTTPBadRequest: ['{name}'] is invalid attribute for filtering")
        query = query.where(kind.filters[name](values))
    query = _page(tx, kind, query, search)
    rows = list(tx.execute(query))
    return rows[::-1] if search.backwards else rows


def matching_any(
    key: ColumnElement[Any], child: Table, child_key: ColumnElement[Any],
    column: ColumnElement[Any],
) -> Match:  # fmt: skip
    """Some row of `child` that belongs to us has one of the values."""
    return lambda values: exists(select(child_key).where(child_key == key, column.in_(values)))


def _page(tx: Tx, kind: Listing, query: Select[Any], search: Search) -> Select[Any]:
    keys: list[tuple[ColumnElement[Any], bool]] = []
    for name, descending in search.sort:
        if name not in kind.sorts:
            raise Invalid(f"HTTPBadRequest: ['{name}'] is invalid attribute for sort_keys")
        keys.append((kind.sorts[name], descending != search.backwards))
    keys.append((kind.table.c.id, search.backwards))
    if search.marker is not None:
        columns = [column for column, _ in keys]
        marker = tx.execute(select(*columns).where(kind.table.c.id == search.marker)).one_or_none()
        if marker is None:
            raise NotFound(
                f"MarkerNotFound: {kind.what} {search.marker[:64]} (the marker) could not be found."
            )
        query = query.where(_after(keys, tuple(marker)))
    order = [c.desc() if descending else c.asc() for c, descending in keys]
    return query.order_by(*order).limit(search.limit)


def _after(
    keys: list[tuple[ColumnElement[Any], bool]], marker: tuple[Any, ...]
) -> ColumnElement[bool]:
    """Rows that come after the marker: a later first key, or the same first and a later second, ..."""
    cases: list[ColumnElement[bool]] = []
    same: list[ColumnElement[bool]] = []
    for (column, descending), value in zip(keys, marker, strict=True):
        cases.append(and_(*same, column < value if descending else column > value))
        same.append(column == value)
    return or_(*cases)


def _tag_filters(table: Table) -> dict[str, Match]:
    def having_any(values: tuple[str, ...]) -> ColumnElement[bool]:
        wanted = _split(values)
        return exists(
            select(tags.c.tag).where(tags.c.resource_id == table.c.id, tags.c.tag.in_(wanted))
        )

    def having_all(values: tuple[str, ...]) -> ColumnElement[bool]:
        wanted = set(_split(values))
        count = (
            select(func.count())
            .where(tags.c.resource_id == table.c.id, tags.c.tag.in_(wanted))
            .scalar_subquery()
        )
        return count == len(wanted)

    return {
        "tags": having_all,
        "tags-any": having_any,
        "not-tags": lambda values: not_(having_all(values)),
        "not-tags-any": lambda values: not_(having_any(values)),
    }


def _split(values: Iterable[str]) -> list[str]:
    return [tag for value in values for tag in value.split(",")]


def _says_nothing(values: tuple[str, ...]) -> bool:
    return any(v.lower() in _NOTHING for v in values)


def _boolean(value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise Invalid(f"InvalidInput: Invalid input for filter: '{value[:40]}' is not a boolean.")


def nothing() -> ColumnElement[bool]:
    return false()
