"""Which tokens are void before they expire, and how a check knows without asking the database.

Each revocation has the next number of one count. A token carries the number that its sign-in saw, in the
same snapshot in which it read the user, the scope and the roles; a later revocation of any of its
subjects voids it. So nothing depends on clocks, and a sign-in that races a revocation loses whichever
way it falls: it saw either the change and its number, or neither.

Each process holds all revocations in memory. The hint of a committing transaction marks the copy as
stale; the next check reads what is new. That is the one query a check may make, and only after a change.
"""

from collections.abc import Iterable

from cairn.core.ids import DomainId, ProjectId, UserId
from cairn.db.engine import Database, Tx
from cairn.db.feed import EVERYTHING
from cairn.identity import store
from cairn.identity.records import Event, Scope, ScopeKind

TOPIC = "identity.revocations"


def of_token(audit_id: str) -> str:
    return f"token:{audit_id}"


def of_user(user_id: UserId) -> str:
    return f"user:{user_id}"


def of_scope(scope: Scope) -> str:
    return f"{scope.kind}:{scope.id}"


def of_project(project_id: ProjectId) -> str:
    return f"{ScopeKind.PROJECT}:{project_id}"


def of_domain(domain_id: DomainId) -> str:
    """Its users' tokens, and those scoped to it or to a project of it."""
    return f"{ScopeKind.DOMAIN}:{domain_id}"


def of_grant(user_id: UserId, scope: Scope) -> str:
    return f"grant:{user_id}:{scope.kind}:{scope.id}"


def of_below(user_id: UserId, domain_id: str) -> str:
    """Of a user's tokens for projects of a domain, whichever they are."""
    return f"below:{user_id}:{domain_id}"


def of_delegation(kind: str, id_: str) -> str:
    """Of an application credential, a trust, an OAuth access token."""
    return f"{kind}:{id_}"


def of_provider(provider_id: str) -> str:
    """Of an identity provider: all that it vouched for."""
    return f"provider:{provider_id}"


def of_group(group_id: str) -> str:
    """Of tokens whose groups came from an identity provider; members of groups here are revoked as users."""
    return f"group:{group_id}"


def of_role(name: str) -> str:
    return f"role:{name}"


def revoke(tx: Tx, *subjects: str, role_id: str | None = None) -> None:
    """Void every token of these subjects that was issued up to now. `role_id`: of the role they name."""
    if subjects:
        store.add_revocations(tx, subjects, role_id=role_id)
        tx.wake(TOPIC)


class Revocations:
    """The copy in memory. Only the thread of the event loop may use it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._newest: dict[str, int] = {}  # by subject, the number of its last revocation
        self._seen = 0
        self._is_stale = True
        database.on_wake(self._hint)

    @property
    def is_any(self) -> bool:
        """Whether anything is revoked that is still held."""
        return bool(self._newest)

    def voids(self, subjects: Iterable[str], *, issued_at_number: int) -> bool:
        """Whether a token that saw `issued_at_number` has a subject revoked since."""
        if self._is_stale or issued_at_number > self._seen:
            self.catch_up()
        if issued_at_number > self._seen:
            # Signed after the backup that this database was restored from: what was revoked since then
            # would get numbers that the token claims to have seen.
            return True
        newest = self._newest
        return any(newest.get(subject, 0) > issued_at_number for subject in subjects)

    def catch_up(self) -> int:
        """Read what is new; how many there were. Raises Unavailable, which fails the check closed."""
        self._is_stale = False
        try:
            events, made = self._database.read_now(self._news)
        except BaseException:
            self._is_stale = True
            raise
        for event in events:
            self._newest[event.subject] = event.number
        self._seen = made
        return len(events)

    def forget(self) -> None:
        """Read all of them anew at the next check, after old ones were deleted."""
        self._newest, self._seen, self._is_stale = {}, 0, True

    def _news(self, tx: Tx) -> tuple[list[Event], int]:
        return store.revocations_after(tx, self._seen), store.revocations_made(tx)

    def _hint(self, topic: str) -> None:
        if topic in (TOPIC, EVERYTHING):
            self._is_stale = True
