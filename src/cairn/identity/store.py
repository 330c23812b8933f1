"""Identity's tables and questions.

Domains, projects, users, groups and roles are asked the same few questions, so one `Shelf` answers for
each. References between them are kept by the verbs, not by foreign keys: an assignment's actor and scope
are of several kinds, and deleting has to say which tokens it voids anyway.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    bindparam,
    or_,
    select,
)

from cairn.core.errors import Invalid
from cairn.core.ids import ProjectId, RoleId, UserId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.identity.records import (
    Actor,
    ActorKind,
    Assignment,
    Domain,
    Event,
    Group,
    GroupId,
    Implication,
    Project,
    Role,
    Scope,
    ScopeKind,
    User,
)

R = TypeVar("R", bound=Struct)
_Extra = Json(dict[str, Any])

domains = Table(
    "identity_domains",
    metadata,
    id_column(primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("is_immutable", Boolean, nullable=False),
    Column("extra", _Extra, nullable=False),
)

projects = Table(
    "identity_projects",
    metadata,
    id_column(primary_key=True),
    Column("name", String(64), nullable=False),
    id_column("domain_id", nullable=False),
    id_column("parent_id", nullable=False, index=True),
    Column("description", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("is_immutable", Boolean, nullable=False),
    Column("extra", _Extra, nullable=False),
    UniqueConstraint("domain_id", "name"),
)

project_tags = Table(
    "identity_project_tags",
    metadata,
    id_column("project_id", primary_key=True),
    Column("tag", String(255), primary_key=True),
)

users = Table(
    "identity_users",
    metadata,
    id_column(primary_key=True),
    Column("name", String(255), nullable=False),
    id_column("domain_id", nullable=False),
    Column("enabled", Boolean, nullable=False),
    id_column("default_project_id", index=True),
    Column("description", Text),
    Column("email", Text),
    Column("options", _Extra, nullable=False),
    Column("extra", _Extra, nullable=False),
    Column("password_hash", Text),
    UniqueConstraint("domain_id", "name"),
)

groups = Table(
    "identity_groups",
    metadata,
    id_column(primary_key=True),
    Column("name", String(64), nullable=False),
    id_column("domain_id", nullable=False),
    Column("description", Text, nullable=False),
    Column("extra", _Extra, nullable=False),
    UniqueConstraint("domain_id", "name"),
)

members = Table(
    "identity_group_members",
    metadata,
    id_column("user_id", primary_key=True),
    id_column("group_id", primary_key=True, index=True),
)

roles = Table(
    "identity_roles",
    metadata,
    id_column(primary_key=True),
    Column("name", String(255), nullable=False),
    id_column("domain_id", nullable=False),
    Column("description", Text),
    Column("is_immutable", Boolean, nullable=False),
    Column("extra", _Extra, nullable=False),
    UniqueConstraint("domain_id", "name"),
)

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

revocations = Table(
    "identity_revocations",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("subject", String(255), nullable=False),
    Column("revoked_at", Time, nullable=False, index=True),
)

revocation_count = Table(
    "identity_revocation_count",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1: there is one row
    Column("number", BigInteger, nullable=False),
)


class Shelf(Generic[R]):
    """One table whose rows are records with an id; columns have the names of the record's fields."""

    def __init__(self, table: Table, kind: type[R]) -> None:
        self.table = table
        self._kind: type[R] = kind
        self._columns = [table.c[name] for name in kind.__struct_fields__]
        # Made once: building a statement costs more than running this one.
        self._by_id = select(*self._columns).where(table.c.id == bindparam("id"))

    def get(self, tx: Tx, id_: str) -> R | None:
        row = tx.execute(self._by_id, {"id": id_}).first()
        return None if row is None else self._kind(**row._mapping)

    def find(self, tx: Tx, *conditions: ColumnElement[bool]) -> R | None:
        row = tx.execute(select(*self._columns).where(*conditions).limit(1)).first()
        return None if row is None else self._kind(**row._mapping)

    def many(self, tx: Tx, ids: Collection[str]) -> dict[str, R]:
        """The records with these ids, by id; those that are not there are left out."""
        if not ids:
            return {}
        rows = tx.execute(select(*self._columns).where(self.table.c.id.in_(set(ids))))
        return {row.id: self._kind(**row._mapping) for row in rows}

    def page(
        self,
        tx: Tx,
        conditions: Sequence[ColumnElement[bool]] = (),
        *,
        limit: int,
        marker: str | None = None,
    ) -> list[R]:
        """At most `limit` records after the one with id `marker`, by id. Invalid on an unknown marker."""
        if marker is not None:
            if self.get(tx, marker) is None:
                raise Invalid(f"Marker '{marker[:64]}' could not be found.")
            conditions = (*conditions, self.table.c.id > marker)
        query = select(*self._columns).where(*conditions).order_by(self.table.c.id).limit(limit)
        return [self._kind(**row._mapping) for row in tx.execute(query)]

    def add(self, tx: Tx, record: R) -> R:
        tx.execute(self.table.insert().values(**_values(record)))
        return record

    def save(self, tx: Tx, record: R) -> R:
        """Write every field of a record that is there."""
        values = _values(record)
        tx.execute(self.table.update().where(self.table.c.id == values["id"]).values(**values))
        return record

    def remove(self, tx: Tx, id_: str) -> None:
        tx.execute(self.table.delete().where(self.table.c.id == id_))


