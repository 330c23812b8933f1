"""Passwords: Argon2id, the hashes of imported users verified too, always off the event loop.

Hashing is dear on purpose, so it runs in two threads and the queue before them is bounded: a flood of
sign-ins is told to come back and takes neither all CPUs nor all memory. An unknown user costs the same
work as a wrong password (`lockout`). A hash of another kind is replaced by ours at the next sign-in.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2
from argon2.exceptions import InvalidHashError, VerificationError
from msgspec import Struct

from cairn.core.errors import Invalid, Unavailable
from cairn.identity.accounts import foreign_hashes

T = TypeVar("T")

# RFC 9106 section 4 asks for as much as one can bear; this is about 50 ms of one CPU and 32 MiB a sign-in.
_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=32 * 1024, parallelism=1)
# A well-formed hash of no known password: what an unknown user's password is compared with.
_NOBODY = f"$argon2id$v=19$m=32768,t=2,p=1${'A' * 22}${'A' * 43}"
PASSWORD_CHARACTERS_MAX = 4096
THREADS = 2
WAITING_MAX = 128


class Verdict(Struct, frozen=True, kw_only=True):
    is_right: bool
    better_hash: str | None = (
        None  # to be stored in place of the old one: it was made in an older way
    )


class Passwords:
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="password")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        require_usable(password)
        return await self._run(lambda: hash_now(password))

    async def verify(self, hash_: str | None, password: str) -> Verdict:
        """Whether `password` made `hash_`; None is a user who is not there or has no password."""
        return await self._run(lambda: verify_now(hash_, password))

    async def made_any(self, hashes: Sequence[str], password: str) -> bool:
        """Whether `password` made one of `hashes`; each waits for its turn, so sign-ins go on."""
        for hash_ in hashes:
            if (await self.verify(hash_, password)).is_right:
                return True
        return False

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= WAITING_MAX:
            raise Unavailable("Too many sign-ins at once; try again.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


def require_usable(password: str) -> None:
    if not 1 <= len(password) <= PASSWORD_CHARACTERS_MAX:
        raise Invalid(f"Field 'password' must have 1 to {PASSWORD_CHARACTERS_MAX} characters.")


def hash_now(password: str) -> str:
    """`Passwords.hash` on the calling thread, for bootstrap before the event loop runs."""
    return _HASHER.hash(password)


def verify_now(hash_: str | None, password: str) -> Verdict:
    if len(password) > PASSWORD_CHARACTERS_MAX:
        return Verdict(is_right=False)
    if hash_ is not None and foreign_hashes.is_foreign(hash_):
        is_right = foreign_hashes.verify(hash_, password)
        return Verdict(is_right=is_right, better_hash=hash_now(password) if is_right else None)
    try:
        _HASHER.verify(hash_ or _NOBODY, password)
    except (VerificationError, InvalidHashError):
        return Verdict(is_right=False)
    if hash_ is None:
        return Verdict(is_right=False)
    is_old = _HASHER.check_needs_rehash(hash_)
    return Verdict(is_right=True, better_hash=hash_now(password) if is_old else None)
