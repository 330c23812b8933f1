"""What a way of signing in is: it takes its part of the request and proves a user, or refuses.

The dear part (hashing, asking a directory or a provider) happens outside of any transaction. The session
is opened afterwards in one snapshot (`signin.open_session`), which asks each proof again whether what it
found still holds: `recheck`.
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from cairn.core.caller import Delegation
from cairn.core.ids import UserId
from cairn.db.engine import Database, Tx
from cairn.http.call import Call
from cairn.identity.records import User
from cairn.identity.shapes import AuthBody
from cairn.identity.tokens import Federation, Payload


class DomainName(Struct, frozen=True, kw_only=True):
    """A domain as clients name it: by id or by name."""

    id: str | None = None
    name: str | None = None


class Named(Struct, frozen=True, kw_only=True):
    """A user or project as clients name it: by id, or by name and domain."""

    id: str | None = None
    name: str | None = None
    domain: DomainName | None = None


class ScopeWish(Struct, frozen=True, kw_only=True):
    """At most one of these; none at all asks for an unscoped token."""

    project: Named | None = None
    domain: DomainName | None = None
    is_system: bool = False
    trust_id: str | None = None


def _holds(tx: Tx, user: User) -> None:
    """Nothing to ask again."""


class Proof(Struct, frozen=True, kw_only=True):
    """Who it is, and what narrows the session that may come of it."""

    user_id: UserId
    recheck: Callable[[Tx, User], None] = (
        _holds  # in the session's snapshot; raises Unauthenticated
    )
    parent: Payload | None = None  # the token it was made from: the session ends no later
    place: ScopeWish | None = None  # the only scope it is good for
    role_ids: frozenset[str] | None = None  # of the roles that the user has there, only these
    ends_us: int | None = None  # since the epoch: no session beyond
    delegation: Delegation | None = None
    federation: Federation | None = None


class Method(Protocol):
    """One way of signing in, under the name that requests list in `methods`."""

    name: str

    async def prove(self, database: Database, call: Call[AuthBody]) -> Proof:
        """Raises Invalid where the request lacks this method's part, Unauthenticated (always with the same
        message) for whatever else is wrong."""
