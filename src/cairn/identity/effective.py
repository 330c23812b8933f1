"""What grants amount to: groups followed to their members, inherited ones down the tree, and roles to
what they imply. Thinks only; who asks has read what is needed.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from cairn.identity.records import ActorKind, ScopeKind
from cairn.identity.store_places import Node

Row = Sequence[str]
"""Scope's kind and id, actor's kind and id, role, and whether it is inherited (`store_grants.rows_where`)."""


class Held(Struct, frozen=True, gc=False):
    """A role that a user has somewhere, and by what."""

    scope_kind: str
    scope_id: str
    user_id: str
    role_id: str
    group_id: str | None = None  # by being in it
    place_kind: str | None = None  # where it was given to be inherited from
    place_id: str | None = None
    prior_id: str | None = None  # the role that implies it


class Tree:
    """Which projects are under which place."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._children: dict[str, list[str]] = {}
        self._of_domain: dict[str, list[str]] = {}
        self._known: dict[tuple[str, str], list[str]] = {}
        for node in nodes:
            self._children.setdefault(node.parent_id, []).append(node.id)
            self._of_domain.setdefault(node.domain_id, []).append(node.id)

    def under(self, kind: str, id_: str) -> list[str]:
        """All projects of a domain, or those below a project at any depth."""
        if kind == ScopeKind.DOMAIN:
            return self._of_domain.get(id_, [])
        found = self._known.get((kind, id_))
        if found is None:
            found = self._known[kind, id_] = list(self._below(id_))
        return found

    def _below(self, id_: str) -> Iterator[str]:
        to_do = list(self._children.get(id_, ()))
        while to_do:
            at = to_do.pop()
            yield at
            to_do.extend(self._children.get(at, ()))


class Chains:
    """What a role comes to in a token, with the role that implies each."""

    def __init__(
        self, implied: Mapping[str, Sequence[str]], shown: Collection[str], only: str | None
    ) -> None:
        """`shown`: roles that a token may name, those of no domain. `only`: the one that is asked for."""
        self._implied = implied
        self._shown = shown
        self._only = only
        self._known: dict[str, list[tuple[str, str | None]]] = {}

    def of(self, role_id: str) -> list[tuple[str, str | None]]:
        found = self._known.get(role_id)
        if found is None:
            found = self._known[role_id] = [
                step
                for step in self._steps(role_id)
                if step[0] in self._shown and self._only in (None, step[0])
            ]
        return found

    def _steps(self, role_id: str) -> list[tuple[str, str | None]]:
        steps: list[tuple[str, str | None]] = [(role_id, None)]
        for at, _ in steps:  # Grows while it is read.
            for implied in self._implied.get(at, ()):
                if (implied, at) not in steps:
                    steps.append((implied, at))
        return steps


def expand(
    rows: Iterable[Row],
    *,
    members: Mapping[str, Sequence[str]],
    tree: Tree,
    chains: Chains,
    user_id: str | None = None,
    project_ids: Collection[str] | None = None,
) -> Iterator[Held]:
    """`user_id`, `project_ids`: nobody else, and nowhere else."""
    for scope_kind, scope_id, actor_kind, actor_id, role_id, is_inherited in rows:
        is_group = actor_kind == ActorKind.GROUP
        group_id = actor_id if is_group else None
        users = members.get(actor_id, ()) if is_group else (actor_id,)
        if user_id is not None:
            users = [u for u in users if u == user_id]
        place_kind, place_id = (scope_kind, scope_id) if is_inherited else (None, None)
        kind, where = scope_kind, [scope_id]
        if is_inherited:
            kind, where = ScopeKind.PROJECT.value, tree.under(scope_kind, scope_id)
            if project_ids is not None:
                where = [p for p in where if p in project_ids]
        steps = chains.of(role_id)
        for at in where:
            for user in users:
                for role, prior in steps:
                    yield Held(kind, at, user, role, group_id, place_kind, place_id, prior)
