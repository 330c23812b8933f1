"""Who has signed in lately: noted once a day, and only where the operator disables inactive users."""

from datetime import timedelta

from cairn.core.errors import Denied
from cairn.core.ids import UserId
from cairn.db.engine import Database
from cairn.identity import people, store
from cairn.identity.accounts import lockout, password_store
from cairn.identity.accounts.security import Security
from cairn.life.reconcile import Round

AGAIN_S = 3600.0
_BATCH = 500


class Activity:
    def __init__(self, security: Security) -> None:
        self._days = security.inactive_days

    async def note(self, database: Database, user_id: UserId) -> None:
        """The user has signed in."""
        if not self._days:
            return
        day = timedelta(days=1)
        if await database.read(
            lambda tx: password_store.was_active_since(tx, user_id, tx.now - day)
        ):
            return
        await lockout.bare(database).write(lambda tx: password_store.note_active(tx, user_id))


class InactivityKeeper:
    """Disables who has not signed in for too long. The last administrator stays."""

    name = "identity.inactivity"

    def __init__(self, database: Database, security: Security) -> None:
        self._database = database
        self._days = security.inactive_days

    async def run_once(self) -> Round:
        if not self._days:
            return Round()
        found, done, after = 0, 0, ""
        while batch := await self._inactive(after):
            for user_id in batch:
                found, done = found + 1, done + await self._disable(user_id)
            after = batch[-1]
        return Round(found=found, done=done, again_s=AGAIN_S)

    async def _inactive(self, after: str) -> list[UserId]:
        days = timedelta(days=self._days)
        return await self._database.read(
            lambda tx: password_store.inactive(tx, tx.now - days, after=after, limit=_BATCH)
        )

    async def _disable(self, user_id: UserId) -> bool:
        user = await self._database.read(lambda tx: store.USERS.get(tx, user_id))
        if user is None or not user.enabled or user.options.get("ignore_user_inactivity"):
            return False
        try:
            await self._database.write(
                lambda tx: people.update_user(tx, user_id, {"enabled": False})
            )
        except Denied:  # The last who can administer the cloud.
            return False
        return True
