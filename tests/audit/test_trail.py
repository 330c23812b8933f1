"""The queue of what is written soon after, and what ends the trail."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cairn.audit import store
from cairn.audit.control import BATCH, LOOK_S_MIN, PAUSE_S, AuditKeeper
from cairn.audit.records import Event, Filter, Ids, first_id
from cairn.audit.service import Kind, Limit, Trail
from cairn.core.clock import FakeClock
from cairn.core.errors import Denied
from cairn.core.tasks import TaskGroup
from cairn.db.engine import Database, open_sqlite
from cairn.http.auditing import Deed
from tests.audit.conftest import Audited

DAY_S = 86400.0


def event(clock: FakeClock, ids: Ids, **other: Any) -> Event:
    values = {
        "id": ids.new(clock.now()),
        "at": clock.now(),
        "outcome": "success",
        "action": "create",
        "service": "compute",
        "target_type": "compute/server",
        "request_id": "req-1",
        "method": "POST",
        "path": "/",
        "status": 202,
    }
    return Event(**{**values, **other})


def count(database: Database) -> int:
    found = database.read_now(lambda tx: store.page(tx, Filter(), limit=100_000))
    return len(found.events)


def test_ids_are_in_the_order_of_time(clock: FakeClock) -> None:
    ids, found = Ids(7), []
    for _ in range(50):
        found += [first_id(clock.now()), ids.new(clock.now()), ids.new(clock.now())]
        clock.advance(0.000001)
    assert found == sorted(found) and len(set(found)) == len(found)
    assert all(len(one) == 36 and one[14] == "7" for one in found)


def deed(cloud: Audited) -> Deed:
    """What the shell would tell of."""
    told: list[Deed] = []
    inner = cloud.trail.refused
    cloud.trail.refused = lambda d, s, e: told.append(d)  # type: ignore[method-assign]
    cloud.call("DELETE", "/users/nobody")
    cloud.trail.refused = inner  # type: ignore[method-assign]
    return told[0]


async def flood(cloud: Audited, database: Database, one: Deed, times: int) -> Trail:
    tasks = TaskGroup()
    trail = Trail(database, clock=cloud.clock, tasks=tasks)
    for _ in range(times):
        trail.refused(one, 403, Denied("Policy does not allow this request: rule 'x'."))
    assert trail.waiting <= 2000, "it grows"
    await trail.flush()
    while tasks._tasks:
        await asyncio.gather(*tasks._tasks)
    return trail


def test_a_flood_is_dropped_and_counted(cloud: Audited, tmp_path: Path) -> None:
    one = deed(cloud)
    database = open_sqlite(tmp_path / "flood.db")
    database.create_all()
    trail = asyncio.run(flood(cloud, database, one, 5000))
    kept = count(database)
    assert 2000 <= kept < 2300, "what waits is bounded"
    assert trail.dropped[Kind.CALLER] == 5000 - kept
    assert trail.written["denied"] == kept and trail.is_losing
    database.close()


def test_strangers_crowd_out_nobody(cloud: Audited) -> None:
    assert cloud.admin_token
    cloud.trail._limits[Kind.STRANGER] = Limit(waiting=0, per_second=0)
    cloud.sign_in("nobody", "wrong")
    cloud.call("DELETE", "/users/nobody")
    kinds = [(e.action, e.outcome) for e in cloud.stored() if e.outcome != "success"]
    assert kinds == [("delete", "failure")]
    assert cloud.trail.dropped[Kind.STRANGER] == 1
    assert cloud.trail.sign_ins["denied"] == 1, "counted all the same"


def test_a_limit_saves_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("cairn.audit.service.time.monotonic", lambda: now)
    limit = Limit(waiting=10, per_second=2)
    assert sum(limit.take() for _ in range(50)) == 10
    now += 3
    assert sum(limit.take() for _ in range(50)) == 6
    now += 1000
    assert sum(limit.take() for _ in range(50)) == 10


def test_a_database_that_does_not_take_them_costs_entries_and_nothing_else(
    cloud: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("full")

    assert cloud.admin_token and cloud.stored()
    monkeypatch.setattr(store, "add_all", broken)
    assert cloud.call("DELETE", "/users/nobody").status_code == 404
    asyncio.run(cloud.trail.flush())
    assert cloud.trail.dropped["failed"] == 1 and cloud.trail.waiting == 0


async def test_what_is_old_is_deleted_by_the_batch(database: Database, clock: FakeClock) -> None:
    ids = Ids(1)
    old = [event(clock, ids) for _ in range(BATCH + 10)]
    database.write_now(lambda tx: store.add_all(tx, old))
    clock.advance(DAY_S)
    database.write_now(lambda tx: store.add(tx, event(clock, ids)))
    keeper = AuditKeeper(database, days=90)
    assert (await keeper.run_once()).again_s == 89 * DAY_S
    clock.advance(89 * DAY_S + 1)
    first = await keeper.run_once()
    assert (first.done, first.again_s) == (BATCH, PAUSE_S)
    second = await keeper.run_once()
    assert (second.done, second.again_s) == (10, LOOK_S_MIN)
    assert count(database) == 1
    third = await keeper.run_once()
    assert third.done == 0 and third.again_s == pytest.approx(DAY_S, abs=2)


async def test_an_empty_trail_is_left_alone(sqlite: Database, clock: FakeClock) -> None:
    assert (await AuditKeeper(sqlite, days=90).run_once()).again_s == 90 * DAY_S
    for_ever = await AuditKeeper(sqlite, days=0).run_once()
    assert for_ever.again_s is None


def test_a_sign_in_that_writes_is_told_as_it_goes_and_when_it_is_over(cloud: Audited) -> None:
    """As in a browser: what is answered is a page, so the session that was opened tells who it was."""
    route = next(r for r in cloud.service.routes if r.path == "/v3/auth/tokens" and r.run)
    token = cloud.admin_token
    payload = cloud.issuer.payload(token)
    one = deed(cloud)
    call = one.call
    call.caller, call.body, call.request_id = None, None, "req-browser"
    sign_in = Deed(service=cloud.service, route=route, call=call)
    session = SimpleNamespace(payload=payload)
    cloud.database.write_now(lambda tx: cloud.trail.done(tx, sign_in, session))

    async def answer() -> None:
        cloud.trail.answered(sign_in, b"<html>a page with a token in it")
        await cloud.trail.flush()

    asyncio.run(answer())
    begun, over = [e for e in cloud.stored() if e.request_id == "req-browser"]
    assert (begun.outcome, over.outcome) == ("pending", "success")
    for event in (begun, over):
        assert event.user_id == cloud.admin.user_id and event.token_id == payload.audit_ids[0]
        assert event.action == "authenticate" and event.scope == f"project:{payload.project_id}"
