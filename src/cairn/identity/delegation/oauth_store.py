"""Tables of OAuth 1.0a: consumers, what they were asked to authorize, what they were given.

Signatures are made with secrets that both sides know, so the secrets are kept sealed (db/secrets.py).
"""

from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import Column, String, Table, Text, select

from cairn.core.errors import Conflict
from cairn.core.ids import ProjectId, UserId
from cairn.db import secrets
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.identity.store import Shelf

_Ids = Json(tuple[str, ...])

consumers = Table(
    "identity_oauth_consumers",
    metadata,
    id_column(primary_key=True),
    Column("description", Text),
    Column("extra", Json(dict[str, Any]), nullable=False),
)

request_tokens = Table(
    "identity_oauth_request_tokens",
    metadata,
    id_column(primary_key=True),
    id_column("consumer_id", nullable=False, index=True),
    id_column("project_id", nullable=False, index=True),
    id_column("user_id", index=True),
    Column("role_ids", _Ids, nullable=False),
    Column("verifier", String(16)),
    Column("expires_at", Time, nullable=False, index=True),
)

access_tokens = Table(
    "identity_oauth_access_tokens",
    metadata,
    id_column(primary_key=True),
    id_column("consumer_id", nullable=False, index=True),
    id_column("project_id", nullable=False, index=True),
    id_column("user_id", nullable=False, index=True),
    Column("role_ids", _Ids, nullable=False),
    Column("expires_at", Time, nullable=False, index=True),
)

nonces = Table(
    "identity_oauth_nonces",
    metadata,
    Column("digest", String(64), primary_key=True),  # of consumer, token, time and nonce
    Column("used_at", Time, nullable=False, index=True),
)


class Consumer(Struct, frozen=True, kw_only=True):
    """A program of somebody else's that asks users for leave."""

    id: str
    description: str | None = None
    extra: dict[str, Any] = {}


class RequestToken(Struct, frozen=True, kw_only=True):
    """A consumer's wish to act in a project; with a user and a verifier once somebody agreed."""

    id: str
    consumer_id: str
    project_id: ProjectId
    user_id: UserId | None = None
    role_ids: tuple[str, ...] = ()
    verifier: str | None = None
    expires_at: datetime


class AccessToken(Struct, frozen=True, kw_only=True):
    """The consumer may act in the project with these roles of the user."""

    id: str
    consumer_id: str
    project_id: ProjectId
    user_id: UserId
    role_ids: tuple[str, ...]
    expires_at: datetime


CONSUMERS = Shelf(consumers, Consumer)
REQUEST_TOKENS = Shelf(request_tokens, RequestToken)
ACCESS_TOKENS = Shelf(access_tokens, AccessToken)


def put_secret(tx: Tx, sealer: Sealer, id_: str, secret: str) -> None:
    secrets.put(tx, sealer, _name(id_), secret.encode())


def secret_of(tx: Tx, sealer: Sealer, id_: str) -> str | None:
    """Of a consumer or of a token: ids of all kinds are different."""
    found = secrets.get(tx, sealer, _name(id_))
    return None if found is None else found.decode()


def forget_secret(tx: Tx, id_: str) -> None:
    secrets.forget(tx, _name(id_))


def _name(id_: str) -> str:
    return f"identity/oauth/{id_}"


def take_request_token(tx: Tx, id_: str) -> bool:
    """Delete it; False when somebody else has done so."""
    done = tx.execute(request_tokens.delete().where(request_tokens.c.id == id_))
    return done.rowcount == 1


def use_nonce(tx: Tx, digest: str, *, forget_before: datetime) -> None:
    """Conflict when it was used already."""
    tx.execute(nonces.delete().where(nonces.c.used_at < forget_before))
    if tx.execute(select(nonces.c.digest).where(nonces.c.digest == digest)).first() is not None:
        raise Conflict("The nonce was used already.")
    tx.execute(nonces.insert().values(digest=digest, used_at=tx.now))
