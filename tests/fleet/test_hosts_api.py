"""Hosts in the operator's API: found, explained, changed, refused with the reason."""

from typing import Any

import msgspec
import pytest
from tests.callers import Api
from tests.compute.world import World

from cairn import operator
from cairn.compute import aggregates
from cairn.core.ids import NodeId
from cairn.db.engine import Database, Tx
from cairn.fleet import api_hosts, explain, service, store
from cairn.fleet.records import NO_LOAD, Node, NodeState
from cairn.wire.report import HealthSeen

DISK = HealthSeen(
    name="disk sda", level="critical", found="it says that it fails", meaning="Replace it."
)


class Hosts:
    """A cloud of compute's tests with the operator's routes over it."""

    def __init__(self, database: Database, *, hosts: int = 2) -> None:
        self.world = World(database, hosts=hosts)
        self.heard: dict[str, float] = {host.id: 2.0 for host in self.world.hosts}
        routes = api_hosts.routes(loads=aggregates.loads, last_heard=self.heard.get)
        self.api = Api(database, operator.service([(routes, api_hosts.POLICY)]))
        self.database = database

    def list(self, query: str = "") -> list[str]:
        return [h["name"] for h in self.page(query)["hosts"]]

    def page(self, query: str = "") -> Any:
        answer = self.api.get(f"/cairn/v1/hosts{query}", who="admin")
        assert answer.status_code == 200, answer.text
        return answer.json

    def show(self, name: str) -> Any:
        answer = self.api.get(f"/cairn/v1/hosts/{name}", who="admin")
        assert answer.status_code == 200, answer.text
        return answer.json["host"]

    def change(self, name: str, **changes: Any) -> Any:
        return self.api.patch(f"/cairn/v1/hosts/{name}", {"host": changes}, who="admin")

    def refusal(self, name: str, **changes: Any) -> tuple[int, str]:
        answer = self.change(name, **changes)
        return answer.status_code, answer.json["error"]["message"]

    def node(self, name: str) -> Node:
        return self.database.read_now(lambda tx: store.nodes_named(tx, name, 1)[0])


@pytest.fixture
def hosts(database: Database) -> Hosts:
    return Hosts(database)


def test_a_host_is_found_by_name_and_by_id(hosts: Hosts) -> None:
    assert hosts.show("host0")["id"] == "host0-id"
    assert hosts.show("host0-id")["name"] == "host0"


def test_an_unknown_name_is_404_and_says_which(hosts: Hosts) -> None:
    answer = hosts.api.get("/cairn/v1/hosts/nobody", who="admin")
    assert answer.status_code == 404
    assert "'nobody'" in answer.json["error"]["message"]


def test_a_name_that_two_bear_is_409_and_names_both(hosts: Hosts) -> None:
    def twin(tx: Tx) -> None:
        service.enrol(tx, NodeId("twin"), hostname="host0", zone="nova", roles=("compute",))

    hosts.database.write_now(twin)
    answer = hosts.api.get("/cairn/v1/hosts/host0", who="admin")
    assert answer.status_code == 409
    assert "host0-id, twin" in answer.json["error"]["message"]
    assert hosts.show("twin")["state"] == "joining"


def test_only_administrators_see_hosts(hosts: Hosts) -> None:
    assert hosts.api.get("/cairn/v1/hosts", who="alice").status_code == 403
    assert hosts.api.get("/cairn/v1/hosts", who=None).status_code == 401


def test_the_list_is_sieved_and_paged(hosts: Hosts) -> None:
    hosts.change("host1", labels={"gpu": "a100"}, rack="r7")
    assert hosts.list() == ["host0", "host1"]
    assert hosts.list("?label=gpu=a100") == ["host1"]
    assert hosts.list("?label=gpu=h100") == []
    assert hosts.list("?rack=r7&role=storage&zone=nova&state=up") == ["host1"]
    assert hosts.list("?role=power") == []
    first = hosts.page("?limit=1")
    assert [h["name"] for h in first["hosts"]] == ["host0"]
    assert hosts.list("?" + first["next"].partition("?")[2]) == ["host1"]
    assert hosts.api.get("/cairn/v1/hosts?state=odd", who="admin").status_code == 400
    assert hosts.api.get("/cairn/v1/hosts?label=odd", who="admin").status_code == 400


