"""Guesses: so many wrong ones in a row lock a user out for a while, and nobody learns which users exist.

Each subject (a user's passwords, a user's passcodes) has one row with a count. Once it is full, nothing is
written until the lock is over, so a flood of guesses at one user costs a few writes, whoever makes them,
and the count is the same for all control processes and survives their restart.

A name that nobody has is counted just so, in one of a fixed number of rows that a keyed hash of the name
picks; its password is compared with the hash of some user, picked the same way, so that it takes as long
as a user's does (imported hashes take longer than ours). The guess is wrong whatever comes of it.
"""

import hashlib
from datetime import timedelta

import msgspec
from msgspec import Struct

from cairn.db.engine import Database, Tx
from cairn.db.secrets import Sealer
from cairn.http.auditing import AuditedDatabase
from cairn.identity import signin, store
from cairn.identity.accounts import guesses, password_store
from cairn.identity.accounts.guesses import Guesses
from cairn.identity.accounts.security import Security, is_expired
from cairn.identity.methods.method import Named
from cairn.identity.records import User

NOBODYS_ROWS = 1 << 14  # more than there can be guesses, by a hash each, while one lock lasts


class Attempt(Struct, frozen=True, kw_only=True):
    """Whom a sign-in claims to be, and what its proof must match."""

    subject: str
    user: User | None
    password_hash: str | None  # of somebody else, where there is no such user
    is_counted: bool  # whether earlier guesses are noted
    is_locked: bool
    is_expired: bool


class Lockout:
    def __init__(self, security: Security, sealer: Sealer) -> None:
        self._max = security.lockout_failures
        self._lasts = timedelta(seconds=security.lockout_s)
        self._key = sealer.derive("identity.lockout")

    def attempt(self, tx: Tx, kind: str, named: Named) -> Attempt:
        """The same number of questions to the database, whether there is such a user or not."""
        user = signin.find_user(tx, named)
        chosen = self._digest(named)
        if user is None:
            number = int.from_bytes(chosen[:4], "big") % NOBODYS_ROWS
            subject, hash_ = f"{kind}:?{number}", password_store.somebodys(tx, chosen.hex()[:32])
        else:
            subject, hash_ = guesses.subject_of(kind, user.id), store.password_hash(tx, user.id)
        row = guesses.get(tx, subject)
        return Attempt(
            subject=subject,
            user=user,
            password_hash=hash_,
            is_counted=row is not None,
            is_locked=self._is_full(tx, row) and not _is_exempt(user),
            is_expired=user is not None and is_expired(user, tx.now),
        )

    def is_locked(self, tx: Tx, kind: str, user: User) -> bool:
        return not _is_exempt(user) and self._is_full(
            tx, guesses.get(tx, guesses.subject_of(kind, user.id))
        )

    async def note_wrong(self, database: Database, attempt: Attempt) -> None:
        """Count a wrong guess. Nothing is written once it makes no difference any more."""
        if self._max and not attempt.is_locked:
            await bare(database).write(lambda tx: self._count(tx, attempt.subject))

    async def note_right(self, database: Database, attempt: Attempt) -> bool:
        """Begin to count anew; False if other guesses have locked the user out meanwhile."""
        if not attempt.is_counted:
            return True  # What came since is looked at when the session is opened.
        user = attempt.user
        assert user is not None, "only users guess right"

        def settle(tx: Tx) -> bool:
            if self._is_full(tx, guesses.get(tx, attempt.subject)) and not _is_exempt(user):
                return False
            guesses.forget(tx, user.id, [attempt.subject.partition(":")[0]])
            return True

        return await bare(database).write(settle)

    def _count(self, tx: Tx, subject: str) -> None:
        row = guesses.get(tx, subject)
        if row is None or not self._is_full(tx, row):
            is_over = row is None or row.count >= self._max
            guesses.put(tx, subject, 1 if is_over or row is None else row.count + 1)

    def _is_full(self, tx: Tx, row: Guesses | None) -> bool:
        return row is not None and 0 < self._max <= row.count and tx.now < row.last_at + self._lasts

    def _digest(self, named: Named) -> bytes:
        return hashlib.blake2b(msgspec.json.encode(named), key=self._key).digest()


def _is_exempt(user: User | None) -> bool:
    return user is not None and bool(user.options.get("ignore_lockout_failure_attempts"))


def bare(database: Database) -> Database:
    """Without the audit trail, which is told of the whole sign-in: a count is no change of anything."""
    return database.bare if isinstance(database, AuditedDatabase) else database
