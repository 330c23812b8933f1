"""What goes with what: everything that hangs on a user, group, project or domain ends with it.

Whoever gives identity another table that names one of them adds a line here.
"""

from collections.abc import Iterator

from cairn.core.ids import DomainId, ProjectId, UserId
from cairn.db.engine import Tx
from cairn.identity import limit_store, quotas, revocation, store, store_grants, store_places
from cairn.identity.accounts import guesses, password_store
from cairn.identity.catalog import store as catalog_store
from cairn.identity.credentials import credential_store
from cairn.identity.delegation import delegation
from cairn.identity.directory import domain_config
from cairn.identity.directory import store as directory_store
from cairn.identity.federation import memberships
from cairn.identity.federation import store as federation_store
from cairn.identity.records import Actor, ActorKind, GroupId, Scope, ScopeKind

PARTS_MAX = 10_000  # projects, users or groups of a domain that are read at once


def user(tx: Tx, user_id: UserId) -> None:
    store_grants.forget_actor(tx, Actor(kind=ActorKind.USER, id=user_id))
    store.forget_memberships(tx, user_id)
    credential_store.forget_user(tx, user_id)
    delegation.forget_user(tx, user_id)
    password_store.forget(tx, user_id)
    guesses.forget(tx, user_id)
    federation_store.forget_user(tx, user_id)
    directory_store.forget(tx, user_id)
    store.USERS.remove(tx, user_id)


def group(tx: Tx, group_id: GroupId) -> None:
    store_grants.forget_actor(tx, Actor(kind=ActorKind.GROUP, id=group_id))
    store.forget_group_members(tx, group_id)
    directory_store.forget(tx, group_id)
    federation_store.forget_group(tx, group_id)
    store.GROUPS.remove(tx, group_id)


def project(tx: Tx, project_id: ProjectId) -> None:
    store_grants.forget_scope(tx, Scope(kind=ScopeKind.PROJECT, id=project_id))
    store_places.forget_default_project(tx, project_id)
    store_places.replace_tags(tx, project_id, ())
    quotas.reset_limits(tx, project_id)
    limit_store.forget_project(tx, project_id)
    catalog_store.forget_project(tx, project_id)
    credential_store.forget_project(tx, project_id)
    delegation.forget_project(tx, project_id)
    store.PROJECTS.remove(tx, project_id)


def domain(tx: Tx, domain_id: DomainId) -> None:
    """With its projects, users, groups and roles."""
    for provider in federation_store.providers_of_domain(tx, domain_id):
        revocation.revoke(tx, revocation.of_provider(provider.id))
        memberships.end_all_of(tx, provider.id)
        federation_store.remove_provider(tx, provider.id)
    for its_project in _all(tx, store.PROJECTS, domain_id):
        project(tx, its_project.id)
    for its_user in _all(tx, store.USERS, domain_id):
        user(tx, its_user.id)
    for its_group in _all(tx, store.GROUPS, domain_id):
        group(tx, its_group.id)
    for role in _all(tx, store.ROLES, domain_id):
        store_grants.forget_role(tx, role.id)
        store.ROLES.remove(tx, role.id)
    domain_config.forget(tx, domain_id)
    store_grants.forget_scope(tx, Scope(kind=ScopeKind.DOMAIN, id=domain_id))
    store_places.replace_tags(tx, domain_id, ())
    limit_store.forget_domain(tx, domain_id)
    store.DOMAINS.remove(tx, domain_id)


def _all(tx: Tx, shelf: store.Shelf[store.R], domain_id: DomainId) -> Iterator[store.R]:
    """All that are there, however many: what was seen is gone when more are asked for."""
    while found := shelf.page(tx, [shelf.table.c.domain_id == domain_id], limit=PARTS_MAX):
        yield from found
