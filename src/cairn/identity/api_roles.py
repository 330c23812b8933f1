"""Roles, what they imply, and who has which where, over HTTP."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from cairn.core.ids import RoleId, UserId
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity import grants, store
from cairn.identity.listing import filters, link, listed, listing
from cairn.identity.records import (
    SYSTEM,
    Actor,
    ActorKind,
    Assignment,
    Domain,
    Group,
    Project,
    Role,
    Scope,
    ScopeKind,
    User,
)
from cairn.identity.shapes import RoleBody, RoleWish, read, require_name

SCOPE_PATHS = {
    ScopeKind.PROJECT: "/v3/projects/{project}",
    ScopeKind.DOMAIN: "/v3/domains/{domain}",
    ScopeKind.SYSTEM: "/v3/system",
}
ACTOR_PATHS = {ActorKind.USER: "/users/{user_id}", ActorKind.GROUP: "/groups/{group_id}"}


def routes() -> tuple[Route, ...]:
    role, implies = "/v3/roles/{role_id}", "/v3/roles/{role_id}/implies/{implied_id}"
    return (
        Route(method="GET", path="/v3/roles", rule="identity:list_roles", do=list_roles),
        Route(method="POST", path="/v3/roles", rule="identity:create_role", do=create_role,
              body=RoleBody, status=201),
        Route(method="GET", path=role, rule="identity:get_role", do=get_role),
        Route(method="PATCH", path=role, rule="identity:update_role", do=update_role,
              body=RoleBody),
        Route(method="DELETE", path=role, rule="identity:delete_role", do=delete_role, status=204),
        Route(method="GET", path="/v3/role_inferences", rule="identity:list_role_inference_rules",
              do=list_inferences),
        Route(method="GET", path=f"{role}/implies", rule="identity:list_implied_roles",
              do=list_implied),
        Route(method="PUT", path=implies, rule="identity:create_implied_role", do=imply,
              status=201),
        Route(method="GET", path=implies, rule="identity:get_implied_role", do=get_implied),
        Route(method="HEAD", path=implies, rule="identity:check_implied_role", do=check_implied,
              status=204),
        Route(method="DELETE", path=implies, rule="identity:delete_implied_role",
              do=stop_implying, status=204),
        Route(method="GET", path="/v3/role_assignments", rule="identity:list_role_assignments",
              do=list_assignments),
        *(r for scope in SCOPE_PATHS for actor in ACTOR_PATHS for r in _grant_routes(scope, actor)),
    )  # fmt: skip


def _grant_routes(scope: ScopeKind, actor: ActorKind) -> tuple[Route, ...]:
    """The same five questions for each kind of scope and actor."""
    path = f"{SCOPE_PATHS[scope]}{ACTOR_PATHS[actor]}/roles"
    one = f"{path}/{{role_id}}"
    what = f"system_grant_for_{actor}" if scope is ScopeKind.SYSTEM else "grant"
    many = f"system_grants_for_{actor}" if scope is ScopeKind.SYSTEM else "grants"

    def named(call: Call[Any]) -> tuple[Actor, Scope]:
        return _actor_in(call, actor), _scope_in(call, scope)

    def wanted(call: Call[Any]) -> Assignment:
        who, where = named(call)
        return Assignment(actor=who, scope=where, role_id=RoleId(call.path["role_id"]))

    def list_(tx: Tx, call: Call[None]) -> dict[str, Any]:
        who, where = named(call)
        grants.require_actor_and_scope(tx, who, where)
        given = store.assignments_where(tx, actor=who, scope=where, limit=grants.ASSIGNMENTS_MAX)
        found = store.ROLES.many(tx, {a.role_id for a in given})
        return listed(call, "roles", [show_role(call, r) for r in found.values()])

    def check(tx: Tx, call: Call[None]) -> None:
        grants.require_granted(tx, wanted(call))

    def give(tx: Tx, call: Call[None]) -> None:
        grants.grant(tx, wanted(call))

    def take(tx: Tx, call: Call[None]) -> None:
        grants.withdraw(tx, wanted(call))

    return (
        Route(method="GET", path=path, rule=f"identity:list_{many}", do=list_),
        Route(method="GET", path=one, rule=f"identity:check_{what}", do=check, status=204),
        Route(method="PUT", path=one, rule=f"identity:create_{what}", do=give, status=204),
        Route(method="DELETE", path=one, rule=f"identity:revoke_{what}", do=take, status=204),
    )


def _actor_in(call: Call[Any], kind: ActorKind) -> Actor:
    return Actor(kind=kind, id=call.path["user_id" if kind is ActorKind.USER else "group_id"])


def _scope_in(call: Call[Any], kind: ScopeKind) -> Scope:
    return SYSTEM if kind is ScopeKind.SYSTEM else Scope(kind=kind, id=call.path[kind])


def show_role(call: Call[Any], role: Role) -> dict[str, Any]:
    return {
        **role.extra,
        "id": role.id,
        "name": role.name,
        "domain_id": role.domain_id or None,
        "description": role.description,
        "options": {"immutable": True} if role.is_immutable else {},
        "links": link(call, f"roles/{role.id}"),
    }


def list_roles(tx: Tx, call: Call[None]) -> dict[str, Any]:
    wanted = filters(call, store.ROLES, ("name",))
    # Without a domain asked for, only the roles of no domain are listed.
    wanted.append(store.roles.c.domain_id == (call.query.get("domain_id") or ""))
    return listing(tx, call, "roles", store.ROLES, wanted, show_role)


def create_role(tx: Tx, call: Call[RoleBody]) -> dict[str, Any]:
    changes, extra = read(call.body.role, RoleWish, "role")
    require_name(changes, "role")
    domain_id = changes.pop("domain_id", None) or ""
    new = Role(id=RoleId(tx.new_hex_id()), domain_id=domain_id, **changes, extra=extra)
    return {"role": show_role(call, grants.create_role(tx, new))}


def get_role(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return {"role": show_role(call, grants.role(tx, call.path["role_id"]))}


def update_role(tx: Tx, call: Call[RoleBody]) -> dict[str, Any]:
    changes, extra = read(call.body.role, RoleWish, "role")
    old = grants.role(tx, call.path["role_id"])
    if "domain_id" in changes:
        changes["domain_id"] = changes["domain_id"] or ""
    new = grants.update_role(tx, old.id, {**changes, "extra": {**old.extra, **extra}})
    return {"role": show_role(call, new)}


def delete_role(tx: Tx, call: Call[None]) -> None:
    grants.delete_role(tx, call.path["role_id"])


def list_inferences(tx: Tx, call: Call[None]) -> dict[str, Any]:
    implied = grants.implied_by(store.all_implications(tx))
    roles = store.ROLES.many(tx, {*implied, *(i for many in implied.values() for i in many)})
    shown = [
        {
            "prior_role": _brief_role(call, roles[prior]),
            "implies": [_brief_role(call, roles[i]) for i in many],
        }
        for prior, many in implied.items()
    ]
    return listed(call, "role_inferences", shown)


def list_implied(tx: Tx, call: Call[None]) -> dict[str, Any]:
    prior = grants.role(tx, call.path["role_id"])
    implied = grants.implied_by(store.all_implications(tx)).get(prior.id, [])
    roles = store.ROLES.many(tx, implied)
    shown = {
        "prior_role": _brief_role(call, prior),
        "implies": [_brief_role(call, roles[i]) for i in implied],
    }
    return {"role_inference": shown, "links": {"self": f"{call.base_url}{call.url_path}"}}


def imply(tx: Tx, call: Call[None]) -> dict[str, Any]:
    grants.imply(tx, call.path["role_id"], call.path["implied_id"])
    return _show_inference(tx, call)


def get_implied(tx: Tx, call: Call[None]) -> dict[str, Any]:
    check_implied(tx, call)
    return _show_inference(tx, call)


def check_implied(tx: Tx, call: Call[None]) -> None:
    grants.implication(tx, call.path["role_id"], call.path["implied_id"])


def stop_implying(tx: Tx, call: Call[None]) -> None:
    grants.stop_implying(tx, call.path["role_id"], call.path["implied_id"])


def _show_inference(tx: Tx, call: Call[None]) -> dict[str, Any]:
    shown = {
        "prior_role": _brief_role(call, grants.role(tx, call.path["role_id"])),
        "implies": _brief_role(call, grants.role(tx, call.path["implied_id"])),
    }
    return {"role_inference": shown, "links": {"self": f"{call.base_url}{call.url_path}"}}


def _brief_role(call: Call[Any], role: Role) -> dict[str, Any]:
    return {"id": role.id, "name": role.name, "links": link(call, f"roles/{role.id}")}


def list_assignments(tx: Tx, call: Call[None]) -> dict[str, Any]:
    """Who has which role where; `effective` follows groups to their members and roles to what they imply."""
    if "scope.OS-INHERIT:inherited_to" in call.query:
        return listed(call, "role_assignments", [])  # Roles are not inherited here.
    found = _wanted_assignments(tx, call)
    if _flag(call, "effective"):
        found = _effective(tx, call, found)
    names = _names(tx, found) if _flag(call, "include_names") else None
    shown = [_show_assignment(call, a, names) for a in found]
    return listed(call, "role_assignments", shown)


def _flag(call: Call[Any], key: str) -> bool:
    """Keystone takes a flag without a value, or with any but 0 and false, as set."""
    return key in call.query and (call.query.get(key) or "").lower() not in ("0", "false")


def _wanted_assignments(tx: Tx, call: Call[None]) -> list[Assignment]:
    query, limit = call.query, grants.ASSIGNMENTS_MAX
    scope = None
    if project_id := query.get("scope.project.id"):
        scope = Scope(kind=ScopeKind.PROJECT, id=project_id)
    elif domain_id := query.get("scope.domain.id"):
        scope = Scope(kind=ScopeKind.DOMAIN, id=domain_id)
    elif query.get("scope.system"):
        scope = SYSTEM
    is_effective = _flag(call, "effective")
    role_id = None if is_effective else query.get("role.id")
    if (user_id := query.get("user.id")) and is_effective:
        return store.assignments_of_user(tx, UserId(user_id), scope=scope, limit=limit)
    actor = Actor(kind=ActorKind.USER, id=user_id) if user_id else None
    if group_id := query.get("group.id"):
        actor = Actor(kind=ActorKind.GROUP, id=group_id)
    return store.assignments_where(
        tx, actor=actor, scope=scope, role_id=RoleId(role_id) if role_id else None, limit=limit
    )


def _effective(tx: Tx, call: Call[None], given: Sequence[Assignment]) -> list[Assignment]:
    group_ids = {a.actor.id for a in given if a.actor.kind is ActorKind.GROUP}
    members = store.members_of(tx, group_ids)
    implied = grants.implied_by(store.all_implications(tx))
    wanted_user, wanted_role = call.query.get("user.id"), call.query.get("role.id")
    found: dict[Assignment, None] = {}
    for a in given:
        is_group = a.actor.kind is ActorKind.GROUP
        for user_id in members.get(a.actor.id, []) if is_group else [a.actor.id]:
            if wanted_user not in (None, user_id):
                continue
            actor = Actor(kind=ActorKind.USER, id=user_id)
            for role_id in sorted(grants.closure([a.role_id], implied)):
                if wanted_role in (None, role_id):
                    new = Assignment(actor=actor, scope=a.scope, role_id=RoleId(role_id))
                    found[new] = None
    roles = store.ROLES.many(tx, {a.role_id for a in found})
    return [a for a in found if roles[a.role_id].domain_id == ""]  # As in tokens.


class _Names(Struct, frozen=True, kw_only=True):
    """What the ids in assignments stand for, read in one query a kind."""

    users: dict[str, User]
    groups: dict[str, Group]
    projects: dict[str, Project]
    domains: dict[str, Domain]
    roles: dict[str, Role]


def _names(tx: Tx, found: Sequence[Assignment]) -> _Names:
    def actors(kind: ActorKind) -> set[str]:
        return {a.actor.id for a in found if a.actor.kind is kind}

    def scopes(kind: ScopeKind) -> set[str]:
        return {a.scope.id for a in found if a.scope.kind is kind}

    users = store.USERS.many(tx, actors(ActorKind.USER))
    groups = store.GROUPS.many(tx, actors(ActorKind.GROUP))
    projects = store.PROJECTS.many(tx, scopes(ScopeKind.PROJECT))
    owned: list[User | Group | Project] = [*users.values(), *groups.values(), *projects.values()]
    domain_ids = scopes(ScopeKind.DOMAIN) | {thing.domain_id for thing in owned}
    return _Names(
        users=users,
        groups=groups,
        projects=projects,
        domains=store.DOMAINS.many(tx, domain_ids),
        roles=store.ROLES.many(tx, {a.role_id for a in found}),
    )


def _show_assignment(call: Call[Any], a: Assignment, names: _Names | None) -> dict[str, Any]:
    place = "system" if a.scope.kind is ScopeKind.SYSTEM else f"{a.scope.kind}s/{a.scope.id}"
    path = f"{place}/{a.actor.kind}s/{a.actor.id}/roles/{a.role_id}"
    scope: dict[str, Any] = {"system": {"all": True}}
    if a.scope.kind is not ScopeKind.SYSTEM:
        scope = {a.scope.kind: _show_named(names, a.scope.kind, a.scope.id)}
    return {
        "role": _show_named(names, "role", a.role_id),
        a.actor.kind: _show_named(names, a.actor.kind, a.actor.id),
        "scope": scope,
        "links": {"assignment": link(call, path)["self"]},
    }


def _show_named(names: _Names | None, kind: str, id_: str) -> dict[str, Any]:
    """{"id": ...}, with name and domain where names were asked for."""
    if names is None:
        return {"id": id_}
    found = getattr(names, f"{kind}s").get(id_)
    if found is None:
        return {"id": id_}
    shown: dict[str, Any] = {"id": id_, "name": found.name}
    domain_id = getattr(found, "domain_id", "")
    if domain_id and domain_id in names.domains:
        shown["domain"] = {"id": domain_id, "name": names.domains[domain_id].name}
    return shown
