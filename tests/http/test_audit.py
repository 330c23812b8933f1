"""What every route leaves in the audit trail, asked of the route tables themselves.

A change and its entry are there together or not at all; what was refused to somebody leaves an entry, too;
and nothing of a body, a query or a header gets into one.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cairn.audit import store, words
from cairn.audit.records import Event, Filter, Outcome
from cairn.audit.service import Trail
from cairn.core.clock import FakeClock
from cairn.core.errors import Conflict
from cairn.core.tasks import TaskGroup
from cairn.db.columns import metadata
from cairn.db.engine import Tx
from cairn.http.auditing import Deed
from cairn.http.routes import Route, Service
from tests.http.everything import World, good_body, guesses, name_of, spoilt, variables

MARK = "Zq7secretZq7"
ORDER = {"GET": 0, "POST": 0, "PUT": 1, "PATCH": 2, "DELETE": 3}

CHANGES_NOTHING: Mapping[str, str] = {}
"""Routes that succeed without a transaction, with the reason."""

PUBLIC_THAT_IS_NO_SIGN_IN = {
    "keystone POST /v3/users/{user_id}/password": "changes one's own password",
    "keystone POST /v3/OS-OAUTH1/request_token": "the consumer's signature is the proof",
    "keystone POST /v3/OS-OAUTH1/access_token": "the consumer's signature is the proof",
}

COUNTS_FAILURES = {
    "keystone POST /v3/users/{user_id}/password": "a wrong password counts towards a lockout",
}
"""Routes whose refusal is remembered: its entry is that of the refusal."""


class Audited(World):
    """The world with a trail."""

    def __init__(self, url: str, folder: Path) -> None:
        super().__init__(url, folder)
        self.trail = Trail(self.database, clock=FakeClock(), tasks=TaskGroup())
        self.api.shell.auditor = self.trail
        self._state: tuple[int, str] | None = None

    def entries(self, answer: Any) -> list[Event]:
        """Those of the request that was answered so."""
        asyncio.run(self.trail.flush())
        wanted = Filter(request=answer.headers["x-openstack-request-id"])
        return self.database.read_now(
            lambda tx: store.page(tx, wanted, limit=1000, oldest_first=True)
        ).events

    def changing(self) -> list[tuple[Service, Route, str]]:
        """What makes first, what deletes last; the inner things before those that have them."""
        found = [(s, r, name_of(s, r)) for s, r in self.routes() if r.changes]
        return sorted(found, key=lambda one: (ORDER[one[1].method], -one[1].path.count("/")))

    def good_try(self, service: Service, route: Route, who: str) -> Any:
        body = good_body(self, service, route)
        if body is None and route.body is not None:
            body = next(iter(guesses(service, route)), {})
        sent = {} if body is None else {"body": body}
        return self.ask(service, route, who, self.url(service, route, who), **sent)

    def state(self) -> str:
        """Of every row of every table but the trail's; cheap when nothing was written since.
        On SQLite only: what a transaction leaves does not depend on the engine."""
        if not self.database.is_sqlite:
            return ""
        raw = self.database.engine.raw_connection()
        changes = raw.driver_connection.total_changes  # type: ignore[union-attr]
        raw.close()
        if self._state is None or self._state[0] != changes:
            self._state = (changes, self.database.read_now(_digest))
        return self._state[1]


def _digest(tx: Tx) -> str:
    digest = hashlib.sha256()
    for table in metadata.sorted_tables:
        if table is not store.events:
            for row in tx.execute(select(table).order_by(*table.primary_key.columns)):
                digest.update(f"{table.name} {row!r}\n".encode(errors="backslashreplace"))
    return digest.hexdigest()


def check(failures: list[str]) -> None:
    assert not failures, f"{len(failures)} routes:\n" + "\n".join(failures)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Audited]:
    made = Audited("sqlite://", tmp_path)
    yield made
    made.database.close()


def test_every_change_leaves_its_entry(world: Audited) -> None:
    failures, successes = [], 0
    for service, route, name in world.changing():
        before = world.state()
        answer = world.good_try(service, route, "admin")
        found = world.entries(answer)
        has_changed = world.state() != before
        if answer.status_code < 400:
            successes += 1
            if not found and (has_changed or name not in CHANGES_NOTHING):
                failures.append(f"{name}: {answer.status_code} and no entry")
            wrong = [e for e in found if e.outcome != "success" or e.status != answer.status_code]
        else:
            told = {e.outcome for e in found}
            if name in COUNTS_FAILURES:
                has_changed = has_changed and "denied" not in told
            if has_changed and not told & {"success", "pending"}:
                failures.append(f"{name}: changed something without an entry")
            last = found[-1:]
            wrong = [e for e in last if e.outcome == "success" or e.status != answer.status_code]
            if not found:
                failures.append(f"{name}: {answer.status_code} left nothing")
        if wrong:
            failures.append(f"{name}: {answer.status_code} told as {wrong}")
    check(failures)
    assert successes > 90, "too few routes succeed for this to mean much"


def test_an_entry_says_who_did_what_to_what(world: Audited) -> None:
    failures = []
    for service, route, name in world.changing():
        if service.name == "cinder" and "{project_id}" in route.path:
            continue
        answer = world.good_try(service, route, "admin")
        known = words.words(service, route)
        for event in world.entries(answer):
            expected = (service.kind, "admin", route.method, known.target_type)
            told = (event.service, event.user_id, event.method, event.target_type)
            if told != expected and route.rule is not None:
                failures.append(f"{name}: {event}")
            if event.scope != f"project:{'a' * 32}" and route.rule is not None:
                failures.append(f"{name}: scope {event.scope}")
            is_named = known.target is not None and not known.is_creation
            if is_named and event.target_id is None:
                failures.append(f"{name}: no target")
            if (
                known.is_creation
                and answer.status_code < 300
                and not (event.target_id or event.target_name)
            ):
                failures.append(f"{name}: made nothing")
    check(failures)


@pytest.mark.parametrize("when", ["before the entry", "after the entry"])
def test_a_change_and_its_entry_are_there_together_or_not_at_all(
    world: Audited, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault between the two: neither is there."""
    inner = world.trail.done
    injected: list[Deed] = []

    def broken(tx: Tx, deed: Deed, result: Any) -> None:
        if when == "after the entry":
            inner(tx, deed, result)
        injected.append(deed)
        raise Conflict("injected")

    monkeypatch.setattr(world.trail, "done", broken)
    failures: list[str] = []
    for service, route, name in world.changing():
        before = world.state()
        answer = world.good_try(service, route, "admin")
        if answer.status_code < 400 and name not in CHANGES_NOTHING:
            failures.append(f"{name}: {answer.status_code} without an entry")
        if world.state() != before and name not in COUNTS_FAILURES:
            failures.append(f"{name}: changed something")
        if any(e.outcome in (Outcome.SUCCESS, Outcome.PENDING) for e in world.entries(answer)):
            failures.append(f"{name}: an entry without its change")
    check(failures)
    assert len(injected) > 90


