"""Federation's tables and questions."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Column, ColumnElement, Integer, String, Table, Text, func, select

from cairn.core.ids import DomainId, UserId
from cairn.db import secrets
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.identity import store
from cairn.identity.federation.records import (
    LastingGroup,
    Link,
    Mapping,
    OidcClient,
    Protocol,
    Provider,
    ServiceProvider,
)

PROTOCOLS_MAX = 1000  # that are read at once

providers = Table(
    "identity_providers",
    metadata,
    id_column(primary_key=True),
    id_column("domain_id", nullable=False, index=True),
    Column("enabled", Boolean, nullable=False),
    Column("description", Text),
    Column("remote_ids", Json(tuple[str, ...]), nullable=False),
    Column("authorization_ttl", Integer),
)

remote_ids = Table(
    "identity_provider_remote_ids",
    metadata,
    Column("remote_id", String(255), primary_key=True),
    id_column("provider_id", nullable=False, index=True),
)

protocols = Table(
    "identity_provider_protocols",
    metadata,
    id_column("provider_id", primary_key=True),
    id_column(primary_key=True),
    id_column("mapping_id", nullable=False, index=True),
    Column("remote_id_attribute", String(64)),
)

oidc_clients = Table(
    "identity_oidc_clients",
    metadata,
    id_column("provider_id", primary_key=True),
    id_column("protocol_id", primary_key=True),
    Column("issuer", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("discovery_url", Text, nullable=False),
    Column("scopes", Json(tuple[str, ...]), nullable=False),
    Column("audiences", Json(tuple[str, ...]), nullable=False),
    Column("ca_certificates", Text, nullable=False),
)

mappings = Table(
    "identity_mappings",
    metadata,
    id_column(primary_key=True),
    Column("rules", Json(tuple[dict[str, Any], ...]), nullable=False),
    Column("schema_version", String(8), nullable=False),
)

service_providers = Table(
    "identity_service_providers",
    metadata,
    id_column(primary_key=True),
    Column("auth_url", String(256), nullable=False),
    Column("sp_url", String(256), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("description", Text),
    Column("relay_state_prefix", String(256), nullable=False),
)

links = Table(
    "identity_federated_users",
    metadata,
    id_column("provider_id", primary_key=True),
    id_column("protocol_id", primary_key=True),
    Column("unique_id", String(255), primary_key=True),
    id_column("user_id", nullable=False, index=True),
)

lasting = Table(
    "identity_lasting_groups",
    metadata,
    id_column("user_id", primary_key=True),
    id_column("group_id", primary_key=True, index=True),
    id_column("provider_id", nullable=False, index=True),
    Column("ends_at", Time, nullable=False, index=True),
)

used_states = Table(
    "identity_used_states",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("ends_at", Time, nullable=False, index=True),
)


def _values(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


PROVIDERS = store.Shelf(providers, Provider)
MAPPINGS = store.Shelf(mappings, Mapping)
SERVICE_PROVIDERS = store.Shelf(service_providers, ServiceProvider)


# Providers


def provider_of_remote_id(tx: Tx, remote_id: str) -> str | None:
    query = select(remote_ids.c.provider_id).where(remote_ids.c.remote_id == remote_id)
    return tx.execute(query).scalar()


def set_remote_ids(tx: Tx, provider_id: str, ids: Collection[str]) -> None:
    tx.execute(remote_ids.delete().where(remote_ids.c.provider_id == provider_id))
    rows = [{"remote_id": one, "provider_id": provider_id} for one in ids]
    if rows:
        tx.execute(remote_ids.insert(), rows)


def providers_of_domain(tx: Tx, domain_id: DomainId) -> list[Provider]:
    return PROVIDERS.page(tx, [providers.c.domain_id == domain_id], limit=PROTOCOLS_MAX)


def remove_provider(tx: Tx, provider_id: str) -> None:
    """With its protocols and links. What becomes of its users is for the caller."""
    for its_protocol in protocols_of(tx, provider_id):
        secrets.forget(tx, secret_name(provider_id, its_protocol.id))
    for table in (remote_ids, protocols, oidc_clients, links, lasting):
        tx.execute(table.delete().where(table.c.provider_id == provider_id))
    PROVIDERS.remove(tx, provider_id)


# Protocols


def protocol(tx: Tx, provider_id: str, id_: str) -> Protocol | None:
    found = _protocols(tx, protocols.c.provider_id == provider_id, protocols.c.id == id_)
    return found[0] if found else None


def protocols_of(tx: Tx, provider_id: str) -> list[Protocol]:
    return _protocols(tx, protocols.c.provider_id == provider_id)


def protocols_with(tx: Tx, mapping_id: str) -> list[Protocol]:
    return _protocols(tx, protocols.c.mapping_id == mapping_id)


def protocols_named(tx: Tx, id_: str) -> list[Protocol]:
    """Of enabled providers that are asked by OpenID Connect, by provider."""
    is_oidc = select(oidc_clients.c.provider_id).where(oidc_clients.c.protocol_id == id_)
    enabled = select(providers.c.id).where(providers.c.enabled)
    return _protocols(
        tx,
        protocols.c.id == id_,
        protocols.c.provider_id.in_(is_oidc),
        protocols.c.provider_id.in_(enabled),
    )


def _protocols(tx: Tx, *conditions: ColumnElement[bool]) -> list[Protocol]:
    query = (
        select(protocols)
        .where(*conditions)
        .order_by(protocols.c.provider_id, protocols.c.id)
        .limit(PROTOCOLS_MAX)
    )
    return [Protocol(**row._mapping) for row in tx.execute(query)]


def add_protocol(tx: Tx, new: Protocol) -> None:
    tx.execute(protocols.insert().values(**_values(new)))


def save_protocol(tx: Tx, new: Protocol) -> None:
    is_it = (protocols.c.provider_id == new.provider_id, protocols.c.id == new.id)
    tx.execute(protocols.update().where(*is_it).values(**_values(new)))


def remove_protocol(tx: Tx, old: Protocol) -> None:
    secrets.forget(tx, secret_name(old.provider_id, old.id))
    tx.execute(
        protocols.delete().where(
            protocols.c.provider_id == old.provider_id, protocols.c.id == old.id
        )
    )
    for table in (oidc_clients, links):
        tx.execute(
            table.delete().where(
                table.c.provider_id == old.provider_id, table.c.protocol_id == old.id
            )
        )


def oidc_client(tx: Tx, provider_id: str, protocol_id: str) -> OidcClient | None:
    query = select(oidc_clients).where(
        oidc_clients.c.provider_id == provider_id, oidc_clients.c.protocol_id == protocol_id
    )
    row = tx.execute(query).first()
    return None if row is None else OidcClient(**row._mapping)


def put_oidc_client(tx: Tx, new: OidcClient) -> None:
    remove_oidc_client(tx, new.provider_id, new.protocol_id)
    tx.execute(oidc_clients.insert().values(**_values(new)))


def remove_oidc_client(tx: Tx, provider_id: str, protocol_id: str) -> None:
    tx.execute(
        oidc_clients.delete().where(
            oidc_clients.c.provider_id == provider_id, oidc_clients.c.protocol_id == protocol_id
        )
    )


def secret_name(provider_id: str, protocol_id: str) -> str:
    """Of the client's secret. Neither id has a slash: both are parts of a path."""
    return f"identity.oidc.{provider_id}/{protocol_id}"


