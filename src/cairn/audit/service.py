"""Keeping the trail: what the shell tells of each request that changes something becomes an entry.

A change and its entry are one transaction. What was refused or has failed, and who signed in, is written
soon after, many at a time. That queue is bounded and so is what a flood may add in a second: what does
not fit is dropped and counted, for an attacker must not fill memory or disk, or make others wait.
"""

import os
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from msgspec import structs

from cairn.audit import store, targets, who, words
from cairn.audit.records import Event, Ids, Outcome
from cairn.audit.targets import Thing, short
from cairn.audit.who import Who
from cairn.core import log
from cairn.core.caller import Caller
from cairn.core.clock import Clock
from cairn.core.errors import CloudError, Denied, Unauthenticated
from cairn.core.tasks import Batcher, TaskGroup
from cairn.db.engine import Database, Tx
from cairn.http.auditing import Deed
from cairn.http.routes import Reply

BATCH_MAX = 200  # entries that are written in one transaction
PATH_MAX = 512
INITIATORS_MAX = 2048
LOSING_S = 300.0  # for which a loss is told as one that goes on
_BY_CODE = {401: Outcome.DENIED, 403: Outcome.DENIED}
_TOLD = ("Policy does not allow", "No access rule")  # refusals that hold nothing of the request

_log = log.get("audit")


class Kind(StrEnum):
    """Of what waits: none may crowd out another."""

    CALLER = "caller"  # refused or failed, of somebody with a token
    STRANGER = "stranger"  # of nobody: failed sign-ins before all
    SIGN_IN = "sign-in"  # that succeeded


class Limit:
    """How many may wait, and how many a second may come in the long run; a second's surplus is saved up."""

    def __init__(self, *, waiting: int, per_second: float) -> None:
        self.waiting_max = waiting
        self._per_second = per_second
        self._saved = float(waiting)
        self._at_s = time.monotonic()

    def take(self) -> bool:
        now_s = time.monotonic()
        gained = (now_s - self._at_s) * self._per_second
        self._saved, self._at_s = min(float(self.waiting_max), self._saved + gained), now_s
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True


