"""Aggregates and hosts over Nova's API: bodies and statuses as its api-ref says, zones by its rules."""

import re
from typing import Any

import msgspec
import pytest

from cairn.compute import aggregates
from cairn.compute.aggregates import SCOPE, matches
from cairn.compute.records import Flavor
from cairn.core.ids import FlavorId, ImageId
from cairn.db.engine import Database
from cairn.fleet import service as fleet
from cairn.fleet import store as fleet_store
from cairn.wire.report import HealthSeen
from tests.compute.world import World, at

ROOT = "/compute/v2.1/os-aggregates"


class Cloud:
    def __init__(self, database: Database, *, hosts: int = 3) -> None:
        self.world = World(database, hosts=hosts)
        self.database = database
        self.api = self.world.api

    def call(self, method: str, path: str = "", body: Any = None, version: str = "2.96") -> Any:
        return self.api.call(method, ROOT + path, body, who="admin", headers=at(version))

    def make(self, name: str = "fast", zone: str | None = None) -> int:
        wish = {"name": name} | ({"availability_zone": zone} if zone else {})
        answer = self.call("POST", "", {"aggregate": wish})
        assert answer.status_code == 200, answer.text
        return int(answer.json["aggregate"]["id"])

    def act(self, number: int, action: str, **asked: Any) -> Any:
        return self.call("POST", f"/{number}/action", {action: asked})

    def show(self, number: int) -> Any:
        return self.call("GET", f"/{number}").json["aggregate"]

    def zone_of(self, host: str) -> str:
        node = self.database.read_now(lambda tx: fleet_store.nodes_named(tx, host, 1)[0])
        return node.zone


@pytest.fixture
def cloud(database: Database) -> Cloud:
    return Cloud(database)


def test_the_answer_to_a_new_one_has_no_hosts_and_no_metadata(cloud: Cloud) -> None:
    body = {"aggregate": {"name": "fast", "availability_zone": "az1"}}
    made = cloud.call("POST", "", body, "2.41").json["aggregate"]
    assert made.keys() == {
        "availability_zone", "created_at", "deleted", "deleted_at", "id", "name", "updated_at", "uuid",
    }  # fmt: skip
    assert (made["name"], made["availability_zone"], made["updated_at"]) == ("fast", "az1", None)
    shown = cloud.show(made["id"])
    assert shown["metadata"] == {"availability_zone": "az1"}
    assert shown["hosts"] == []


def test_the_uuid_is_told_since_2_41(cloud: Cloud) -> None:
    number = cloud.make()
    assert "uuid" not in cloud.call("GET", f"/{number}", None, "2.40").json["aggregate"]
    assert len(cloud.call("GET", f"/{number}", None, "2.41").json["aggregate"]["uuid"]) == 36


def test_a_life_of_an_aggregate(cloud: Cloud) -> None:
    number = cloud.make()
    assert cloud.act(number, "add_host", host="host1").json["aggregate"]["hosts"] == ["host1"]
    changed = cloud.call("PUT", f"/{number}", {"aggregate": {"name": "faster"}})
    assert changed.json["aggregate"]["name"] == "faster"
    assert changed.json["aggregate"]["updated_at"] is not None
    cloud.act(number, "set_metadata", metadata={"ssd": "true", "gone": "soon"})
    told = cloud.act(number, "set_metadata", metadata={"gone": None}).json["aggregate"]
    assert told["metadata"] == {"ssd": "true"}
    assert [a["name"] for a in cloud.call("GET").json["aggregates"]] == ["faster"]
    assert cloud.call("DELETE", f"/{number}").status_code == 400
    assert cloud.act(number, "remove_host", host="host1").json["aggregate"]["hosts"] == []
    assert cloud.call("DELETE", f"/{number}").status_code == 200
    assert cloud.call("GET", f"/{number}").status_code == 404


