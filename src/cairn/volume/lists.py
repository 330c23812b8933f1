"""What a list request asks for: filters, order and page, read from its query string."""

import ast
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Column, ColumnElement

from cairn.core.errors import Invalid
from cairn.core.ids import ProjectId
from cairn.http.call import Call
from cairn.http.pages import page_of
from cairn.volume import listing, store
from cairn.volume.store import Listing

Filter = Callable[[str], ColumnElement[bool]]

_PAGE_WORDS = {
    "limit", "marker", "offset", "sort", "sort_key", "sort_dir",
    "all_tenants", "with_count", "project_id", "metadata",
}  # fmt: skip
_COMPARISONS: Mapping[str, Callable[[Any, datetime], ColumnElement[bool]]] = {
    "gt": lambda column, time: column > time,
    "gte": lambda column, time: column >= time,
    "eq": lambda column, time: column == time,
    "neq": lambda column, time: column != time,
    "lt": lambda column, time: column < time,
    "lte": lambda column, time: column <= time,
}
_INT_MAX = (1 << 31) - 1


def reach_of_list(call: Call[Any]) -> ProjectId | None:
    """Lists show the caller's project, even to administrators, until they ask for all."""
    who = call.who
    if who.is_admin and (call.query.boolean("all_tenants") or who.project_id is None):
        wanted = call.query.get("project_id")
        return ProjectId(wanted) if wanted else None
    return who.project_id or ProjectId("-")


def volume_listing(call: Call[Any]) -> Listing:
    c = store.volumes.c
    return _listing(
        call,
        {
            "id": _text(c.id),
            "name": _text(c.name),
            "display_name": _text(c.name),
            "status": _text(c.state),
            "availability_zone": _text(c.zone),
            "size": _number("size", c.size_gib),
            "bootable": _boolean("bootable", c.is_bootable),
            "user_id": _text(c.user_id),
            "snapshot_id": _text(c.snapshot_id),
            "source_volid": _text(c.source_id),
            "volume_type_id": _text(c.type_id),
            "created_at": _time("created_at", c.created_at),
            "updated_at": _time("updated_at", c.updated_at),
        },
        store.VOLUME_SORT,
        {"name": c.name, "status": c.state},
    )


def snapshot_listing(call: Call[Any]) -> Listing:
    c = store.snapshots.c
    return _listing(
        call,
        {
            "id": _text(c.id),
            "name": _text(c.name),
            "display_name": _text(c.name),
            "status": _text(c.state),
            "volume_id": _text(c.volume_id),
            "user_id": _text(c.user_id),
            "created_at": _time("created_at", c.created_at),
            "updated_at": _time("updated_at", c.updated_at),
        },
        store.SNAPSHOT_SORT,
        {"name": c.name, "status": c.state},
    )


def _listing(
    call: Call[Any],
    filters: Mapping[str, Filter],
    sort: Mapping[str, Any],
    similar: Mapping[str, Column[Any]],
) -> Listing:
    page = page_of(call)
    query = call.query
    where = []
    for name, value in query.pairs:
        if name in filters:
            where.append(filters[name](value))
        elif name.removesuffix("~") in similar and name.endswith("~") and call.at_least(3, 34):
            where.append(similar[name[:-1]].contains(value, autoescape=True))
        elif name not in _PAGE_WORDS and call.at_least(3, 31):
            raise Invalid(f"Invalid filters {name[:60]} are found in query options.")
    return Listing(
        where=tuple(where),
        metadata=_metadata(query.get("metadata")),
        keys=listing.sort_keys(
            query.get("sort"),
            legacy_key=query.get("sort_key"),
            legacy_direction=query.get("sort_dir"),
            known=sort,
        ),
        limit=page.limit,
        marker=page.marker,
        offset=min(query.integer("offset") or 0, _INT_MAX),
    )


def _text(column: Column[Any]) -> Filter:
    return lambda value: column == value


def _number(name: str, column: Column[Any]) -> Filter:
    def filter_by(value: str) -> ColumnElement[bool]:
        if not (value.isascii() and value.isdecimal() and len(value) < 10):
            raise Invalid(f"Query parameter '{name}' must be an integer, not '{value[:40]}'.")
        return column == int(value)

    return filter_by


def _boolean(name: str, column: Column[Any]) -> Filter:
    def filter_by(value: str) -> ColumnElement[bool]:
        if value.lower() in ("true", "1"):
            return column.is_(True)
        if value.lower() in ("false", "0"):
            return column.is_(False)
        raise Invalid(f"Query parameter '{name}' must be a boolean, not '{value[:40]}'.")

    return filter_by


def _time(name: str, column: Column[Any]) -> Filter:
    """`created_at=gt:2026-01-01T00:00:00,lt:…` (3.60); without an operator it means "equal"."""

    def filter_by(value: str) -> ColumnElement[bool]:
        matching: ColumnElement[bool] | None = None
        for part in value.split(","):
            operator, colon, text = part.partition(":")
            if not colon or operator not in _COMPARISONS:
                operator, text = "eq", part
            compared = _COMPARISONS[operator](column, _moment(name, text))
            matching = compared if matching is None else matching & compared
        assert matching is not None, "a split text has at least one part"
        return matching

    return filter_by


def _moment(name: str, text: str) -> datetime:
    try:
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid(f"Query parameter '{name}': '{text[:40]}' is no ISO 8601 time.") from error
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def _metadata(text: str | None) -> dict[str, str]:
    """Clients send a Python dictionary's text, newer ones JSON."""
    if not text:
        return {}
    try:
        read = ast.literal_eval(text) if len(text) < 4096 else None
        return msgspec.convert(read, dict[str, str])
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
        raise Invalid("Query parameter 'metadata' must be a dictionary of texts.") from error
