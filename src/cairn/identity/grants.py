"""Roles: which there are, which imply which, and who has which where."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.core.ids import RoleId, UserId
from cairn.db.engine import Tx
from cairn.identity import revocation, store, store_grants, store_places
from cairn.identity.records import (
    ADMIN_ROLE,
    SERVICE_ROLE,
    SYSTEM,
    Actor,
    ActorKind,
    Assignment,
    Implication,
    Role,
    Scope,
    ScopeKind,
)

SUBJECTS_MAX = 2000  # revocations by one change; beyond, whole users instead of users in projects


class Held(Struct, frozen=True, kw_only=True):
    """A role that a user has in a scope, by assignment or implied by one."""

    id: RoleId
    name: str


def role(tx: Tx, role_id: str) -> Role:
    found = store.ROLES.get(tx, role_id)
    if found is None:
        raise NotFound(f"Could not find role: {role_id}.")
    return found


def role_named(tx: Tx, name: str) -> Role:
    """The one role of a name, in no domain or in any. Raises NotFound, Conflict."""
    found = store.ROLES.page(tx, [store.roles.c.name == name], limit=2)
    if not found:
        raise NotFound(f"Could not find role: {name}.")
    if len(found) > 1:
        raise Conflict(f"Multiple roles are named {name}: use the id.")
    return found[0]


def create_role(tx: Tx, new: Role) -> Role:
    if new.domain_id and store.DOMAINS.get(tx, new.domain_id) is None:
        raise NotFound(f"Could not find domain: {new.domain_id}.")
    _require_free_name(tx, new)
    return store.ROLES.add(tx, new)


def update_role(tx: Tx, role_id: str, changes: dict[str, Any]) -> Role:
    old = role(tx, role_id)
    new = msgspec.structs.replace(old, **changes)
    # What is immutable may be released, and nothing else with it.
    _require_mutable(old, is_kept=msgspec.structs.replace(old, is_immutable=False) != new)
    if new.domain_id != old.domain_id:
        raise Invalid("Field 'domain_id' of a role cannot be changed.")
    if new.name != old.name:
        _require_free_name(tx, new)
        # Tokens carry names: those with the old one must not live on under it.
        revocation.revoke(tx, revocation.of_role(old.name), role_id=old.id)
    return store.ROLES.save(tx, new)


def delete_role(tx: Tx, role_id: str) -> None:
    old = role(tx, role_id)
    _require_mutable(old, is_kept=True)
    _revoke_role(tx, old.id)
    store_grants.forget_role(tx, old.id)
    store.ROLES.remove(tx, old.id)
    require_an_admin(tx)


def imply(tx: Tx, prior_id: str, implied_id: str) -> Implication:
    """From now on, who has the prior role has the implied one too. Repeatable."""
    prior, implied = role(tx, prior_id), role(tx, implied_id)
    if implied.name == ADMIN_ROLE:
        raise Denied(f"The role '{ADMIN_ROLE}' cannot be implied by another.")
    if implied.domain_id and not prior.domain_id:
        raise Denied(
            f"Role {implied.id} of a domain cannot be implied by the global role {prior.id}."
        )
    rule = Implication(prior_id=prior.id, implied_id=implied.id)
    known = store_grants.all_implications(tx)
    if rule in known:
        return rule
    if prior.id in closure([implied.id], implied_by(known)):
        raise Invalid(f"Role {implied.id} implies {prior.id} already: that would be a circle.")
    store_grants.add_implication(tx, rule)
    return rule


def implication(tx: Tx, prior_id: str, implied_id: str) -> Implication:
    rule = Implication(prior_id=role(tx, prior_id).id, implied_id=role(tx, implied_id).id)
    if rule not in store_grants.all_implications(tx):
        raise NotFound(f"Role {prior_id} does not imply role {implied_id}.")
    return rule


def stop_implying(tx: Tx, prior_id: str, implied_id: str) -> None:
    rule = implication(tx, prior_id, implied_id)
    _revoke_role(tx, rule.prior_id)
    store_grants.remove_implication(tx, rule)


def implied_by(rules: Iterable[Implication]) -> Mapping[str, list[str]]:
    """Direct implications by prior role."""
    found: dict[str, list[str]] = {}
    for rule in rules:
        found.setdefault(rule.prior_id, []).append(rule.implied_id)
    return found


def closure(role_ids: Iterable[str], implied: Mapping[str, list[str]]) -> set[str]:
    """The roles and all that they imply, over any number of steps."""
    found: set[str] = set()
    to_do = list(role_ids)
    while to_do:
        role_id = to_do.pop()
        if role_id not in found:
            found.add(role_id)
            to_do.extend(implied.get(role_id, ()))
    return found


def held(tx: Tx, user_id: UserId, scope: Scope, *, group_ids: Collection[str] = ()) -> list[Held]:
    """The user's roles in a scope, by name: assigned to the user or a group, and what these imply.

    `group_ids`: groups that the user is in besides, because an identity provider said so.
    """
    own, below = store_grants.roles_in(tx, user_id, scope, group_ids)
    if below and scope.kind is ScopeKind.PROJECT:
        above = _places_above(tx, scope.id)
        own += [role_id for role_id, place in below if place in above]
    if not own:
        return []
    ids = closure(own, implied_by(store_grants.all_implications(tx)))
    found = store.ROLES.many(tx, ids).values()
    # A role of a domain gives what it implies; its name could pass for a global role's.
    names = [Held(id=r.id, name=r.name) for r in found if r.domain_id == ""]
    return sorted(names, key=lambda r: r.name)


def _places_above(tx: Tx, project_id: str) -> set[Scope]:
    """Where a grant that is inherited counts in this project: its domain, and the projects above."""
    line = store_places.line_of(tx, project_id)
    projects = {Scope(kind=ScopeKind.PROJECT, id=n.id) for n in line if n.id != project_id}
    return projects | {Scope(kind=ScopeKind.DOMAIN, id=n.domain_id) for n in line}


def rules_the_cloud(tx: Tx, actor: Actor) -> bool:
    """Whether somebody may do anywhere what only operators and services may."""
    columns = store.roles.c
    names = columns.name.in_((ADMIN_ROLE, SERVICE_ROLE))
    roles = store.ROLES.page(tx, [columns.domain_id == "", names], limit=2)
    return store_grants.has_any_role(tx, actor, [role.id for role in roles])


def grant(tx: Tx, new: Assignment) -> None:
    """Give a role. Repeatable. NotFound when role, actor or scope is not there."""
    require_parts(tx, new)
    _require_same_domain(tx, new)
    if not store_grants.is_assigned(tx, new):
        store_grants.add_assignment(tx, new)


def withdraw(tx: Tx, old: Assignment) -> None:
    """Take a role; tokens that were issued with it are void."""
    require_granted(tx, old)
    store_grants.remove_assignment(tx, old)
    revoke_holders(tx, old)
    require_an_admin(tx)


def require_granted(tx: Tx, wanted: Assignment) -> None:
    """NotFound unless this very assignment exists."""
    require_parts(tx, wanted)
    if not store_grants.is_assigned(tx, wanted):
        raise NotFound(
            f"Could not find role assignment with role: {wanted.role_id}, {wanted.actor.kind}: "
            f"{wanted.actor.id}, {wanted.scope.kind}: {wanted.scope.id}."
        )


def revoke_holders(tx: Tx, grant: Assignment) -> None:
    """Void the tokens that somebody got from an assignment."""
    revocation.revoke(tx, *_subjects_of(tx, grant))


def _subjects_of(tx: Tx, grant: Assignment) -> list[str]:
    """Whose tokens change with an assignment, and no others' where that can be told apart."""
    holders, subjects = [UserId(grant.actor.id)], []
    if grant.actor.kind is ActorKind.GROUP:
        holders = store.members_of(tx, [grant.actor.id]).get(grant.actor.id, [])
        subjects.append(revocation.of_group(grant.actor.id))
    if not grant.is_inherited:
        return subjects + [revocation.of_grant(user_id, grant.scope) for user_id in holders]
    if grant.scope.kind is ScopeKind.DOMAIN:
        return subjects + [revocation.of_below(user_id, grant.scope.id) for user_id in holders]
    below = [Scope(kind=ScopeKind.PROJECT, id=p.id) for p in store_places.below(tx, grant.scope.id)]
    if len(below) * len(holders) > SUBJECTS_MAX:
        return subjects + [revocation.of_user(user_id) for user_id in holders]
    return subjects + [revocation.of_grant(user_id, s) for user_id in holders for s in below]


