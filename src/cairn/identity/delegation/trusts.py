"""Trusts: a user lets another act with some roles of theirs in a project, and perhaps hand that on.

Source: api-ref, Identity v3 extensions, "OS-TRUST". A trust is good while everybody and everything that it
was made of is: the trustor of the first in the chain has every role, all agents are enabled, no trust of
the chain has expired. Nothing of that is copied; `use` and `trust` ask.
"""

from datetime import datetime

from msgspec import Struct
from sqlalchemy import ColumnElement, or_

from cairn.core.caller import Delegation
from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.core.ids import DomainId, ProjectId, RoleId, UserId
from cairn.db.engine import Tx
from cairn.identity import grants, revocation, store, store_grants
from cairn.identity.delegation.trusts_store import TRUSTS, Trust, take_use, trusts
from cairn.identity.grants import Held
from cairn.identity.records import Domain, Project, Scope, ScopeKind, User

KIND = "trust"
REDELEGATIONS_MAX = 3  # Keystone's own default
_CHAIN_MAX = 2 * REDELEGATIONS_MAX
_MANY = 1000  # that are read at once


def trust(tx: Tx, id_: str) -> Trust:
    """A trust that is good for something. Raises NotFound, Denied."""
    chain = pedigree(tx, id_)
    for parent in chain[1:]:
        trustee = store.USERS.get(tx, parent.trustee_user_id)
        if trustee is None or not trustee.enabled:
            raise Denied("One of the trust agents is disabled or deleted")
    return chain[0]


def pedigree(tx: Tx, id_: str) -> list[Trust]:
    """The trust, the one it hands on, and so on to the first. Raises NotFound: one has ended."""
    chain: list[Trust] = []
    following: str | None = id_
    while following is not None and len(chain) <= _CHAIN_MAX:
        found = TRUSTS.get(tx, following)
        if found is None or _has_ended(found, tx.now):
            raise NotFound(f"Could not find trust: {id_}.")
        chain.append(found)
        following = found.redelegated_trust_id
    return chain


def _has_ended(one: Trust, now: datetime) -> bool:
    is_late = one.expires_at is not None and one.expires_at <= now
    return is_late or (one.remaining_uses is not None and one.remaining_uses <= 0)


class Wish(Struct, frozen=True, kw_only=True):
    """A trust to be made. `count` is the wished redelegation count."""

    trust: Trust
    roles: tuple[tuple[str | None, str | None], ...]  # each by id or by name
    may_redelegate: bool
    count: int | None
    by: Delegation | None  # of the token that asks


def create(tx: Tx, wish: Wish) -> Trust:
    new = wish.trust
    if new.project_id and not wish.roles:
        raise Denied(
            "You are not authorized to perform the requested action: At least one role should be"
            " specified."
        )
    if store.USERS.get(tx, new.trustee_user_id) is None:
        raise NotFound(f"Could not find user: {new.trustee_user_id}.")
    parents = _parents(tx, wish)
    owner_id = parents[-1].trustor_user_id if parents else new.trustor_user_id
    role_ids = _roles(tx, wish, owner_id)
    limits = _limits(wish, parents)
    made = Trust(
        id=new.id,
        trustor_user_id=new.trustor_user_id,
        trustee_user_id=new.trustee_user_id,
        project_id=new.project_id,
        impersonation=new.impersonation,
        role_ids=role_ids,
        expires_at=new.expires_at or (parents[0].expires_at if parents else None),
        remaining_uses=new.remaining_uses,
        redelegated_trust_id=parents[0].id if parents else None,
        redelegation_count=limits,
        extra=new.extra,
    )
    for parent in parents:
        _require_within(parent, made)
    _require_new(tx, made)
    return TRUSTS.add(tx, made)


def _parents(tx: Tx, wish: Wish) -> list[Trust]:
    """The chain that the asking token hands on."""
    named = wish.trust.redelegated_trust_id
    if wish.by is None:
        if named is not None:
            raise Denied(f"Only a token of trust {named} may hand it on.")
        return []
    if wish.by.kind != KIND:
        raise Denied(
            "You are not authorized to perform the requested action: Redelegation allowed for"
            " delegated by trust only."
        )
    if named not in (None, wish.by.id):
        raise Denied(f"The token is not of trust {named}.")
    trust(tx, wish.by.id)
    return pedigree(tx, wish.by.id)


