"""Who has which role where, over HTTP: grants as they were made, or what they amount to."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from cairn.core.errors import Invalid
from cairn.core.ids import UserId
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity import grants, places, store, store_grants, store_places, targets
from cairn.identity.effective import Chains, Held, Row, Tree, expand
from cairn.identity.listing import flag, link, listed
from cairn.identity.records import SYSTEM, Actor, ActorKind, Scope, ScopeKind
from cairn.identity.store_grants import Condition

ENTRIES_MAX = 100_000
"""What is more is left out, and the answer says so ("truncated", as Keystone does)."""

_INHERITED = "scope.OS-INHERIT:inherited_to"
_encode = msgspec.json.encode


def routes() -> tuple[Route, ...]:
    return (
        Route(method="GET", path="/v3/role_assignments", rule="identity:list_role_assignments",
              do=list_assignments, target=targets.of_own_domain),
    )  # fmt: skip


class Wish(Struct, frozen=True, kw_only=True):
    """What is asked for."""

    user_id: str | None
    group_id: str | None
    role_id: str | None
    project_id: str | None
    domain_id: str | None
    is_system: bool
    is_inherited: bool | None  # None: both
    is_effective: bool
    has_names: bool
    has_subtree: bool


def list_assignments(tx: Tx, call: Call[None]) -> dict[str, Any]:
    wish = _wish(call)
    _require_sense(wish)
    within = call.who.scope_domain_id
    if wish.has_subtree:
        if wish.project_id is None:
            raise Invalid("scope.project.id must be specified if include_subtree is also specified")
        root = places.project(tx, wish.project_id)
        about = {"target.domain_id": root.domain_id, "target.project.domain_id": root.domain_id}
        call.require("identity:list_role_assignments_for_tree", **about)
        within = None
    found = list(itertools.islice(_found(tx, wish, within), ENTRIES_MAX + 1))
    names = _Names(tx, found[:ENTRIES_MAX]) if wish.has_names else None
    show = _Shower(call, names).show
    answer = listed(call, "role_assignments", [show(held) for held in found[:ENTRIES_MAX]])
    return {**answer, "truncated": True} if len(found) > ENTRIES_MAX else answer


def _wish(call: Call[None]) -> Wish:
    query = call.query
    inherited_to = query.get(_INHERITED)
    return Wish(
        user_id=query.get("user.id") or None,
        group_id=query.get("group.id") or None,
        role_id=query.get("role.id") or None,
        project_id=query.get("scope.project.id") or None,
        domain_id=query.get("scope.domain.id") or None,
        is_system=query.get("scope.system") == "all",
        is_inherited=None if inherited_to is None else inherited_to == "projects",
        is_effective=flag(call, "effective"),
        has_names=flag(call, "include_names"),
        has_subtree=flag(call, "include_subtree"),
    )


def _require_sense(wish: Wish) -> None:
    if wish.domain_id and wish.project_id:
        raise Invalid("Specify a domain or project, not both")
    if wish.domain_id and wish.is_system:
        raise Invalid("Specify system or domain, not both")
    if wish.project_id and wish.is_system:
        raise Invalid("Specify system or project, not both")
    if wish.user_id and wish.group_id:
        raise Invalid("Specify a user or group, not both")
    if wish.is_effective and wish.group_id:
        raise Invalid("Combining effective and group filter will always result in an empty list.")
    if wish.is_effective and wish.is_inherited and wish.domain_id:
        raise Invalid(
            "Combining effective, domain and inherited filters will always result in an empty list."
        )


def _found(tx: Tx, wish: Wish, within: str | None) -> Iterable[Held | Row]:
    """`within`: nothing but what is given in this domain."""
    project_ids = None
    if wish.project_id is not None:
        project_ids = {wish.project_id}
        if wish.has_subtree:
            project_ids |= {p.id for p in store_places.below(tx, wish.project_id)}
    common = _Conditions(wish, within)
    given: list[Row] = []
    if wish.is_inherited is not True:
        given += common.rows(tx, store_grants.assignments, _direct_scope(wish, project_ids))
    if wish.is_inherited is not False and not wish.is_system:
        if not wish.is_effective:
            given += common.rows(tx, store_grants.inherited, _direct_scope(wish, project_ids))
        elif wish.domain_id is None:
            above = _scope_above(tx, wish, project_ids)
            given += common.rows(tx, store_grants.inherited, above)
    return _expanded(tx, wish, given, project_ids) if wish.is_effective else given


class _Conditions(Struct, frozen=True):
    """Those that do not depend on the scope."""

    wish: Wish
    within: str | None

    def rows(
        self, tx: Tx, table: Any, on_scope: Callable[[Any], list[Condition]]
    ) -> list[tuple[Any, ...]]:
        wish = self.wish
        conditions = on_scope(table)
        if wish.user_id is not None and wish.is_effective:
            conditions.append(store_grants.reaches(table, UserId(wish.user_id)))
        elif wish.user_id is not None:
            user = Actor(kind=ActorKind.USER, id=wish.user_id)
            conditions.append(store_grants.is_actor(table, user))
        if wish.group_id is not None:
            group = Actor(kind=ActorKind.GROUP, id=wish.group_id)
            conditions.append(store_grants.is_actor(table, group))
        if wish.role_id is not None and not wish.is_effective:
            conditions.append(table.c.role_id == wish.role_id)
        if self.within is not None:
            conditions.append(store_grants.is_of_domain(table, self.within))
        limit = None if wish.is_effective else ENTRIES_MAX + 1
        return store_grants.rows_where(tx, table, conditions, limit=limit)


def _direct_scope(wish: Wish, project_ids: set[str] | None) -> Callable[[Any], list[Condition]]:
    def conditions(table: Any) -> list[Condition]:
        if project_ids is not None:
            return [store_grants.is_in_scopes(table, ScopeKind.PROJECT, project_ids)]
        if wish.domain_id is not None:
            domain = Scope(kind=ScopeKind.DOMAIN, id=wish.domain_id)
            return [store_grants.is_scope(table, domain)]
        return [store_grants.is_scope(table, SYSTEM)] if wish.is_system else []

    return conditions


def _scope_above(
    tx: Tx, wish: Wish, project_ids: set[str] | None
) -> Callable[[Any], list[Condition]]:
    """What is given where it reaches the project that is asked for, or one in its subtree."""
    if wish.project_id is None or project_ids is None:
        return lambda table: []
    project = places.project(tx, wish.project_id)
    sources: set[str] = {p.id for p in store_places.ancestors(tx, project.id)}
    if wish.has_subtree:
        sources |= project_ids

    def conditions(table: Any) -> list[Condition]:
        on_domain = store_grants.is_in_scopes(table, ScopeKind.DOMAIN, [project.domain_id])
        on_project = store_grants.is_in_scopes(table, ScopeKind.PROJECT, sources)
        return [on_domain | on_project]

    return conditions


def _expanded(tx: Tx, wish: Wish, given: list[Row], project_ids: set[str] | None) -> Iterable[Held]:
    groups = {row[3] for row in given if row[2] == ActorKind.GROUP}
    if wish.user_id is not None:
        # Only rows that reach the user were read.
        members: Mapping[str, list[str]] = {group: [wish.user_id] for group in groups}
    else:
        members = store.members_of(tx, groups)  # type: ignore[assignment]
    implied = grants.implied_by(store_grants.all_implications(tx))
    role_ids = grants.closure({row[4] for row in given}, implied)
    shown = {r.id for r in store.ROLES.many(tx, role_ids).values() if r.domain_id == ""}
    return expand(
        given,
        members=members,
        tree=_tree(tx, wish, given),
        chains=Chains(implied, shown, wish.role_id),
        user_id=wish.user_id,
        project_ids=project_ids,
    )


def _tree(tx: Tx, wish: Wish, given: list[Row]) -> Tree:
    """As much of it as the inherited ones are given above."""
    places_given = {(row[0], row[1]) for row in given if row[5]}
    if wish.project_id is not None and not wish.has_subtree:
        line = store_places.line_of(tx, wish.project_id) if places_given else ()
        return Tree(line)
    domain_ids = {id_ for kind, id_ in places_given if kind == ScopeKind.DOMAIN}
    tops = {id_ for kind, id_ in places_given if kind == ScopeKind.PROJECT}
    known = store.names_of(tx, store.projects, tops)
    domain_ids |= {known[top].domain_id for top in tops & known.keys()}
    return Tree(store_places.nodes_of(tx, domain_ids) if domain_ids else ())


# How they are shown


class _Names:
    """What the ids in assignments stand for, read in one query a kind."""

    def __init__(self, tx: Tx, found: Iterable[Held | Row]) -> None:
        ids: dict[str, set[str]] = {
            kind: set() for kind in ("user", "group", "project", "domain", "role")
        }
        for held in found:
            if isinstance(held, Held):
                ids["user"].add(held.user_id)
                ids["role"].add(held.role_id)
                scope_kind, scope_id = held.scope_kind, held.scope_id
            else:
                scope_kind, scope_id = held[0], held[1]
                ids[held[2]].add(held[3])
                ids["role"].add(held[4])
            if scope_kind != ScopeKind.SYSTEM:
                ids[scope_kind].add(scope_id)
        known: dict[str, Mapping[str, Any]] = {
            kind: store.names_of(tx, table, ids[kind])
            for kind, table in (
                ("user", store.users),
                ("group", store.groups),
                ("project", store.projects),
                ("role", store.roles),
            )
        }
        owners = {thing.domain_id for things in known.values() for thing in things.values()}
        known["domain"] = store.DOMAINS.many(tx, (ids["domain"] | owners) - {""})
        self._known = known

    def shown(self, kind: str, id_: str) -> dict[str, Any]:
        found = self._known[kind].get(id_)
        if kind == "domain":
            return {"id": id_, "name": found.name if found else ""}
        if found is None:
            return {"id": id_, "name": "", "domain": {"id": "", "name": ""}}
        shown: dict[str, Any] = {"id": id_, "name": found.name}
        if found.domain_id:
            shown["domain"] = self.shown("domain", found.domain_id)
        return shown


class _Shower:
    """Things occur many times in a list, and are encoded once."""

    def __init__(self, call: Call[Any], names: _Names | None) -> None:
        self._names = names
        self._base = link(call, "")["self"].rstrip("/")
        self._things: dict[tuple[str, str], msgspec.Raw] = {}
        self._scopes: dict[tuple[str, str, bool], msgspec.Raw] = {}

    def show(self, held: Held | Row) -> dict[str, Any]:
        return self._effective(held) if isinstance(held, Held) else self._given(held)

    def _given(self, row: Row) -> dict[str, Any]:
        scope_kind, scope_id, actor_kind, actor_id, role_id, is_inherited = row
        path = f"{_place(scope_kind, scope_id)}/{actor_kind}s/{actor_id}/roles/{role_id}"
        return {
            "role": self._thing("role", role_id),
            actor_kind: self._thing(actor_kind, actor_id),
            "scope": self._scope(scope_kind, scope_id, bool(is_inherited)),
            "links": {"assignment": self._link(path, bool(is_inherited))},
        }

    def _effective(self, held: Held) -> dict[str, Any]:
        place = _place(held.place_kind or held.scope_kind, held.place_id or held.scope_id)
        actor = f"groups/{held.group_id}" if held.group_id else f"users/{held.user_id}"
        is_inherited = held.place_id is not None
        path = f"{place}/{actor}/roles/{held.prior_id or held.role_id}"
        links = {"assignment": self._link(path, is_inherited)}
        if held.group_id:
            links["membership"] = f"{self._base}/{actor}/users/{held.user_id}"
        if held.prior_id:
            links["prior_role"] = f"{self._base}/prior_role/{held.prior_id}/implies/{held.role_id}"
        return {
            "role": self._thing("role", held.role_id),
            "user": self._thing("user", held.user_id),
            "scope": self._scope(held.scope_kind, held.scope_id, is_inherited),
            "links": links,
        }

    def _link(self, path: str, is_inherited: bool) -> str:
        if is_inherited:
            return f"{self._base}/OS-INHERIT/{path}/inherited_to_projects"
        return f"{self._base}/{path}"

    def _thing(self, kind: str, id_: str) -> msgspec.Raw:
        found = self._things.get((kind, id_))
        if found is None:
            shown = self._names.shown(kind, id_) if self._names else {"id": id_}
            found = self._things[kind, id_] = msgspec.Raw(_encode(shown))
        return found

    def _scope(self, kind: str, id_: str, is_inherited: bool) -> msgspec.Raw:
        found = self._scopes.get((kind, id_, is_inherited))
        if found is None:
            shown: dict[str, Any] = {"system": {"all": True}}
            if kind != ScopeKind.SYSTEM:
                shown = {kind: self._thing(kind, id_)}
            if is_inherited:
                shown["OS-INHERIT:inherited_to"] = "projects"
            found = self._scopes[kind, id_, is_inherited] = msgspec.Raw(_encode(shown))
        return found


def _place(kind: str, id_: str) -> str:
    return "system" if kind == ScopeKind.SYSTEM else f"{kind}s/{id_}"
