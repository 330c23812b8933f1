"""Wrong guesses in a row, counted for each subject: a user's passwords, a user's passcodes."""

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct
from sqlalchemy import Column, Integer, String, Table, select

from cairn.core.ids import UserId
from cairn.db.columns import Time, metadata
from cairn.db.engine import Tx

PASSWORD, PASSCODE = "password", "totp"
KINDS = (PASSWORD, PASSCODE)

failures = Table(
    "identity_failures",
    metadata,
    Column("subject", String(80), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("last_at", Time, nullable=False),
)


class Guesses(Struct, frozen=True, kw_only=True):
    count: int
    last_at: datetime


def subject_of(kind: str, user_id: UserId) -> str:
    return f"{kind}:{user_id}"


def get(tx: Tx, subject: str) -> Guesses | None:
    query = select(failures.c.count, failures.c.last_at).where(failures.c.subject == subject)
    row = tx.execute(query).first()
    return None if row is None else Guesses(**row._mapping)


def put(tx: Tx, subject: str, count: int) -> None:
    values = {"count": count, "last_at": tx.now}
    done = tx.execute(failures.update().where(failures.c.subject == subject).values(**values))
    if done.rowcount == 0:
        tx.execute(failures.insert().values(subject=subject, **values))


def forget(tx: Tx, user_id: UserId, kinds: Iterable[str] = KINDS) -> None:
    """The user may try again, or is gone."""
    subjects = [subject_of(kind, user_id) for kind in kinds]
    tx.execute(failures.delete().where(failures.c.subject.in_(subjects)))