def test_what_is_refused_leaves_one_entry(world: Audited) -> None:
    """Policy, foreign things, wrong bodies: each is told, with the status that was answered."""
    failures = []
    for service, route, name in world.changing():
        if route.rule is None:
            continue
        for who, data in (("mallory", b"{}"), ("rita", b"{}"), ("bob", b"[[["), ("admin", b"[[[")):
            url = world.url(service, route, who)
            answer = world.ask(service, route, who, url, data=data)
            if answer.status_code < 400:
                continue
            found = world.entries(answer)
            expected = "denied" if answer.status_code == 403 else "failure"
            told = [(e.outcome, e.status, e.user_id, e.reason is not None) for e in found]
            if told != [(expected, answer.status_code, who, True)]:
                failures.append(f"{name} as {who}: {answer.status_code} told as {told}")
    check(failures)


def test_nobody_leaves_nothing(world: Audited) -> None:
    """Without a token nobody is there to tell of; only who tried to sign in is told."""
    failures = []
    for service, route, name in world.changing():
        if route.rule is not None:
            answer = world.ask(service, route, None, world.url(service, route, "admin"), data=b"{}")
            if answer.status_code != 401 or world.entries(answer):
                failures.append(name)
    check(failures)


def test_reading_leaves_nothing(world: Audited) -> None:
    failures = []
    for service, route in world.routes():
        if not route.changes and route.method == "GET":
            before = world.state()
            answer = world.ask(service, route, "admin", world.url(service, route, "admin"))
            if world.entries(answer) or world.state() != before:
                failures.append(name_of(service, route))
    check(failures)


