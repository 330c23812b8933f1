"""Groups that outlast a sign-in, as Keystone's `authorization_ttl` has them.

What a provider says of groups rides in the token. With a ttl the user is also a member here until it has
passed, so that what acts without a sign-in (application credentials, trusts) has the groups' roles. Each
sign-in says anew which they are. A membership that somebody here gave is never shortened.
"""

from collections.abc import Collection, Iterable
from datetime import timedelta

from cairn.core.ids import UserId
from cairn.db.engine import Database, Tx
from cairn.identity import revocation, store
from cairn.identity.federation import store as federation_store
from cairn.identity.federation.records import LastingGroup, Provider
from cairn.identity.records import GroupId
from cairn.life.reconcile import Round

TOPIC = "identity.memberships"
BATCH_MAX = 500


def renew(tx: Tx, provider: Provider, user_id: UserId, group_ids: Collection[str]) -> None:
    """Let the user keep these groups of the provider for its ttl, and no others."""
    known = {one.group_id: one for one in federation_store.lasting_groups(tx, user_id)}
    wanted = {GroupId(id_) for id_ in group_ids} if provider.authorization_ttl else set()
    gone = [
        one
        for one in known.values()
        if one.provider_id == provider.id and one.group_id not in wanted
    ]
    end(tx, gone)
    ends_at = tx.now + timedelta(minutes=provider.authorization_ttl or 0)
    for group_id in sorted(wanted):
        if group_id not in known and store.is_member(tx, group_id, user_id):
            continue  # for good
        store.add_member(tx, group_id, user_id)
        new = LastingGroup(
            user_id=user_id, group_id=group_id, provider_id=provider.id, ends_at=ends_at
        )
        federation_store.put_lasting_group(tx, new)
        tx.wake(TOPIC)


def end(tx: Tx, memberships: Iterable[LastingGroup]) -> None:
    """Take memberships; the tokens that may have their roles are void."""
    users = set()
    for one in memberships:
        federation_store.forget_lasting_group(tx, one.group_id, one.user_id)
        store.remove_member(tx, one.group_id, one.user_id)
        users.add(one.user_id)
    revocation.revoke(tx, *(revocation.of_user(user_id) for user_id in sorted(users)))


def end_all_of(tx: Tx, provider_id: str) -> None:
    end(tx, federation_store.lasting_groups_by(tx, provider_id))


class MembershipKeeper:
    """Ends memberships whose time has passed."""

    name = TOPIC

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> Round:
        found = await self._database.read(
            lambda tx: len(federation_store.lasting_groups_ended(tx, limit=1))
        )
        done = await self._database.write(self._end_some) if found else 0
        again_s = await self._database.read(_until_next_end)
        return Round(found=done, done=done, again_s=again_s)

    def _end_some(self, tx: Tx) -> int:
        ended = federation_store.lasting_groups_ended(tx, limit=BATCH_MAX)
        end(tx, ended)
        return len(ended)


def _until_next_end(tx: Tx) -> float | None:
    next_end = federation_store.next_end(tx)
    return None if next_end is None else max(0.0, (next_end - tx.now).total_seconds())