def require_parts(tx: Tx, assignment: Assignment) -> None:
    role(tx, assignment.role_id)
    require_actor_and_scope(tx, assignment.actor, assignment.scope)


def require_actor_and_scope(tx: Tx, actor: Actor, scope: Scope) -> None:
    """NotFound when one of them is not there."""
    is_user = actor.kind is ActorKind.USER
    if (store.USERS.get(tx, actor.id) if is_user else store.GROUPS.get(tx, actor.id)) is None:
        raise NotFound(f"Could not find {actor.kind}: {actor.id}.")
    if scope.kind is ScopeKind.PROJECT and store.PROJECTS.get(tx, scope.id) is None:
        raise NotFound(f"Could not find project: {scope.id}.")
    if scope.kind is ScopeKind.DOMAIN and store.DOMAINS.get(tx, scope.id) is None:
        raise NotFound(f"Could not find domain: {scope.id}.")
    assert scope.kind is not ScopeKind.SYSTEM or scope == SYSTEM, "there is one system"


def require_an_admin(tx: Tx, *, besides_domain: str | None = None) -> None:
    """Denied when nobody would be left who may give roles: the cloud could not be ruled any more."""
    admins = store.ROLES.find(tx, store.roles.c.name == ADMIN_ROLE, store.roles.c.domain_id == "")
    if admins is None:
        return  # Before bootstrap.
    if not store_grants.has_enabled_user_with(tx, [admins.id], besides_domain=besides_domain):
        raise Denied("This would leave the cloud without an enabled user who has the role 'admin'.")


