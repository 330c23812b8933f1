"""How identity's lists look: filters by attribute, pages with Keystone's links, each thing with its own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from msgspec import Struct
from sqlalchemy import Boolean, ColumnElement

from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.pages import next_link, page_of
from cairn.identity.store import Shelf

R = TypeVar("R", bound=Struct)

# Keystone answers without a limit unless asked for one, and most clients do not follow its links.
LIMIT_MAX = 5000


def link(call: Call[Any], path: str) -> dict[str, str]:
    return {"self": f"{call.base_url}/identity/v3/{path}"}


def filters(call: Call[Any], shelf: Shelf[R], names: Iterable[str]) -> list[ColumnElement[bool]]:
    """Conditions for those of `names` that the query has; the columns have these names."""
    conditions: list[ColumnElement[bool]] = []
    for name in names:
        value = call.query.get(name)
        if value is None:
            continue
        column = shelf.table.c[name]
        is_flag = isinstance(column.type, Boolean)
        conditions.append(column.is_(call.query.boolean(name)) if is_flag else column == value)
    return conditions


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