def _roles(tx: Tx, wish: Wish, owner_id: UserId) -> tuple[str, ...]:
    project_id = wish.trust.project_id
    if project_id is not None and store.PROJECTS.get(tx, project_id) is None:
        raise NotFound(f"Could not find project: {project_id}.")
    has = held_ids(tx, owner_id, project_id)
    found = []
    for id_, name in wish.roles:
        role_id = id_ if id_ is not None else grants.role_named(tx, name or "").id
        if role_id not in has:
            raise NotFound(f"Could not find role: {role_id}.")
        found.append(role_id)
    return tuple(dict.fromkeys(found))


def held_ids(tx: Tx, user_id: UserId, project_id: ProjectId | None) -> set[str]:
    """The ids of the user's roles in a project, those of one domain only included."""
    if project_id is None:
        return set()
    scope = Scope(kind=ScopeKind.PROJECT, id=project_id)
    given, _ = store_grants.roles_in(tx, user_id, scope)
    implied = grants.implied_by(store_grants.all_implications(tx))
    held = {role.id for role in grants.held(tx, user_id, scope)}
    return held | grants.closure(given, implied)


def _limits(wish: Wish, parents: list[Trust]) -> int:
    """The new trust's redelegation count. Raises what is wrong with the wished one."""
    count, uses = wish.count, wish.trust.remaining_uses
    if not wish.may_redelegate or count == 0:
        return 0
    if count is not None and count > REDELEGATIONS_MAX:
        raise Denied(
            f"Requested redelegation depth of {count} is greater than allowed {REDELEGATIONS_MAX}"
        )
    if uses is not None:
        raise Invalid("Field 'remaining_uses' must not be set if redelegation is allowed.")
    if not parents:
        return REDELEGATIONS_MAX if count is None else count
    left = parents[0].redelegation_count - 1
    if count not in (None, left):
        raise Denied(
            'Modifying "redelegation_count" upon redelegation is forbidden. Omitting this'
            " parameter is advised."
        )
    return left


def _require_within(parent: Trust, new: Trust) -> None:
    """A trust that is handed on is never more than what it came from."""
    if not 0 < parent.redelegation_count <= REDELEGATIONS_MAX:
        raise Denied(
            f"Remaining redelegation depth of {parent.redelegation_count} out of allowed range of"
            f" [0..{REDELEGATIONS_MAX}]"
        )
    if new.remaining_uses is not None:
        raise Denied("Field 'remaining_uses' must not be set in order to redelegate a trust.")
    if parent.expires_at and (new.expires_at is None or new.expires_at > parent.expires_at):
        raise Denied("Requested expiration time is more than redelegated trust can provide")
    if not set(new.role_ids) <= set(parent.role_ids) or new.project_id != parent.project_id:
        raise Denied("Some of requested roles are not in redelegated trust")
    if new.impersonation and not parent.impersonation:
        raise Denied(
            "Impersonation is not allowed because redelegated trust does not specify"
            f" impersonation. Redelegated trust id: {parent.id}"
        )


def _require_new(tx: Tx, new: Trust) -> None:
    """Two of the same would differ by nothing; without an end, Keystone lets them be."""
    columns = trusts.c
    if new.expires_at is None or new.project_id is None:
        return
    same = TRUSTS.find(
        tx,
        columns.trustor_user_id == new.trustor_user_id,
        columns.trustee_user_id == new.trustee_user_id,
        columns.project_id == new.project_id,
        columns.impersonation.is_(new.impersonation),
        columns.expires_at == new.expires_at,
    )
    if same is not None:
        raise Conflict("Conflict occurred attempting to store trust - Duplicate entry found.")


def delete(tx: Tx, id_: str) -> None:
    """With all that hand it on. Their tokens are void."""
    revocation.revoke(tx, revocation.of_delegation(KIND, id_))
    _delete_all(tx, trusts.c.redelegated_trust_id == id_)
    TRUSTS.remove(tx, id_)