def test_every_public_route_that_changes_is_a_sign_in_or_known(world: Audited) -> None:
    """A new way to sign in must be told as one."""
    unknown = {
        name
        for service, route, name in world.changing()
        if service.kind == "identity" and route.rule is None
        if not words.words(service, route).is_sign_in
    }
    assert unknown == set(PUBLIC_THAT_IS_NO_SIGN_IN)


# --- secrets -------------------------------------------------------------------------------------------


def rows_with(world: Audited, mark: str) -> list[str]:
    asyncio.run(world.trail.flush())

    def read(tx: Tx) -> list[str]:
        return [repr(row) for row in tx.execute(select(store.events)) if mark in repr(row)]

    return world.database.read_now(read)


def test_nothing_of_a_body_gets_into_an_entry(world: Audited) -> None:
    """Each field of each good body in turn is a secret; a thing's name is no secret."""
    asked = 0
    for service, route, _ in world.changing():
        body = good_body(world, service, route)
        if body is None:
            body = next(iter(guesses(service, route)), None)
        for marked in spoilt(body, MARK):
            if is_named_so(marked):
                continue
            asked += 1
            url = world.url(service, route, "admin")
            world.ask(service, route, "admin", url, body=marked)
    assert asked > 200
    assert not rows_with(world, MARK)


def is_named_so(body: Any) -> bool:
    """Whether the mark is where a name or an id goes, which the trail tells."""
    if isinstance(body, dict):
        if body.get("path") == "/name":  # of a JSON patch
            return True
        return any(
            (key in ("name", "id", "member") and value == MARK) or is_named_so(value)
            for key, value in body.items()
        )
    return isinstance(body, list) and any(is_named_so(one) for one in body)


def test_nothing_of_a_query_or_a_header_gets_into_an_entry(world: Audited) -> None:
    headers = {
        "X-Subject-Token": MARK,
        "Authorization": f"Bearer {MARK}",
        "Cookie": f"session={MARK}",
        "X-Service-Token": MARK,
        "Referer": f"https://{MARK}/",
        "X-Openstack-Request-Id": f"req-{MARK}",
    }
    for service, route, _ in world.changing():
        url = world.url(service, route, "admin") + f"?password={MARK}"
        world.api.call(route.method, url, b"{}", who="admin", headers=headers)
        world.api.call(route.method, url, b"{}", who=MARK, headers=headers)  # a forged token
    assert not rows_with(world, MARK)
    assert rows_with(world, "POST"), "there are entries to look at"


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_texts_are_bounded_and_fit_any_database(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """PostgreSQL takes no text that is longer than its column, and no surrogates."""
    on_postgresql = engine == "postgresql"
    url = request.getfixturevalue("postgres_url") if on_postgresql else "sqlite://"
    world = Audited(url, tmp_path)
    long = "x" * 4000
    headers = {"User-Agent": long + "\u00e9"}
    for service, route, _ in world.changing():
        for variable in variables(route):
            url = world.url(service, route, "admin", **{variable.name: long})
            world.api.call(route.method, url, b"{}", who="admin", headers=headers)
        world.good_try(service, route, "admin")
    asyncio.run(world.trail.flush())

    def read(tx: Tx) -> list[Any]:
        return list(tx.execute(select(store.events)).mappings())

    rows = world.database.read_now(read)
    assert rows
    for column in store.events.columns:
        most = getattr(column.type, "length", None) or 2048
        texts = [str(row[column.name]) for row in rows]
        assert max(map(len, texts)) <= most, column.name
    assert not world.trail.dropped
    assert {row["outcome"] for row in rows} >= {"failure"}
    world.database.close()
