"""From what a provider says of somebody to who that is here: found, or made at the first sign-in.

Raises Unauthenticated, always with the same message, when there is nobody; the reason is for the
operator's log. All of it happens in one transaction with the session that follows, so nobody is made for a
sign-in that then fails.
"""

import hashlib
from collections.abc import Collection
from typing import Any
from urllib.parse import quote

import msgspec

from cairn.core.errors import CloudError, Unauthenticated
from cairn.core.ids import DomainId, ProjectId, UserId
from cairn.db.engine import Tx
from cairn.identity import grants, places, signin, store, store_grants
from cairn.identity.federation import mapping as mappings
from cairn.identity.federation import memberships
from cairn.identity.federation import store as federation_store
from cairn.identity.federation.claims import ISSUER_NAMES, Unmapped, values_of
from cairn.identity.federation.mapping import DomainRef, LocalProject, Mapped
from cairn.identity.federation.records import Link, Protocol, Provider
from cairn.identity.federation.service import Asked
from cairn.identity.methods.method import Proof
from cairn.identity.records import (
    Actor,
    ActorKind,
    Assignment,
    Domain,
    Project,
    Role,
    Scope,
    ScopeKind,
    User,
)
from cairn.identity.tokens import Federation

NAME_CHARACTERS_MAX = 255
GROUPS_MAX = 128  # they ride in the token, which must fit into a header


def admit(tx: Tx, asked: Asked, claims: dict[str, Any]) -> Proof:
    """Who the claims' subject is here, with the groups that follow for this session."""
    provider, protocol = _still_there(tx, asked)
    try:
        _require_issuer(provider, protocol, claims)
        mapped = _mapped(tx, protocol, claims)
        is_local = mapped.user.type == "local"
        group_ids: tuple[str, ...] = ()
        if is_local:
            user = _local_user(tx, mapped)
        else:
            user = _federated_user(tx, provider, protocol, mapped, claims)
            group_ids = _groups(tx, mapped)
            memberships.renew(tx, provider, user.id, group_ids)
            given = {
                grant
                for project in mapped.projects
                for grant in _provision(tx, provider, user, project)
            }
            if mapped.synchronises:
                _take_others(tx, user, given)
    except Unmapped as error:
        raise _refused(protocol, str(error)) from error
    return Proof(
        user_id=user.id,
        federation=Federation(
            provider_id=provider.id,
            protocol_id=protocol.id,
            group_ids=group_ids,
            is_local=is_local,
        ),
    )


def _still_there(tx: Tx, asked: Asked) -> tuple[Provider, Protocol]:
    """As they are now: the provider was asked in between."""
    before = asked.protocol
    provider = federation_store.PROVIDERS.get(tx, before.provider_id)
    protocol = federation_store.protocol(tx, before.provider_id, before.id)
    client = federation_store.oidc_client(tx, before.provider_id, before.id)
    if provider is None or protocol is None or not provider.enabled or client != asked.client:
        raise _refused(before, "it was changed or disabled during the sign-in")
    return provider, protocol


def _require_issuer(provider: Provider, protocol: Protocol, claims: dict[str, Any]) -> None:
    if not provider.remote_ids:
        return
    name = protocol.remote_id_attribute or "iss"
    said = values_of(claims, "iss" if name in ISSUER_NAMES else name)
    if len(said) != 1 or said[0] not in provider.remote_ids:
        raise Unmapped(f"'{name}' is {said[:3]}, which is none of the provider's remote_ids")


def _mapped(tx: Tx, protocol: Protocol, claims: dict[str, Any]) -> Mapped:
    found = federation_store.MAPPINGS.get(tx, protocol.mapping_id)
    if found is None:
        raise Unmapped(f"the mapping {protocol.mapping_id} is gone")
    try:
        rules = mappings.rules_of(found.rules, found.schema_version)
        return mappings.evaluate(rules, claims, version=found.schema_version)
    except (CloudError, msgspec.ValidationError, RecursionError) as error:
        raise Unmapped(f"the mapping {found.id}: {error}"[:500]) from error


def _local_user(tx: Tx, mapped: Mapped) -> User:
    """Somebody who is here already."""
    wanted, found = mapped.user, None
    if wanted.id is not None:
        found = store.USERS.get(tx, wanted.id)
    elif wanted.name is not None and wanted.domain is not None:
        domain = _domain(tx, wanted.domain)
        columns = store.users.c
        found = store.USERS.find(tx, columns.domain_id == domain.id, columns.name == wanted.name)
    if found is None:
        raise Unmapped("the local user that the mapping names is not there")
    return found


