"""Ordered pages of a table: keyset paging over any mix of sort keys.

A page continues after its marker's row by comparing sort keys, so that its cost does not grow with the
number of rows before it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Select, and_, or_

from cairn.core.errors import Invalid


class SortKey(Struct, frozen=True):
    name: str
    descending: bool


def sort_keys(
    text: str | None,
    *,
    legacy_key: str | None,
    legacy_direction: str | None,
    known: Mapping[str, Any],
) -> tuple[SortKey, ...]:
    """Read `sort=name:asc,id` or `sort_key` and `sort_dir`; newest first when neither is given."""
    if text and (legacy_key or legacy_direction):
        raise Invalid("Query parameter 'sort' excludes 'sort_key' and 'sort_dir'.")
    pairs = [p.partition(":")[::2] for p in (text or "").split(",") if p.strip()]
    if not pairs:
        pairs = [(legacy_key or "created_at", legacy_direction or "desc")]
    keys = []
    for name, direction in ((k.strip(), d.strip().lower() or "desc") for k, d in pairs):
        if name not in known:
            raise Invalid(
                f"Query parameter 'sort' or 'sort_key': cannot sort by '{name[:60]}'; "
                f"possible: {', '.join(sorted(known))}."
            )
        if direction not in ("asc", "desc"):
            raise Invalid(f"Sort direction '{direction[:20]}' is neither 'asc' nor 'desc'.")
        keys.append(SortKey(name, direction == "desc"))
    if all(key.name != "id" for key in keys):
        keys.append(SortKey("id", keys[-1].descending))  # makes the order total
    return tuple(keys)


def ordered(query: Select[Any], keys: Sequence[SortKey], columns: Mapping[str, Any]) -> Select[Any]:
    return query.order_by(
        *(columns[k.name].desc() if k.descending else columns[k.name].asc() for k in keys)
    )


def after(
    keys: Sequence[SortKey], columns: Mapping[str, Any], marker: Sequence[Any]
) -> ColumnElement[bool]:
    """Rows that come after the one whose sort keys are `marker`."""
    steps = []
    for index, key in enumerate(keys):
        column, value = columns[key.name], marker[index]
        equal = [columns[k.name] == marker[i] for i, k in enumerate(keys[:index])]
        steps.append(and_(*equal, column < value if key.descending else column > value))
    return or_(*steps)
