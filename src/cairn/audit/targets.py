"""Which thing a deed was about, out of the path and of what the handler returned.

Of a reply nothing is read but a thing's id, its name, its project and its domain: it may hold secrets.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from cairn.audit.words import Words
from cairn.http.routes import Reply

MADE_TOLD_MAX = 100  # things made by one request that get an entry each
TEXT_MAX = 255
ID_MAX = 64
_PROJECTS = ("project_id", "tenant_id", "owner")
_PATH_PROJECTS = ("project_id", "project", "tenant_id", "target_id")
_PATH_DOMAINS = ("domain_id", "domain")


class Thing(Struct, frozen=True, kw_only=True):
    id: str | None = None
    name: str | None = None
    project_id: str | None = None
    domain_id: str | None = None


def short(text: Any, most: int = TEXT_MAX) -> str | None:
    """A text that any database takes, cut; None of what is no text."""
    if not isinstance(text, str):
        return None
    cut = text[:most]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)
    return cut


def short_id(text: Any) -> str | None:
    return short(
        str(text) if isinstance(text, int) and not isinstance(text, bool) else text, ID_MAX
    )


def of_result(result: Any) -> list[Thing]:
    """The things in what a handler returned, or its transaction: one, or several made at once."""
    body = result.body if isinstance(result, Reply) else result
    if isinstance(body, Mapping) and len(body) == 1:
        (body,) = body.values()
    if isinstance(body, list | tuple):
        return [thing for one in body[:MADE_TOLD_MAX] if (thing := _thing(one)) is not None]
    thing = _thing(body)
    return [] if thing is None else [thing]


def _thing(body: Any) -> Thing | None:
    if not isinstance(body, Mapping | Struct):
        return None
    projects = (short_id(_field(body, name)) for name in _PROJECTS)
    return Thing(
        id=short_id(_field(body, "id")),
        name=short(_field(body, "name")),
        project_id=next(filter(None, projects), None),
        domain_id=short_id(_field(body, "domain_id")),
    )


def _field(body: Any, name: str) -> Any:
    return body.get(name) if isinstance(body, Mapping) else getattr(body, name, None)


def of_path(known: Words, path: Mapping[str, str]) -> Thing:
    """The thing that the path names."""
    project = next((path[n] for n in _PATH_PROJECTS if n in path and n in known.variables), None)
    domain = next((path[n] for n in _PATH_DOMAINS if n in path), None)
    return Thing(
        id=short_id(path.get(known.target)) if known.target else None,
        project_id=short_id(project),
        domain_id=short_id(domain),
    )


def details(known: Words, path: Mapping[str, str]) -> dict[str, str]:
    """All that the path names, where that is more than the thing itself."""
    if known.variables == (known.target,):
        return {}
    found = {name: short_id(path.get(name)) for name in known.variables}
    return {name: value for name, value in found.items() if value}
