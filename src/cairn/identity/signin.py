"""Signing in: from a name and a password, or an older token, to what a new token says.

The dear part, comparing the password, happens between two reads (`candidate`, then `open_session`), so no
transaction is open meanwhile; the second read makes sure that nothing of the first has changed. Whatever
is wrong about user, password or scope gets the same answer, and the operator's log the reason.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from msgspec import Struct

from cairn.core.errors import Invalid, NotFound, Unauthenticated
from cairn.db.engine import Tx
from cairn.identity import grants, store
from cairn.identity.delegation import delegation as delegations
from cairn.identity.delegation import trusts
from cairn.identity.grants import Held
from cairn.identity.methods.method import DomainName, Named, Proof, ScopeWish
from cairn.identity.records import SYSTEM, Domain, Project, Scope, ScopeKind, User
from cairn.identity.tokens import Payload, microseconds, new_audit_id

_REFUSAL = "The request you have made requires authentication."


class Candidate(Struct, frozen=True, kw_only=True):
    """Whom a sign-in claims to be, and the hash that its password must match; both may be missing."""

    user: User | None = None
    password_hash: str | None = None


class Session(Struct, frozen=True, kw_only=True):
    """A token's payload with the names that its description shows."""

    payload: Payload
    user: User
    user_domain: Domain
    roles: tuple[Held, ...] = ()
    project: Project | None = None
    domain: Domain | None = None  # the project's, or the scope itself
    delegated: Mapping[str, Any] = {}  # what the description says of who acts for whom


def candidate(tx: Tx, named: Named) -> Candidate:
    user = find_user(tx, named)
    if user is None:
        return Candidate()
    return Candidate(user=user, password_hash=store.password_hash(tx, user.id))


def open_session(
    tx: Tx,
    proofs: Sequence[Proof],
    wish: ScopeWish | None,
    *,
    methods: tuple[str, ...],
    lifetime_s: int,
) -> Session:
    """What a token for a proven user says. No wish means the user's default project.

    Every proof narrows the session: its scope, its roles, its end. Raises Unauthenticated.
    """
    user = proven_user(tx, proofs)
    _enabled_domain(tx, user.domain_id)
    places = [proof.place for proof in proofs if proof.place is not None]
    if places and wish not in (None, places[0]):
        raise refused("the scope is not the one that was delegated")
    delegation = next((p.delegation for p in proofs if p.delegation), None)
    federation = next((p.federation for p in proofs if p.federation), None)
    parent = next((p.parent for p in proofs if p.parent), None)
    group_ids = federation.group_ids if federation else ()
    lent = _lent(tx, user, wish)
    if lent is None:
        place = _place(tx, user, places[0] if places else wish, group_ids)
    else:
        user, delegation, federation = lent.user, lent.delegation, None
        place = _Place(roles=lent.roles, project=lent.project, domain=lent.domain)
    roles = _narrowed(proofs, place.roles)
    if place.roles and not roles:
        raise refused("no role is left of those that were delegated")
    ends = [proof.ends_us for proof in proofs if proof.ends_us is not None]
    if lent is not None and lent.ends_at is not None:
        ends.append(microseconds(lent.ends_at))
    now = microseconds(tx.now)
    end = now + timedelta(seconds=lifetime_s) // timedelta(microseconds=1)
    project, domain = place.project, place.domain
    own_audit_id = new_audit_id(tx.random_bytes(16))
    payload = Payload(
        user_id=user.id,
        user_domain_id=user.domain_id,
        project_id=project.id if project else None,
        project_domain_id=domain.id if project and domain else None,
        scope_domain_id=domain.id if domain and not project else None,
        is_system=place.is_system,
        roles=tuple(r.name for r in roles),
        methods=tuple(sorted({*methods, *(parent.methods if parent else ())})),
        audit_ids=(own_audit_id, parent.audit_ids[-1]) if parent else (own_audit_id,),
        issued_us=now,
        expires_us=min([end, *ends]),
        revocations_seen=store.revocations_made(tx),
        delegation=delegation,
        federation=federation,
    )
    return Session(
        payload=payload, user=user, user_domain=_enabled_domain(tx, user.domain_id), roles=roles,
        project=project, domain=domain, delegated=delegations.shown(tx, delegation),
    )  # fmt: skip


def _lent(tx: Tx, user: User, wish: ScopeWish | None) -> trusts.Lent | None:
    """What the wished trust lends to the user; None when none is wished. Takes one of its uses."""
    if wish is None or wish.trust_id is None:
        return None
    lent = trusts.use(tx, wish.trust_id, user)
    if lent is None:
        raise refused(f"trust {wish.trust_id} is not there, has ended or has no project")
    return lent


def proven_user(tx: Tx, proofs: Sequence[Proof]) -> User:
    """The one user whom all proofs name, who is still there, and of whom they still hold."""
    user_ids = {proof.user_id for proof in proofs}
    if len(user_ids) != 1:
        raise refused("the methods name different users")
    user = store.USERS.get(tx, user_ids.pop())
    if user is None or not user.enabled:
        raise refused(f"user {proofs[0].user_id} is gone or disabled")
    for proof in proofs:
        proof.recheck(tx, user)
    return user


