"""Paging: `limit` and `marker` in, a bounded page and absolute links out."""

from typing import Any
from urllib.parse import urlencode

from msgspec import Struct

from cairn.core.errors import Invalid
from cairn.http.call import Call

LIMIT_MAX = 1000  # rows a page, whatever the client asks


class Page(Struct, frozen=True, kw_only=True):
    limit: int
    marker: str | None = None
    is_explicit: bool = False  # the client asked for a limit


def page_of(call: Call[Any], *, limit_max: int = LIMIT_MAX) -> Page:
    """The page that a list request asks for; Invalid on a limit that is no number."""
    text = call.query.get("limit")
    marker = call.query.get("marker") or None
    if text is None or text == "":
        return Page(limit=limit_max, marker=marker)
    if not (text.isdecimal() and text.isascii()) or len(text) > 9:
        raise Invalid(f"Query parameter 'limit' must be a non-negative integer, not '{text[:40]}'.")
    return Page(limit=min(int(text), limit_max), marker=marker, is_explicit=True)


def next_link(call: Call[Any], marker: str, **changes: str) -> str:
    """The absolute address of the page after `marker`, all other query parameters kept."""
    dropped = {"marker", *changes}
    pairs = [(k, v) for k, v in call.query.pairs if k not in dropped]
    query = urlencode([*pairs, ("marker", marker), *changes.items()])
    return f"{call.base_url}{call.url_path}?{query}"
