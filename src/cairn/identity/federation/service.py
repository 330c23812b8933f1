"""Providers, protocols and mappings: what may be done to them, and which tokens that voids.

A user whom only a deleted provider or protocol could sign in goes with it, as in Keystone: nobody could
become that user again, but what it made to act without signing in (application credentials) would live on.
"""

from typing import Any

import msgspec
from msgspec import Struct

from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.core.ids import DomainId, UserId
from cairn.db import secrets
from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.identity import forget, grants, people, places, revocation, signin, store
from cairn.identity.federation import memberships
from cairn.identity.federation import store as federation_store
from cairn.identity.federation.mapping import rules_of
from cairn.identity.federation.records import (
    Link,
    Mapping,
    OidcClient,
    Protocol,
    Provider,
    ServiceProvider,
)
from cairn.identity.records import Domain

MAPPINGS, PROVIDERS = federation_store.MAPPINGS, federation_store.PROVIDERS
SERVICE_PROVIDERS = federation_store.SERVICE_PROVIDERS


class Asked(Struct, frozen=True, kw_only=True):
    """How to ask a provider that is enabled."""

    provider: Provider
    protocol: Protocol
    client: OidcClient
    secret: str


# Providers


def provider(tx: Tx, provider_id: str) -> Provider:
    found = PROVIDERS.get(tx, provider_id)
    if found is None:
        raise NotFound(f"Could not find Identity Provider: {provider_id}.")
    return found


def create_provider(
    tx: Tx, provider_id: str, changes: dict[str, Any], domain_id: str | None
) -> Provider:
    """Without a domain, its users get one of their own."""
    if PROVIDERS.get(tx, provider_id) is not None:
        raise _duplicate("identity_provider", provider_id)
    if domain_id is not None:
        home = places.domain(tx, domain_id).id
    else:
        home = DomainId(tx.new_hex_id())
        description = f"Users of the identity provider {provider_id}"
        places.create_domain(tx, Domain(id=home, name=home, description=description))
    new = Provider(id=provider_id, domain_id=home, **changes)
    _set_remote_ids(tx, new)
    return PROVIDERS.add(tx, new)


def update_provider(tx: Tx, provider_id: str, changes: dict[str, Any]) -> Provider:
    old = provider(tx, provider_id)
    new = msgspec.structs.replace(old, **changes)
    if new.remote_ids != old.remote_ids:
        _set_remote_ids(tx, new)
    if (old.enabled and not new.enabled) or new.remote_ids != old.remote_ids:
        revocation.revoke(tx, revocation.of_provider(old.id))
        memberships.end_all_of(tx, old.id)
    return PROVIDERS.save(tx, new)


def delete_provider(tx: Tx, provider_id: str) -> None:
    """With its protocols and the users whom nobody else could sign in; its domain stays."""
    old = provider(tx, provider_id)
    linked = federation_store.users_linked(tx, old.id)
    memberships.end_all_of(tx, old.id)
    federation_store.remove_provider(tx, old.id)
    revocation.revoke(tx, revocation.of_provider(old.id))
    _forget_orphans(tx, linked)


def _set_remote_ids(tx: Tx, new: Provider) -> None:
    for remote_id in new.remote_ids:
        owner = federation_store.provider_of_remote_id(tx, remote_id)
        if owner not in (None, new.id):
            raise Conflict(
                "Conflict occurred attempting to store identity_provider - "
                f"Duplicate remote ID: {remote_id}."
            )
    federation_store.set_remote_ids(tx, new.id, new.remote_ids)


def _forget_orphans(tx: Tx, user_ids: list[UserId]) -> None:
    for user_id in user_ids:
        is_linked = bool(federation_store.links_of_user(tx, user_id))
        if not is_linked and store.password_hash(tx, user_id) is None:
            revocation.revoke(tx, revocation.of_user(user_id))
            forget.user(tx, user_id)
    if user_ids:
        grants.require_an_admin(tx)