class Trail:
    """The shell's auditor (http/auditing.py). Only the thread of the event loop may tell it of refusals."""

    def __init__(self, database: Database, *, clock: Clock, tasks: TaskGroup) -> None:
        self._database = database
        self._clock = clock
        self._ids = Ids(int.from_bytes(os.urandom(4), "big"))
        self._waiting: Counter[Kind] = Counter()
        self._limits = {
            Kind.CALLER: Limit(waiting=2000, per_second=200),
            Kind.STRANGER: Limit(waiting=1000, per_second=20),
            Kind.SIGN_IN: Limit(waiting=2000, per_second=500),
        }
        self._batcher: Batcher[_Waiting] = Batcher(
            self._write, tasks=tasks, name="audit", most=BATCH_MAX
        )
        self.written: Counter[str] = Counter()  # by outcome
        self.dropped: Counter[str] = Counter()  # by kind, or "failed"
        self.sign_ins: Counter[str] = Counter()  # by outcome
        self._initiators: dict[str, Who] = {}  # by the token's audit id
        self._signed: dict[str, Who] = {}  # by the request's id: whose reply may not tell
        self._lost_s = -LOSING_S

    @property
    def waiting(self) -> int:
        return sum(self._waiting.values())

    @property
    def is_losing(self) -> bool:
        """Whether entries were lost a moment ago."""
        return time.monotonic() < self._lost_s + LOSING_S

    def done(self, tx: Tx, deed: Deed, result: Any) -> None:
        events = self._done(tx, deed, result)
        for event in events:
            store.add(tx, event)
        tx.after_commit(lambda: self._count(events))

    def answered(self, deed: Deed, result: Any) -> None:
        known = words.words(deed.service, deed.route)
        if known.is_sign_in:
            self.sign_ins[Outcome.SUCCESS] += 1
            status = _status(deed, result)
            signed = self._signed.pop(deed.call.request_id, None)
            self._queue(
                Kind.SIGN_IN,
                deed,
                known,
                Outcome.SUCCESS,
                status=status,
                result=result,
                signed=signed,
            )

    def refused(self, deed: Deed, status: int, error: Exception) -> None:
        known = words.words(deed.service, deed.route)
        outcome = _BY_CODE.get(status, Outcome.FAILURE)
        if known.is_sign_in:
            self.sign_ins[outcome] += 1
            self._signed.pop(deed.call.request_id, None)
        kind = Kind.STRANGER if deed.call.caller is None else Kind.CALLER
        self._queue(kind, deed, known, outcome, status=status, reason=_reason(error))

    async def flush(self) -> None:
        """Write what waits: before the process ends, and for tests."""
        while found := self._batcher.take_all():
            await self._write(found)

    # --- what an entry says ------------------------------------------------------------------------------

    def _done(self, tx: Tx, deed: Deed, result: Any) -> list[Event]:
        known = words.words(deed.service, deed.route)
        if known.is_sign_in:
            # What a sign-in writes on its way: failures that it counts, a user who is new here. Whether it
            # came to a token is told when it is over.
            subject = _subject(deed, known, None)
            if (signed := who.of_session(result)) is not None:
                signed = structs.replace(signed, said=subject.details)
                subject = subject._replace(initiator=signed, thing=Thing(id=signed.token_id))
                self._remember(deed.call.request_id, signed)
            return [
                self._event(
                    deed, known, Outcome.PENDING, subject, at=tx.now, status=deed.route.status
                )
            ]
        initiator = self._initiator(deed.call.caller)
        status = _status(deed, result)
        things = _things(deed, known, result)
        caller = deed.call.caller
        if caller is not None and caller.is_admin and not known.is_creation:
            things = [_at_home(tx, deed, known, thing) for thing in things]
        details = targets.details(known, deed.call.path)
        return [
            self._event(
                deed,
                known,
                Outcome.SUCCESS,
                _Subject(initiator, thing, details),
                at=tx.now,
                status=status,
            )
            for thing in things
        ]

    def _initiator(self, caller: Caller | None) -> Who:
        """The same for all requests with one token."""
        if caller is None:
            return who.of_caller(None)
        known = self._initiators.get(caller.audit_id)
        if known is None or not caller.audit_id:
            known = who.of_caller(caller)
            if len(self._initiators) >= INITIATORS_MAX:
                self._initiators.clear()
            self._initiators[caller.audit_id] = known
        return known

    def _remember(self, request_id: str, signed: Who) -> None:
        if len(self._signed) >= INITIATORS_MAX:  # Of requests that ended without an answer.
            self._signed.clear()
        self._signed[request_id] = signed

    def _queue(
        self,
        kind: Kind,
        deed: Deed,
        known: words.Words,
        outcome: Outcome,
        *,
        status: int,
        result: Any = None,
        signed: Who | None = None,
        reason: str | None = None,
    ) -> None:
        limit = self._limits[kind]
        if self._waiting[kind] >= limit.waiting_max or not limit.take():
            self._lose(kind, 1)
            return
        try:
            subject = _subject(deed, known, result)
            if signed is not None and subject.initiator.user_id is None:
                subject = subject._replace(initiator=signed, thing=Thing(id=signed.token_id))
            at = self._clock.now()
            event = self._event(deed, known, outcome, subject, at=at, status=status, reason=reason)
        except Exception:  # A bug here must not cost the request that it tells of.
            self._lose("failed", 1)
            _log.exception("entry not made", path=deed.route.path)
            return
        self._waiting[kind] += 1
        self._batcher.add(_Waiting(kind, event))

    def _event(
        self,
        deed: Deed,
        known: words.Words,
        outcome: Outcome,
        subject: "_Subject",
        *,
        at: datetime,
        status: int,
        reason: str | None = None,
    ) -> Event:
        call = deed.call
        initiator, thing = subject.initiator, subject.thing
        # What was refused is told where whoever asked belongs: any id may be in a path.
        places = (thing, initiator) if outcome is Outcome.SUCCESS else (initiator, thing)
        project_id = places[0].project_id or places[1].project_id
        domain_id = places[0].domain_id or places[1].domain_id
        understood = outcome is not Outcome.FAILURE or status in (404, 409)
        return Event(
            id=self._ids.new(at),
            at=at,
            outcome=outcome.value,
            action=words.action_of(known, call.body, was_understood=understood),
            service=deed.service.kind,
            target_type=known.target_type,
            target_id=thing.id,
            target_name=thing.name,
            details=subject.details,
            project_id=project_id,
            domain_id=domain_id,
            user_id=initiator.user_id,
            user_domain_id=initiator.user_domain_id,
            scope=initiator.scope,
            roles=initiator.roles,
            source=short(call.peer, 64) or "",
            agent=short(call.headers.get("user-agent")) or "",
            token_id=initiator.token_id,
            delegation=initiator.delegation,
            request_id=call.request_id,
            method=deed.route.method,
            path=short(call.url_path, PATH_MAX) or "",
            status=status,
            reason=reason,
        )

    def _lose(self, kind: str, count: int) -> None:
        self.dropped[kind] += count
        self._lost_s = time.monotonic()

    def _count(self, events: Sequence[Event]) -> None:
        for event in events:
            self.written[event.outcome] += 1

    # --- what waits --------------------------------------------------------------------------------------

    async def _write(self, waiting: "Sequence[_Waiting]") -> None:
        found = [one.event for one in waiting]
        try:
            await self._database.write(lambda tx: store.add_all(tx, found))
        except Exception as error:
            self._lose("failed", len(found))
            _log.error("entries lost", entries=len(found), because=str(error))
        else:
            self._count(found)
        finally:
            self._waiting.subtract(Counter(one.kind for one in waiting))


