"""The trail's table: one insert a deed, pages by key, deletions by the batch."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from msgspec import structs
from sqlalchemy import Column, Index, Integer, String, Table, Text, bindparam, or_, select

from cairn.audit.records import Event, Filter, Outcome, first_id
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared

EXAMINED_MAX = 20_000  # rows that one question looks at where no index helps: some 50 ms
_INDEXED = {"request_id", "target_id", "user_id", "project_id", "domain_id"}

events = Table(
    "audit_events",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("at", Time, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("action", String(64), nullable=False),
    Column("service", String(32), nullable=False),
    Column("target_type", String(96), nullable=False),
    id_column("target_id"),
    Column("target_name", String(255)),
    Column("details", Json(dict[str, str]), nullable=False),
    id_column("project_id"),
    id_column("domain_id"),
    id_column("user_id"),
    id_column("user_domain_id"),
    Column("scope", String(80)),
    Column("roles", String(255), nullable=False),
    id_column("source", nullable=False),
    Column("agent", String(255), nullable=False),
    id_column("token_id"),
    Column("delegation", String(128)),
    id_column("request_id", nullable=False),
    Column("method", String(16), nullable=False),
    Column("path", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("reason", String(255)),
    # With the id, so that a page of one is read in order and no further than it goes.
    Index("ix_audit_events_user", "user_id", "id"),
    Index("ix_audit_events_project", "project_id", "id"),
    Index("ix_audit_events_domain", "domain_id", "id"),
    Index("ix_audit_events_target", "target_id", "id"),
    Index("ix_audit_events_request", "request_id"),
)

_COLUMNS = tuple(Event.__struct_fields__)
_INSERT = Prepared(events.insert(), columns=_COLUMNS)
_HOME = Prepared(
    select(events.c.project_id, events.c.domain_id)
    .where(events.c.target_id == bindparam("target"), events.c.outcome == Outcome.SUCCESS.value)
    .order_by(events.c.id)
    .limit(1)
)


def add(tx: Tx, event: Event) -> None:
    tx.run(_INSERT, _values(event))


def add_all(tx: Tx, found: Sequence[Event]) -> None:
    tx.run_many(_INSERT, [_values(event) for event in found])


def home_of(tx: Tx, target_id: str) -> tuple[str | None, str | None] | None:
    """The project and the domain in which a thing was made, as far as the trail goes back."""
    row = tx.run(_HOME, {"target": target_id}).first()
    return None if row is None else (row[0], row[1])


class Page(NamedTuple):
    events: list[Event]
    next: str | None  # the id to go on after; None: that was all


def page(
    tx: Tx, wanted: Filter, *, limit: int, after: str | None = None, oldest_first: bool = False
) -> Page:
    """At most `limit` events beyond `after`. What no index finds is looked for among so many rows and no
    more: then the page is short, and the next one goes on from there."""
    indexed, rest = _conditions(wanted)
    order = events.c.id if oldest_first else events.c.id.desc()
    looked = select(events).where(*indexed).order_by(order)
    if after is not None:
        looked = looked.where(events.c.id > after if oldest_first else events.c.id < after)
    if not rest:
        found = _read(tx, looked.limit(limit))
        return Page(found, found[-1].id if len(found) == limit else None)
    among = looked.limit(EXAMINED_MAX).subquery()
    query = select(among).where(*(condition(among.c) for condition in rest)).limit(limit)
    found = _read(tx, query.order_by(among.c.id if oldest_first else among.c.id.desc()))
    if len(found) == limit:
        return Page(found, found[-1].id)
    last = looked.with_only_columns(events.c.id).offset(EXAMINED_MAX - 1).limit(1)
    return Page(found, tx.execute(last).scalar())


def oldest(tx: Tx) -> datetime | None:
    """When the first event that is kept happened."""
    found: datetime | None = tx.execute(select(events.c.at).order_by(events.c.id).limit(1)).scalar()
    return found


def forget(tx: Tx, *, before: datetime, most: int) -> int:
    """Delete the oldest events of before; how many went."""
    doomed = (
        select(events.c.id).where(events.c.id < first_id(before)).order_by(events.c.id).limit(most)
    )
    return tx.execute(events.delete().where(events.c.id.in_(doomed))).rowcount


_values = structs.asdict


def _read(tx: Tx, query: Any) -> list[Event]:
    return [Event(**row) for row in tx.execute(query).mappings()]


def _conditions(wanted: Filter) -> tuple[list[Any], list[Callable[[Any], Any]]]:
    """Those that one index answers, and the others, on the columns of what that finds."""
    by_id = []
    if wanted.since is not None:
        by_id.append(events.c.id >= first_id(wanted.since))
    if wanted.until is not None:
        by_id.append(events.c.id < first_id(wanted.until))
    equal = [
        (name, value)
        for name, value in (
            ("request_id", wanted.request),  # The rarest first.
            ("target_id", wanted.target),
            ("user_id", wanted.user),
            ("project_id", wanted.project),
            ("project_id", wanted.visible_project),
            ("domain_id", wanted.domain),
            ("domain_id", wanted.visible_domain),
            ("target_type", wanted.target_type),
            ("service", wanted.service),
            ("outcome", wanted.outcome),
        )
        if value is not None
    ]
    if equal and equal[0][0] in _INDEXED:
        (name, value), *equal = equal
        by_id.append(events.c[name] == value)
    rest: list[Callable[[Any], Any]] = [partial(_is_equal, name, value) for name, value in equal]
    if wanted.action is not None:
        rest.append(partial(_is_action, wanted.action))
    return by_id, rest


def _is_equal(name: str, value: str, columns: Any) -> Any:
    return columns[name] == value


def _is_action(action: str, columns: Any) -> Any:
    """ "start" finds Nova's "os-start", too."""
    return or_(columns.action == action, columns.action == f"os-{action}")
