"""Health by dependency, and metrics that move when the thing happens, read as Prometheus reads them."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import falcon.testing
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cairn import health
from cairn.app import Cloud, CloudOptions
from cairn.core.clock import FakeClock
from cairn.core.errors import Unauthenticated, Unavailable
from cairn.core.ids import NodeId
from cairn.db.engine import Database
from cairn.db.replica import Replica
from cairn.fleet import service as fleet
from cairn.life.reconcile import Round
from tests.callers import CALLERS

SECRET = "a scraper's secret"
PASSWORD = "admin's password"


class World:
    """A whole control plane in process, asked over HTTP."""

    def __init__(self, database: Database, clock: FakeClock, folder: Path) -> None:
        self.database = database
        options = CloudOptions(
            control_dir=folder, clock=clock, admin_password=PASSWORD, metrics_secret=SECRET
        )
        self.cloud = Cloud(database, options)
        asyncio.run(self.cloud.start())
        self.client = falcon.testing.TestClient(self.cloud.shell.app)
        self.token = ""

    def sign_in(self, password: str = PASSWORD) -> Any:
        user = {"name": "admin", "domain": {"id": "default"}, "password": password}
        identity = {"methods": ["password"], "password": {"user": user}}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        body = {"auth": {"identity": identity, "scope": scope}}
        answer = self.call("POST", "/identity/v3/auth/tokens", body)
        self.token = answer.headers.get("x-subject-token", self.token)
        return answer

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = None
        if body is not None:
            data, sent["Content-Type"] = msgspec.json.encode(body), "application/json"
        return self.client.simulate_request(method, path, headers=sent, body=data)

    def get(self, path: str) -> Any:
        return self.call("GET", path, X_Auth_Token=self.token)

    def metrics(self) -> dict[str, float]:
        """Every sample, by name and labels: `cairn_nodes{state=up}`."""
        answer = self.call("GET", "/metrics", Authorization=f"Bearer {SECRET}")
        assert answer.status_code == 200, answer.text
        found = {}
        for family in text_string_to_metric_families(answer.text):
            assert family.documentation or family.name.startswith("process_"), family.name
            for sample in family.samples:
                labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found


@pytest.fixture
def world(sqlite: Database, clock: FakeClock, tmp_path: Path) -> Iterator[World]:
    made = World(sqlite, clock, tmp_path)
    yield made
    asyncio.run(made.cloud.close())


def add_host(world: World) -> None:
    world.database.write_now(
        lambda tx: fleet.enrol(
            tx, NodeId("n1"), hostname="h1", zone="nova", roles=("compute",), origin="test"
        )
    )


# --- health --------------------------------------------------------------------------------------------


def test_all_is_well(world: World) -> None:
    answer = world.call("GET", "/healthz")
    assert answer.status_code == 200
    told = answer.json
    checks = told["checks"]
    assert checks["database"] == checks["keys"] == checks["audit"] == "ok"
    assert checks["nodes"] == "0 of 0 up"
    names = {name for name in checks if name.startswith("reconciler ")}
    assert names == {f"reconciler {name}" for name in world.cloud.runner.records}
    assert "replica" not in checks and "hints" not in checks, "there are none"


def test_a_host_that_is_down_degrades_and_no_balancer_leaves(world: World) -> None:
    add_host(world)
    answer = world.call("GET", "/healthz")
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert answer.json["checks"]["nodes"] == "0 of 1 up"
    assert "h1" not in answer.text and "n1" not in answer.text


def test_a_reconciler_that_breaks_degrades_and_the_reason_is_for_operators(world: World) -> None:
    name = next(iter(world.cloud.runner.records))
    world.cloud.runner.records[name].trouble = "RuntimeError: secret things"
    answer = world.call("GET", "/healthz")
    assert (answer.status_code, answer.json["status"]) == (200, "degraded")
    assert answer.json["checks"][f"reconciler {name}"] == "degraded"
    assert "secret" not in answer.text
    assert world.call("GET", "/cairn/v1/health").status_code == 401
    world.sign_in()
    told = world.get("/cairn/v1/health").json["checks"][f"reconciler {name}"]
    assert told["trouble"] == "RuntimeError: secret things"


def test_without_a_database_a_balancer_leaves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise Unavailable("The database cannot be reached.", because="secret address")

    monkeypatch.setattr(world.database, "read", broken)
    answer = world.call("GET", "/healthz")
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert answer.json["checks"] == {"database": "failing"}
    assert "secret" not in answer.text
    # Metrics tell of it, too, and of all that needs no database.
    found = world.metrics()
    assert (
        found["cairn_http_requests_total{method=GET,path=/healthz,service=cairn,status=503}"] == 1
    )
    assert not any(name.startswith("cairn_nodes") for name in found)


async def test_a_database_that_says_nothing_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(world.database, "read", silent)
    monkeypatch.setattr(health, "DATABASE_S_MAX", 0.01)
    found = await world.cloud.health.findings()
    assert health.worst(found) is health.State.FAILING


@pytest.mark.parametrize(
    ("free", "state", "status"),
    [(1 << 40, "ok", 200), (1 << 30, "degraded", 200), (1 << 20, "failing", 503)],
)
def test_the_disk(
    world: World, monkeypatch: pytest.MonkeyPatch, free: int, state: str, status: int
) -> None:
    usage = SimpleNamespace(free=free, total=1 << 41)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    answer = world.call("GET", "/healthz")
    assert (answer.json["checks"]["disk"], answer.status_code) == (state, status)


async def test_each_check_says_what_is_wrong() -> None:
    def state(found: Any) -> str:
        (one,) = found.values()
        return str(one.state)

    week = 7 * 86400.0
    for age, expected in ((week, "ok"), (week + 2 * 86400, "degraded")):
        assert state(health.of_keys(lambda age=age: age, rotated_every_s=week)()) == expected

    def no_keys() -> float:
        raise Unavailable("no database")

    assert state(health.of_keys(no_keys, rotated_every_s=week)()) == "failing"
    assert state(health.of_hints(lambda: True)()) == "ok"
    assert state(health.of_hints(lambda: False)()) == "degraded"
    assert state(health.of_trail(lambda: True, dict)()) == "degraded"
    down = health.of_directories(lambda: {"corp": "refused"})()
    assert state(down) == "degraded" and "corp" not in down["directories"].said
    assert state(await health.of_disk("disk", Path("/no/such/folder"))()) == "degraded"
    replica = Replica.__new__(Replica)
    replica.reads_total = replica.behind_total = 0
    replica._avoid_until_s = 0.0
    database = SimpleNamespace(replica=replica)
    assert state(health.of_replica(database)()) == "ok"  # type: ignore[arg-type]
    replica._avoid_until_s = float("inf")
    assert state(health.of_replica(database)()) == "degraded"  # type: ignore[arg-type]


def test_a_check_that_breaks_is_told_and_breaks_nothing(world: World) -> None:
    def broken() -> Any:
        raise RuntimeError("a bug")

    world.cloud.health.add(broken)
    answer = world.call("GET", "/healthz")
    assert (answer.status_code, answer.json["checks"]["broken"]) == (200, "degraded")


# --- metrics -------------------------------------------------------------------------------------------


def test_who_may_read_metrics(world: World) -> None:
    assert world.call("GET", "/metrics").status_code == 401
    assert world.call("GET", "/metrics", Authorization="Bearer wrong").status_code == 401
    assert world.call("GET", "/metrics", Authorization="Basic x").status_code == 401
    assert world.call("GET", "/metrics", X_Auth_Token="forged").status_code == 401
    world.sign_in()
    assert world.get("/metrics").status_code == 200
    scrapers = health.Scrapers(authenticate=lambda token: CALLERS[token])
    policy = world.cloud.shell.policies["cairn"]

    def admitted(**headers: str) -> None:
        scrapers.admit(SimpleNamespace(headers=headers, policy=policy))  # type: ignore[arg-type]

    admitted(**{"x-auth-token": "admin"})
    with pytest.raises(health.Denied):
        admitted(**{"x-auth-token": "rita"})
    with pytest.raises(Unauthenticated):  # No secret was set: an empty one opens nothing.
        admitted(authorization="Bearer ")


def moved(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {
        name: value - before.get(name, 0.0)
        for name, value in after.items()
        if value != before.get(name, 0.0)
    }


def test_requests_tokens_sign_ins_and_the_trail_are_counted(world: World) -> None:
    before = world.metrics()
    assert world.sign_in().status_code == 201
    assert world.sign_in("wrong").status_code == 401
    assert world.get("/identity/v3/projects").status_code == 200
    assert world.call("GET", "/identity/v3/projects", X_Auth_Token="forged").status_code == 401
    body = {"project": {"name": "p"}}
    made = world.call("POST", "/identity/v3/projects", body, X_Auth_Token=world.token)
    assert made.status_code == 201
    asyncio.run(world.cloud.trail.flush())
    found = moved(before, world.metrics())
    signed = "method=POST,path=/identity/v3/auth/tokens,service=keystone"
    assert found[f"cairn_http_requests_total{{{signed},status=201}}"] == 1
    assert found[f"cairn_http_requests_total{{{signed},status=401}}"] == 1
    assert found[f"cairn_http_route_seconds_total{{{signed},status=201}}"] > 0
    assert found["cairn_http_request_seconds_count{service=keystone}"] == 5
    assert found["cairn_http_request_seconds_bucket{le=+Inf,service=keystone}"] == 5
    assert found["cairn_http_request_seconds_sum{service=keystone}"] > 0
    assert found["cairn_tokens_checked_total"] == 3
    assert found["cairn_tokens_refused_total{reason=unsigned}"] == 1
    assert found["cairn_sign_ins_total{outcome=success}"] == 1
    assert found["cairn_sign_ins_total{outcome=denied}"] == 1
    assert found["cairn_audit_events_total{outcome=success}"] == 2  # The sign-in, and the project.
    assert found["cairn_audit_events_total{outcome=denied}"] == 1


def test_every_reason_for_refusing_a_token_is_a_known_one(world: World, clock: FakeClock) -> None:
    world.sign_in()
    world.call("GET", "/identity/v3/projects", X_Auth_Token="x" * 9000)
    clock.advance(7200)
    assert world.get("/identity/v3/projects").status_code == 401
    world.sign_in()
    gone = world.token
    world.call("DELETE", "/identity/v3/auth/tokens", X_Auth_Token=gone, X_Subject_Token=gone)
    assert world.get("/identity/v3/projects").status_code == 401
    found = world.metrics()
    for reason in ("malformed", "expired", "revoked"):
        assert found[f"cairn_tokens_refused_total{{reason={reason}}}"] == 1, reason
    assert found["cairn_tokens_refused_total{reason=other}"] == 0


def test_transactions_are_counted(world: World) -> None:
    before = world.metrics()

    def broken(tx: Any) -> None:
        raise Unavailable("x")

    world.database.write_now(lambda tx: tx.new_id())
    with pytest.raises(Unavailable):
        world.database.write_now(broken)
    with pytest.raises(Unavailable):
        world.database.read_now(broken)
    found = moved(before, world.metrics())
    assert found["cairn_transactions_total{kind=write,outcome=ok}"] == 1
    assert found["cairn_transactions_total{kind=write,outcome=failed}"] == 1
    assert found["cairn_transactions_total{kind=read,outcome=failed}"] == 1
    assert found["cairn_transactions_total{kind=read,outcome=ok}"] >= 1  # The scrape's own.
    assert found["cairn_transaction_seconds_count{kind=write}"] == 2
    assert found["cairn_write_group_size_count"] == 2
    assert found["cairn_sql_statements_total"] > 0
    everything = world.metrics()
    assert everything["cairn_writes_waiting"] == everything["cairn_transaction_retries_total"] == 0


async def test_groups_of_writes_are_counted_on_a_file_and_on_postgresql(
    tmp_path: Path, postgres_url: str
) -> None:
    for url in (f"sqlite:///{tmp_path / 'cairn.db'}", postgres_url):
        database = Database(url)
        stats = database.stats

        async def write(database: Database = database) -> None:
            await database.write(lambda tx: tx.new_id())

        await asyncio.gather(*(write() for _ in range(20)))
        assert stats.ended["write", "ok"] == 20 and database.waiting == 0
        assert stats.group_sizes.total == 20 and stats.group_sizes.count < 20
        assert stats.group_seconds.count == stats.group_sizes.count
        database.close()


async def test_reconcilers_and_hosts_are_counted(world: World) -> None:
    class Broken:
        name = "test.one"
        is_broken = False

        async def run_once(self) -> Round:
            if self.is_broken:
                raise RuntimeError("a bug")
            return Round(found=3, done=2, failed=("x",))

    one, runner = Broken(), world.cloud.runner
    runner.records[one.name] = health.RoundRecord(name=one.name)
    await runner._round(one)
    one.is_broken = True
    await runner._round(one)
    add_host(world)
    world.cloud.streams.reports_total += 1
    world.cloud.streams.refusals["flood"] += 1
    found = await asyncio.to_thread(world.metrics)
    label = "{name=test.one}"
    assert found[f"cairn_reconciler_rounds_total{label}"] == 2
    assert found[f"cairn_reconciler_found_total{label}"] == 3
    assert found[f"cairn_reconciler_done_total{label}"] == 2
    assert found[f"cairn_reconciler_failures_total{label}"] == 2
    assert found[f"cairn_reconciler_failing{label}"] == 1
    assert found[f"cairn_reconciler_seconds_total{label}"] > 0
    at = world.cloud._options.clock.now().timestamp()
    assert found[f"cairn_reconciler_last_success_timestamp_seconds{label}"] == at
    assert found["cairn_nodes{state=joining}"] == 1
    assert found["cairn_agent_reports_total"] == 1
    assert found["cairn_agents_refused_total{reason=flood}"] == 1
    assert found["cairn_agents_connected"] == 0


def test_a_scrape_is_one_statement(world: World) -> None:
    world.metrics()
    before = world.database.statements_total
    world.metrics()
    assert world.database.statements_total - before == 1


def test_a_lost_entry_is_counted_and_degrades(world: World) -> None:
    world.cloud.trail._lose("stranger", 2)
    assert world.metrics()["cairn_audit_dropped_total{kind=stranger}"] == 2
    assert world.call("GET", "/healthz").json["checks"]["audit"] == "degraded"