def _values(record: Struct) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


DOMAINS = Shelf(domains, Domain)
PROJECTS = Shelf(projects, Project)
USERS = Shelf(users, User)
GROUPS = Shelf(groups, Group)
ROLES = Shelf(roles, Role)


# Passwords


def password_hash(tx: Tx, user_id: UserId) -> str | None:
    return tx.execute(select(users.c.password_hash).where(users.c.id == user_id)).scalar()


def set_password_hash(tx: Tx, user_id: UserId, hash_: str | None) -> None:
    tx.execute(users.update().where(users.c.id == user_id).values(password_hash=hash_))


def replace_password_hash(tx: Tx, user_id: UserId, *, old: str, new: str) -> None:
    """Store a better hash of the same password, unless the password was changed meanwhile."""
    tx.execute(
        users.update()
        .where(users.c.id == user_id, users.c.password_hash == old)
        .values(password_hash=new)
    )


# Projects


def tags_of(tx: Tx, project_ids: Collection[str]) -> dict[str, list[str]]:
    if not project_ids:
        return {}
    query = (
        select(project_tags.c.project_id, project_tags.c.tag)
        .where(project_tags.c.project_id.in_(set(project_ids)))
        .order_by(project_tags.c.tag)
    )
    found: dict[str, list[str]] = {}
    for row in tx.execute(query):
        found.setdefault(row.project_id, []).append(row.tag)
    return found


def replace_tags(tx: Tx, project_id: ProjectId, tags: Iterable[str]) -> None:
    tx.execute(project_tags.delete().where(project_tags.c.project_id == project_id))
    rows = [{"project_id": project_id, "tag": tag} for tag in tags]
    if rows:
        tx.execute(project_tags.insert(), rows)


def has_tag(tag: str) -> ColumnElement[bool]:
    """A condition on projects."""
    return has_any_tag([tag])


def has_any_tag(tags: Collection[str]) -> ColumnElement[bool]:
    return projects.c.id.in_(select(project_tags.c.project_id).where(project_tags.c.tag.in_(tags)))


def has_all_tags(tags: Collection[str]) -> ColumnElement[bool]:
    return and_(*(has_tag(tag) for tag in tags))


def forget_default_project(tx: Tx, project_id: ProjectId) -> None:
    tx.execute(
        users.update()
        .where(users.c.default_project_id == project_id)
        .values(default_project_id=None)
    )


# Groups


def add_member(tx: Tx, group_id: GroupId, user_id: UserId) -> None:
    if not is_member(tx, group_id, user_id):
        tx.execute(members.insert().values(group_id=group_id, user_id=user_id))