def test_a_sieved_page_goes_on_where_it_ended(database: Database) -> None:
    hosts = Hosts(database, hosts=5)
    for name in ("host1", "host3", "host4"):
        hosts.change(name, rack="r1")
    first = hosts.page("?rack=r1&limit=2")
    assert [h["name"] for h in first["hosts"]] == ["host1", "host3"]
    assert hosts.list("?" + first["next"].partition("?")[2]) == ["host4"]


def test_what_a_host_carries_is_counted(hosts: Hosts) -> None:
    hosts.world.active()
    shown = {h["name"]: h["load"] for h in hosts.page()["hosts"]}
    assert [shown["host0"]["servers"], shown["host1"]["servers"]] in ([1, 0], [0, 1])
    assert shown["host0"]["vcpus"] == 64
    assert sum(load["memory_mib_taken"] for load in shown.values()) == 512


def test_labels_are_merged_and_taken_away(hosts: Hosts) -> None:
    hosts.change("host0", labels={"gpu": "a100", "owner": "lab"})
    shown = hosts.change("host0", labels={"gpu": None, "floor": "2"}).json["host"]
    assert shown["labels"] == {"floor": "2", "owner": "lab"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"zone": "a b"}, "zone"),
        ({"zone": "nova:host0"}, "zone"),
        ({"rack": "x" * 64}, "rack"),
        ({"roles": ["compute", "cook"]}, "'cook'"),
        ({"roles": []}, "cairn host remove"),
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {"k": "x\n"}}, "'k'"),
        ({"labels": {f"k{i}": "x" for i in range(65)}}, "at most 64"),
        ({"power": {"driver": "", "address": "a"}}, "power"),
        ({"disabled_reason": "why"}, "disabled_reason"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_what_is_wrong_is_400_and_named(hosts: Hosts, changes: dict[str, Any], named: str) -> None:
    before = hosts.show("host0")
    status, message = hosts.refusal("host0", **changes)
    assert status == 400
    assert named in message
    assert hosts.show("host0") == before


def test_a_password_goes_in_and_never_out(hosts: Hosts) -> None:
    power = {"driver": "fake", "address": "bmc0", "user": "root", "password": "s3cret"}
    answer = hosts.change("host0", power=power)
    assert answer.status_code == 200
    assert answer.json["host"]["power"] == {"driver": "fake", "address": "bmc0", "user": "root"}
    del power["password"]
    assert "s3cret" not in hosts.change("host0", power=power).text
    kept = hosts.node("host0").power
    assert kept is not None
    assert kept.password == "s3cret"
    hosts.change("host0", power={**power, "address": "bmc9"})
    moved = hosts.node("host0").power
    assert moved is not None
    assert moved.password == "", (
        "a password is sent to no other address than the one it was given for"
    )
    assert hosts.change("host0", power=None).json["host"]["power"] is None


def test_an_empty_host_moves_to_another_zone_and_both_are_told(hosts: Hosts) -> None:
    before = {name: hosts.node(name).spec_number for name in ("host0", "host1")}
    assert hosts.change("host1", zone="z2").json["host"]["zone"] == "z2"
    assert hosts.node("host0").spec_number > before["host0"], "it writes the old zone's network"
    assert hosts.node("host1").spec_number > before["host1"]


def test_the_zone_of_a_host_with_guests_stays(hosts: Hosts) -> None:
    server = hosts.world.active()
    name = hosts.world.show(server, who="admin")["OS-EXT-SRV-ATTR:host"]
    status, message = hosts.refusal(name, zone="z2")
    assert status == 409
    assert "1 server" in message
    assert f"cairn host drain {name}" in message
    assert hosts.show(name)["zone"] == "nova"


def test_the_last_writer_of_a_network_stays(hosts: Hosts) -> None:
    assert hosts.change("host1", roles=["compute"]).status_code == 200
    status, message = hosts.refusal("host0", roles=["compute", "storage"])
    assert status == 409
    assert "only one that writes the network of zone nova" in message
    status, message = hosts.refusal("host0", zone="z2")
    assert status == 409
    assert "1 other host and 1 network" in message


def test_changed_roles_are_sent_to_the_host(hosts: Hosts) -> None:
    before = hosts.node("host1").spec_number
    shown = hosts.change("host1", roles=["network", "compute"]).json["host"]
    assert shown["roles"] == ["compute", "network"]
    assert hosts.node("host1").spec_number > before
    assert hosts.change("host1", roles=["compute", "network"]).status_code == 200
    assert hosts.node("host1").spec_number == shown["spec_number"], (
        "nothing changed: nobody is told"
    )


def test_enrolment_leaves_what_an_operator_set(hosts: Hosts) -> None:
    hosts.change("host1", zone="z2", roles=["compute"])
    every = ("compute", "network", "storage")
    hosts.database.write_now(
        lambda tx: service.enrol(tx, NodeId("host1-id"), hostname="new", zone="nova", roles=every)
    )
    shown = hosts.show("host1-id")
    assert (shown["name"], shown["zone"], shown["roles"]) == ("new", "z2", ["compute"])


def test_a_host_that_is_not_enabled_says_why(hosts: Hosts) -> None:
    hosts.change("host0", enabled=False, disabled_reason="new memory")
    explained = hosts.show("host0")["explained"]
    assert explained["obstacles"] == ["it is disabled (new memory)"]
    assert "openstack compute service set --enable host0" in explained["advice"][0]
    hosts.change("host0", enabled=True)
    assert hosts.show("host0")["explained"]["obstacles"] == []


def test_roles_say_where_they_come_from(hosts: Hosts) -> None:
    def first(tx: Tx) -> None:
        service.enrol(
            tx,
            NodeId("a"),
            hostname="a",
            zone="nova",
            roles=("compute",),
            origin="first host",
        )
        service.enrol(
            tx, NodeId("b"), hostname="b", zone="nova", roles=("compute",), origin="token rack-3"
        )

    hosts.database.write_now(first)
    hosts.change("host1", roles=["compute"])
    why = {n: hosts.show(n)["explained"]["roles"][0]["why"] for n in ("a", "b", "host0", "host1")}
    assert "installed here" in why["a"]
    assert "token rack-3" in why["b"]
    assert why["host0"] == "it was enrolled so"
    assert "operator" in why["host1"]
    assert "has not reported" in hosts.show("a")["explained"]["roles"][0]["found"]
    assert "tcg" in hosts.show("host0")["explained"]["roles"][0]["found"]


def test_health_is_the_worst_that_was_found(hosts: Hosts) -> None:
    node = hosts.node("host0")
    sick = _with(node, health=(DISK,))
    found = explain.health(sick, 2.0)
    assert [h.name for h in found] == ["heartbeat", "disk sda"]
    assert found[0].level == "ok"
    assert "2 s ago" in found[0].found
    assert explain.level(found) == "critical"
    assert explain.advice(sick, found) == ["disk sda: Replace it."]


@pytest.mark.parametrize("state", NodeState)
def test_every_state_has_a_meaning_and_a_next_step(hosts: Hosts, state: NodeState) -> None:
    node = _with(hosts.node("host0"), state=state)
    found = explain.health(node, None)
    assert explain.meaning(node)
    assert bool(explain.advice(node, found)) == (state is not NodeState.UP)
    assert (found[0].level == "ok") == (state is NodeState.UP)
    is_candidate = not [o for o in explain.obstacles(node, NO_LOAD) if "promised" not in o]
    assert is_candidate == (state is NodeState.UP)


def test_a_list_costs_the_same_number_of_statements_for_any_number_of_hosts(
    database: Database,
) -> None:
    hosts = Hosts(database, hosts=2)
    hosts.page()
    before = database.statements_total
    hosts.page()
    few = database.statements_total - before
    for number in range(2, 12):
        hosts.world.hosts.append(hosts.world.add_host(f"host{number}"))
    before = database.statements_total
    assert len(hosts.page()["hosts"]) == 12
    assert database.statements_total - before == few


def _with(node: Node, **changes: Any) -> Node:
    return msgspec.structs.replace(node, **changes)
