"""What a list request asks for: filters, order and page, out of the query string.

Source: api-ref "Image service", "List images". What is not a known filter filters by a property of that
name, as in Glance.
"""

import csv
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from cairn.core.errors import Invalid
from cairn.core.ids import ProjectId
from cairn.http.call import Call, Query
from cairn.image.records import MemberStatus, Visibility
from cairn.image.store import SORTABLE, Filter, Order

_PAGING = frozenset({"limit", "marker", "sort", "sort_key", "sort_dir"})
_KNOWN = frozenset({
    "id", "name", "status", "disk_format", "container_format", "owner", "visibility", "member_status",
    "os_hidden", "protected", "min_disk", "min_ram", "size", "size_min", "size_max", "checksum",
    "os_hash_value", "tag", "created_at", "updated_at",
})  # fmt: skip
_COMPARISONS = frozenset({"eq", "neq", "gt", "gte", "lt", "lte"})


def read_filter(query: Query) -> Filter:
    """Raises Invalid naming the parameter."""
    for name, value in query.pairs:
        if "\x00" in name + value:
            raise Invalid(f"Query parameter '{name[:60]!r}' contains a NUL character.")
    owner = query.get("owner")
    return Filter(
        ids=_among(query, "id"),
        names=_among(query, "name"),
        statuses=_among(query, "status"),
        formats=_among(query, "disk_format"),
        containers=_among(query, "container_format"),
        owner=ProjectId(owner) if owner is not None else None,
        visibility=_one_of(query, "visibility", (*Visibility, "all")),
        member_status=_one_of(query, "member_status", (*MemberStatus, "all"))
        or MemberStatus.ACCEPTED,
        is_hidden=query.boolean("os_hidden") or False,
        is_protected=query.boolean("protected"),
        min_disk_gib=query.integer("min_disk"),
        min_ram_mib=query.integer("min_ram"),
        size_bytes=query.integer("size"),
        size_bytes_min=query.integer("size_min"),
        size_bytes_max=query.integer("size_max"),
        checksum=query.get("checksum"),
        hash_value=query.get("os_hash_value"),
        tags=tuple(query.all("tag")),
        properties=tuple((k, v) for k, v in query.pairs if k not in _KNOWN | _PAGING),
        times=tuple(
            (name, *_moment(name, text))
            for name in ("created_at", "updated_at")
            for text in query.all(name)
        ),
    )


def read_order(query: Query) -> Order:
    """`sort=name:asc,size` or repeated `sort_key` and `sort_dir`; newest first without either."""
    text = query.get("sort")
    keys, directions = query.all("sort_key"), query.all("sort_dir")
    if text is not None and (keys or directions):
        raise Invalid("Query parameter 'sort' excludes 'sort_key' and 'sort_dir'.")
    if text is not None:
        pairs = [tuple(part.strip().partition(":")[::2]) for part in text.split(",")]
    elif len(directions) <= 1:
        pairs = [(key, *directions) if directions else (key, "") for key in keys or ["created_at"]]
    elif len(directions) == len(keys):
        pairs = list(zip(keys, directions, strict=True))
    else:
        raise Invalid("Query parameter 'sort_dir' must be given once, or once for each 'sort_key'.")
    order = [(_sort_key(key), _is_descending(direction)) for key, direction in pairs]
    order += [(key, True) for key in ("created_at", "id") if key not in dict(order)]
    return Order(keys=tuple(order))


def link(call: Call[Any], **changes: str) -> str:
    """This list's path, relative to the service as Glance writes it, with another marker."""
    pairs = [(key, value) for key, value in call.query.pairs if key != "marker"]
    query = urlencode([*pairs, *changes.items()])
    return f"/v2/images?{query}" if query else "/v2/images"


def _among(query: Query, name: str) -> tuple[str, ...]:
    """`name=a`, or `name=in:a,"b,c"`."""
    text = query.get(name)
    if text is None:
        return ()
    if not text.startswith("in:"):
        return (text,)
    values = next(csv.reader([text[3:]], skipinitialspace=True), [])
    if not values:
        raise Invalid(f"Query parameter '{name}': 'in:' needs at least one value.")
    return tuple(values)


def _one_of(query: Query, name: str, allowed: tuple[str, ...]) -> str | None:
    text = query.get(name)
    if text is not None and text not in allowed:
        raise Invalid(
            f"Query parameter '{name}': '{text[:60]}' is not one of {', '.join(allowed)}."
        )
    return text


def _moment(name: str, text: str) -> tuple[str, datetime]:
    """ "gte:2026-01-31T12:00:00Z"; without a comparison it is equality."""
    how, colon, rest = text.partition(":")
    if not colon or how not in _COMPARISONS:
        how, rest = "eq", text
    try:
        moment = datetime.fromisoformat(rest)
    except ValueError as error:
        raise Invalid(f"Query parameter '{name}': '{rest[:60]}' is not a time.") from error
    return how, moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _sort_key(name: str) -> str:
    if name not in SORTABLE:
        possible = ", ".join(sorted(SORTABLE))
        raise Invalid(
            f"Query parameter 'sort': cannot sort by '{name[:60]}'; possible: {possible}."
        )
    return name


def _is_descending(direction: str) -> bool:
    if direction not in ("asc", "desc", ""):
        raise Invalid(f"Sort direction '{direction[:20]}' is neither 'asc' nor 'desc'.")
    return direction != "asc"