# Users


def link(tx: Tx, provider_id: str, protocol_id: str, unique_id: str) -> Link | None:
    query = select(links).where(
        links.c.provider_id == provider_id,
        links.c.protocol_id == protocol_id,
        links.c.unique_id == unique_id,
    )
    row = tx.execute(query).first()
    return None if row is None else Link(**row._mapping)


def add_link(tx: Tx, new: Link) -> None:
    tx.execute(links.insert().values(**_values(new)))


def links_of_user(tx: Tx, user_id: UserId) -> list[Link]:
    query = (
        select(links)
        .where(links.c.user_id == user_id)
        .order_by(links.c.provider_id, links.c.protocol_id, links.c.unique_id)
    )
    return [Link(**row._mapping) for row in tx.execute(query)]


def users_linked(tx: Tx, provider_id: str, protocol_id: str | None = None) -> list[UserId]:
    query = select(links.c.user_id).where(links.c.provider_id == provider_id).distinct()
    if protocol_id is not None:
        query = query.where(links.c.protocol_id == protocol_id)
    return [UserId(user_id) for user_id in tx.execute(query).scalars()]


def forget_links(tx: Tx, user_id: UserId) -> None:
    tx.execute(links.delete().where(links.c.user_id == user_id))


def forget_user(tx: Tx, user_id: UserId) -> None:
    forget_links(tx, user_id)
    tx.execute(lasting.delete().where(lasting.c.user_id == user_id))


def is_linked(**wanted: str) -> ColumnElement[bool]:
    """A condition on users: linked with this provider_id, protocol_id, unique_id, where given."""
    query = select(links.c.user_id).where(*(links.c[name] == wanted[name] for name in wanted))
    return store.users.c.id.in_(query)


# Groups that a user keeps for some time after a sign-in


def lasting_groups(tx: Tx, user_id: UserId) -> list[LastingGroup]:
    query = select(lasting).where(lasting.c.user_id == user_id).order_by(lasting.c.group_id)
    return [LastingGroup(**row._mapping) for row in tx.execute(query)]


def lasting_groups_by(tx: Tx, provider_id: str) -> list[LastingGroup]:
    query = select(lasting).where(lasting.c.provider_id == provider_id)
    return [LastingGroup(**row._mapping) for row in tx.execute(query)]


def lasting_groups_ended(tx: Tx, *, limit: int) -> list[LastingGroup]:
    query = select(lasting).where(lasting.c.ends_at <= tx.now).order_by(lasting.c.ends_at)
    return [LastingGroup(**row._mapping) for row in tx.execute(query.limit(limit))]


def next_end(tx: Tx) -> datetime | None:
    return tx.execute(select(func.min(lasting.c.ends_at))).scalar()


def put_lasting_group(tx: Tx, new: LastingGroup) -> None:
    forget_lasting_group(tx, new.group_id, new.user_id)
    tx.execute(lasting.insert().values(**_values(new)))


def forget_lasting_group(tx: Tx, group_id: str, user_id: str) -> None:
    """It lasts for good, or not at all: that is for the caller."""
    tx.execute(lasting.delete().where(lasting.c.group_id == group_id, lasting.c.user_id == user_id))


def forget_group(tx: Tx, group_id: str) -> None:
    tx.execute(lasting.delete().where(lasting.c.group_id == group_id))


# Web sign-on


def use_state(tx: Tx, digest: str, ends_at: datetime) -> bool:
    """Note that a state was used; False when it was before. Those that have ended are forgotten."""
    tx.execute(used_states.delete().where(used_states.c.ends_at < tx.now))
    if tx.execute(select(used_states.c.digest).where(used_states.c.digest == digest)).first():
        return False
    tx.execute(used_states.insert().values(digest=digest, ends_at=ends_at))
    return True
