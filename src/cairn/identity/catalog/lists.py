"""Lists of what is put together in memory: filters, pages and links as those of the database's lists.

A filter is an attribute's name, alone or with how to compare: `name__icontains=swift`. Source: api-ref,
Identity v3, "Filtering and Sorting" (the inexact comparisons).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cairn.core.errors import Invalid
from cairn.http.call import Call
from cairn.http.pages import next_link, page_of
from cairn.identity.listing import LIMIT_MAX, listed

_HOW: dict[str, Callable[[str, str], bool]] = {
    "equals": lambda text, wanted: text == wanted,
    "contains": lambda text, wanted: wanted in text,
    "startswith": lambda text, wanted: text.startswith(wanted),
    "endswith": lambda text, wanted: text.endswith(wanted),
}


def listed_things(
    call: Call[Any], key: str, things: Sequence[dict[str, Any]], names: Iterable[str]
) -> dict[str, Any]:
    """The whole answer to a list request that may filter by `names`."""
    found = [thing for thing in things if _matches(call, thing, set(names))]
    asked = page_of(call, limit_max=LIMIT_MAX)
    if asked.marker is not None:
        ids = [thing["id"] for thing in found]
        if asked.marker not in ids:
            raise Invalid(f"Marker '{asked.marker[:64]}' could not be found.")
        found = found[ids.index(asked.marker) + 1 :]
    shown = found[: asked.limit]
    has_more = len(found) > len(shown) > 0
    return listed(call, key, shown, next_link(call, shown[-1]["id"]) if has_more else None)


def _matches(call: Call[Any], thing: dict[str, Any], names: set[str]) -> bool:
    for key, wanted in call.query.pairs:
        name, _, how = key.partition("__")
        if name not in names:
            continue
        value = thing.get(name)
        if not _is_like("" if value is None else str(value), how or "equals", wanted):
            return False
    return True


def _is_like(text: str, how: str, wanted: str) -> bool:
    """Whether it compares so; a comparison that nobody knows is passed over, as Keystone does."""
    if how in _HOW:
        return _HOW[how](text, wanted)
    if how.startswith("i") and how[1:] in _HOW:
        return _HOW[how[1:]](text.lower(), wanted.lower())
    return True
