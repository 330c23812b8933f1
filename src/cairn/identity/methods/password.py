"""Signing in with a password: the user's hash here, or a directory that the user's domain lives in."""

from collections.abc import Sequence
from typing import Protocol

from cairn.core.errors import Invalid
from cairn.core.ids import UserId
from cairn.db.engine import Database, Tx
from cairn.http.call import Call
from cairn.identity import signin, store
from cairn.identity.methods.method import DomainName, Named, Proof
from cairn.identity.passwords import Passwords
from cairn.identity.records import User
from cairn.identity.shapes import AuthBody, DomainRef
from cairn.identity.signin import Candidate


class Directory(Protocol):
    """Where the users of some domains, and their passwords, are kept by somebody else."""

    async def prove(self, database: Database, named: Named, password: str) -> Proof | None:
        """None: not a user of a domain of this directory. Raises Unauthenticated on a wrong password."""


class PasswordMethod:
    name = "password"

    def __init__(self, passwords: Passwords, directories: Sequence[Directory] = ()) -> None:
        self._passwords = passwords
        self._directories = directories

    async def prove(self, database: Database, call: Call[AuthBody]) -> Proof:
        part = call.body.auth.identity.password
        if part is None:
            raise Invalid("Expecting to find password in identity.")
        named = Named(id=part.user.id, name=part.user.name, domain=domain_name(part.user.domain))
        for directory in self._directories:
            if proof := await directory.prove(database, named, part.user.password):
                return proof
        found = await database.read(lambda tx: signin.candidate(tx, named))
        return await prove_hash(database, self._passwords, found, part.user.password)


async def prove_hash(
    database: Database, passwords: Passwords, found: Candidate, password: str
) -> Proof:
    """Proof of the candidate, if the password is right; a hash of an older kind is replaced on the way."""
    verdict = await passwords.verify(found.password_hash, password)
    user, old = found.user, found.password_hash
    if not verdict.is_right or user is None or old is None:
        raise signin.refused("unknown user or wrong password")
    if better := verdict.better_hash:
        await database.write(
            lambda tx: store.replace_password_hash(tx, user.id, old=old, new=better)
        )
    current = better or old

    def still_the_same(tx: Tx, user: User) -> None:
        if store.password_hash(tx, user.id) != current:
            raise signin.refused(f"user {user.id} changed the password during the sign-in")

    return Proof(user_id=UserId(user.id), recheck=still_the_same)


def domain_name(ref: DomainRef | None) -> DomainName | None:
    return None if ref is None else DomainName(id=ref.id, name=ref.name)
