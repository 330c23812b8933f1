"""Giving and taking roles over HTTP: on projects, domains and the system, and to inherit below."""

from typing import Any

from cairn.core.ids import RoleId
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity import grants, store, store_grants, targets
from cairn.identity.api_roles import show_role
from cairn.identity.listing import listed
from cairn.identity.records import SYSTEM, Actor, ActorKind, Assignment, Scope, ScopeKind

SCOPE_PATHS = {
    ScopeKind.PROJECT: "/projects/{project}",
    ScopeKind.DOMAIN: "/domains/{domain}",
    ScopeKind.SYSTEM: "/system",
}
ACTOR_PATHS = {ActorKind.USER: "/users/{user_id}", ActorKind.GROUP: "/groups/{group_id}"}


def routes() -> tuple[Route, ...]:
    return (
        *(r for scope in SCOPE_PATHS for actor in ACTOR_PATHS for r in _routes(scope, actor)),
        *(
            r
            for scope in (ScopeKind.PROJECT, ScopeKind.DOMAIN)
            for actor in ACTOR_PATHS
            for r in _routes(scope, actor, is_inherited=True)
        ),
    )


def _routes(scope: ScopeKind, actor: ActorKind, is_inherited: bool = False) -> tuple[Route, ...]:
    """The same five questions for each kind of scope and actor."""
    path = f"/v3{SCOPE_PATHS[scope]}{ACTOR_PATHS[actor]}/roles"
    one = f"{path}/{{role_id}}"
    if is_inherited:
        path, one = (
            f"{p.replace('/v3/', '/v3/OS-INHERIT/')}/inherited_to_projects" for p in (path, one)
        )
    what = f"system_grant_for_{actor}" if scope is ScopeKind.SYSTEM else "grant"
    many = f"system_grants_for_{actor}" if scope is ScopeKind.SYSTEM else "grants"

    def named(call: Call[Any]) -> tuple[Actor, Scope]:
        return _actor_in(call, actor), _scope_in(call, scope)

    def wanted(call: Call[Any]) -> Assignment:
        who, where = named(call)
        role_id = RoleId(call.path["role_id"])
        return Assignment(actor=who, scope=where, role_id=role_id, is_inherited=is_inherited)

    def list_(tx: Tx, call: Call[None]) -> dict[str, Any]:
        who, where = named(call)
        grants.require_actor_and_scope(tx, who, where)
        given = store_grants.assignments_where(
            tx, actor=who, scope=where, is_inherited=is_inherited
        )
        found = store.ROLES.many(tx, {a.role_id for a in given})
        return listed(call, "roles", [show_role(call, r) for r in found.values()])

    def check(tx: Tx, call: Call[None]) -> None:
        grants.require_granted(tx, wanted(call))

    def give(tx: Tx, call: Call[None]) -> None:
        grants.grant(tx, wanted(call))

    def take(tx: Tx, call: Call[None]) -> None:
        grants.withdraw(tx, wanted(call))

    about = targets.of_grant
    single = (
        Route(method="GET", path=one, rule=f"identity:check_{what}", do=check, status=204,
              target=about),
        Route(method="PUT", path=one, rule=f"identity:create_{what}", do=give, status=204,
              target=about),
        Route(method="DELETE", path=one, rule=f"identity:revoke_{what}", do=take, status=204,
              target=about),
    )  # fmt: skip
    if is_inherited and scope is ScopeKind.PROJECT:
        return single  # Keystone lists only those on domains.
    return (
        Route(method="GET", path=path, rule=f"identity:list_{many}", do=list_, target=about),
        *single,
    )


def _actor_in(call: Call[Any], kind: ActorKind) -> Actor:
    return Actor(kind=kind, id=call.path["user_id" if kind is ActorKind.USER else "group_id"])


def _scope_in(call: Call[Any], kind: ScopeKind) -> Scope:
    return SYSTEM if kind is ScopeKind.SYSTEM else Scope(kind=kind, id=call.path[kind])