def test_refusals_have_novas_statuses(cloud: Cloud) -> None:
    number = cloud.make()
    cloud.make("other")
    cloud.act(number, "add_host", host="host1")
    assert cloud.call("POST", "", {"aggregate": {"name": "fast"}}).status_code == 409
    rename = {"aggregate": {"name": "other"}}
    assert cloud.call("PUT", f"/{number}", rename).status_code == 409
    assert cloud.call("PUT", f"/{number}", {"aggregate": {}}).status_code == 400
    assert cloud.act(number, "add_host", host="host1").status_code == 409
    assert cloud.act(number, "add_host", host="nobody").status_code == 404
    assert cloud.act(number, "remove_host", host="host2").status_code == 404
    assert cloud.act(99, "add_host", host="host1").status_code == 404
    assert cloud.call("GET", "/nonsense").status_code == 404
    assert cloud.act(number, "add_host", name="host1").status_code == 400
    assert cloud.call("POST", f"/{number}/action", {}).status_code == 400
    both = {"add_host": {"host": "host2"}, "remove_host": {"host": "host1"}}
    assert cloud.call("POST", f"/{number}/action", both).status_code == 400
    bad_key = cloud.act(number, "set_metadata", metadata={"a/b": "c"})
    assert bad_key.status_code == 400
    assert "'a/b'" in bad_key.text
    for zone in ("a:b", "", " "):
        wish = {"aggregate": {"name": "n", "availability_zone": zone}}
        assert cloud.call("POST", "", wish).status_code == 400, zone


def test_only_administrators_may(cloud: Cloud) -> None:
    number = cloud.make()
    for method, path, body in (
        ("GET", "", None),
        ("POST", "", {"aggregate": {"name": "n"}}),
        ("POST", f"/{number}/action", {"add_host": {"host": "host0"}}),
    ):
        assert cloud.api.call(method, ROOT + path, body, who="alice").status_code == 403


# --- zones -------------------------------------------------------------------------------------------


def test_its_zone_is_the_zone_of_its_hosts(cloud: Cloud) -> None:
    number = cloud.make(zone="az1")
    cloud.act(number, "add_host", host="host1")
    assert cloud.zone_of("host1") == "az1"
    zones = cloud.api.get("/compute/v2.1/os-availability-zone/detail", who="admin").json
    listed = {z["zoneName"]: sorted(z["hosts"]) for z in zones["availabilityZoneInfo"]}
    assert listed == {"az1": ["host1"], "nova": ["host0", "host2"]}
    cloud.call("PUT", f"/{number}", {"aggregate": {"availability_zone": "az2"}})
    assert cloud.zone_of("host1") == "az2"
    cloud.act(number, "set_metadata", metadata={"availability_zone": None})
    assert cloud.zone_of("host1") == "nova"
    cloud.act(number, "set_metadata", metadata={"availability_zone": "az3"})
    assert cloud.zone_of("host1") == "az3"
    cloud.act(number, "remove_host", host="host1")
    assert cloud.zone_of("host1") == "nova"


def test_a_host_is_in_one_zone(cloud: Cloud) -> None:
    first, second, plain = cloud.make("a", "az1"), cloud.make("b", "az2"), cloud.make("c")
    cloud.act(first, "add_host", host="host1")
    answer = cloud.act(second, "add_host", host="host1")
    assert answer.status_code == 409
    assert "already in availability zone(s) ['az1']" in answer.text
    assert cloud.act(plain, "add_host", host="host1").status_code == 200
    answer = cloud.act(plain, "set_metadata", metadata={"availability_zone": "az2"})
    assert answer.status_code == 400
    assert cloud.zone_of("host1") == "az1"
    same = cloud.make("d", "az1")
    assert cloud.act(same, "add_host", host="host1").status_code == 200
    cloud.act(first, "remove_host", host="host1")
    assert cloud.zone_of("host1") == "az1", "another aggregate says so still"


def test_a_host_with_guests_stays_in_its_zone(cloud: Cloud) -> None:
    server = cloud.world.active()
    host = cloud.world.show(server, who="admin")["OS-EXT-SRV-ATTR:host"]
    number = cloud.make(zone="az1")
    answer = cloud.act(number, "add_host", host=host)
    assert answer.status_code == 409
    assert "1 server" in answer.text
    assert cloud.show(number)["hosts"] == []
    assert cloud.zone_of(host) == "nova"
    plain = cloud.make("plain")
    assert cloud.act(plain, "add_host", host=host).status_code == 200
    assert cloud.act(plain, "remove_host", host=host).status_code == 200


