"""Passwords' rows: the hash that is good now, when it was set and by whom, and the ones before it.

The one that is good now lies with its user: a sign-in needs both. Those before are kept only where the
operator forbids to choose them again.
"""

from datetime import datetime

from msgspec import Struct
from sqlalchemy import BigInteger, Column, Table, Text, or_, select

from cairn.core.ids import UserId
from cairn.db.columns import id_column, metadata
from cairn.db.engine import Tx
from cairn.identity.store import users

history = Table(
    "identity_passwords",
    metadata,
    id_column("user_id", primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # the higher, the later
    Column("hash", Text, nullable=False),
)


class Current(Struct, frozen=True, kw_only=True):
    """The password that is good now."""

    hash: str | None
    made_at: datetime | None
    is_own: bool


def current(tx: Tx, user_id: UserId) -> Current:
    row = tx.execute(_CURRENT.where(users.c.id == user_id)).first()
    return Current(**row._mapping) if row else Current(hash=None, made_at=None, is_own=False)


_CURRENT = select(
    users.c.password_hash.label("hash"),
    users.c.password_made_at.label("made_at"),
    users.c.password_is_own.label("is_own"),
)


def begin(tx: Tx, user_id: UserId, hash_: str | None) -> None:
    """The first password of a new user, who counts as active today."""
    values = {"password_hash": hash_, "password_made_at": tx.now, "active_at": tx.now}
    tx.execute(users.update().where(users.c.id == user_id).values(**values))


def replace(tx: Tx, user_id: UserId, new: str | None, *, is_own: bool, keep: int) -> None:
    """Set another password, so that the last `keep` are known, the new one included."""
    old = current(tx, user_id).hash
    if old is not None and keep > 1:
        number = tx.execute(
            select(history.c.number)
            .where(history.c.user_id == user_id)
            .order_by(history.c.number.desc())
            .limit(1)
        ).scalar()
        tx.execute(history.insert().values(user_id=user_id, number=(number or 0) + 1, hash=old))
    _cut(tx, user_id, max(keep - 1, 0))
    values = {"password_hash": new, "password_made_at": tx.now, "password_is_own": is_own}
    tx.execute(users.update().where(users.c.id == user_id).values(**values))


def last(tx: Tx, user_id: UserId, count: int) -> tuple[str, ...]:
    """The hashes of the last `count` passwords, the present one first."""
    if not count:
        return ()
    older = tx.execute(
        select(history.c.hash)
        .where(history.c.user_id == user_id)
        .order_by(history.c.number.desc())
        .limit(count - 1)
    ).scalars()
    present = current(tx, user_id).hash
    return (*([present] if present else ()), *older)


def forget(tx: Tx, user_id: UserId) -> None:
    tx.execute(history.delete().where(history.c.user_id == user_id))


def somebodys(tx: Tx, point: str) -> str | None:
    """The hash of the user whose id follows `point`: as likely of a kind as that kind is frequent."""
    query = select(users.c.password_hash).where(users.c.id >= point).order_by(users.c.id).limit(1)
    return tx.execute(query).scalar()


def note_active(tx: Tx, user_id: UserId) -> None:
    tx.execute(users.update().where(users.c.id == user_id).values(active_at=tx.now))


def was_active_since(tx: Tx, user_id: UserId, moment: datetime) -> bool:
    query = select(users.c.id).where(users.c.id == user_id, users.c.active_at >= moment)
    return tx.execute(query).first() is not None


def inactive(tx: Tx, before: datetime, *, after: str, limit: int) -> list[UserId]:
    """Enabled users with a password here who have not signed in since `before`; directories and providers
    judge theirs. Whose last sign-in nobody knows count from the time their password was set."""
    columns = users.c
    query = (
        select(columns.id)
        .where(
            columns.enabled,
            columns.password_hash.is_not(None),
            columns.id > after,
            or_(
                columns.active_at < before,
                columns.active_at.is_(None) & (columns.password_made_at < before),
            ),
        )
        .order_by(columns.id)
        .limit(limit)
    )
    return [UserId(id_) for id_ in tx.execute(query).scalars()]


def _cut(tx: Tx, user_id: UserId, keep: int) -> None:
    newest = tx.execute(
        select(history.c.number)
        .where(history.c.user_id == user_id)
        .order_by(history.c.number.desc())
        .offset(keep)
        .limit(1)
    ).scalar()
    if newest is not None:
        tx.execute(history.delete().where(history.c.user_id == user_id, history.c.number <= newest))
