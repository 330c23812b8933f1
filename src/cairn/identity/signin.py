"""Signing in: from a name and a password, or an older token, to what a new token says.

The dear part, comparing the password, happens between two reads (`candidate`, then `open_session`), so no
transaction is open meanwhile; the second read makes sure that nothing of the first has changed. Whatever
is wrong about user, password or scope gets the same answer, and the operator's log the reason.
"""

from datetime import timedelta

from msgspec import Struct

from cairn.core.errors import Invalid, NotFound, Unauthenticated
from cairn.db.engine import Tx
from cairn.identity import grants, store
from cairn.identity.grants import Held
from cairn.identity.records import SYSTEM, Domain, Project, Scope, ScopeKind, User
from cairn.identity.tokens import Payload, microseconds, new_audit_id

_REFUSAL = "The request you have made requires authentication."


class DomainName(Struct, frozen=True, kw_only=True):
    """A domain as clients name it: by id or by name."""

    id: str | None = None
    name: str | None = None


class Named(Struct, frozen=True, kw_only=True):
    """A user or project as clients name it: by id, or by name and domain."""

    id: str | None = None
    name: str | None = None
    domain: DomainName | None = None


class ScopeWish(Struct, frozen=True, kw_only=True):
    """At most one of these; none at all asks for an unscoped token."""

    project: Named | None = None
    domain: DomainName | None = None
    is_system: bool = False


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


def candidate(tx: Tx, named: Named) -> Candidate:
    user = _user(tx, named)
    if user is None:
        return Candidate()
    return Candidate(user=user, password_hash=store.password_hash(tx, user.id))


def open_session(
    tx: Tx,
    proven: Candidate,
    wish: ScopeWish | None,
    *,
    methods: tuple[str, ...],
    lifetime_s: int,
    parent: Payload | None = None,
) -> Session:
    """What a token for a proven user says. No wish means the user's default project.

    A session made from a token keeps that one's end and names it in its audit ids. Raises Unauthenticated.
    """
    assert proven.user is not None, "somebody must have proved who they are"
    user = store.USERS.get(tx, proven.user.id)
    if user is None or not user.enabled:
        raise _refused(f"user {proven.user.id} is gone or disabled")
    if "password" in methods and store.password_hash(tx, user.id) != proven.password_hash:
        raise _refused(f"user {user.id} changed the password during the sign-in")
    user_domain = _enabled_domain(tx, user.domain_id)
    place = _place(tx, user, wish)
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
        roles=tuple(r.name for r in place.roles),
        methods=tuple(sorted({*methods, *(parent.methods if parent else ())})),
        audit_ids=(own_audit_id, parent.audit_ids[-1]) if parent else (own_audit_id,),
        issued_us=now,
        expires_us=min(end, parent.expires_us) if parent else end,
        revocations_seen=store.revocations_made(tx),
    )
    return Session(
        payload=payload, user=user, user_domain=user_domain, roles=place.roles,
        project=project, domain=domain,
    )  # fmt: skip


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
        roles=tuple(sorted((Held(id=r.id, name=r.name) for r in roles), key=lambda r: r.name)),
    )


class _Place(Struct, frozen=True, kw_only=True):
    """A scope that was found, with the roles that the user has there."""

    roles: tuple[Held, ...] = ()
    project: Project | None = None
    domain: Domain | None = None
    is_system: bool = False


def _place(tx: Tx, user: User, wish: ScopeWish | None) -> _Place:
    if wish is None:
        return _default_place(tx, user)
    if wish.project is not None:
        project = _project(tx, wish.project)
        if project is None:
            raise _refused("the project is not there")
        return _project_place(tx, user, project)
    if wish.domain is not None:
        domain = _domain(tx, wish.domain)
        if domain is None or not domain.enabled:
            raise _refused("the domain is not there or disabled")
        scope = Scope(kind=ScopeKind.DOMAIN, id=domain.id)
        return _Place(roles=_roles(tx, user, scope), domain=domain)
    if wish.is_system:
        return _Place(roles=_roles(tx, user, SYSTEM), is_system=True)
    return _Place()


def _default_place(tx: Tx, user: User) -> _Place:
    """The user's default project if it can be had, else none: a stale default must not lock anybody out."""
    project = store.PROJECTS.get(tx, user.default_project_id) if user.default_project_id else None
    if project is None:
        return _Place()
    try:
        return _project_place(tx, user, project)
    except Unauthenticated:
        return _Place()


def _project_place(tx: Tx, user: User, project: Project) -> _Place:
    if not project.enabled:
        raise _refused(f"project {project.id} is disabled")
    domain = _enabled_domain(tx, project.domain_id)
    roles = _roles(tx, user, Scope(kind=ScopeKind.PROJECT, id=project.id))
    return _Place(roles=roles, project=project, domain=domain)


def _roles(tx: Tx, user: User, scope: Scope) -> tuple[Held, ...]:
    roles = grants.held(tx, user.id, scope)
    if not roles:
        raise _refused(f"user {user.id} has no role on {scope.kind} {scope.id}")
    return tuple(roles)


def _enabled_domain(tx: Tx, domain_id: str) -> Domain:
    domain = store.DOMAINS.get(tx, domain_id)
    if domain is None or not domain.enabled:
        raise _refused(f"domain {domain_id} is gone or disabled")
    return domain


def _user(tx: Tx, named: Named) -> User | None:
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


def _refused(because: str) -> Unauthenticated:
    return Unauthenticated(_REFUSAL, because=because)