def test_servers_go_to_the_zone_of_an_aggregate(cloud: Cloud) -> None:
    number = cloud.make(zone="az1")
    cloud.act(number, "add_host", host="host2")
    made = cloud.world.create(availability_zone="az1", networks="none", version="2.37").json
    cloud.world.settle()
    shown = cloud.world.show(made["server"]["id"], who="admin")
    assert shown["OS-EXT-SRV-ATTR:host"] == "host2"
    assert shown["OS-EXT-AZ:availability_zone"] == "az1"


# --- flavors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wish", "is_match"),
    [
        ("true", "true", True),
        ("true", "false", False),
        ("", "", True),
        ("4", ">= 4", True),
        ("3", ">= 4", False),
        ("5", "= 4", True),
        ("5", "== 4", False),
        ("5", "!= 4", True),
        ("5", "<= 4", False),
        ("many", ">= 4", False),
        ("a100", "s== a100", True),
        ("a100", "s!= a100", False),
        ("b", "s> a", True),
        ("a", "s<= a", True),
        ("a,b", "<in> b", True),
        ("a", "<in> b", False),
        ("sse avx", "<all-in> sse avx", True),
        ("sse", "<all-in> sse avx", False),
        ("red", "<or> blue <or> red", True),
        ("green", "<or> blue <or> red", False),
        ("4", ">=", False),
    ],
)
def test_what_a_flavor_asks_for_is_compared_as_nova_does(
    value: str, wish: str, is_match: bool
) -> None:
    assert matches(value, wish) is is_match


def flavor(**specs: str) -> Flavor:
    scoped = {f"{SCOPE}{key}": value for key, value in specs.items()}
    return Flavor(
        id=FlavorId("f"), name="f", vcpus=1, memory_mib=1, disk_gib=1,
        extra_specs={"hw:cpu_policy": "shared", **scoped},
    )  # fmt: skip


def eligible(cloud: Cloud, wanted: Flavor) -> list[str] | None:
    found = cloud.database.read_now(lambda tx: aggregates.eligible_nodes(tx, wanted))
    return None if found is None else sorted(found)


def test_hosts_are_eligible_by_the_metadata_of_their_aggregates(cloud: Cloud) -> None:
    ssd, gpu = cloud.make("ssd"), cloud.make("gpu")
    cloud.act(ssd, "set_metadata", metadata={"ssd": "true", "level": "3"})
    cloud.act(gpu, "set_metadata", metadata={"gpu": "a100"})
    for number, hosts in ((ssd, ("host0", "host1")), (gpu, ("host1", "host2"))):
        for host in hosts:
            cloud.act(number, "add_host", host=host)
    assert eligible(cloud, flavor()) is None
    assert eligible(cloud, flavor(ssd="true")) == ["host0-id", "host1-id"]
    assert eligible(cloud, flavor(ssd="true", gpu="<in> a1")) == ["host1-id"]
    assert eligible(cloud, flavor(level=">= 4")) == []
    assert eligible(cloud, flavor(unknown="x")) == []


def test_a_server_goes_where_its_flavor_asks_or_says_why_not(cloud: Cloud) -> None:
    for path, body in (
        ("", {"flavor": {"name": "ssd", "id": "7", "ram": 512, "vcpus": 1, "disk": 2}}),
        ("/7/os-extra_specs", {"extra_specs": {f"{SCOPE}ssd": "true"}}),
    ):
        made = cloud.api.post(f"/compute/v2.1/flavors{path}", body, who="admin")
        assert made.status_code == 200, made.text
    refused = cloud.world.create(flavorRef="7").json["server"]["id"]
    cloud.world.settle()
    shown = cloud.world.show(refused)
    assert shown["status"] == "ERROR"
    assert "aggregate_instance_extra_specs" in shown["fault"]["message"]
    number = cloud.make("ssd")
    cloud.act(number, "set_metadata", metadata={"ssd": "true"})
    cloud.act(number, "add_host", host="host2")
    placed = cloud.world.active(flavorRef="7")
    assert cloud.world.show(placed, who="admin")["OS-EXT-SRV-ATTR:host"] == "host2"


# --- images ------------------------------------------------------------------------------------------


