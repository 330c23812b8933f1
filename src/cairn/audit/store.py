"""The trail's table: one insert a deed, pages by key, deletions by the batch."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import structs
from sqlalchemy import Column, Index, Integer, String, Table, Text, bindparam, or_, select

from cairn.audit.records import Event, Filter, Outcome, first_id
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared

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


def page(
    tx: Tx, wanted: Filter, *, limit: int, after: str | None = None, oldest_first: bool = False
) -> list[Event]:
    """At most `limit` events beyond `after`, an id."""
    query = select(events).where(*_conditions(wanted)).limit(limit)
    if after is not None:
        query = query.where(events.c.id > after if oldest_first else events.c.id < after)
    query = query.order_by(events.c.id if oldest_first else events.c.id.desc())
    return [Event(**row) for row in tx.execute(query).mappings()]


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


def _conditions(wanted: Filter) -> list[Any]:
    columns = events.c
    found: list[Any] = []
    if wanted.since is not None:
        found.append(columns.id >= first_id(wanted.since))
    if wanted.until is not None:
        found.append(columns.id < first_id(wanted.until))
    equal = (
        (columns.user_id, wanted.user),
        (columns.project_id, wanted.project),
        (columns.domain_id, wanted.domain),
        (columns.target_id, wanted.target),
        (columns.target_type, wanted.target_type),
        (columns.service, wanted.service),
        (columns.outcome, wanted.outcome),
        (columns.request_id, wanted.request),
        (columns.project_id, wanted.visible_project),
        (columns.domain_id, wanted.visible_domain),
    )
    found += [column == value for column, value in equal if value is not None]
    if wanted.action is not None:  # "start" finds Nova's "os-start", too.
        action = wanted.action
        found.append(or_(columns.action == action, columns.action == f"os-{action}"))
    return found
