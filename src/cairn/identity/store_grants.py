"""Who has which role where: the tables, and the questions about them.

A role that is given "to inherit" counts in every project below the place that it is given on, and not in
the place itself. Such grants have a table of their own, of the same columns.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    CompoundSelect,
    FromClause,
    Index,
    Select,
    String,
    Table,
    and_,
    bindparam,
    literal,
    or_,
    select,
    union_all,
)

from cairn.core.ids import RoleId, UserId
from cairn.db.columns import id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared
from cairn.identity.records import Actor, ActorKind, Assignment, Implication, Scope, ScopeKind
from cairn.identity.store import domains, members, projects, users

implications = Table(
    "identity_implications",
    metadata,
    id_column("prior_id", primary_key=True),
    id_column("implied_id", primary_key=True),
)

assignments = Table(
    "identity_assignments",
    metadata,
    Column("scope_kind", String(8), primary_key=True),
    id_column("scope_id", primary_key=True),
    Column("actor_kind", String(8), primary_key=True),
    id_column("actor_id", primary_key=True),
    id_column("role_id", primary_key=True, index=True),
    Index("ix_identity_assignments_actor", "actor_id", "actor_kind"),
)

inherited = Table(
    "identity_inherited_assignments",
    metadata,
    Column("scope_kind", String(8), primary_key=True),  # a domain or a project: it counts below
    id_column("scope_id", primary_key=True),
    Column("actor_kind", String(8), primary_key=True),
    id_column("actor_id", primary_key=True),
    id_column("role_id", primary_key=True, index=True),
    Index("ix_identity_inherited_assignments_actor", "actor_id", "actor_kind"),
)

Condition = ColumnElement[bool]


# Conditions on the rows of either table


def is_actor(table: FromClause, actor: Actor) -> Condition:
    return and_(table.c.actor_kind == actor.kind, table.c.actor_id == actor.id)


def is_scope(table: FromClause, scope: Scope) -> Condition:
    return and_(table.c.scope_kind == scope.kind, table.c.scope_id == scope.id)


def is_in_scopes(
    table: FromClause, kind: ScopeKind, ids: Collection[str] | Select[Any]
) -> Condition:
    return and_(table.c.scope_kind == kind, table.c.scope_id.in_(ids))


def is_of_domain(table: FromClause, domain_id: str) -> Condition:
    """On the domain itself or one of its projects."""
    its_projects = select(projects.c.id).where(projects.c.domain_id == domain_id)
    return or_(
        is_in_scopes(table, ScopeKind.DOMAIN, [domain_id]),
        is_in_scopes(table, ScopeKind.PROJECT, its_projects),
    )


def reaches(table: FromClause, user_id: Any, group_ids: Collection[str] = ()) -> Condition:
    """The user's own, and those of the user's groups."""
    its_groups = select(members.c.group_id).where(members.c.user_id == user_id)
    through: Condition = table.c.actor_id.in_(its_groups)
    if group_ids:
        through = or_(through, table.c.actor_id.in_(set(group_ids)))
    return or_(
        and_(table.c.actor_kind == ActorKind.USER, table.c.actor_id == user_id),
        and_(table.c.actor_kind == ActorKind.GROUP, through),
    )


# Implications


def all_implications(tx: Tx) -> list[Implication]:
    return [Implication(prior_id=p, implied_id=i) for p, i in tx.run(_IMPLICATIONS)]


_IMPLICATIONS = Prepared(
    select(implications.c.prior_id, implications.c.implied_id).order_by(
        implications.c.prior_id, implications.c.implied_id
    )
)


def add_implication(tx: Tx, rule: Implication) -> None:
    tx.execute(implications.insert().values(prior_id=rule.prior_id, implied_id=rule.implied_id))


def remove_implication(tx: Tx, rule: Implication) -> bool:
    done = tx.execute(
        implications.delete().where(
            implications.c.prior_id == rule.prior_id, implications.c.implied_id == rule.implied_id
        )
    )
    return done.rowcount == 1


def forget_role(tx: Tx, role_id: RoleId) -> None:
    for table in (assignments, inherited):
        tx.execute(table.delete().where(table.c.role_id == role_id))
    tx.execute(
        implications.delete().where(
            or_(implications.c.prior_id == role_id, implications.c.implied_id == role_id)
        )
    )


# Grants as they were made


def assignments_where(
    tx: Tx,
    *,
    actor: Actor | None = None,
    scope: Scope | None = None,
    role_id: RoleId | None = None,
    is_inherited: bool | None = None,
    limit: int | None = None,
) -> list[Assignment]:
    """`is_inherited`: only those that are, or only those that are not."""

    def conditions(table: Table) -> list[Condition]:
        found = []
        if actor is not None:
            found.append(is_actor(table, actor))
        if scope is not None:
            found.append(is_scope(table, scope))
        if role_id is not None:
            found.append(table.c.role_id == role_id)
        return found

    tables = [t for t, i in ((assignments, False), (inherited, True)) if is_inherited in (None, i)]
    rows: list[tuple[Any, ...]] = []
    for table in tables:
        rows += rows_where(tx, table, conditions(table), limit=limit)
    return [assignment_of(row) for row in rows]


def rows_where(
    tx: Tx, table: Table, conditions: Sequence[Condition], *, limit: int | None = None
) -> list[tuple[Any, ...]]:
    """Rows of one of the two tables: scope's kind and id, actor's kind and id, role, is it inherited."""
    key = (table.c.scope_kind, table.c.scope_id, table.c.actor_kind, table.c.actor_id)
    query = select(*key, table.c.role_id).where(*conditions).order_by(*key, table.c.role_id)
    is_inherited = table is inherited
    return [(*row, is_inherited) for row in tx.execute(query.limit(limit)).all()]


def assignment_of(row: Sequence[Any]) -> Assignment:
    scope_kind, scope_id, actor_kind, actor_id, role_id, is_inherited = row
    return Assignment(
        actor=Actor(kind=ActorKind(actor_kind), id=actor_id),
        scope=Scope(kind=ScopeKind(scope_kind), id=scope_id),
        role_id=role_id,
        is_inherited=bool(is_inherited),
    )


def is_assigned(tx: Tx, wanted: Assignment) -> bool:
    found = assignments_where(
        tx,
        actor=wanted.actor,
        scope=wanted.scope,
        role_id=wanted.role_id,
        is_inherited=wanted.is_inherited,
        limit=1,
    )
    return bool(found)


def add_assignment(tx: Tx, new: Assignment) -> None:
    tx.execute(
        _table_of(new)
        .insert()
        .values(
            scope_kind=new.scope.kind,
            scope_id=new.scope.id,
            actor_kind=new.actor.kind,
            actor_id=new.actor.id,
            role_id=new.role_id,
        )
    )


def remove_assignment(tx: Tx, old: Assignment) -> bool:
    table = _table_of(old)
    done = tx.execute(
        table.delete().where(
            is_actor(table, old.actor), is_scope(table, old.scope), table.c.role_id == old.role_id
        )
    )
    return done.rowcount == 1


def _table_of(assignment: Assignment) -> Table:
    return inherited if assignment.is_inherited else assignments


def forget_actor(tx: Tx, actor: Actor) -> None:
    for table in (assignments, inherited):
        tx.execute(table.delete().where(is_actor(table, actor)))


def forget_scope(tx: Tx, scope: Scope) -> None:
    for table in (assignments, inherited):
        tx.execute(table.delete().where(is_scope(table, scope)))


# What reaches a user


def roles_in(
    tx: Tx, user_id: UserId, scope: Scope, group_ids: Collection[str] = ()
) -> tuple[list[RoleId], list[tuple[RoleId, Scope]]]:
    """The roles that reach the user in a scope, and those that the user inherits below some place or other.

    `group_ids`: groups that the user is in besides those known here.
    """
    if group_ids:
        found = tx.execute(_reaching(user_id, scope.kind, scope.id, group_ids))
        rows: list[tuple[Any, ...]] = [tuple(row) for row in found]
    else:
        asked = {"user_id": user_id, "kind": scope.kind, "scope_id": scope.id}
        rows = tx.run(_REACHING, asked).rows
    direct = [RoleId(role_id) for role_id, kind, _ in rows if not kind]
    below = [
        (RoleId(role_id), Scope(kind=ScopeKind(kind), id=place_id))
        for role_id, kind, place_id in rows
        if kind
    ]
    return direct, below


def _reaching(user_id: Any, kind: Any, scope_id: Any, group_ids: Collection[str] = ()) -> Any:
    return union_all(
        select(assignments.c.role_id, literal(""), literal("")).where(
            assignments.c.scope_kind == kind,
            assignments.c.scope_id == scope_id,
            reaches(assignments, user_id, group_ids),
        ),
        select(inherited.c.role_id, inherited.c.scope_kind, inherited.c.scope_id).where(
            reaches(inherited, user_id, group_ids)
        ),
    )


_REACHING = Prepared(_reaching(bindparam("user_id"), bindparam("kind"), bindparam("scope_id")))


def projects_of_user(user_id: UserId, group_ids: Collection[str] = ()) -> Condition:
    """A condition on projects: the user has a role there, given or inherited."""
    below = _places(inherited, ScopeKind.PROJECT, user_id, group_ids)
    tree = select(projects.c.id).where(projects.c.parent_id.in_(below)).cte(recursive=True)
    tree = tree.union(select(projects.c.id).join(tree, projects.c.parent_id == tree.c.id))
    return or_(
        projects.c.id.in_(_places(assignments, ScopeKind.PROJECT, user_id, group_ids)),
        projects.c.domain_id.in_(_places(inherited, ScopeKind.DOMAIN, user_id, group_ids)),
        projects.c.id.in_(select(tree.c.id)),
    )


def domains_of_user(user_id: UserId, group_ids: Collection[str] = ()) -> Condition:
    """A condition on domains: the user has a role there."""
    return domains.c.id.in_(_places(assignments, ScopeKind.DOMAIN, user_id, group_ids))


def _places(
    table: Table, kind: ScopeKind, user_id: UserId, group_ids: Collection[str]
) -> CompoundSelect[Any]:
    """Apart for the user and for groups, so that either is found by its index."""
    its_groups = select(members.c.group_id).where(members.c.user_id == user_id)
    actors: list[tuple[ActorKind, Any]] = [
        (ActorKind.USER, [user_id]),
        (ActorKind.GROUP, its_groups),
    ]
    if group_ids:
        actors.append((ActorKind.GROUP, sorted(group_ids)))
    return union_all(
        *(
            select(table.c.scope_id).where(
                table.c.actor_kind == actor_kind,
                table.c.actor_id.in_(ids),
                # An expression, not the column: SQLite would take the index that begins with it, and
                # read every grant on a project instead of the user's few.
                table.c.scope_kind.concat("") == kind,
            )
            for actor_kind, ids in actors
        )
    )


def has_any_role(tx: Tx, actor: Actor, role_ids: Collection[str]) -> bool:
    """Whether the user, also through a group, or the group has one of these roles anywhere."""
    for table in (assignments, inherited):
        who = is_actor(table, actor) if actor.kind is ActorKind.GROUP else reaches(table, actor.id)
        query = select(table.c.role_id).where(table.c.role_id.in_(set(role_ids)), who).limit(1)
        if tx.execute(query).first() is not None:
            return True
    return False


def has_enabled_user_with(
    tx: Tx, role_ids: Collection[str], *, besides_domain: str | None = None
) -> bool:
    """Whether an enabled user has one of these roles somewhere, directly or through a group.

    Users of the domain `besides_domain` do not count, nor do roles that are inherited: there may be
    nothing below that inherits them.
    """
    held = assignments.c.role_id.in_(set(role_ids))
    direct = select(assignments.c.actor_id).where(assignments.c.actor_kind == ActorKind.USER, held)
    through_group = (
        select(members.c.user_id)
        .join(assignments, assignments.c.actor_id == members.c.group_id)
        .where(assignments.c.actor_kind == ActorKind.GROUP, held)
    )
    query = select(users.c.id).where(
        users.c.enabled, or_(users.c.id.in_(direct), users.c.id.in_(through_group))
    )
    if besides_domain is not None:
        query = query.where(users.c.domain_id != besides_domain)
    return tx.execute(query.limit(1)).first() is not None