class _Waiting:
    """One entry in the queue; each is itself alone."""

    __slots__ = ("event", "kind")

    def __init__(self, kind: Kind, event: Event) -> None:
        self.kind = kind
        self.event = event


class _Subject(NamedTuple):
    """Who did it to what."""

    initiator: Who
    thing: Thing
    details: dict[str, str]


def _subject(deed: Deed, known: words.Words, result: Any) -> _Subject:
    call = deed.call
    if known.is_sign_in:
        initiator = who.of_sign_in(call, result)
        return _Subject(initiator, Thing(id=initiator.token_id), initiator.said)
    thing = targets.of_path(known, call.path)
    return _Subject(who.of_caller(call.caller), thing, targets.details(known, call.path))


def _things(deed: Deed, known: words.Words, result: Any) -> list[Thing]:
    """What the deed was about: what it made, else what its path names, with what the reply says of it."""
    named = targets.of_path(known, deed.call.path)
    if known.target is None and not known.is_creation:
        return [named]
    found = [thing for thing in targets.of_result(result) if thing.id or thing.name]
    if known.is_creation:
        return [_own_place(known, thing) for thing in found] or [named]
    if len(found) != 1 or found[0].id not in (named.id, None):
        return [named]
    (shown,) = found
    return [
        Thing(
            id=named.id,
            name=shown.name,
            project_id=named.project_id or shown.project_id,
            domain_id=named.domain_id or shown.domain_id,
        )
    ]


def _own_place(known: words.Words, thing: Thing) -> Thing:
    """A new project, or domain, is its own place."""
    match known.target_type:
        case "identity/project":
            return structs.replace(thing, project_id=thing.id)
        case "identity/domain":
            return structs.replace(thing, domain_id=thing.id)
        case _:
            return thing


def _at_home(tx: Tx, deed: Deed, known: words.Words, thing: Thing) -> Thing:
    """With the project and domain whose thing an administrator changes: those of who made it."""
    is_identity = deed.service.kind == "identity"
    if not known.variables or deed.service.kind == "cairn":
        return thing
    if thing.domain_id if is_identity else thing.project_id:
        return thing
    owner_id = targets.short_id(deed.call.path.get(known.variables[0]))
    home = store.home_of(tx, owner_id) if owner_id else None
    if home is None:
        return thing
    project_id, domain_id = home
    return structs.replace(
        thing,
        project_id=thing.project_id or (None if is_identity else project_id),
        domain_id=thing.domain_id or domain_id,
    )


def _status(deed: Deed, result: Any) -> int:
    status = result.status if isinstance(result, Reply) else None
    return status or deed.route.status


def _reason(error: Exception) -> str:
    """Why, without what was in the request: messages may quote it."""
    if isinstance(error, Unauthenticated):
        return short(error.because) or "not authenticated"
    if isinstance(error, Denied) and error.message.startswith(_TOLD):
        return short(error.message) or ""
    return type(error).__name__ if isinstance(error, CloudError) else "error"