def test_images_are_fetched_beforehand_since_2_81(cloud: Cloud) -> None:
    number, image_id = cloud.make(), cloud.world.image_id
    cloud.act(number, "add_host", host="host1")
    body = {"cache": [{"id": image_id}]}
    assert cloud.call("POST", f"/{number}/images", body, "2.80").status_code == 404
    before = cloud.database.read_now(lambda tx: fleet.node(tx, cloud.world.hosts[1].id))
    assert cloud.call("POST", f"/{number}/images", body).status_code == 202
    after = cloud.database.read_now(lambda tx: fleet.node(tx, cloud.world.hosts[1].id))
    assert after.wanted_images == (ImageId(image_id),)
    assert after.spec_number > before.spec_number
    assert cloud.call("POST", f"/{number}/images", body).status_code == 202
    again = cloud.database.read_now(lambda tx: fleet.node(tx, cloud.world.hosts[1].id))
    assert again.spec_number == after.spec_number, "what is wanted already is no change"
    twice = {"cache": [{"id": image_id}] * 2}
    assert cloud.call("POST", f"/{number}/images", twice).status_code == 400
    unknown = {"cache": [{"id": "00000000-0000-4000-8000-00000000dead"}]}
    assert cloud.call("POST", f"/{number}/images", unknown).status_code == 400
    assert cloud.call("POST", f"/{number}/images", {"cache": []}).status_code == 400


# --- hypervisors -------------------------------------------------------------------------------------


def hypervisors(cloud: Cloud, path: str = "", version: str = "2.96") -> Any:
    return cloud.api.get(f"/compute/v2.1/os-hypervisors{path}", who="admin", headers=at(version))


def test_hypervisors_are_paged_since_2_33(cloud: Cloud) -> None:
    first = hypervisors(cloud, "?limit=2").json
    assert [h["hypervisor_hostname"] for h in first["hypervisors"]] == ["host0", "host1"]
    (link,) = first["hypervisors_links"]
    rest = hypervisors(cloud, "?" + link["href"].partition("?")[2]).json
    assert [h["hypervisor_hostname"] for h in rest["hypervisors"]] == ["host2"]
    assert "hypervisors_links" not in rest
    assert len(hypervisors(cloud, "?limit=2", "2.32").json["hypervisors"]) == 3
    assert hypervisors(cloud, "?marker=nobody").status_code == 400
    assert hypervisors(cloud, "?limit=1&hypervisor_hostname_pattern=h").status_code == 400


def test_hypervisors_are_searched_by_path_until_2_52(cloud: Cloud) -> None:
    found = hypervisors(cloud, "/ost1/search", "2.52").json["hypervisors"]
    assert [h["hypervisor_hostname"] for h in found] == ["host1"]
    assert hypervisors(cloud, "/nobody/search", "2.52").status_code == 404
    assert hypervisors(cloud, "/ost1/search", "2.53").status_code == 404
    server = cloud.world.active()
    listed = hypervisors(cloud, "/host/servers", "2.1").json["hypervisors"]
    assert [s["uuid"] for h in listed for s in h.get("servers", ())] == [server]


def test_uptime_is_its_own_page_until_2_87_and_then_part_of_the_host(cloud: Cloud) -> None:
    host = cloud.world.hosts[0]
    assert hypervisors(cloud, f"/{host.id}/uptime", "2.87").status_code == 400
    now = cloud.database.read_now(lambda tx: tx.now)
    seen = (
        HealthSeen(name="boot", level="ok", found="up since 2020-01-01T00:00:00Z, more"),
        HealthSeen(name="pressure", level="ok", found="load 0.10 0.20 0.30 on 2 CPUs, more"),
    )
    node = cloud.database.read_now(lambda tx: fleet.node(tx, host.id))
    cloud.database.write_now(
        lambda tx: tx.execute(
            fleet_store.nodes.update().where(fleet_store.nodes.c.id == node.id).values(health=seen)
        )
    )
    days = (now - now.replace(year=2020, month=1, day=1, hour=0, minute=0, second=0)).days
    told = hypervisors(cloud, f"/{host.id}/uptime", "2.87").json["hypervisor"]
    # The regular expression by which python-openstackclient takes it apart.
    form = r"\s*(.+)\sup\s+(.+),\s+(.+)\susers?,\s+load average:\s(.+)"
    found = re.fullmatch(form, told["uptime"])
    assert found is not None
    assert found[2].startswith(f"{days} days")
    assert found[4] == "0.10, 0.20, 0.30"
    assert hypervisors(cloud, f"/{host.id}/uptime", "2.88").status_code == 404
    assert hypervisors(cloud, f"/{host.id}").json["hypervisor"]["uptime"] == told["uptime"]


