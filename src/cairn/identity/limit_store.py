"""Limits that are kept for services of others, and those of domains.

What limits Cairn's own services is one table (quotas.py); these two are for what operators register.
"""

from msgspec import Struct
from sqlalchemy import BigInteger, Column, Index, String, Table, Text, select

from cairn.db.columns import id_column, metadata
from cairn.db.engine import Tx
from cairn.identity.catalog.store import REGION_CHARACTERS_MAX
from cairn.identity.store import Shelf

registered_limits = Table(
    "identity_registered_limits",
    metadata,
    id_column(primary_key=True),
    id_column("service_id", nullable=False),
    Column("region_id", String(REGION_CHARACTERS_MAX)),
    Column("resource_name", String(255), nullable=False),
    Column("default_limit", BigInteger, nullable=False),
    Column("description", Text),
    Index("ix_identity_registered_limits_service", "service_id", "resource_name"),
)

limits = Table(
    "identity_limits",
    metadata,
    id_column(primary_key=True),
    id_column("registered_limit_id", nullable=False, index=True),
    id_column("project_id", index=True),
    id_column("domain_id", index=True),
    Column("resource_limit", BigInteger, nullable=False),
    Column("description", Text),
)


class RegisteredLimit(Struct, frozen=True, kw_only=True):
    """How much of a resource every project may have, unless a limit of its own says otherwise."""

    id: str
    service_id: str
    region_id: str | None = None
    resource_name: str
    default_limit: int  # -1: unlimited
    description: str | None = None


class StoredLimit(Struct, frozen=True, kw_only=True):
    """Of a project or of a domain."""

    id: str
    registered_limit_id: str
    project_id: str | None = None
    domain_id: str | None = None
    resource_limit: int
    description: str | None = None


REGISTERED = Shelf(registered_limits, RegisteredLimit)
LIMITS = Shelf(limits, StoredLimit)


def is_any_registered(tx: Tx, *, service_id: str = "", region_id: str = "") -> bool:
    columns = registered_limits.c
    which = columns.service_id == service_id if service_id else columns.region_id == region_id
    return tx.execute(select(columns.id).where(which).limit(1)).first() is not None


def registered(
    tx: Tx, service_id: str, region_id: str | None, resource_name: str
) -> RegisteredLimit | None:
    columns = registered_limits.c
    is_region = columns.region_id.is_(None) if region_id is None else columns.region_id == region_id
    return REGISTERED.find(
        tx, columns.service_id == service_id, is_region, columns.resource_name == resource_name
    )


def limit_for(
    tx: Tx, registered_limit_id: str, *, project_id: str | None, domain_id: str | None
) -> StoredLimit | None:
    """The limit of this project, or of this domain."""
    columns = limits.c
    whose = (
        columns.project_id == project_id
        if project_id is not None
        else columns.domain_id == domain_id
    )
    return LIMITS.find(tx, columns.registered_limit_id == registered_limit_id, whose)


def is_in_use(tx: Tx, registered_limit_id: str) -> bool:
    return LIMITS.find(tx, limits.c.registered_limit_id == registered_limit_id) is not None


def forget_project(tx: Tx, project_id: str) -> None:
    tx.execute(limits.delete().where(limits.c.project_id == project_id))


def forget_domain(tx: Tx, domain_id: str) -> None:
    tx.execute(limits.delete().where(limits.c.domain_id == domain_id))
