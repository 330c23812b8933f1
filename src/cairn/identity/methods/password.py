"""Signing in with a password: the user's hash here, or a directory that the user's domain lives in."""

from collections.abc import Sequence
from typing import Protocol

from cairn.core.errors import Invalid, Unauthenticated
from cairn.core.ids import UserId
from cairn.db.engine import Database, Tx
from cairn.http.call import Call
from cairn.identity import signin, store
from cairn.identity.accounts.guesses import PASSWORD
from cairn.identity.accounts.lockout import Lockout, bare
from cairn.identity.accounts.passwords import Passwords
from cairn.identity.methods.method import DomainName, Named, Proof
from cairn.identity.records import User
from cairn.identity.shapes import AuthBody, DomainRef


class Directory(Protocol):
    """Where the users of some domains, and their passwords, are kept by somebody else."""

    async def prove(self, database: Database, named: Named, password: str) -> Proof | None:
        """None: not a user of a domain of this directory. Raises Unauthenticated on a wrong password."""


class PasswordMethod:
    name = "password"

    def __init__(
        self, passwords: Passwords, lockout: Lockout, directories: Sequence[Directory] = ()
    ) -> None:
        self._passwords = passwords
        self._lockout = lockout
        self._directories = directories

    async def prove(self, database: Database, call: Call[AuthBody]) -> Proof:
        part = call.body.auth.identity.password
        if part is None:
            raise Invalid("Expecting to find password in identity.")
        named = Named(id=part.user.id, name=part.user.name, domain=domain_name(part.user.domain))
        for directory in self._directories:
            if proof := await directory.prove(database, named, part.user.password):
                return proof
        return await prove_hash(database, self._passwords, self._lockout, named, part.user.password)


async def prove_hash(
    database: Database,
    passwords: Passwords,
    lockout: Lockout,
    named: Named,
    password: str,
    *,
    may_be_expired: bool = False,
) -> Proof:
    """Proof of the user, if the password is right; a hash of an older kind is replaced on the way.

    Whatever is wrong takes the same way: one look, one hash, one count of the guess.
    """
    found = await database.read(lambda tx: lockout.attempt(tx, PASSWORD, named))
    verdict = await passwords.verify(found.password_hash, password)
    user, old = found.user, found.password_hash
    if not verdict.is_right or user is None or old is None or found.is_locked:
        await lockout.note_wrong(database, found)
        raise signin.refused("locked out" if found.is_locked else "unknown user or wrong password")
    if not await lockout.note_right(database, found):
        raise signin.refused(f"user {user.id} was locked out during the sign-in")
    if found.is_expired and not may_be_expired:
        # Whoever knows the password may hear that it has to be changed.
        raise Unauthenticated(
            f"The password is expired and needs to be changed for user: {user.id}."
        )
    if better := verdict.better_hash:
        await bare(database).write(
            lambda tx: store.replace_password_hash(tx, user.id, old=old, new=better)
        )
    current = better or old

    def still_the_same(tx: Tx, user: User) -> None:
        if store.password_hash(tx, user.id) != current:
            raise signin.refused(f"user {user.id} changed the password during the sign-in")
        if lockout.is_locked(tx, PASSWORD, user):
            raise signin.refused(f"user {user.id} was locked out during the sign-in")

    return Proof(user_id=UserId(user.id), recheck=still_the_same)


def domain_name(ref: DomainRef | None) -> DomainName | None:
    return None if ref is None else DomainName(id=ref.id, name=ref.name)
