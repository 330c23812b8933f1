"""How identity's lists look: filters by attribute, pages with Keystone's links, each thing with its own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from msgspec import Struct
from sqlalchemy import Boolean, ColumnElement, func

from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.pages import next_link, page_of
from cairn.identity.store import Shelf

R = TypeVar("R", bound=Struct)

# Keystone answers without a limit unless asked for one, and most clients do not follow its links.
LIMIT_MAX = 5000


def link(call: Call[Any], path: str) -> dict[str, str]:
    return {"self": f"{call.base_url}/identity/v3/{path}"}


def flag(call: Call[Any], key: str) -> bool:
    """A flag as Keystone reads it: there, with or without a value, means yes, "0" and "false" no."""
    return key in call.query and (call.query.get(key) or "").lower() not in ("0", "false")


def filters(call: Call[Any], shelf: Shelf[R], names: Iterable[str]) -> list[ColumnElement[bool]]:
    """Conditions for those of `names` that the query has, also as `name__contains` and the like; the
    columns have these names. What else the query asks is ignored, as Keystone does."""
    conditions: list[ColumnElement[bool]] = []
    for name in names:
        column = shelf.table.c[name]
        value = call.query.get(name)
        if isinstance(column.type, Boolean):
            if value is not None:
                conditions.append(column.is_(call.query.boolean(name) if value else True))
            continue
        if value is not None:
            conditions.append(column == value)
        for key, text in call.query.pairs:
            if key.startswith(f"{name}__"):
                condition = _inexact(column, key.removeprefix(f"{name}__"), text)
                conditions += [condition] if condition is not None else []
    return conditions


def _inexact(column: Any, comparator: str, value: str) -> ColumnElement[bool] | None:
    """None for a comparator that there is not, or that everything passes. LIKE would tell letters of
    either case apart on one database only."""
    is_caseless = comparator.startswith("i")
    subject, wanted = (func.lower(column), func.lower(value)) if is_caseless else (column, value)
    match comparator.removeprefix("i"):
        case "equals":
            return subject == wanted
        case "contains" if value:
            return func.replace(subject, wanted, "") != subject
        case "startswith" if value:
            return func.substr(subject, 1, len(value)) == wanted
        case "endswith" if value:
            start = func.length(subject) - len(value) + 1
            return func.substr(subject, start) == wanted
        case _:
            return None


def page(
    tx: Tx, call: Call[Any], shelf: Shelf[R], conditions: Sequence[ColumnElement[bool]]
) -> tuple[list[R], str | None]:
    """The records that a list request asks for, and the link to those after them."""
    asked = page_of(call, limit_max=LIMIT_MAX)
    found = shelf.page(tx, conditions, limit=asked.limit + 1, marker=asked.marker)
    shown = found[: asked.limit]
    has_more = len(found) > len(shown) > 0
    return shown, next_link(call, cast(Any, shown[-1]).id) if has_more else None


def listed(
    call: Call[Any],
    key: str,
    things: Sequence[Mapping[str, Any] | str],
    following: str | None = None,
) -> dict[str, Any]:
    """A list's body."""
    myself = f"{call.base_url}{call.url_path}"
    return {key: things, "links": {"self": myself, "previous": None, "next": following}}


def listing(
    tx: Tx,
    call: Call[Any],
    key: str,
    shelf: Shelf[R],
    conditions: Sequence[ColumnElement[bool]],
    show: Callable[[Call[Any], R], dict[str, Any]],
) -> dict[str, Any]:
    """The whole answer to a list request whose things show themselves one by one."""
    shown, following = page(tx, call, shelf, conditions)
    return listed(call, key, [show(call, record) for record in shown], following)
