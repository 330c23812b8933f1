"""The table of trusts."""

from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import Boolean, Column, Integer, Table

from cairn.core.ids import ProjectId, UserId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.identity.store import Shelf

trusts = Table(
    "identity_trusts",
    metadata,
    id_column(primary_key=True),
    id_column("trustor_user_id", nullable=False, index=True),
    id_column("trustee_user_id", nullable=False, index=True),
    id_column("project_id", index=True),
    Column("impersonation", Boolean, nullable=False),
    Column("role_ids", Json(tuple[str, ...]), nullable=False),
    Column("expires_at", Time),
    Column("remaining_uses", Integer),
    id_column("redelegated_trust_id", index=True),
    Column("redelegation_count", Integer, nullable=False),
    Column("extra", Json(dict[str, Any]), nullable=False),
)


class Trust(Struct, frozen=True, kw_only=True):
    """The trustee may act with these roles of the trustor in the project."""

    id: str
    trustor_user_id: UserId
    trustee_user_id: UserId
    project_id: ProjectId | None = None
    impersonation: bool  # the tokens are the trustor's own
    role_ids: tuple[str, ...] = ()
    expires_at: datetime | None = None
    remaining_uses: int | None = None  # sign-ins that are left; None: any number
    redelegated_trust_id: str | None = None  # the trust that this one hands on
    redelegation_count: int = 0  # how many more times it may be handed on
    extra: dict[str, Any] = {}


TRUSTS = Shelf(trusts, Trust)


def take_use(tx: Tx, id_: str) -> bool:
    """Count one use down; False when none is left. Exact: the count is asked in the same statement."""
    done = tx.execute(
        trusts.update()
        .where(trusts.c.id == id_, trusts.c.remaining_uses > 0)
        .values(remaining_uses=trusts.c.remaining_uses - 1)
    )
    return done.rowcount == 1