def is_member(tx: Tx, group_id: GroupId, user_id: UserId) -> bool:
    return (
        tx.execute(
            select(members.c.user_id).where(
                members.c.group_id == group_id, members.c.user_id == user_id
            )
        ).first()
        is not None
    )


def remove_member(tx: Tx, group_id: GroupId, user_id: UserId) -> None:
    tx.execute(members.delete().where(members.c.group_id == group_id, members.c.user_id == user_id))


def members_of(tx: Tx, group_ids: Collection[str]) -> dict[str, list[UserId]]:
    """Users by group."""
    if not group_ids:
        return {}
    query = select(members.c.group_id, members.c.user_id).where(
        members.c.group_id.in_(set(group_ids))
    )
    found: dict[str, list[UserId]] = {}
    for row in tx.execute(query):
        found.setdefault(row.group_id, []).append(row.user_id)
    return found


def is_in_group(group_id: GroupId) -> ColumnElement[bool]:
    """A condition on users."""
    return users.c.id.in_(select(members.c.user_id).where(members.c.group_id == group_id))


def has_member(user_id: UserId) -> ColumnElement[bool]:
    """A condition on groups."""
    return groups.c.id.in_(select(members.c.group_id).where(members.c.user_id == user_id))


def forget_group_members(tx: Tx, group_id: GroupId) -> None:
    tx.execute(members.delete().where(members.c.group_id == group_id))


def forget_memberships(tx: Tx, user_id: UserId) -> None:
    tx.execute(members.delete().where(members.c.user_id == user_id))


# Roles


def all_implications(tx: Tx) -> list[Implication]:
    query = select(implications).order_by(implications.c.prior_id, implications.c.implied_id)
    return [Implication(**row._mapping) for row in tx.execute(query)]


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
    tx.execute(assignments.delete().where(assignments.c.role_id == role_id))
    tx.execute(
        implications.delete().where(
            or_(implications.c.prior_id == role_id, implications.c.implied_id == role_id)
        )
    )


# Assignments


def assignments_where(
    tx: Tx,
    *,
    actor: Actor | None = None,
    scope: Scope | None = None,
    scope_kind: ScopeKind | None = None,
    role_id: RoleId | None = None,
    limit: int,
) -> list[Assignment]:
    conditions: list[ColumnElement[bool]] = []
    if actor is not None:
        conditions.append(_is_actor(actor))
    if scope is not None:
        conditions.append(_is_scope(scope))
    if scope_kind is not None:
        conditions.append(assignments.c.scope_kind == scope_kind)
    if role_id is not None:
        conditions.append(assignments.c.role_id == role_id)
    return _assignments(tx, conditions, limit=limit)


def assignments_of_user(
    tx: Tx, user_id: UserId, *, scope: Scope | None = None, limit: int
) -> list[Assignment]:
    """The user's own and those of the user's groups."""
    return _assignments(
        tx, [_reaches(user_id), *([_is_scope(scope)] if scope else [])], limit=limit
    )


def assignments_of_groups(
    tx: Tx, group_ids: Collection[str], *, scope: Scope, limit: int
) -> list[Assignment]:
    is_one = and_(
        assignments.c.actor_kind == ActorKind.GROUP, assignments.c.actor_id.in_(set(group_ids))
    )
    return _assignments(tx, [is_one, _is_scope(scope)], limit=limit)


def is_assigned(tx: Tx, wanted: Assignment) -> bool:
    return bool(
        assignments_where(
            tx, actor=wanted.actor, scope=wanted.scope, role_id=wanted.role_id, limit=1
        )
    )


def add_assignment(tx: Tx, new: Assignment) -> None:
    tx.execute(
        assignments.insert().values(
            scope_kind=new.scope.kind,
            scope_id=new.scope.id,
            actor_kind=new.actor.kind,
            actor_id=new.actor.id,
            role_id=new.role_id,
        )
    )


def remove_assignment(tx: Tx, old: Assignment) -> bool:
    done = tx.execute(
        assignments.delete().where(
            _is_actor(old.actor), _is_scope(old.scope), assignments.c.role_id == old.role_id
        )
    )
    return done.rowcount == 1


