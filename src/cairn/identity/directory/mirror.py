"""What a directory said becomes rows: users, groups and who is in which.

Nothing is written while nothing has changed, so everything here is first a plan. A name can be taken: by a
user of the same domain who is not the directory's (that one keeps it), by another entry of the same name
(the first one keeps it), or by an entry that has meanwhile another name or is gone, which `taken` tells the
caller, who asks the directory about that one, too.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct
from sqlalchemy import and_, select

from cairn.core import log
from cairn.core.ids import DomainId, ProjectId, UserId
from cairn.db.engine import Tx
from cairn.identity import revocation, store
from cairn.identity.directory import store as kept
from cairn.identity.directory.store import Entry, public_id
from cairn.identity.directory.tree import Person, Team
from cairn.identity.records import ActorKind, Group, GroupId, User
from cairn.identity.store import Shelf

T = TypeVar("T", User, Group)
_log = log.get("identity.directory")


class Plan(Struct, Generic[T], frozen=True, kw_only=True):
    """What has to be written."""

    entries: list[Entry]  # new ones
    back: list[str]  # ids of those who were gone
    new: list[T]
    changed: list[T]
    renamed: list[T]  # of `changed`, whose old name another one gets
    disabled: list[str]
    taken: list[str]  # ids of entries whose names others have now
    ids: list[str]  # of all that have rows

    @property
    def is_nothing(self) -> bool:
        return not (self.entries or self.back or self.new or self.changed)


def plan_people(tx: Tx, domain_id: DomainId, people: Sequence[Person]) -> Plan[User]:
    def make(id_: str, person: Person, old: User | None) -> User:
        return msgspec.structs.replace(
            old or User(id=UserId(id_), name="", domain_id=domain_id),
            name=person.name,
            enabled=person.enabled,
            email=person.email,
            description=person.description,
            default_project_id=ProjectId(person.default_project_id)
            if person.default_project_id
            else None,
            extra=dict(person.extra),
        )

    things = {public_id(domain_id, ActorKind.USER, p.local_id): p for p in people}
    return _plan(tx, domain_id, ActorKind.USER, store.USERS, things, make)


def plan_teams(tx: Tx, domain_id: DomainId, teams: Sequence[Team]) -> Plan[Group]:
    def make(id_: str, team: Team, old: Group | None) -> Group:
        return msgspec.structs.replace(
            old or Group(id=GroupId(id_), name="", domain_id=domain_id),
            name=team.name,
            description=team.description,
            extra=dict(team.extra),
        )

    things = {public_id(domain_id, ActorKind.GROUP, t.local_id): t for t in teams}
    return _plan(tx, domain_id, ActorKind.GROUP, store.GROUPS, things, make)


def _plan(
    tx: Tx,
    domain_id: DomainId,
    kind: ActorKind,
    shelf: Shelf[T],
    things: Mapping[str, Any],
    make: Callable[[str, Any, T | None], T],
) -> Plan[T]:
    entries = kept.many(tx, things)
    rows = _rows(tx, shelf, things)
    wanted = {id_: make(id_, thing, rows.get(id_)) for id_, thing in things.items()}
    differ = {id_: new for id_, new in wanted.items() if new != rows.get(id_)}
    holders = _holders(tx, shelf, domain_id, {new.name for new in differ.values()})
    taken, refused, freed = _names(wanted, differ, rows, holders, kept.many(tx, holders.values()))
    return Plan(
        entries=[
            Entry(id=id_, domain_id=domain_id, kind=kind, local_id=thing.local_id)
            for id_, thing in things.items()
            if id_ not in entries and id_ not in refused
        ],
        back=[i for i, entry in entries.items() if entry.gone_at is not None and i not in refused],
        new=[new for id_, new in differ.items() if id_ not in rows and id_ not in refused],
        changed=[new for id_, new in differ.items() if id_ in rows and id_ not in refused],
        renamed=[rows[id_] for id_ in freed],
        disabled=[
            id_
            for id_, new in differ.items()
            if isinstance(new, User) and not new.enabled and _was_enabled(rows.get(id_))
        ],
        taken=taken,
        ids=[id_ for id_ in things if id_ not in refused],
    )


def _was_enabled(old: User | Group | None) -> bool:
    return isinstance(old, User) and old.enabled


def _names(
    wanted: Mapping[str, T],
    differ: Mapping[str, T],
    rows: Mapping[str, T],
    holders: Mapping[str, str],
    entries: Mapping[str, Entry],
) -> tuple[list[str], set[str], list[str]]:
    """Entries to ask about, things that cannot have their name now, and rows that give theirs away."""
    taken: list[str] = []
    refused: set[str] = set()
    freed: list[str] = []
    first: dict[str, str] = {}
    for id_ in sorted(wanted, key=lambda i: (i in differ, i)):  # Who has a name already keeps it.
        name = wanted[id_].name
        holder = holders.get(name) if id_ in differ else None
        if first.setdefault(name, id_) != id_:
            _log.warning("two entries of a directory have one name", name=name, ignored=id_)
            refused.add(id_)
        elif holder is None or holder == id_:
            continue
        elif holder in wanted:  # It has another name now, or the sorting above had seen it.
            freed.append(holder)
        elif holder in entries:
            taken.append(holder)
            refused.add(id_)
        else:
            _log.warning("a user or group of the domain has the name already", name=name)
            refused.add(id_)
    return taken, refused, [id_ for id_ in freed if id_ in rows]


def write(tx: Tx, plan: Plan[T], shelf: Shelf[T]) -> None:
    kept.add(tx, plan.entries)
    kept.mark(tx, plan.back, None)
    for row in plan.renamed:  # A name that is free and no name: the id.
        shelf.save(tx, msgspec.structs.replace(row, name=row.id))
    for record in plan.changed:
        shelf.save(tx, record)
    if plan.new:
        rows = [{n: getattr(r, n) for n in r.__struct_fields__} for r in plan.new]
        tx.execute(shelf.table.insert(), rows)
    revocation.revoke(tx, *(revocation.of_user(UserId(id_)) for id_ in plan.disabled))


def gone(tx: Tx, ids: Collection[str]) -> None:
    """They are not in the directory any more: their tokens are void, nobody sees them, nobody is in them."""
    for entry in kept.many(tx, ids).values():
        if entry.gone_at is not None:
            continue
        _log.info("gone from the directory", kind=entry.kind, id=entry.id, domain=entry.domain_id)
        kept.mark(tx, [entry.id], tx.now)
        if entry.kind is ActorKind.GROUP:
            set_members(tx, GroupId(entry.id), (), everybody=True)
            group = store.GROUPS.get(tx, entry.id)
            if group is not None:
                store.GROUPS.save(tx, msgspec.structs.replace(group, name=entry.id))
            continue
        set_groups(tx, UserId(entry.id), ())
        revocation.revoke(tx, revocation.of_user(UserId(entry.id)))
        user = store.USERS.get(tx, entry.id)
        if user is not None:
            store.USERS.save(tx, msgspec.structs.replace(user, name=entry.id, enabled=False))


def needs_groups(tx: Tx, user_id: UserId, group_ids: Collection[str]) -> bool:
    return _groups_of(tx, user_id) != set(group_ids)


def set_groups(tx: Tx, user_id: UserId, group_ids: Collection[str]) -> None:
    """The groups of the directory that the user is in. Who leaves one loses the tokens."""
    before, wanted = _groups_of(tx, user_id), set(group_ids)
    _leave(tx, [(user_id, group_id) for group_id in before - wanted])
    _join(tx, [(user_id, group_id) for group_id in sorted(wanted - before)])


def needs_members(tx: Tx, group_id: GroupId, user_ids: Collection[str]) -> bool:
    return _members_of(tx, group_id) != set(user_ids)


def set_members(
    tx: Tx, group_id: GroupId, user_ids: Collection[str], *, everybody: bool = False
) -> None:
    """The users of the directory who are in a group; `everybody`: others are not in it either."""
    before, wanted = _members_of(tx, group_id, everybody=everybody), set(user_ids)
    _leave(tx, [(user_id, group_id) for user_id in before - wanted])
    _join(tx, [(user_id, group_id) for user_id in sorted(wanted - before)])


def _leave(tx: Tx, pairs: Sequence[tuple[str, str]]) -> None:
    columns = store.members.c
    for user_id, group_id in pairs:
        tx.execute(
            store.members.delete().where(columns.user_id == user_id, columns.group_id == group_id)
        )
    revocation.revoke(tx, *(revocation.of_user(UserId(u)) for u in sorted({u for u, _ in pairs})))


def _join(tx: Tx, pairs: Sequence[tuple[str, str]]) -> None:
    if pairs:
        rows = [{"user_id": user_id, "group_id": group_id} for user_id, group_id in pairs]
        tx.execute(store.members.insert(), rows)


def _groups_of(tx: Tx, user_id: UserId) -> set[str]:
    columns = store.members.c
    query = select(columns.group_id).join(kept.entries, kept.entries.c.id == columns.group_id)
    return set(tx.execute(query.where(columns.user_id == user_id)).scalars())


def _members_of(tx: Tx, group_id: GroupId, *, everybody: bool = False) -> set[str]:
    columns = store.members.c
    query = select(columns.user_id)
    if not everybody:
        query = query.join(kept.entries, kept.entries.c.id == columns.user_id)
    return set(tx.execute(query.where(columns.group_id == group_id)).scalars())


def _rows(tx: Tx, shelf: Shelf[T], ids: Collection[str]) -> dict[str, T]:
    found: dict[str, T] = {}
    for part in kept.chunks(sorted(ids)):
        found |= shelf.many(tx, part)
    return found


def _holders(
    tx: Tx, shelf: Shelf[Any], domain_id: DomainId, names: Collection[str]
) -> dict[str, str]:
    """Who has these names in the domain: ids by name."""
    columns = shelf.table.c
    found: dict[str, str] = {}
    for part in kept.chunks(sorted(names)):
        here = and_(columns.domain_id == domain_id, columns.name.in_(part))
        rows = tx.execute(select(columns.id, columns.name).where(here))
        found |= {row.name: row.id for row in rows}
    return found