def _delete_all(tx: Tx, which: ColumnElement[bool]) -> None:
    while found := TRUSTS.page(tx, [which], limit=_MANY):
        for one in found:
            delete(tx, one.id)


def forget_user(tx: Tx, user_id: UserId) -> None:
    columns = trusts.c
    _delete_all(tx, or_(columns.trustor_user_id == user_id, columns.trustee_user_id == user_id))


def forget_project(tx: Tx, project_id: ProjectId) -> None:
    _delete_all(tx, trusts.c.project_id == project_id)


# Signing in


class Lent(Struct, frozen=True, kw_only=True):
    """What a sign-in by trust comes to."""

    user: User  # whose token it is
    project: Project
    domain: Domain
    roles: tuple[Held, ...]
    ends_at: datetime | None
    delegation: Delegation


def use(tx: Tx, id_: str, trustee: User) -> Lent | None:
    """Take one use of the trust for its trustee; None when there is no such trust, or not any more.

    Raises Denied, as Keystone does, to somebody else and when the trustor has not got the roles.
    """
    try:
        one = trust(tx, id_)
        chain = pedigree(tx, id_)
    except NotFound:
        return None
    if one.trustee_user_id != trustee.id:
        raise Denied("User is not a trustee.")
    trustors = [_agent(tx, link.trustor_user_id) for link in chain]
    agents = [trustee, *trustors, *(_agent(tx, link.trustee_user_id) for link in chain[1:])]
    project = store.PROJECTS.get(tx, one.project_id) if one.project_id else None
    if project is None or not project.enabled:
        return None
    domain_ids = {agent.domain_id for agent in agents} | {project.domain_id}
    domains = store.DOMAINS.many(tx, domain_ids)
    if any(d not in domains or not domains[d].enabled for d in domain_ids):
        return None
    owner, trustor = trustors[-1], trustors[0]
    roles = _lent_roles(tx, one, owner.id, project.id)
    if one.remaining_uses is not None and not take_use(tx, id_):
        return None
    user = trustor if one.impersonation else trustee
    return Lent(
        user=user,
        project=project,
        domain=domains[project.domain_id],
        roles=roles,
        ends_at=one.expires_at,
        delegation=Delegation(
            kind=KIND,
            id=one.id,
            owner_id=owner.id,
            actor_id=trustee.id,
            may_delegate=one.redelegation_count > 0,
            hangs_on=_hangs_on(
                {agent.id for agent in agents} - {owner.id, user.id},
                domain_ids - {project.domain_id, user.domain_id},
            ),
        ),
    )


def _agent(tx: Tx, user_id: UserId) -> User:
    user = store.USERS.get(tx, user_id)
    if user is None or not user.enabled:
        raise Denied("Trustor is disabled.")
    return user


def _lent_roles(tx: Tx, one: Trust, owner_id: UserId, project_id: ProjectId) -> tuple[Held, ...]:
    """The roles of the trust with what they imply: all of them, or Denied."""
    implied = grants.implied_by(store_grants.all_implications(tx))
    lent = grants.closure(one.role_ids, implied)
    if not lent or not lent <= held_ids(tx, owner_id, project_id):
        raise Denied("Trustee has no delegated roles.")
    roles = store.ROLES.many(tx, lent).values()
    found = [Held(id=RoleId(r.id), name=r.name) for r in roles if r.domain_id == ""]
    if not found:
        raise Denied("Trustee has no delegated roles.")
    return tuple(sorted(found, key=lambda role: role.name))


def _hangs_on(user_ids: set[UserId], domain_ids: set[DomainId]) -> tuple[str, ...]:
    """What voids a token besides what every token hangs on: the other agents and their domains.

    The trusts that this one hands on need not be here: when one is deleted, this one is too.
    """
    users = [revocation.of_user(id_) for id_ in sorted(user_ids)]
    return (*users, *(revocation.of_domain(id_) for id_ in sorted(domain_ids)))
