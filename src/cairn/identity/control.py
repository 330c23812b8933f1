"""What keeps identity in order: revocations known here and forgotten in time, keys that are rotated."""

from datetime import timedelta

from cairn.db.engine import Database
from cairn.identity import store
from cairn.identity.keys import TOPIC as KEY_TOPIC
from cairn.identity.keys import KeyRepository
from cairn.identity.revocation import TOPIC, Revocations
from cairn.life.reconcile import Round

KEY_SECONDS_MAX = 7 * 24 * 3600.0  # a key signs for a week; its tokens outlive it by hours
RETIRE_S_MIN = 60.0  # keys that no token needs any more within a minute are forgotten together


class RevocationKeeper:
    """Reads what other processes revoked, in case the hint was lost, and deletes what no token outlived."""

    name = TOPIC

    def __init__(self, database: Database, revocations: Revocations, *, lifetime_s: int) -> None:
        self._database = database
        self._revocations = revocations
        self._lifetime = timedelta(seconds=lifetime_s)

    async def run_once(self) -> Round:
        found = self._revocations.catch_up()
        old = await self._database.read(
            lambda tx: store.has_revocations_before(tx, tx.now - self._lifetime)
        )
        if not old:
            return Round(found=found, done=found, again_s=self._again_s())
        gone = await self._database.write(
            lambda tx: store.forget_revocations(tx, before=tx.now - self._lifetime)
        )
        self._revocations.forget()
        return Round(found=found + gone, done=found + gone, again_s=self._again_s())

    def _again_s(self) -> float | None:
        """What is known now is outlived by every token after one lifetime."""
        return self._lifetime.total_seconds() if self._revocations.is_any else None


class KeyRotation:
    """A new signing key each week, and none kept that no token needs. The other processes hear of it, or
    notice by themselves."""

    name = KEY_TOPIC

    def __init__(self, database: Database, keys: KeyRepository) -> None:
        self._database = database
        self._keys = keys

    async def run_once(self) -> Round:
        left_s = KEY_SECONDS_MAX - self._keys.age_s()
        if left_s > 0:
            return await self._retire(left_s)
        # Asked again within the transaction: two processes may come here at once.
        done = await self._database.write(
            lambda tx: self._keys.rotate(tx, if_older_s=KEY_SECONDS_MAX)
        )
        return Round(found=1, done=int(done), again_s=KEY_SECONDS_MAX)

    async def _retire(self, left_s: float) -> Round:
        gone = 0
        retirement_s = self._keys.next_retirement_s()
        if retirement_s is not None and retirement_s <= 0:
            gone = await self._database.write(self._keys.retire)
            retirement_s = self._keys.next_retirement_s()
        if retirement_s is not None:
            left_s = min(left_s, max(retirement_s, RETIRE_S_MIN))
        return Round(found=gone, done=gone, again_s=left_s)
