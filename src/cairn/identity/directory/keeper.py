"""Looks at the directories by itself: who was disabled or deleted there must not keep a token that works.

Every user and group that was ever seen is asked for again each `PERIOD_S`, many at once; who is in which
group of the directory is compared, too. Those who are gone are forgotten with their roles after `GONE_DAYS`,
as are, at once hidden, those of a domain that has no directory any more.
"""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from cairn.core.errors import Unavailable
from cairn.core.ids import DomainId, UserId
from cairn.db.engine import Database, Tx
from cairn.identity import forget
from cairn.identity.directory import domain_config, mirror
from cairn.identity.directory import store as kept
from cairn.identity.directory.directories import Directories
from cairn.identity.directory.store import Entry
from cairn.identity.directory.tree import Person
from cairn.identity.records import ActorKind, GroupId
from cairn.life.reconcile import Round

PERIOD_S = 120.0
GONE_DAYS = 30
AT_ONCE = 500


class DirectoryKeeper:
    name = domain_config.TOPIC

    def __init__(self, database: Database, directories: Directories) -> None:
        self._database = database
        self._directories = directories

    async def run_once(self) -> Round:
        if not await self._directories.is_any():
            return Round()
        domain_ids = await self._directories.domain_ids()
        found, failed = 0, []
        for domain_id in domain_ids:
            try:
                found += await self._look(domain_id)
            except Unavailable as error:
                failed.append(error.because or error.message)
        for domain_id in await self._database.read(kept.domains):
            if domain_id not in domain_ids:
                found += await self._end(domain_id)
        await self._forget()
        return Round(found=found, done=found, failed=tuple(failed), again_s=PERIOD_S)

    async def _look(self, domain_id: DomainId) -> int:
        people: list[Person] = []
        found, after = 0, ""
        tree = self._directories.tree(domain_id)
        while entries := await self._entries(domain_id, ActorKind.USER, after):
            after = entries[-1].id
            part = await tree.people_with([entry.local_id for entry in entries])
            await self._directories.see_people(self._database, domain_id, part)
            await self._miss(entries, {person.local_id for person in part})
            people += part
            found += len(entries)
        after = ""
        while entries := await self._entries(domain_id, ActorKind.GROUP, after):
            after = entries[-1].id
            found += len(entries)
            await self._look_at_groups(domain_id, entries, people)
        return found

    async def _look_at_groups(
        self, domain_id: DomainId, entries: Sequence[Entry], people: Sequence[Person]
    ) -> None:
        tree = self._directories.tree(domain_id)
        teams = await tree.teams_with([entry.local_id for entry in entries])
        await self._directories.see_teams(self._database, domain_id, teams)
        await self._miss(entries, {team.local_id for team in teams})
        for team in teams:
            group_id = GroupId(kept.public_id(domain_id, ActorKind.GROUP, team.local_id))
            named = await tree.member_keys(team)
            ids = [
                kept.public_id(domain_id, ActorKind.USER, person.local_id)
                for person in people
                if tree.member_key(person) in named
            ]
            needed = partial(mirror.needs_members, group_id=group_id, user_ids=ids)
            if await self._database.read(needed):
                change = partial(mirror.set_members, group_id=group_id, user_ids=ids)
                await self._database.write(change)

    async def _entries(self, domain_id: DomainId, kind: ActorKind, after: str) -> list[Entry]:
        return await self._database.read(
            lambda tx: kept.of_domain(tx, domain_id, kind, after=after, limit=AT_ONCE)
        )

    async def _miss(self, entries: Sequence[Entry], there: set[str]) -> None:
        missing = [entry.id for entry in entries if entry.local_id not in there]
        if missing:
            await self._database.write(lambda tx: mirror.gone(tx, missing))

    async def _end(self, domain_id: DomainId) -> int:
        """The domain has no directory any more."""
        done = 0
        for kind in ActorKind:
            while entries := await self._entries(domain_id, kind, ""):
                ids = [entry.id for entry in entries]
                await self._database.write(partial(mirror.gone, ids=ids))
                done += len(ids)
        return done

    async def _forget(self) -> None:
        """Those who are gone for long, with their roles."""
        old = await self._database.read(
            lambda tx: kept.gone_before(tx, tx.now - timedelta(days=GONE_DAYS), limit=AT_ONCE)
        )
        if not old:
            return

        def end(tx: Tx) -> None:
            for entry in old:
                if entry.kind is ActorKind.USER:
                    forget.user(tx, UserId(entry.id))
                else:
                    forget.group(tx, GroupId(entry.id))

        await self._database.write(end)