def forget_actor(tx: Tx, actor: Actor) -> None:
    tx.execute(assignments.delete().where(_is_actor(actor)))


def forget_scope(tx: Tx, scope: Scope) -> None:
    tx.execute(assignments.delete().where(_is_scope(scope)))


def projects_of_user(user_id: UserId) -> ColumnElement[bool]:
    """A condition on projects: the user has a role there."""
    return projects.c.id.in_(
        select(assignments.c.scope_id).where(
            assignments.c.scope_kind == ScopeKind.PROJECT, _reaches(user_id)
        )
    )


def domains_of_user(user_id: UserId) -> ColumnElement[bool]:
    """A condition on domains: the user has a role there."""
    return domains.c.id.in_(
        select(assignments.c.scope_id).where(
            assignments.c.scope_kind == ScopeKind.DOMAIN, _reaches(user_id)
        )
    )


def has_enabled_user_with(
    tx: Tx, role_ids: Collection[str], *, besides_domain: str | None = None
) -> bool:
    """Whether an enabled user has one of these roles anywhere, directly or through a group.

    Users of the domain `besides_domain` do not count.
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


def _assignments(
    tx: Tx, conditions: Sequence[ColumnElement[bool]], *, limit: int
) -> list[Assignment]:
    query = (
        select(assignments)
        .where(*conditions)
        .order_by(
            assignments.c.scope_kind,
            assignments.c.scope_id,
            assignments.c.actor_kind,
            assignments.c.actor_id,
            assignments.c.role_id,
        )
        .limit(limit)
    )
    return [
        Assignment(
            actor=Actor(kind=ActorKind(row.actor_kind), id=row.actor_id),
            scope=Scope(kind=ScopeKind(row.scope_kind), id=row.scope_id),
            role_id=row.role_id,
        )
        for row in tx.execute(query)
    ]


def _is_actor(actor: Actor) -> ColumnElement[bool]:
    return and_(assignments.c.actor_kind == actor.kind, assignments.c.actor_id == actor.id)


def _is_scope(scope: Scope) -> ColumnElement[bool]:
    return and_(assignments.c.scope_kind == scope.kind, assignments.c.scope_id == scope.id)


def _reaches(user_id: UserId) -> ColumnElement[bool]:
    return or_(
        and_(assignments.c.actor_kind == ActorKind.USER, assignments.c.actor_id == user_id),
        and_(
            assignments.c.actor_kind == ActorKind.GROUP,
            assignments.c.actor_id.in_(
                select(members.c.group_id).where(members.c.user_id == user_id)
            ),
        ),
    )


# Revocations


def revocations_made(tx: Tx) -> int:
    """The number of the newest revocation that this transaction sees; 0 before the first."""
    return tx.execute(select(revocation_count.c.number)).scalar() or 0


def add_revocation(tx: Tx, subject: str) -> int:
    # One row that everybody raises puts revocations in one order, the order of their commits.
    done = tx.execute(revocation_count.update().values(number=revocation_count.c.number + 1))
    if done.rowcount == 0:
        tx.execute(revocation_count.insert().values(id=1, number=1))
    number = revocations_made(tx)
    tx.execute(revocations.insert().values(number=number, subject=subject, revoked_at=tx.now))
    return number


def revocations_after(tx: Tx, number: int) -> list[Event]:
    query = (
        select(revocations.c.number, revocations.c.subject)
        .where(revocations.c.number > number)
        .order_by(revocations.c.number)
    )
    return [Event(**row._mapping) for row in tx.execute(query)]


def has_revocations_before(tx: Tx, moment: datetime) -> bool:
    query = select(revocations.c.number).where(revocations.c.revoked_at < moment).limit(1)
    return tx.execute(query).first() is not None


def forget_revocations(tx: Tx, *, before: datetime) -> int:
    """Delete those made before `before`, when every token they could void has expired."""
    return tx.execute(revocations.delete().where(revocations.c.revoked_at < before)).rowcount
