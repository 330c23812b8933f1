"""The trail in the operator's API: pages of it, and all of it as a stream of lines.

Administrators and readers of the system see everything, a domain's manager what is about the domain, a
project's manager what is about the project.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import structs

from cairn.audit import cadf, store
from cairn.audit.records import Event, Filter, Outcome
from cairn.core.errors import Denied, Invalid
from cairn.db.engine import Database, Tx
from cairn.http.call import Call
from cairn.http.routes import Reply, Route

POLICY: Mapping[str, str] = {
    "cairn:audit:all": "rule:admin or (role:reader and system_scope:all)",
    "cairn:audit:domain": "role:manager and domain_id:%(domain_id)s",
    "cairn:audit:project": "role:manager and project_id:%(project_id)s",
    "cairn:audit:list": "rule:cairn:audit:all or role:manager",
}
LIMIT = 100
LIMIT_MAX = 1000
EXPORT_PAGE = 500
LINES = "application/x-ndjson"
_FILTERS = {
    "user": "user",
    "project": "project",
    "domain": "domain",
    "target": "target",
    "target_type": "target_type",
    "service": "service",
    "action": "action",
    "outcome": "outcome",
    "request_id": "request",
}
_TEXT_MAX = 255
_encode = msgspec.json.Encoder().encode

Show = Callable[[Event], Any]


def routes(*, observer: str) -> tuple[Route, ...]:
    """`observer`: the cloud's name in CADF records."""

    def list_events(tx: Tx, call: Call[None]) -> Any:
        _require_known(call, {*_FILTERS, "since", "until", "limit", "marker", "sort", "format"})
        wanted, show = _filter(call), _shown_as(call, observer)
        limit = _limit(call)
        found = store.page(
            tx,
            wanted,
            limit=limit,
            after=call.query.get("marker"),
            oldest_first=_is_oldest_first(call),
        )
        return {"events": [show(event) for event in found.events], "next": found.next}

    async def export(database: Database, call: Call[None]) -> Reply:
        _require_known(call, {*_FILTERS, "since", "until", "format"})
        wanted, show = _filter(call), _shown_as(call, observer)
        if wanted.until is None:  # Else it would export its own time, too, and never end.
            wanted = structs.replace(wanted, until=datetime.now(UTC))
        return Reply(stream=_lines(database, wanted, show), content_type=LINES)

    path = "/cairn/v1/audit"
    return (
        Route(method="GET", path=path, rule="cairn:audit:list", do=list_events, stale_ok=True),
        Route(method="GET", path=f"{path}/export", rule="cairn:audit:list", run=export),
    )


async def _lines(database: Database, wanted: Filter, show: Show) -> AsyncIterator[bytes]:
    """Each page is read by itself: no transaction waits for a slow client."""
    after: str | None = None
    while True:
        marker = after
        found = await database.read(
            lambda tx, marker=marker: store.page(  # type: ignore[misc]
                tx, wanted, limit=EXPORT_PAGE, after=marker, oldest_first=True
            )
        )
        if found.events:
            yield b"".join(_encode(show(event)) + b"\n" for event in found.events)
        if found.next is None:
            return
        after = found.next


def _filter(call: Call[Any]) -> Filter:
    """What was asked for, within what the caller may see."""
    query = call.query
    asked = {field: _text(call, name) for name, field in _FILTERS.items()}
    if asked["outcome"] not in (None, *Outcome):
        raise Invalid(f"The field 'outcome' must be one of: {', '.join(Outcome)}.")
    wanted = Filter(
        since=_moment("since", query.get("since")),
        until=_moment("until", query.get("until")),
        **asked,
    )
    who = call.who
    if call.may("cairn:audit:all"):
        return wanted
    if who.project_id is not None and call.may("cairn:audit:project"):
        return structs.replace(wanted, visible_project=who.project_id)
    if call.may("cairn:audit:domain", domain_id=who.scope_domain_id):
        return structs.replace(wanted, visible_domain=who.scope_domain_id)
    raise Denied("Policy does not allow this request: rule 'cairn:audit:list'.")


def _shown_as(call: Call[Any], observer: str) -> Show:
    match call.query.get("format", "json"):
        case "json":
            return msgspec.structs.asdict
        case "cadf":
            return lambda event: cadf.record(event, observer=observer)
        case _:
            raise Invalid("The field 'format' must be 'json' or 'cadf'.")


def _is_oldest_first(call: Call[Any]) -> bool:
    match call.query.get("sort", "desc"):
        case "asc":
            return True
        case "desc":
            return False
        case _:
            raise Invalid("The field 'sort' must be 'asc' or 'desc'.")


def _require_known(call: Call[Any], known: set[str]) -> None:
    unknown = sorted(set(call.query.keys()) - known)
    if unknown:
        raise Invalid(f"There is no query parameter '{unknown[0][:80]}'.")


def _limit(call: Call[Any]) -> int:
    text = call.query.get("limit", str(LIMIT)) or ""
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:9]) <= LIMIT_MAX:
        raise Invalid(f"The field 'limit' must be a number from 1 to {LIMIT_MAX}.")
    return int(text)


def _text(call: Call[Any], name: str) -> str | None:
    text = call.query.get(name)
    if text is not None and (len(text) > _TEXT_MAX or not text.isprintable()):
        raise Invalid(f"The field '{name}' must be a text of at most {_TEXT_MAX} characters.")
    return text


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid(f"The field '{name}' must be a time as 2026-01-31T12:00:00Z.") from error
    if moment.year < 1971:
        raise Invalid(f"The field '{name}' is before any entry.")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