def _revoke_role(tx: Tx, role_id: RoleId) -> None:
    """Void what a change of a role changes: tokens that name it, or are of those who hold a domain's role
    that implies it, which no token names."""
    implied = implied_by(store_grants.all_implications(tx))
    for prior in store.ROLES.many(tx, {*implied, role_id}).values():
        if not prior.domain_id and prior.id == role_id:
            revocation.revoke(tx, revocation.of_role(prior.name), role_id=prior.id)
        elif prior.domain_id and role_id in closure([prior.id], implied):
            for grant in store_grants.assignments_where(tx, role_id=prior.id):
                revoke_holders(tx, grant)


def _require_same_domain(tx: Tx, new: Assignment) -> None:
    domain_id = role(tx, new.role_id).domain_id
    if not domain_id:
        return
    if new.scope == SYSTEM:
        raise Invalid(f"Role {new.role_id} of a domain cannot be given on the system.")
    project = store.PROJECTS.get(tx, new.scope.id) if new.scope.kind is ScopeKind.PROJECT else None
    if domain_id != (project.domain_id if project else new.scope.id):
        raise Denied(f"Role {new.role_id} of domain {domain_id} counts in that domain only.")


def _require_free_name(tx: Tx, new: Role) -> None:
    columns = store.roles.c
    if store.ROLES.find(tx, columns.domain_id == new.domain_id, columns.name == new.name):
        raise Conflict(
            f"Conflict occurred attempting to store role - Duplicate entry found with name "
            f"{new.name}."
        )


def _require_mutable(old: Role, *, is_kept: bool) -> None:
    if old.is_immutable and is_kept:
        raise Denied(f"Cannot change the role {old.id}: its option 'immutable' is set.")
