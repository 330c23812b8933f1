"""Identity's tables and questions.

Domains, projects, users, groups and roles are asked the same few questions, so one `Shelf` answers for
each; trees and tags are in `store_places`, who has which role in `store_grants`. References between them
are kept by the verbs, not by foreign keys: an assignment's actor and scope are of several kinds, and
deleting has to say which tokens it voids anyway.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    false,
    select,
)

from cairn.core.errors import Invalid
from cairn.core.ids import UserId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.identity.records import Domain, Event, Group, GroupId, Project, Revocation, Role, User

R = TypeVar("R", bound=Struct)
_Extra = Json(dict[str, Any])
IDS_MAX = 10_000  # in one statement: databases bound the number of its variables

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
    Column("password_made_at", Time),
    Column("password_expires_at", Time),
    # Whether the user has chosen it, and not somebody for the user.
    Column("password_is_own", Boolean, nullable=False, server_default=false()),
    Column("active_at", Time),  # the last sign-in, to the day; kept only where somebody asks for it
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

revocations = Table(
    "identity_revocations",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("subject", String(255), nullable=False),
    Column("revoked_at", Time, nullable=False, index=True),
    id_column("role_id"),  # where the subject is a role's name
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
        self.columns = [table.c[name] for name in kind.__struct_fields__]
        # Made once: building a statement costs more than running this one.
        self._by_id = select(*self.columns).where(table.c.id == bindparam("id"))

    def get(self, tx: Tx, id_: str) -> R | None:
        row = tx.execute(self._by_id, {"id": id_}).first()
        return None if row is None else self._kind(**row._mapping)

    def find(self, tx: Tx, *conditions: ColumnElement[bool]) -> R | None:
        row = tx.execute(select(*self.columns).where(*conditions).limit(1)).first()
        return None if row is None else self._kind(**row._mapping)

    def many(self, tx: Tx, ids: Collection[str]) -> dict[str, R]:
        """The records with these ids, by id; those that are not there are left out."""
        wanted, found = sorted(set(ids)), {}
        for at in range(0, len(wanted), IDS_MAX):
            some = wanted[at : at + IDS_MAX]
            for row in tx.execute(select(*self.columns).where(self.table.c.id.in_(some))):
                found[row.id] = self._kind(**row._mapping)
        return found

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
        query = select(*self.columns).where(*conditions).order_by(self.table.c.id).limit(limit)
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


class Name(Struct, frozen=True):
    """What a user, group, project or role is called, and in which domain."""

    name: str
    domain_id: str


def names_of(tx: Tx, table: Table, ids: Collection[str]) -> dict[str, Name]:
    """Those that are there, by id: less than the whole records, for many at a time."""
    wanted, found = sorted(set(ids)), {}
    for at in range(0, len(wanted), IDS_MAX):
        query = select(table.c.id, table.c.name, table.c.domain_id)
        rows: Any = tx.execute(query.where(table.c.id.in_(wanted[at : at + IDS_MAX]))).all()
        found.update({row[0]: Name(row[1], row[2]) for row in rows})
    return found


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


def guests_of_groups(tx: Tx, domain_id: str) -> list[UserId]:
    """Users of other domains who are in a group of this one."""
    query = (
        select(members.c.user_id)
        .join(groups, groups.c.id == members.c.group_id)
        .join(users, users.c.id == members.c.user_id)
        .where(groups.c.domain_id == domain_id, users.c.domain_id != domain_id)
    )
    return [UserId(user_id) for user_id in tx.execute(query.distinct()).scalars()]


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


# Revocations


def revocations_made(tx: Tx) -> int:
    """The number of the newest revocation that this transaction sees; 0 before the first."""
    return tx.execute(select(revocation_count.c.number)).scalar() or 0


def add_revocations(tx: Tx, subjects: Sequence[str], *, role_id: str | None = None) -> None:
    # One row that everybody raises puts revocations in one order, the order of their commits.
    count = len(subjects)
    done = tx.execute(revocation_count.update().values(number=revocation_count.c.number + count))
    if done.rowcount == 0:
        tx.execute(revocation_count.insert().values(id=1, number=count))
    first = revocations_made(tx) - count + 1
    common = {"revoked_at": tx.now, "role_id": role_id}
    rows = [{"number": n, "subject": s, **common} for n, s in enumerate(subjects, first)]
    tx.execute(revocations.insert(), rows)


def revocations_after(tx: Tx, number: int) -> list[Event]:
    query = (
        select(revocations.c.number, revocations.c.subject)
        .where(revocations.c.number > number)
        .order_by(revocations.c.number)
    )
    return [Event(**row._mapping) for row in tx.execute(query)]


def revocations_since(tx: Tx, moment: datetime | None) -> list[Revocation]:
    """All that are held, or those made at that moment or later, in their order."""
    columns = (revocations.c[name] for name in Revocation.__struct_fields__)
    query = select(*columns)
    if moment is not None:
        query = query.where(revocations.c.revoked_at >= moment)
    rows: Any = tx.execute(query.order_by(revocations.c.number)).all()
    return [Revocation(row[0], row[1], row[2]) for row in rows]


def has_revocations_before(tx: Tx, moment: datetime) -> bool:
    query = select(revocations.c.number).where(revocations.c.revoked_at < moment).limit(1)
    return tx.execute(query).first() is not None


def forget_revocations(tx: Tx, *, before: datetime) -> int:
    """Delete those made before `before`, when every token they could void has expired."""
    return tx.execute(revocations.delete().where(revocations.c.revoked_at < before)).rowcount