def _narrowed(proofs: Sequence[Proof], roles: tuple[Held, ...]) -> tuple[Held, ...]:
    for proof in proofs:
        if proof.role_ids is not None:
            roles = tuple(role for role in roles if role.id in proof.role_ids)
    return roles


def session_of(tx: Tx, payload: Payload) -> Session:
    """The names behind a valid token. NotFound when its user or scope is just being deleted."""
    user = store.USERS.get(tx, payload.user_id)
    user_domain = store.DOMAINS.get(tx, payload.user_domain_id)
    project = store.PROJECTS.get(tx, payload.project_id) if payload.project_id else None
    scope_domain_id = payload.project_domain_id or payload.scope_domain_id
    domain = store.DOMAINS.get(tx, scope_domain_id) if scope_domain_id else None
    if user is None or user_domain is None or (payload.project_id and project is None):
        raise NotFound("Failed to validate token")
    columns = store.roles.c
    roles = store.ROLES.page(
        tx, [columns.domain_id == "", columns.name.in_(payload.roles)], limit=len(payload.roles)
    )
    return Session(
        payload=payload,
        user=user,
        user_domain=user_domain,
        project=project,
        domain=domain,
        delegated=delegations.shown(tx, payload.delegation),
        roles=tuple(sorted((Held(id=r.id, name=r.name) for r in roles), key=lambda r: r.name)),
    )


class _Place(Struct, frozen=True, kw_only=True):
    """A scope that was found, with the roles that the user has there."""

    roles: tuple[Held, ...] = ()
    project: Project | None = None
    domain: Domain | None = None
    is_system: bool = False


def _place(tx: Tx, user: User, wish: ScopeWish | None, group_ids: Collection[str]) -> _Place:
    if wish is None:
        return _default_place(tx, user, group_ids)
    if wish.project is not None:
        project = _project(tx, wish.project)
        if project is None:
            raise refused("the project is not there")
        return _project_place(tx, user, project, group_ids)
    if wish.domain is not None:
        domain = _domain(tx, wish.domain)
        if domain is None or not domain.enabled:
            raise refused("the domain is not there or disabled")
        scope = Scope(kind=ScopeKind.DOMAIN, id=domain.id)
        return _Place(roles=_roles(tx, user, scope, group_ids), domain=domain)
    if wish.is_system:
        return _Place(roles=_roles(tx, user, SYSTEM, group_ids), is_system=True)
    return _Place()


def _default_place(tx: Tx, user: User, group_ids: Collection[str]) -> _Place:
    """The user's default project if it can be had, else none: a stale default must not lock anybody out."""
    project = store.PROJECTS.get(tx, user.default_project_id) if user.default_project_id else None
    if project is None:
        return _Place()
    try:
        return _project_place(tx, user, project, group_ids)
    except Unauthenticated:
        return _Place()


def _project_place(tx: Tx, user: User, project: Project, group_ids: Collection[str]) -> _Place:
    if not project.enabled:
        raise refused(f"project {project.id} is disabled")
    domain = _enabled_domain(tx, project.domain_id)
    scope = Scope(kind=ScopeKind.PROJECT, id=project.id)
    roles = _roles(tx, user, scope, group_ids)
    return _Place(roles=roles, project=project, domain=domain)


def _roles(tx: Tx, user: User, scope: Scope, group_ids: Collection[str]) -> tuple[Held, ...]:
    roles = grants.held(tx, user.id, scope, group_ids=group_ids)
    if not roles:
        raise refused(f"user {user.id} has no role on {scope.kind} {scope.id}")
    return tuple(roles)


def _enabled_domain(tx: Tx, domain_id: str) -> Domain:
    domain = store.DOMAINS.get(tx, domain_id)
    if domain is None or not domain.enabled:
        raise refused(f"domain {domain_id} is gone or disabled")
    return domain


def find_user(tx: Tx, named: Named) -> User | None:
    if named.id is not None:
        return store.USERS.get(tx, named.id)
    domain = _domain_of(tx, named, "user")
    columns = store.users.c
    if domain is None:
        return None
    return store.USERS.find(tx, columns.domain_id == domain.id, columns.name == named.name)


def _project(tx: Tx, named: Named) -> Project | None:
    if named.id is not None:
        return store.PROJECTS.get(tx, named.id)
    domain = _domain_of(tx, named, "project")
    columns = store.projects.c
    if domain is None:
        return None
    return store.PROJECTS.find(tx, columns.domain_id == domain.id, columns.name == named.name)


def _domain_of(tx: Tx, named: Named, what: str) -> Domain | None:
    if named.name is None:
        raise Invalid(f"Expecting to find id or name in {what}.")
    if named.domain is None:
        raise Invalid(f"Expecting to find domain in {what}.")
    return _domain(tx, named.domain)


def _domain(tx: Tx, named: DomainName) -> Domain | None:
    if named.id is not None:
        return store.DOMAINS.get(tx, named.id)
    if named.name is None:
        raise Invalid("Expecting to find id or name in domain.")
    return store.DOMAINS.find(tx, store.domains.c.name == named.name)


def refused(because: str) -> Unauthenticated:
    """The one answer to whatever is wrong; the reason is for the operator's log."""
    return Unauthenticated(_REFUSAL, because=because)
