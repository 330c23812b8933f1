"""The measured cloud, small: that it is right and that its report says what it should; never how fast."""

import random
from collections.abc import Iterator

import msgspec
import pytest
import uvloop

from cairn.core.errors import CloudError
from cairn.core.ids import ImageId, NodeId
from cairn.db.engine import Database
from cairn.placement import service as placement
from cairn.sim.load import prefill, verify
from cairn.sim.load.agents import GuestHere
from cairn.sim.load.client import Timed
from cairn.sim.load.parts import companies
from cairn.sim.load.profiles import PROFILES
from cairn.sim.load.report import Process, Report, limit_of, quantile, requests_of
from cairn.sim.load.run import play
from cairn.sim.load.show import Load
from cairn.sim.load.stage import node_ids_of

HOSTS, SERVERS = 20, 40


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def report(request: pytest.FixtureRequest) -> Report:
    """Every profile, once on each database."""
    is_postgresql = request.param == "postgresql"
    url = request.getfixturevalue("postgres_url") if is_postgresql else ""
    load = Load(
        hosts=HOSTS, servers=SERVERS, seed=3, profiles=tuple(PROFILES), database_url=url,
        burst=30, rate=10.0, seconds=1.0, with_port=is_postgresql, connections=4,
    )  # fmt: skip
    return uvloop.run(play(load, tell=lambda what: None))


def test_everything_that_was_promised_is_kept(report: Report) -> None:
    assert report.wrong == ()
    assert report.checks == verify.CHECKS


def test_every_profile_has_its_phases(report: Report) -> None:
    found = {(p.profile, p.name) for p in report.phases}
    assert found == {
        ("start", "all hosts connect for the first time"),
        ("steady", "idle"),
        ("steady", "read"),
        ("steady", "churn"),
        ("boot-storm", "create"),
        ("boot-storm", "delete"),
        ("reconnect-storm", "after the control plane's restart"),
        ("host-failures", "dark"),
        ("host-failures", "back"),
        ("joining", "hosts join"),
    }


def test_figures_count_what_was_done(report: Report) -> None:
    figures = {p.name: p.figures for p in report.phases}
    assert figures["all hosts connect for the first time"]["hosts"] == HOSTS
    assert figures["idle"]["hosts connected"] == HOSTS
    assert figures["read"]["servers in the cloud"] == SERVERS
    assert figures["read"]["servers a page"] == SERVERS
    assert figures["create"]["servers"] == 30
    assert figures["after the control plane's restart"]["hosts"] == HOSTS
    assert figures["hosts join"]["hosts"] == 2


def test_requests_are_counted_with_their_times(report: Report) -> None:
    (create,) = (p for p in report.phases if p.name == "create")
    created = {r.kind: r for r in create.requests}["create server"]
    assert (created.count, created.failed) == (30, 0)
    assert 0 < created.p50_ms <= created.p99_ms <= created.max_ms


def test_processes_cost_something_and_a_limit_is_named(report: Report) -> None:
    for phase in report.phases:
        processes = {p.name: p for p in phase.processes}
        assert {"control", "agents", "clients"} <= processes.keys()
        assert ("postgresql" in processes) == (report.database == "PostgreSQL")
        assert processes["control"].pss_mib > 0
        assert phase.database_mib > 0
        assert phase.limit


def test_idle_hosts_cost_no_sql(report: Report) -> None:
    (idle,) = (p for p in report.phases if p.name == "idle")
    assert idle.sql_statements == 0


def test_report_is_json(report: Report) -> None:
    data = msgspec.json.encode(report)
    assert msgspec.json.decode(data, type=Report) == report


# --- its parts ---------------------------------------------------------------------------------------


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database("sqlite://", inline=True)
    made.create_all()
    yield made
    made.close()


def test_filled_claims_and_sums_agree(database: Database) -> None:
    from cairn.compute.records import Flavor
    from cairn.core.ids import FlavorId

    nodes = node_ids_of(1, 3)
    prefill.enrol_hosts(
        database, nodes, network_nodes=nodes[:1], key_digest="0" * 64, tell=lambda what: None
    )
    flavor = Flavor(id=FlavorId("f"), name="f", vcpus=2, memory_mib=64, disk_gib=1)
    prefill.add_servers(
        database, nodes, 7, seed=1, flavor=flavor, image_id=ImageId("i"), tell=lambda what: None
    )
    claims = database.read_now(
        lambda tx: [sum(c.amounts.vcpus for c in placement.claims_on(tx, n)) for n in nodes]
    )
    assert claims == [6, 4, 4]
    specs = list(prefill.specs(database, nodes, tell=lambda what: None))
    assert [len(s.guests) for s in specs] == [3, 2, 2]


def test_longer_lists_of_hosts_begin_with_the_shorter_ones() -> None:
    assert node_ids_of(7, 5)[:3] == node_ids_of(7, 3)
    assert node_ids_of(8, 3) != node_ids_of(7, 3)


def test_hosts_are_shared_out_to_as_few_processes_as_can_hold_them() -> None:
    nodes = [NodeId(str(n)) for n in range(10_000)]
    shares = companies(nodes, files_max=20_000)
    assert [len(share) for share in shares] == [5000, 5000]
    assert [n for share in shares for n in share] == nodes


def test_more_hosts_than_open_files_are_refused_with_the_reason() -> None:
    with pytest.raises(CloudError, match="ulimit -Hn"):
        companies([NodeId(str(n)) for n in range(2000)], files_max=1024)


def test_quantile_is_a_value_that_was_measured() -> None:
    values = sorted(random.Random(1).random() for _ in range(1000))
    assert quantile(values, 0.5) == values[499]
    assert quantile(values, 0.99) == values[989]
    assert quantile([], 0.5) == 0.0


def test_answers_above_499_and_none_at_all_are_failures() -> None:
    statuses = (200, 404, 500, 503, 0)
    timed = [Timed(kind="k", status=s, began_s=0.0, took_s=0.1) for s in statuses]
    (found,) = requests_of(timed)
    assert (found.count, found.failed) == (5, 3)


def process(name: str, cores: float, loop: float) -> Process:
    return Process(name=name, cpu_s=cores, cores=cores, loop_cores=loop, rss_mib=1.0, pss_mib=1.0)


def test_limit_names_the_process_that_was_busy() -> None:
    parts = [process("control", 1.1, 0.97), process("agents", 0.2, 0.2)]
    assert '"control": its event loop' in limit_of(parts, machine_cores=1.4, cores=4)


def test_limit_names_the_machine_and_whoever_else_used_it() -> None:
    parts = [process("control", 0.5, 0.5), process("agents", 0.3, 0.3)]
    said = limit_of(parts, machine_cores=2.0, cores=2)
    assert said.startswith("The machine")
    assert "other work on the machine 120%" in said


def test_limit_says_when_everybody_waited() -> None:
    parts = [process("control", 0.4, 0.4)]
    assert limit_of(parts, machine_cores=0.6, cores=2).startswith("Waiting")
    assert limit_of(parts, machine_cores=0.6, cores=2, offered="5 a second").startswith("Nothing")


def test_a_guest_of_no_server_is_seen() -> None:
    guest = GuestHere(id="s", node_id="n", incarnation=1, runs=True)
    assert list(verify._not_as_the_rows({}, [guest])) == [
        "host n holds guest s, which is no server's"
    ]
    assert list(verify._not_as_the_rows({"s"}, [guest, guest])) == ["server s runs 2 times"]
