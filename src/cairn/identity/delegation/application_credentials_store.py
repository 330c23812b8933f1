"""Tables of application credentials and of the access rules that some are narrowed by."""

from datetime import datetime

from msgspec import Struct
from sqlalchemy import Boolean, Column, String, Table, Text, UniqueConstraint, select

from cairn.core.ids import ProjectId, UserId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.identity.store import Shelf

_Ids = Json(tuple[str, ...])

application_credentials = Table(
    "identity_application_credentials",
    metadata,
    id_column(primary_key=True),
    Column("name", String(255), nullable=False),
    id_column("user_id", nullable=False),
    id_column("project_id", nullable=False, index=True),
    Column("description", Text),
    Column("role_ids", _Ids, nullable=False),
    Column("rule_ids", _Ids, nullable=False),
    Column("expires_at", Time),
    Column("unrestricted", Boolean, nullable=False),
    Column("secret_hash", Text),
    UniqueConstraint("user_id", "name"),
)

access_rules = Table(
    "identity_access_rules",
    metadata,
    id_column(primary_key=True),
    id_column("user_id", nullable=False),
    Column("service", String(64), nullable=False),
    Column("path", String(225), nullable=False),
    Column("method", String(16), nullable=False),
    UniqueConstraint("user_id", "service", "path", "method"),
)


class ApplicationCredential(Struct, frozen=True, kw_only=True):
    """A user's leave for a program to act in one project with some of the user's roles."""

    id: str
    name: str
    user_id: UserId
    project_id: ProjectId
    description: str | None = None
    role_ids: tuple[str, ...]  # implied ones included, as they were when it was made
    rule_ids: tuple[str, ...] = ()  # none: everything that the roles allow
    expires_at: datetime | None = None
    unrestricted: bool = False  # may make and delete others


class KeptRule(Struct, frozen=True, kw_only=True):
    """An access rule of a user, to be used by any number of the user's application credentials."""

    id: str
    user_id: UserId
    service: str
    path: str
    method: str


APPLICATION_CREDENTIALS = Shelf(application_credentials, ApplicationCredential)
ACCESS_RULES = Shelf(access_rules, KeptRule)


def secret_hash(tx: Tx, id_: str) -> str | None:
    column = application_credentials.c.secret_hash
    return tx.execute(select(column).where(application_credentials.c.id == id_)).scalar()


def set_secret_hash(tx: Tx, id_: str, hash_: str) -> None:
    tx.execute(
        application_credentials.update()
        .where(application_credentials.c.id == id_)
        .values(secret_hash=hash_)
    )


def replace_secret_hash(tx: Tx, id_: str, *, old: str, new: str) -> None:
    """Store a better hash of the same secret."""
    tx.execute(
        application_credentials.update()
        .where(application_credentials.c.id == id_, application_credentials.c.secret_hash == old)
        .values(secret_hash=new)
    )
