"""Credentials' table. A blob lies there sealed; `credential_keys` has the keys."""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    String,
    Table,
    func,
    select,
)

from cairn.db.columns import Json, id_column, metadata
from cairn.db.engine import Tx
from cairn.identity.store import Shelf

credentials = Table(
    "identity_credentials",
    metadata,
    id_column(primary_key=True),
    id_column("user_id", nullable=False, index=True),
    id_column("project_id", index=True),
    Column("type", String(255), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("key_number", Integer, nullable=False, index=True),
    Column(
        "used_step", BigInteger, nullable=False, server_default="0"
    ),  # of TOTP: the last one used
    Column("extra", Json(dict[str, Any]), nullable=False),
)


class Sealed(Struct, frozen=True, kw_only=True):
    """A credential as it is kept."""

    id: str
    user_id: str
    project_id: str | None
    type: str
    sealed: bytes
    key_number: int
    used_step: int = 0
    extra: dict[str, Any] = {}


CREDENTIALS = Shelf(credentials, Sealed)


def of_user(tx: Tx, user_id: str, kind: str, *, limit: int) -> list[Sealed]:
    return CREDENTIALS.page(
        tx, [credentials.c.user_id == user_id, credentials.c.type == kind], limit=limit
    )


def count_of_user(tx: Tx, user_id: str) -> int:
    query = select(func.count()).select_from(credentials).where(credentials.c.user_id == user_id)
    return int(tx.execute(query).scalar() or 0)


def save(tx: Tx, changed: Sealed) -> None:
    # All but the used step, which only a sign-in writes: a change must not make an old passcode good again.
    fields = [name for name in changed.__struct_fields__ if name != "used_step"]
    values = {name: getattr(changed, name) for name in fields}
    tx.execute(credentials.update().where(credentials.c.id == changed.id).values(**values))


def use_step(tx: Tx, id_: str, step: int) -> bool:
    """Note that a passcode of `step` was used; False if this one or a later one was used before."""
    done = tx.execute(
        credentials.update()
        .where(credentials.c.id == id_, credentials.c.used_step < step)
        .values(used_step=step)
    )
    return done.rowcount == 1


def forget_user(tx: Tx, user_id: str) -> None:
    tx.execute(credentials.delete().where(credentials.c.user_id == user_id))


def forget_project(tx: Tx, project_id: str) -> None:
    tx.execute(credentials.delete().where(credentials.c.project_id == project_id))


def sealed_before(tx: Tx, key_number: int, *, batch: int) -> Iterator[list[Sealed]]:
    """All that is sealed with an older key, in batches; the caller seals each anew."""
    while found := CREDENTIALS.page(tx, [credentials.c.key_number < key_number], limit=batch):
        yield found
