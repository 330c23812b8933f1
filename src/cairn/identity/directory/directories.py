"""All directories of the cloud: which domain has one, signing in by it, and looking before an answer.

A domain whose option `identity.driver` is "ldap" has one. Domains are independent: what is wrong with one
directory is told to those who ask for its users and to nobody else. Users of such a domain who are not the
directory's, made before it had one, stay what they are: nobody is locked out of a cloud by configuring it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct

from cairn.core import log
from cairn.core.errors import Invalid, NotFound, Unavailable
from cairn.core.ids import DomainId, UserId
from cairn.db.engine import Database, Tx
from cairn.db.feed import EVERYTHING
from cairn.db.secrets import Sealer
from cairn.identity import signin, store
from cairn.identity.accounts.lockout import bare
from cairn.identity.directory import config, domain_config, domain_config_store, mirror
from cairn.identity.directory import store as kept
from cairn.identity.directory.pool import DOWN_S, Pool
from cairn.identity.directory.store import Entry
from cairn.identity.directory.tree import Person, Team, Tree
from cairn.identity.methods.method import Named, Proof
from cairn.identity.records import ActorKind, Group, GroupId, User
from cairn.identity.store import Shelf

T = TypeVar("T", User, Group)
DRIVER = "ldap"
TRIES = 3  # each asks about those whose names others have now
_log = log.get("identity.directory")


class _Domain(Struct, frozen=True, kw_only=True):
    options: Mapping[str, Mapping[str, Any]]
    name: str
    tree: Tree | None = None
    trouble: str = ""  # what is wrong with the options, if there is no tree


class Directories:
    """Only the event loop's thread may use it."""

    def __init__(self, database: Database, sealer: Sealer, *, down_s: float = DOWN_S) -> None:
        self._database = database
        self._sealer = sealer
        self._down_s = down_s
        self._domains: dict[DomainId, _Domain] = {}
        self._has_entries = False
        self._is_stale = True
        database.on_wake(self._hint)

    def close(self) -> None:
        for domain in self._domains.values():
            if domain.tree is not None:
                domain.tree.pool.close()

    async def domain_ids(self) -> list[DomainId]:
        """The domains that have a directory."""
        await self._load()
        return list(self._domains)

    async def is_any(self) -> bool:
        """Whether there is a directory, or was one whose users are still remembered."""
        await self._load()
        return self._has_entries or bool(self._domains)

    def troubles(self) -> dict[str, str]:
        """What is wrong, by domain; for operators."""
        found = {}
        for domain in self._domains.values():
            trouble = domain.trouble if domain.tree is None else domain.tree.pool.trouble
            if trouble:
                found[domain.name] = trouble
        return found

    def tree(self, domain_id: DomainId) -> Tree:
        """Raises Unavailable when the domain's options are no good."""
        domain = self._domains[domain_id]
        if domain.tree is None:
            raise Unavailable(
                f"The directory of domain {domain_id} cannot be asked: its configuration is wrong.",
                because=f"directory of domain {domain_id}: {domain.trouble}",
            )
        return domain.tree

    # --- signing in ----------------------------------------------------------------------------------------

    async def prove(self, database: Database, named: Named, password: str) -> Proof | None:
        """See `methods.password.Directory`."""
        if not await self.domain_ids():
            return None
        database = bare(database)  # What is written of the directory is no deed of who signs in.
        who = await database.read(lambda tx: self._whom(tx, named))
        if who is None:
            return None
        domain_id, local_id = who
        if not password:
            raise signin.refused("an empty password is no password")
        tree = self.tree(domain_id)
        person = await tree.person(local_id=local_id, name=named.name)
        reason = await tree.check_password(person, password)
        if person is None and local_id is not None and named.id is not None:
            await self._gone(database, [named.id])
        if person is None or reason is not None:
            raise signin.refused(reason or "there is no such user in the directory")
        if not person.enabled:
            raise signin.refused("the user is disabled in the directory")
        teams = await tree.teams_of(person)
        return Proof(user_id=await self._see_with_groups(database, domain_id, person, teams.teams))

    def _whom(self, tx: Tx, named: Named) -> tuple[DomainId, str | None] | None:
        """The directory's domain and, if the user is named by id, the directory's own id."""
        if named.id is not None:
            entry = kept.entry(tx, named.id)
            if entry is None or entry.domain_id not in self._domains:
                return None
            return entry.domain_id, entry.local_id
        if named.name is None or named.domain is None:
            return None
        if named.domain.id is not None:
            domain = store.DOMAINS.get(tx, named.domain.id)
        else:
            domain = store.DOMAINS.find(tx, store.domains.c.name == named.domain.name)
        if domain is None or domain.id not in self._domains:
            return None
        columns = store.users.c
        row = store.USERS.find(tx, columns.domain_id == domain.id, columns.name == named.name)
        is_local = row is not None and kept.entry(tx, row.id) is None
        return None if is_local else (domain.id, None)

    # --- looking -------------------------------------------------------------------------------------------

    async def look_at_user(self, database: Database, user_id: str, *, groups: bool = False) -> None:
        """Bring a row up to date. Does nothing for who is not a directory's; NotFound for who is gone."""
        entry = await self._entry(database, user_id)
        if entry is None:
            return
        tree = self.tree(entry.domain_id)
        person = await tree.person(local_id=entry.local_id)
        if person is None:
            await self._gone(database, [user_id])
            raise NotFound(f"Could not find user: {user_id}.")
        if not groups:
            await self.see_people(database, entry.domain_id, [person])
            return
        teams = await tree.teams_of(person)
        await self._see_with_groups(database, entry.domain_id, person, teams.teams)

    async def look_at_group(
        self, database: Database, group_id: str, *, members: bool = False
    ) -> None:
        entry = await self._entry(database, group_id)
        if entry is None:
            return
        tree = self.tree(entry.domain_id)
        team = await tree.team(entry.local_id)
        if team is None:
            await self._gone(database, [group_id])
            raise NotFound(f"Could not find group: {group_id}.")
        await self.see_teams(database, entry.domain_id, [team])
        if not members:
            return
        people = await tree.members_of(team)
        ids = await self.see_people(database, entry.domain_id, people)
        known = GroupId(group_id)
        if await database.read(lambda tx: mirror.needs_members(tx, known, ids)):
            await database.write(lambda tx: mirror.set_members(tx, known, ids))

    async def look_at_users(
        self, database: Database, domain_id: str | None, name: str | None
    ) -> None:
        await self._each(domain_id, lambda d: self._look_at_users(database, d, name))

    async def look_at_groups(
        self, database: Database, domain_id: str | None, name: str | None
    ) -> None:
        await self._each(domain_id, lambda d: self._look_at_groups(database, d, name))

    async def _each(self, domain_id: str | None, look: Callable[[DomainId], Any]) -> None:
        """Look at one domain's directory; at all of them if none is asked for, where what is down is left
        out: other domains' users are listed all the same."""
        known = await self.domain_ids()
        if domain_id is not None:
            if domain_id in known:
                await look(DomainId(domain_id))
            return
        done = await asyncio.gather(*(look(d) for d in known), return_exceptions=True)
        for result in done:
            if isinstance(result, BaseException) and not isinstance(result, Unavailable):
                raise result

    async def _look_at_users(
        self, database: Database, domain_id: DomainId, name: str | None
    ) -> None:
        tree = self.tree(domain_id)
        listed = await tree.people(name=name)
        ids = await self.see_people(database, domain_id, listed.people)
        await self._missing(database, domain_id, ActorKind.USER, ids, name, listed.is_whole)

    async def _look_at_groups(
        self, database: Database, domain_id: DomainId, name: str | None
    ) -> None:
        tree = self.tree(domain_id)
        listed = await tree.teams(name=name)
        ids = await self.see_teams(database, domain_id, listed.teams)
        await self._missing(database, domain_id, ActorKind.GROUP, ids, name, listed.is_whole)

    async def _missing(
        self,
        database: Database,
        domain_id: DomainId,
        kind: ActorKind,
        seen: Sequence[str],
        name: str | None,
        is_whole: bool,
    ) -> None:
        """Those who were there at the last look and are not now; by name, ask once more who that is."""
        if name is None and not is_whole:
            return
        known = await database.read(lambda tx: _known(tx, domain_id, kind, name))
        missing = [entry for entry in known if entry.id not in set(seen)]
        if name is None:
            await self._gone(database, [entry.id for entry in missing])
            return
        for entry in missing:
            try:
                if kind is ActorKind.USER:
                    await self.look_at_user(database, entry.id)
                else:
                    await self.look_at_group(database, entry.id)
            except NotFound:
                pass

    # --- writing through -----------------------------------------------------------------------------------

    async def see_people(
        self, database: Database, domain_id: DomainId, people: Sequence[Person]
    ) -> list[str]:
        """The rows' ids of those who have rows now."""
        tree = self.tree(domain_id)
        for _ in range(TRIES):
            make = partial(mirror.plan_people, domain_id=domain_id, people=people)
            plan = await self._write(database, store.USERS, make)
            if not plan.taken:
                break
            people = [*people, *await self._others(database, plan.taken, tree.people_with)]
        return plan.ids

    async def see_teams(
        self, database: Database, domain_id: DomainId, teams: Sequence[Team]
    ) -> list[str]:
        tree = self.tree(domain_id)
        for _ in range(TRIES):
            make = partial(mirror.plan_teams, domain_id=domain_id, teams=teams)
            plan = await self._write(database, store.GROUPS, make)
            if not plan.taken:
                break
            teams = [*teams, *await self._others(database, plan.taken, tree.teams_with)]
        return plan.ids

    async def _write(
        self, database: Database, shelf: Shelf[T], make: Callable[[Tx], mirror.Plan[T]]
    ) -> mirror.Plan[T]:
        plan = await database.read(make)
        if plan.is_nothing:
            return plan

        def write(tx: Tx) -> mirror.Plan[T]:
            now = make(tx)
            mirror.write(tx, now, shelf)
            return now

        return await database.write(write)

    async def _others(self, database: Database, ids: Sequence[str], ask: Callable[..., Any]) -> Any:
        """What the directory says of entries whose names others have now."""
        entries = await database.read(lambda tx: kept.many(tx, ids))
        found = await ask([entry.local_id for entry in entries.values()])
        there = {thing.local_id for thing in found}
        await self._gone(database, [e.id for e in entries.values() if e.local_id not in there])
        return found

    async def _see_with_groups(
        self, database: Database, domain_id: DomainId, person: Person, teams: Sequence[Team]
    ) -> UserId:
        ids = await self.see_people(database, domain_id, [person])
        user_id = UserId(kept.public_id(domain_id, ActorKind.USER, person.local_id))
        if user_id not in ids:
            raise signin.refused(f"somebody else of the domain is called {person.name}")
        group_ids = await self.see_teams(database, domain_id, teams)
        if await database.read(lambda tx: mirror.needs_groups(tx, user_id, group_ids)):
            await database.write(lambda tx: mirror.set_groups(tx, user_id, group_ids))
        return user_id

    async def _gone(self, database: Database, ids: Sequence[str]) -> None:
        if ids:
            await database.write(lambda tx: mirror.gone(tx, ids))

    async def _entry(self, database: Database, id_: str) -> Entry | None:
        if not await self.is_any():
            return None
        entry = await database.read(lambda tx: kept.entry(tx, id_))
        return entry if entry is not None and entry.domain_id in self._domains else None

    # --- which there are -----------------------------------------------------------------------------------

    async def _load(self) -> None:
        if not self._is_stale:
            return
        self._is_stale = False
        try:
            found, self._has_entries = await self._database.read(self._options)
        except BaseException:
            self._is_stale = True
            raise
        for domain_id, before in list(self._domains.items()):
            if found.get(domain_id, ({}, ""))[0] != before.options:
                if before.tree is not None:
                    before.tree.pool.close()
                del self._domains[domain_id]
        for domain_id, (options, name) in found.items():
            if domain_id not in self._domains:
                self._domains[domain_id] = self._opened(domain_id, options, name)

    def _opened(
        self, domain_id: DomainId, options: Mapping[str, Mapping[str, Any]], name: str
    ) -> _Domain:
        try:
            read = config.read(options)
        except Invalid as error:
            _log.error("a domain's directory is not usable", domain=name, reason=error.message)
            return _Domain(options=options, name=name, trouble=error.message)
        pool = Pool(domain_id, read, down_s=self._down_s)
        return _Domain(options=options, name=name, tree=Tree(read, pool))

    def _options(
        self, tx: Tx
    ) -> tuple[dict[DomainId, tuple[Mapping[str, Mapping[str, Any]], str]], bool]:
        found: dict[DomainId, tuple[Mapping[str, Mapping[str, Any]], str]] = {}
        for domain_id in domain_config_store.domains_with(tx, "identity", "driver", DRIVER):
            domain = store.DOMAINS.get(tx, domain_id)
            if domain is not None:
                options = domain_config.whole(tx, self._sealer, domain_id)
                found[domain_id] = (options, domain.name)
        return found, bool(kept.domains(tx))

    def _hint(self, topic: str) -> None:
        if topic in (domain_config.TOPIC, EVERYTHING):
            self._is_stale = True


def _known(tx: Tx, domain_id: DomainId, kind: ActorKind, name: str | None) -> list[Entry]:
    """Entries of a domain that are there as far as we know; with a name, the one that has it."""
    if name is None:
        return kept.of_domain(tx, domain_id, kind, limit=10 * config.LIST_MAX)
    shelf: Shelf[User] | Shelf[Group] = store.USERS if kind is ActorKind.USER else store.GROUPS
    columns = shelf.table.c
    row = shelf.find(tx, columns.domain_id == domain_id, columns.name == name)
    entry = kept.entry(tx, row.id) if row is not None else None
    return [entry] if entry is not None and entry.gone_at is None else []
