"""Roles: which there are, which imply which, and who has which where."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.core.ids import RoleId, UserId
from cairn.db.engine import Tx
from cairn.identity import revocation, store
from cairn.identity.records import (
    ADMIN_ROLE,
    SYSTEM,
    Actor,
    ActorKind,
    Assignment,
    Implication,
    Role,
    Scope,
    ScopeKind,
)

ASSIGNMENTS_MAX = 10_000


class Held(Struct, frozen=True, kw_only=True):
    """A role that a user has in a scope, by assignment or implied by one."""

    id: RoleId
    name: str


def role(tx: Tx, role_id: str) -> Role:
    found = store.ROLES.get(tx, role_id)
    if found is None:
        raise NotFound(f"Could not find role: {role_id}.")
    return found


def create_role(tx: Tx, new: Role) -> Role:
    _require_free_name(tx, new)
    return store.ROLES.add(tx, new)


def update_role(tx: Tx, role_id: str, changes: dict[str, Any]) -> Role:
    old = role(tx, role_id)
    new = msgspec.structs.replace(old, **changes)
    _require_mutable(old, is_kept=new.is_immutable)
    if new.domain_id != old.domain_id:
        raise Invalid("Field 'domain_id' of a role cannot be changed.")
    if new.name != old.name:
        _require_free_name(tx, new)
        # Tokens carry names: those with the old one must not live on under it.
        revocation.revoke(tx, revocation.of_role(old.name))
    return store.ROLES.save(tx, new)


def delete_role(tx: Tx, role_id: str) -> None:
    old = role(tx, role_id)
    _require_mutable(old, is_kept=True)
    revocation.revoke(tx, *_subjects_of_role(tx, old.id))
    store.forget_role(tx, old.id)
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
    known = store.all_implications(tx)
    if rule in known:
        return rule
    if prior.id in closure([implied.id], implied_by(known)):
        raise Invalid(f"Role {implied.id} implies {prior.id} already: that would be a circle.")
    store.add_implication(tx, rule)
    return rule


def implication(tx: Tx, prior_id: str, implied_id: str) -> Implication:
    rule = Implication(prior_id=role(tx, prior_id).id, implied_id=role(tx, implied_id).id)
    if rule not in store.all_implications(tx):
        raise NotFound(f"Role {prior_id} does not imply role {implied_id}.")
    return rule


def stop_implying(tx: Tx, prior_id: str, implied_id: str) -> None:
    rule = implication(tx, prior_id, implied_id)
    revocation.revoke(tx, *_subjects_of_role(tx, rule.prior_id))
    store.remove_implication(tx, rule)


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
    own = store.assignments_of_user(tx, user_id, scope=scope, limit=ASSIGNMENTS_MAX)
    if group_ids:
        own += store.assignments_of_groups(tx, group_ids, scope=scope, limit=ASSIGNMENTS_MAX)
    if not own:
        return []
    ids = closure({a.role_id for a in own}, implied_by(store.all_implications(tx)))
    found = store.ROLES.many(tx, ids).values()
    # A role of a domain gives what it implies; its name could pass for a global role's.
    names = [Held(id=r.id, name=r.name) for r in found if r.domain_id == ""]
    return sorted(names, key=lambda r: r.name)


def grant(tx: Tx, new: Assignment) -> None:
    """Give a role. Repeatable. NotFound when role, actor or scope is not there."""
    require_parts(tx, new)
    _require_same_domain(tx, new)
    if not store.is_assigned(tx, new):
        store.add_assignment(tx, new)


def withdraw(tx: Tx, old: Assignment) -> None:
    """Take a role; tokens that were issued with it are void."""
    require_granted(tx, old)
    store.remove_assignment(tx, old)
    revoke_holders(tx, old)
    require_an_admin(tx)


def require_granted(tx: Tx, wanted: Assignment) -> None:
    """NotFound unless this very assignment exists."""
    require_parts(tx, wanted)
    if not store.is_assigned(tx, wanted):
        raise NotFound(
            f"Could not find role assignment with role: {wanted.role_id}, {wanted.actor.kind}: "
            f"{wanted.actor.id}, {wanted.scope.kind}: {wanted.scope.id}."
        )


def revoke_holders(tx: Tx, grant: Assignment) -> None:
    """Void the tokens that somebody got in the scope of an assignment."""
    holders = [UserId(grant.actor.id)]
    if grant.actor.kind is ActorKind.GROUP:
        holders = store.members_of(tx, [grant.actor.id]).get(grant.actor.id, [])
    revocation.revoke(tx, *(revocation.of_grant(user_id, grant.scope) for user_id in holders))


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
    if not store.has_enabled_user_with(tx, [admins.id], besides_domain=besides_domain):
        raise Denied("This would leave the cloud without an enabled user who has the role 'admin'.")


def _subjects_of_role(tx: Tx, role_id: RoleId) -> list[str]:
    """Whose tokens change with a role: those that name it, or hold a domain's role that they do not name."""
    changed = role(tx, role_id)
    subjects = set() if changed.domain_id else {revocation.of_role(changed.name)}
    implied = implied_by(store.all_implications(tx))
    for prior in store.ROLES.many(tx, {*implied, role_id}).values():
        if prior.domain_id and role_id in closure([prior.id], implied):
            for grant in store.assignments_where(tx, role_id=prior.id, limit=ASSIGNMENTS_MAX):
                subjects.add(revocation.of_scope(grant.scope))
    return sorted(subjects)


def _require_same_domain(tx: Tx, new: Assignment) -> None:
    domain_id = role(tx, new.role_id).domain_id
    if not domain_id:
        return
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
