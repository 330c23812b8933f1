"""Which rows are a directory's, and under which id it knows them."""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import Column, Index, String, Table, select

from cairn.core.ids import DomainId
from cairn.db.columns import Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.identity.records import ActorKind

AT_ONCE = 500  # ids in one statement

entries = Table(
    "identity_directory_entries",
    metadata,
    id_column(primary_key=True),
    id_column("domain_id", nullable=False),
    Column("kind", String(8), nullable=False),
    Column("local_id", String(255), nullable=False),
    Column("gone_at", Time),
    Index("ix_identity_directory_entries_domain", "domain_id", "kind", "id"),
)


class Entry(Struct, frozen=True, kw_only=True):
    """A user or group of a directory. `gone_at`: since when it is not there any more."""

    id: str
    domain_id: DomainId
    kind: ActorKind
    local_id: str
    gone_at: datetime | None = None


def public_id(domain_id: str, kind: ActorKind, local_id: str) -> str:
    """The id that Keystone gives it, so that ids stay the same when a cloud comes from there."""
    text = (
        f"{domain_id}{kind}{local_id}"  # values by the names of their keys: domain, entity, local
    )
    return hashlib.sha256(text.encode()).hexdigest()


def entry(tx: Tx, id_: str) -> Entry | None:
    row = tx.execute(select(entries).where(entries.c.id == id_)).first()
    return None if row is None else _entry(row)


def many(tx: Tx, ids: Collection[str]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for part in chunks(sorted(set(ids))):
        rows = tx.execute(select(entries).where(entries.c.id.in_(part)))
        found |= {row.id: _entry(row) for row in rows}
    return found


def of_domain(
    tx: Tx, domain_id: str, kind: ActorKind, *, after: str = "", limit: int, gone: bool = False
) -> list[Entry]:
    """By id, those who are there or, with `gone`, those who are not."""
    query = select(entries).where(
        entries.c.domain_id == domain_id,
        entries.c.kind == kind,
        entries.c.id > after,
        entries.c.gone_at.is_not(None) if gone else entries.c.gone_at.is_(None),
    )
    return [_entry(row) for row in tx.execute(query.order_by(entries.c.id).limit(limit))]


def domains(tx: Tx) -> list[DomainId]:
    """All that have entries, be they directories' domains or not any more."""
    query = select(entries.c.domain_id).distinct().order_by(entries.c.domain_id)
    return [DomainId(row.domain_id) for row in tx.execute(query)]


def gone_before(tx: Tx, moment: datetime, *, limit: int) -> list[Entry]:
    query = select(entries).where(entries.c.gone_at < moment).order_by(entries.c.id).limit(limit)
    return [_entry(row) for row in tx.execute(query)]


def add(tx: Tx, new: Sequence[Entry]) -> None:
    rows = [
        {"id": e.id, "domain_id": e.domain_id, "kind": e.kind, "local_id": e.local_id} for e in new
    ]
    if rows:
        tx.execute(entries.insert(), rows)


def mark(tx: Tx, ids: Collection[str], gone_at: datetime | None) -> None:
    for part in chunks(sorted(set(ids))):
        tx.execute(entries.update().where(entries.c.id.in_(part)).values(gone_at=gone_at))


def forget(tx: Tx, id_: str) -> None:
    tx.execute(entries.delete().where(entries.c.id == id_))


def chunks(ids: Iterable[str]) -> Iterable[list[str]]:
    known = list(ids)
    return (known[start : start + AT_ONCE] for start in range(0, len(known), AT_ONCE))


def _entry(row: Any) -> Entry:
    return Entry(
        id=row.id,
        domain_id=DomainId(row.domain_id),
        kind=ActorKind(row.kind),
        local_id=row.local_id,
        gone_at=row.gone_at,
    )