def test_a_removed_host_does_not_hold_an_aggregate(cloud: Cloud) -> None:
    number = cloud.make()
    cloud.act(number, "add_host", host="host1")
    host_id = cloud.world.hosts[1].id
    cloud.database.write_now(lambda tx: aggregates.forget_host(tx, host_id))
    assert cloud.show(number)["hosts"] == []
    assert cloud.call("DELETE", f"/{number}").status_code == 200


def test_the_answer_is_what_the_api_reference_lists(cloud: Cloud) -> None:
    shown = cloud.show(cloud.make())
    assert msgspec.json.encode(shown)  # nothing but JSON's own types
    assert shown.keys() == {
        "availability_zone", "created_at", "deleted", "deleted_at", "hosts", "id", "metadata", "name",
        "updated_at", "uuid",
    }  # fmt: skip


# --- services ----------------------------------------------------------------------------------------


def service_of(cloud: Cloud, host: str) -> Any:
    listed = cloud.api.get("/compute/v2.1/os-services", who="admin", headers=at("2.96")).json
    return next(s for s in listed["services"] if s["host"] == host)


def change_service(cloud: Cloud, key: str, version: str = "2.96", **asked: Any) -> Any:
    path = f"/compute/v2.1/os-services/{key}"
    return cloud.api.put(path, asked, who="admin", headers=at(version))


def test_a_host_that_is_heard_of_cannot_be_forced_down(cloud: Cloud) -> None:
    host = cloud.world.hosts[1]
    answer = change_service(cloud, host.id, forced_down=True)
    assert answer.status_code == 409
    assert "heard of" in answer.text
    assert service_of(cloud, "host1")["forced_down"] is False


def test_forcing_down_is_fencing_by_hand(cloud: Cloud) -> None:
    host = cloud.world.hosts[1]
    cloud.database.write_now(lambda tx: fleet.silent(tx, host.id))
    changed = change_service(cloud, host.id, forced_down=True)
    assert changed.status_code == 200, changed.text
    assert changed.json["service"]["forced_down"] is True
    node = cloud.database.read_now(lambda tx: fleet.node(tx, host.id))
    assert node.state == "fenced"
    assert change_service(cloud, host.id, forced_down=True).status_code == 200
    back = change_service(cloud, host.id, forced_down=False)
    assert back.status_code == 409
    assert "as soon as its agent connects" in back.text
    cloud.database.write_now(lambda tx: fleet.connected(tx, host.id))
    assert change_service(cloud, host.id, forced_down=False).status_code == 200
    assert service_of(cloud, "host1")["forced_down"] is False


def test_forcing_down_by_name_since_2_11(cloud: Cloud) -> None:
    asked = {"host": "host1", "binary": "nova-compute", "forced_down": True}
    assert change_service(cloud, "force-down", "2.10", **asked).status_code == 404
    cloud.database.write_now(lambda tx: fleet.silent(tx, cloud.world.hosts[1].id))
    changed = change_service(cloud, "force-down", "2.11", **asked)
    assert changed.json == {"service": asked}
    del asked["forced_down"]
    assert change_service(cloud, "force-down", "2.11", **asked).status_code == 400
    assert change_service(cloud, "enable", "2.11", **asked, forced_down=True).status_code == 400


def test_a_change_of_a_service_must_say_something(cloud: Cloud) -> None:
    host = cloud.world.hosts[1]
    assert change_service(cloud, host.id).status_code == 400
    assert change_service(cloud, host.id, disabled_reason="r").status_code == 400
    assert change_service(cloud, host.id, forced_down="perhaps").status_code == 400
    both = change_service(cloud, host.id, status="disabled", disabled_reason="r")
    assert both.json["service"]["disabled_reason"] == "r"