# Protocols


def protocol(tx: Tx, provider_id: str, protocol_id: str) -> Protocol:
    provider(tx, provider_id)
    found = federation_store.protocol(tx, provider_id, protocol_id)
    if found is None:
        raise NotFound(
            f"Could not find federated protocol {protocol_id} for Identity Provider: {provider_id}."
        )
    return found


def create_protocol(tx: Tx, new: Protocol) -> Protocol:
    provider(tx, new.provider_id)
    _require_mapping(tx, new.mapping_id)
    if federation_store.protocol(tx, new.provider_id, new.id) is not None:
        raise _duplicate("federation_protocol", new.id)
    federation_store.add_protocol(tx, new)
    return new


def update_protocol(
    tx: Tx, provider_id: str, protocol_id: str, changes: dict[str, Any]
) -> Protocol:
    old = protocol(tx, provider_id, protocol_id)
    new = msgspec.structs.replace(old, **changes)
    _require_mapping(tx, new.mapping_id)
    federation_store.save_protocol(tx, new)
    if new != old:
        revocation.revoke(tx, revocation.of_provider(provider_id))
    return new


def delete_protocol(tx: Tx, provider_id: str, protocol_id: str) -> None:
    old = protocol(tx, provider_id, protocol_id)
    linked = federation_store.users_linked(tx, provider_id, protocol_id)
    federation_store.remove_protocol(tx, old)
    revocation.revoke(tx, revocation.of_provider(provider_id))
    _forget_orphans(tx, linked)


def _require_mapping(tx: Tx, mapping_id: str) -> None:
    if MAPPINGS.get(tx, mapping_id) is None:
        raise Invalid(f"Invalid mapping id: {mapping_id}")


# How we are known to an OpenID provider


def oidc_client(tx: Tx, provider_id: str, protocol_id: str) -> OidcClient:
    protocol(tx, provider_id, protocol_id)
    found = federation_store.oidc_client(tx, provider_id, protocol_id)
    if found is None:
        raise NotFound(f"The protocol {protocol_id} of {provider_id} has no OpenID client.")
    return found


def put_oidc_client(tx: Tx, sealer: Sealer, new: OidcClient, secret: str | None) -> OidcClient:
    """`secret` None keeps the one that is there, "" takes it away.

    It is not kept for another issuer or discovery document: whoever may change these, but does not know
    the secret, would have it sent to an address of their choice.
    """
    protocol(tx, new.provider_id, new.protocol_id)
    old = federation_store.oidc_client(tx, new.provider_id, new.protocol_id)
    name = federation_store.secret_name(new.provider_id, new.protocol_id)
    if secret is None and old is not None and _addresses(old) != _addresses(new):
        secret = ""
    if secret:
        secrets.put(tx, sealer, name, secret.encode())
    elif secret is not None:
        secrets.forget(tx, name)
    federation_store.put_oidc_client(tx, new)
    if old is not None and old != new:
        revocation.revoke(tx, revocation.of_provider(new.provider_id))
    return new


def _addresses(client: OidcClient) -> tuple[str, ...]:
    return client.issuer, client.discovery_url, client.ca_certificates, client.client_id


def remove_oidc_client(tx: Tx, provider_id: str, protocol_id: str) -> None:
    old = oidc_client(tx, provider_id, protocol_id)
    secrets.forget(tx, federation_store.secret_name(provider_id, protocol_id))
    federation_store.remove_oidc_client(tx, old.provider_id, old.protocol_id)
    revocation.revoke(tx, revocation.of_provider(provider_id))


def has_secret(tx: Tx, sealer: Sealer, client: OidcClient) -> bool:
    return bool(_secret(tx, sealer, client))


