"""Which thing a deed was about, out of the path and of what the handler returned.

Of a reply nothing is read but a thing's id, its name, its project and its domain: it may hold secrets.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from msgspec import Struct

from cairn.audit.words import Words
from cairn.http.routes import Reply

MADE_TOLD_MAX = 100  # things made by one request that get an entry each
TEXT_MAX = 255
ID_MAX = 64
_PATH_PROJECTS = ("project_id", "project", "tenant_id", "target_id")
_PATH_DOMAINS = ("domain_id", "domain")


class Thing(Struct, frozen=True, kw_only=True):
    id: str | None = None
    name: str | None = None
    project_id: str | None = None
    domain_id: str | None = None


_NOTHING = Thing()


def short(text: Any, most: int = TEXT_MAX) -> str | None:
    """A text that any database takes, cut; None of what is no text."""
    if not isinstance(text, str):
        return None
    cut: str = text if len(text) <= most else text[:most]
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)


def short_id(text: Any) -> str | None:
    if type(text) is int:
        text = str(text)
    return short(text, ID_MAX) if text else None


def of_result(result: Any) -> list[Thing]:
    """The things in what a handler returned, or its transaction: one, or several made at once."""
    body = result.body if isinstance(result, Reply) else result
    if isinstance(body, dict) and len(body) == 1:
        (body,) = body.values()
    if isinstance(body, list | tuple):
        return [thing for one in body[:MADE_TOLD_MAX] if (thing := _thing(one)) is not None]
    thing = _thing(body)
    return [] if thing is None else [thing]


def _thing(body: Any) -> Thing | None:
    if isinstance(body, dict):
        get = body.get
    elif isinstance(body, Struct):
        get = partial(_field, body)
    else:
        return None
    return Thing(
        id=short_id(get("id")),
        name=short(get("name")),
        project_id=short_id(get("project_id") or get("tenant_id") or get("owner")),
        domain_id=short_id(get("domain_id")),
    )


def _field(body: Struct, name: str) -> Any:
    return getattr(body, name, None)


def of_path(known: Words, path: Mapping[str, str]) -> Thing:
    """The thing that the path names."""
    if not known.variables:
        return _NOTHING
    return Thing(
        id=short_id(path.get(known.target)) if known.target else None,
        project_id=_first(known, path, _PATH_PROJECTS),
        domain_id=_first(known, path, _PATH_DOMAINS),
    )


def _first(known: Words, path: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((short_id(path.get(n)) for n in names if n in known.variables), None)


def details(known: Words, path: Mapping[str, str]) -> dict[str, str]:
    """All that the path names, where that is more than the thing itself."""
    if not known.variables or known.variables == (known.target,):
        return {}
    found = {name: short_id(path.get(name)) for name in known.variables}
    return {name: value for name, value in found.items() if value}