def _federated_user(
    tx: Tx, provider: Provider, protocol: Protocol, mapped: Mapped, claims: dict[str, Any]
) -> User:
    wanted = mapped.user
    fallback = next(iter(values_of(claims, "sub")), None)
    name = wanted.name or wanted.id or fallback
    if name is None:
        raise Unmapped("the mapping gives the user neither id nor name, and there is no 'sub'")
    unique_id = quote(wanted.id or wanted.name or name)
    if max(len(unique_id), len(name)) > NAME_CHARACTERS_MAX:
        raise Unmapped(f"the user's id and name may have {NAME_CHARACTERS_MAX} characters")
    domain_id = _domain(tx, wanted.domain).id if wanted.domain else provider.domain_id
    link = federation_store.link(tx, provider.id, protocol.id, unique_id)
    known = store.USERS.get(tx, link.user_id) if link else None
    if known is not None:
        return _kept_current(tx, known, provider, name, unique_id, wanted.email)
    user = User(
        id=UserId(tx.new_hex_id()),
        name=_free_name(tx, domain_id, name, provider, unique_id),
        domain_id=domain_id,
        email=wanted.email,
    )
    store.USERS.add(tx, user)
    federation_store.add_link(
        tx,
        Link(
            provider_id=provider.id, protocol_id=protocol.id, unique_id=unique_id, user_id=user.id
        ),
    )
    return user


def _kept_current(
    tx: Tx, known: User, provider: Provider, name: str, unique_id: str, email: str | None
) -> User:
    if known.name != name:
        name = _free_name(tx, known.domain_id, name, provider, unique_id, besides=known.id)
    new = msgspec.structs.replace(known, name=name, email=email or known.email)
    return store.USERS.save(tx, new) if new != known else known


def _free_name(
    tx: Tx,
    domain_id: DomainId,
    name: str,
    provider: Provider,
    unique_id: str,
    besides: str = "",
) -> str:
    """The name, or one like it when somebody else of the domain has it: names never join two people."""
    mark = hashlib.sha256(f"{provider.id}/{unique_id}".encode()).hexdigest()[:8]
    columns = store.users.c
    for wish in (name, f"{name[: NAME_CHARACTERS_MAX - 9]}-{mark}"):
        owner = store.USERS.find(tx, columns.domain_id == domain_id, columns.name == wish)
        if owner is None or owner.id == besides:
            return wish
    raise Unmapped(f"the name '{name}' is taken in domain {domain_id}")


def _groups(tx: Tx, mapped: Mapped) -> tuple[str, ...]:
    """By name only those that are there; an id that is not there is a mistake in the mapping."""
    found = dict.fromkeys(store.GROUPS.many(tx, mapped.group_ids))
    if missing := set(mapped.group_ids) - found.keys():
        raise Unmapped(f"the mapping gives groups that are not there: {sorted(missing)[:5]}")
    columns = store.groups.c
    for name, ref in mapped.groups:
        domain = _domain(tx, ref)
        group = store.GROUPS.find(tx, columns.domain_id == domain.id, columns.name == name)
        if group is not None:
            found[group.id] = None
    if len(found) > GROUPS_MAX:
        raise Unmapped(f"the mapping gives {len(found)} groups; {GROUPS_MAX} fit into a token")
    return tuple(found)


def _provision(tx: Tx, provider: Provider, user: User, wanted: LocalProject) -> list[Assignment]:
    """The project, made if it is not there, with the user's roles in it. They stay."""
    home = _domain(tx, wanted.domain).id if wanted.domain else provider.domain_id
    columns = store.projects.c
    project = store.PROJECTS.find(tx, columns.domain_id == home, columns.name == wanted.name)
    roles = [_role(tx, one.name, home) for one in wanted.roles]
    try:
        if project is None:
            id_ = ProjectId(tx.new_hex_id())
            new = Project(id=id_, name=wanted.name, domain_id=home, parent_id=home)
            project = places.create_project(tx, new)
        actor = Actor(kind=ActorKind.USER, id=user.id)
        scope = Scope(kind=ScopeKind.PROJECT, id=project.id)
        given = [Assignment(actor=actor, scope=scope, role_id=role.id) for role in roles]
        for grant in given:
            grants.grant(tx, grant)
    except CloudError as error:
        raise Unmapped(f"project '{wanted.name}': {error}") from error
    return given


def _take_others(tx: Tx, user: User, given: Collection[Assignment]) -> None:
    """Take the user's roles in projects that the provider did not name."""
    actor = Actor(kind=ActorKind.USER, id=user.id)
    for grant in store_grants.assignments_where(tx, actor=actor, is_inherited=False):
        if grant.scope.kind is ScopeKind.PROJECT and grant not in given:
            store_grants.remove_assignment(tx, grant)
            grants.revoke_holders(tx, grant)


def _role(tx: Tx, name: str, domain_id: DomainId) -> Role:
    columns = store.roles.c
    where = columns.domain_id.in_(("", domain_id))
    found = store.ROLES.page(tx, [columns.name == name, where], limit=2)
    if not found:
        raise Unmapped(f"there is no role '{name}', which the mapping gives")
    return min(found, key=lambda role: role.domain_id)  # the global one first


def _domain(tx: Tx, ref: DomainRef) -> Domain:
    found = None
    if ref.id is not None:
        found = store.DOMAINS.get(tx, ref.id)
    elif ref.name is not None:
        found = store.DOMAINS.find(tx, store.domains.c.name == ref.name)
    if found is None:
        raise Unmapped(f"there is no domain '{ref.id or ref.name}', which the mapping names")
    return found


def _refused(protocol: Protocol, because: str) -> Unauthenticated:
    return signin.refused(f"provider {protocol.provider_id}, {protocol.id}: {because}")
