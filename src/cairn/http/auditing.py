"""How the shell tells whoever keeps the audit trail what a request changed, in the same transaction.

A route with `do` has one transaction, and so one entry. One with `run` may have several, or none; each
that writes gets an entry of its own, so that no change is without one, whatever its method.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from msgspec import Struct

from cairn.db.engine import Database, Tx
from cairn.http.call import Call
from cairn.http.routes import Route, Service

T = TypeVar("T")


class Deed(Struct, frozen=True, kw_only=True):
    """A request that may change something."""

    service: Service
    route: Route
    call: Call[Any]


class Auditor(Protocol):
    """Keeps the trail. No function may raise for what is in a request."""

    def done(self, tx: Tx, deed: Deed, result: Any) -> None:
        """The change was made, unless `tx` is rolled back. `result`: what the handler returned, a body
        or a Reply; of a `run` route, what its transaction returned."""

    def answered(self, deed: Deed, result: Any) -> None:
        """It was done, and what it changed is committed. Told of every route that may change something:
        a sign-in changes nothing and is worth an entry. Must not wait."""

    def refused(self, deed: Deed, status: int, error: Exception) -> None:
        """It was refused or has failed with this status; its transaction is rolled back. Must not wait.
        The call has no body, if it was refused before that was read."""


class AuditedDatabase:
    """A database each of whose writes is told to the auditor. All else is the database's own."""

    def __init__(self, database: Database, deed: Deed, auditor: Auditor) -> None:
        self._database = database
        self._deed = deed
        self._auditor = auditor

    @classmethod
    def over(cls, database: Database, deed: Deed, auditor: Auditor) -> Database:
        return cast(Database, cls(database, deed, auditor))

    @property
    def bare(self) -> Database:
        """The database itself, for what is no change of anything: a count of wrong guesses."""
        return self._database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, verb: Callable[[Tx], T]) -> T:
        def told(tx: Tx) -> T:
            result = verb(tx)
            self._auditor.done(tx, self._deed, result)
            return result

        return await self._database.write(told)
