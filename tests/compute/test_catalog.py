"""Flavors, key pairs, limits, and the cloud as administrators see it."""

from typing import Any

import pytest

from cairn.db.engine import Database
from tests.compute.world import World, at

P = "/compute/v2.1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKXWvzSAJPPJHvxdjhkTyIPyCBKNFEEzT2JxxYCL0Fkp a@b"


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def test_versions_are_found_without_a_token(world: World) -> None:
    found = world.api.get("/compute/", who=None).json["versions"]
    assert [v["id"] for v in found] == ["v2.0", "v2.1"]
    assert (found[1]["min_version"], found[1]["version"]) == ("2.1", "2.96")
    for version in found:
        href = version["links"][0]["href"]
        path = href[href.index("/compute") :]
        document = world.api.get(path, who=None).json["version"]
        assert document["links"][0] == version["links"][0]


def test_reply_names_the_version_in_both_headers(world: World) -> None:
    answer = world.api.get(f"{P}/flavors", headers={"X-OpenStack-Nova-API-Version": "2.61"})
    assert answer.headers["x-openstack-nova-api-version"] == "2.61"
    assert answer.headers["openstack-api-version"] == "compute 2.61"
    assert answer.headers["x-compute-request-id"] == answer.headers["x-openstack-request-id"]


def test_flavor_is_made_listed_given_and_removed(world: World) -> None:
    body = {"name": "m", "ram": 256, "vcpus": 1, "disk": 1, "id": "m"}
    secret = {**body, "name": "p", "id": "p", "os-flavor-access:is_public": False}
    assert world.api.post(f"{P}/flavors", {"flavor": body}).status_code == 403
    assert world.api.post(f"{P}/flavors", {"flavor": body}, who="admin").status_code == 200
    assert world.api.post(f"{P}/flavors", {"flavor": body}, who="admin").status_code == 409
    assert world.api.post(f"{P}/flavors", {"flavor": secret}, who="admin").status_code == 200
    ids = [f["id"] for f in world.api.get(f"{P}/flavors?minRam=200").json["flavors"]]
    assert ids == ["1", "9", "m"]
    assert world.api.get(f"{P}/flavors/p").status_code == 404
    given = world.api.get(f"{P}/flavors/p/os-flavor-access", who="admin").json
    assert given == {"flavor_access": []}
    page = world.api.get(f"{P}/flavors?limit=1").json
    assert "marker=1" in page["flavors_links"][0]["href"]
    assert world.api.get(f"{P}/flavors?marker=nope").status_code == 400
    every = world.api.get(f"{P}/flavors?is_public=None", who="admin").json["flavors"]
    assert [f["id"] for f in every] == ["1", "9", "m", "p"]
    specs = {"extra_specs": {"hw:x": "y"}}
    assert world.api.post(f"{P}/flavors/m/os-extra_specs", specs, who="admin").json == specs
    assert world.api.get(f"{P}/flavors/m", headers=at("2.61")).json["flavor"]["extra_specs"] == {
        "hw:x": "y"
    }
    assert world.api.delete(f"{P}/flavors/m", who="admin").status_code == 202
    assert world.api.get(f"{P}/flavors/m").status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {"ram": 0},
        {"vcpus": 0},
        {"disk": -1},
        {"name": ""},
        {"id": " x"},
        {"x": 1},
        {"name": "n" * 256},
    ],
)
def test_bad_flavors_are_refused(world: World, wrong: dict[str, Any]) -> None:
    body = {"name": "m", "ram": 256, "vcpus": 1, "disk": 1, **wrong}
    assert world.api.post(f"{P}/flavors", {"flavor": body}, who="admin").status_code == 400


def test_key_pair_is_made_imported_and_given_to_guests(world: World) -> None:
    made = world.api.post(f"{P}/os-keypairs", {"keypair": {"name": "a"}}).json["keypair"]
    assert made["private_key"].startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert made["public_key"].startswith("ssh-ed25519 ")
    body = {"keypair": {"name": "b", "public_key": KEY}}
    imported = world.api.post(f"{P}/os-keypairs", body, headers=at("2.2"))
    assert imported.status_code == 201
    assert imported.json["keypair"]["fingerprint"].count(":") == 15
    assert world.api.post(f"{P}/os-keypairs", body).status_code == 409
    bad = {"keypair": {"name": "c", "public_key": "ssh-rsa nonsense"}}
    assert world.api.post(f"{P}/os-keypairs", bad).status_code == 400
    late = {"keypair": {"name": "d"}}
    assert world.api.post(f"{P}/os-keypairs", late, headers=at("2.92")).status_code == 400
    names = [k["keypair"]["name"] for k in world.api.get(f"{P}/os-keypairs").json["keypairs"]]
    assert names == ["a", "b"]
    assert world.api.get(f"{P}/os-keypairs", who="bob").json == {"keypairs": []}
    assert (
        world.api.get(f"{P}/os-keypairs?user_id=alice", who="bob", headers=at("2.10")).status_code
        == 403
    )
    id_ = world.active(key_name="b")
    told = world.spec(id_).metadata
    assert told is not None
    assert (told.key_name, told.public_key) == ("b", KEY)
    assert world.api.delete(f"{P}/os-keypairs/b", headers=at("2.2")).status_code == 204
    assert world.show(id_)["key_name"] == "b"


def test_limits_are_set_shown_and_reset(world: World) -> None:
    path = f"{P}/os-quota-sets/{'a' * 32}"
    assert world.api.get(path).status_code == 403
    changed = world.api.put(path, {"quota_set": {"cores": 5, "instances": "-1"}}, who="admin")
    assert (changed.json["quota_set"]["cores"], changed.json["quota_set"]["instances"]) == (5, -1)
    assert world.api.put(path, {"quota_set": {"cores": -2}}, who="admin").status_code == 400
    assert world.api.put(path, {"quota_set": {"apples": 1}}, who="admin").status_code == 400
    assert world.api.delete(path, who="admin").status_code == 202
    shown = world.api.get(path, who="admin").json["quota_set"]
    assert (shown["cores"], shown["instances"]) == (20, 10)


def test_hosts_are_shown_to_administrators(world: World) -> None:
    world.active()
    assert world.api.get(f"{P}/os-hypervisors").status_code == 403
    (host,) = world.api.get(f"{P}/os-hypervisors/detail", who="admin").json["hypervisors"]
    assert (host["hypervisor_hostname"], host["state"], host["running_vms"]) == ("host0", "up", 1)
    assert host["memory_mb_used"] == 1024
    stats = world.api.get(f"{P}/os-hypervisors/statistics", who="admin").json
    assert stats["hypervisor_statistics"]["vcpus_used"] == 1
    (service,) = world.api.get(f"{P}/os-services", who="admin", headers=at("2.53")).json["services"]
    path = f"{P}/os-services/{service['id']}"
    off = {"status": "disabled", "disabled_reason": "new disk"}
    answer = world.api.put(path, off, who="admin", headers=at("2.53"))
    assert answer.json["service"]["disabled_reason"] == "new disk"
    id_ = world.create().json["server"]["id"]
    world.place()
    assert "host0 is disabled (new disk)" in world.show(id_)["fault"]["message"]
    (zone,) = world.api.get(f"{P}/os-availability-zone").json["availabilityZoneInfo"]
    assert zone["zoneName"] == "nova"