def asked(tx: Tx, sealer: Sealer, provider_id: str, protocol_id: str) -> Asked:
    """What is needed to ask a provider. Denied when it is disabled, Unauthenticated without a client."""
    its_protocol = protocol(tx, provider_id, protocol_id)
    its_provider = provider(tx, provider_id)
    if not its_provider.enabled:
        raise Denied(f"Identity Provider {provider_id} is disabled")
    client = federation_store.oidc_client(tx, provider_id, protocol_id)
    if client is None:
        raise signin.refused(f"protocol {protocol_id} of {provider_id} has no OpenID client")
    return Asked(
        provider=its_provider,
        protocol=its_protocol,
        client=client,
        secret=_secret(tx, sealer, client),
    )


def _secret(tx: Tx, sealer: Sealer, client: OidcClient) -> str:
    sealed = secrets.get(
        tx, sealer, federation_store.secret_name(client.provider_id, client.protocol_id)
    )
    return "" if sealed is None else sealed.decode()


# Mappings


def mapping(tx: Tx, mapping_id: str) -> Mapping:
    found = MAPPINGS.get(tx, mapping_id)
    if found is None:
        raise NotFound(f"Could not find mapping: {mapping_id}.")
    return found


def create_mapping(tx: Tx, new: Mapping) -> Mapping:
    rules_of(new.rules, new.schema_version)
    if MAPPINGS.get(tx, new.id) is not None:
        raise _duplicate("mapping", new.id)
    return MAPPINGS.add(tx, new)


def update_mapping(tx: Tx, new: Mapping) -> Mapping:
    old = mapping(tx, new.id)
    rules_of(new.rules, new.schema_version)
    if new != old:
        _revoke_mapped(tx, old)
    return MAPPINGS.save(tx, new)


def delete_mapping(tx: Tx, mapping_id: str) -> None:
    """Protocols that used it stay, and sign nobody in."""
    old = mapping(tx, mapping_id)
    _revoke_mapped(tx, old)
    MAPPINGS.remove(tx, old.id)


def _revoke_mapped(tx: Tx, old: Mapping) -> None:
    users = {one.provider_id for one in federation_store.protocols_with(tx, old.id)}
    revocation.revoke(tx, *(revocation.of_provider(one) for one in sorted(users)))


# Service providers


def service_provider(tx: Tx, id_: str) -> ServiceProvider:
    found = SERVICE_PROVIDERS.get(tx, id_)
    if found is None:
        raise NotFound(f"Could not find Service Provider: {id_}.")
    return found


def create_service_provider(tx: Tx, new: ServiceProvider) -> ServiceProvider:
    if SERVICE_PROVIDERS.get(tx, new.id) is not None:
        raise _duplicate("service_provider", new.id)
    return SERVICE_PROVIDERS.add(tx, new)


def update_service_provider(tx: Tx, id_: str, changes: dict[str, Any]) -> ServiceProvider:
    new = msgspec.structs.replace(service_provider(tx, id_), **changes)
    return SERVICE_PROVIDERS.save(tx, new)


def delete_service_provider(tx: Tx, id_: str) -> None:
    SERVICE_PROVIDERS.remove(tx, service_provider(tx, id_).id)


# Users


def link_user(tx: Tx, user_id: str, links: list[Link]) -> None:
    """Let these providers sign the user in, and no others. Invalid where one is not there."""
    known = people.user(tx, user_id)
    before = set(federation_store.links_of_user(tx, known.id))
    federation_store.forget_links(tx, known.id)
    for link in links:
        if federation_store.protocol(tx, link.provider_id, link.protocol_id) is None:
            raise Invalid(
                f"Could not find federated protocol {link.protocol_id} for Identity Provider:"
                f" {link.provider_id}."
            )
        if federation_store.link(tx, link.provider_id, link.protocol_id, link.unique_id):
            raise _duplicate("federated_user", link.unique_id)
        federation_store.add_link(tx, link)
    if before - set(links):
        revocation.revoke(tx, revocation.of_user(known.id))


def _duplicate(kind: str, id_: str) -> Conflict:
    return Conflict(
        f"Conflict occurred attempting to store {kind} - Duplicate entry found with ID {id_}."
    )
