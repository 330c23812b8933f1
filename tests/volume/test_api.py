"""Block Storage v3 as clients see it: paths, status codes, and shapes that are closed by version."""

from functools import partial
from typing import Any

import pytest

from cairn.core.ids import ServerId, VolumeId
from cairn.db.engine import Database
from cairn.volume import service
from cairn.volume.api import SERVICE
from cairn.volume.control import place_one
from tests.callers import P1, P2, Api
from tests.volume.hosts import Host, host

SERVER = ServerId("5e77e700-0000-4000-8000-000000000001")
UNKNOWN = "00000000-0000-4000-8000-00000000dead"
BASE = {
    "id", "name", "links", "status", "size", "availability_zone", "created_at", "updated_at",
    "attachments", "description", "volume_type", "snapshot_id", "source_volid", "metadata",
    "user_id", "bootable", "encrypted", "replication_status", "consistencygroup_id", "multiattach",
}  # fmt: skip
SNAPSHOT = {
    "id", "name", "description", "volume_id", "status", "size", "created_at", "updated_at",
    "metadata",
}  # fmt: skip


class Cloud:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.api = Api(database, SERVICE)
        self.host: Host = host(database)

    def create(self, **fields: Any) -> dict[str, Any]:
        fields.setdefault("size", 1)
        answer = self.api.post("/volume/v3/volumes", {"volume": fields})
        assert answer.status_code == 202, answer.text
        made: dict[str, Any] = answer.json["volume"]
        return made

    def obey(self) -> None:
        """Place what waits and let the host make it."""
        for volume in self.api.get("/volume/v3/volumes").json["volumes"]:
            volume_id = VolumeId(volume["id"])
            self.database.write_now(partial(place_one, volume_id=volume_id))
        self.host.obey()

    def available(self, **fields: Any) -> str:
        volume_id: str = self.create(**fields)["id"]
        self.obey()
        return volume_id

    def show(self, volume_id: str, **options: Any) -> dict[str, Any]:
        shown: dict[str, Any] = self.api.get(f"/volume/v3/volumes/{volume_id}", **options).json
        return shown["volume"]  # type: ignore[no-any-return]

    def act(self, volume_id: str, action: str, body: Any = None, **options: Any) -> Any:
        path = f"/volume/v3/volumes/{volume_id}/action"
        return self.api.post(path, {action: body}, **options)


@pytest.fixture
def cloud(sqlite: Database) -> Cloud:
    return Cloud(sqlite)


def at(minor: int) -> dict[str, str]:
    return {"OpenStack-API-Version": f"volume 3.{minor}"}


# --- discovery and paths -------------------------------------------------------------------------------


def test_discovery(cloud: Cloud) -> None:
    root = cloud.api.get("/volume/", who=None)
    assert root.status_code == 300
    (version,) = root.json["versions"]
    assert (version["id"], version["min_version"], version["version"]) == ("v3.0", "3.0", "3.70")
    own = cloud.api.get("/volume/v3/", who=None)
    assert own.status_code == 200
    assert own.json == root.json


def test_paths_with_and_without_project(cloud: Cloud) -> None:
    volume_id = cloud.create()["id"]
    for prefix in ("/volume/v3", f"/volume/v3/{P1}"):
        assert cloud.api.get(f"{prefix}/volumes/{volume_id}").status_code == 200
        assert len(cloud.api.get(f"{prefix}/volumes/detail").json["volumes"]) == 1
    assert cloud.api.get(f"/volume/v3/{P2}/volumes").status_code == 400
    assert cloud.api.get(f"/volume/v3/{P2}/volumes", who="admin").status_code == 400


def test_version_is_answered(cloud: Cloud) -> None:
    answer = cloud.api.get("/volume/v3/volumes", headers=at(27))
    assert answer.headers["openstack-api-version"] == "volume 3.27"
    assert cloud.api.get("/volume/v3/volumes", headers=at(99)).status_code == 406
    assert cloud.api.get("/volume/v3/attachments", headers=at(26)).status_code == 404
    assert cloud.api.get("/volume/v3/attachments", headers=at(27)).status_code == 200


# --- shapes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minor", "more"),
    [
        (0, set()),
        (13, {"group_id"}),
        (48, {"group_id", "service_uuid", "shared_targets"}),
        (63, {"group_id", "service_uuid", "shared_targets", "volume_type_id"}),
        (70, {"group_id", "service_uuid", "shared_targets", "volume_type_id", "consumes_quota"}),
    ],
)
def test_volume_has_the_keys_of_its_version(cloud: Cloud, minor: int, more: set[str]) -> None:
    answer = cloud.api.post("/volume/v3/volumes", {"volume": {"size": 1}}, headers=at(minor))
    assert set(answer.json["volume"]) == BASE | more
    shown = cloud.show(answer.json["volume"]["id"], headers=at(minor))
    assert set(shown) == BASE | more | {"os-vol-tenant-attr:tenant_id"}
    for_admin = cloud.show(answer.json["volume"]["id"], headers=at(minor), who="admin")
    extra = {"os-vol-host-attr:host", "os-vol-mig-status-attr:migstat", "migration_status"}
    extra |= {"os-vol-mig-status-attr:name_id"}
    extra |= {"provider_id"} if minor >= 21 else set()
    extra |= {"cluster_name"} if minor >= 61 else set()
    assert set(for_admin) == set(shown) | extra


def test_new_volume_looks_like_cinders(cloud: Cloud) -> None:
    made = cloud.create(name="v", size="2", description="d", metadata={"a": "b"})
    assert made["status"] == "creating"
    assert (made["size"], made["name"], made["metadata"]) == (2, "v", {"a": "b"})
    assert made["volume_type"] == "__DEFAULT__"
    assert (made["bootable"], made["encrypted"], made["multiattach"]) == ("false", False, False)
    assert made["created_at"] == "2026-01-01T00:00:00.000000"
    assert made["links"][0]["href"].endswith(f"/volume/v3/{P1}/volumes/{made['id']}")


def test_host_is_shown_to_administrators_only(cloud: Cloud) -> None:
    volume_id = cloud.available()
    assert "os-vol-host-attr:host" not in cloud.show(volume_id)
    assert cloud.show(volume_id, who="admin")["os-vol-host-attr:host"] == "h1@files#files"


@pytest.mark.parametrize(
    ("minor", "more"),
    [(0, set()), (14, {"group_snapshot_id"}), (41, {"group_snapshot_id", "user_id"})],
)
def test_snapshot_has_the_keys_of_its_version(cloud: Cloud, minor: int, more: set[str]) -> None:
    body = {"snapshot": {"volume_id": cloud.available()}}
    answer = cloud.api.post("/volume/v3/snapshots", body, headers=at(minor))
    assert answer.status_code == 202
    assert set(answer.json["snapshot"]) == SNAPSHOT | (more - {"group_snapshot_id"})
    path = f"/volume/v3/snapshots/{answer.json['snapshot']['id']}"
    detail = {
        "os-extended-snapshot-attributes:progress",
        "os-extended-snapshot-attributes:project_id",
    }
    assert set(cloud.api.get(path, headers=at(minor)).json["snapshot"]) == SNAPSHOT | detail | more


def test_attachment_is_shown_once_plugged(cloud: Cloud) -> None:
    from tests.callers import CALLERS

    volume_id = VolumeId(cloud.available())
    cloud.database.write_now(
        lambda tx: service.attach(tx, CALLERS["alice"], volume_id, SERVER, "vdb")
    )
    assert cloud.show(volume_id)["attachments"] == []
    (listed,) = cloud.api.get("/volume/v3/attachments", headers=at(27)).json["attachments"]
    assert (listed["status"], listed["instance"]) == ("attaching", SERVER)
    cloud.database.write_now(lambda tx: service.attached(tx, volume_id, SERVER))
    (shown,) = cloud.show(volume_id)["attachments"]
    assert (shown["id"], shown["server_id"], shown["device"]) == (volume_id, SERVER, "/dev/vdb")
    path = f"/volume/v3/attachments/{shown['attachment_id']}"
    one = cloud.api.get(path, headers=at(27)).json["attachment"]
    assert (one["status"], one["volume_id"]) == ("attached", volume_id)
    assert cloud.api.get(path, headers=at(27), who="bob").status_code == 404


# --- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"size": "#$%"}, 400, "size"),
        ({"size": ""}, 400, "size"),
        ({"size": "0"}, 400, "size"),
        ({"size": -1}, 400, "size"),
        ({"size": 10**30}, 400, "size"),
        ({}, 400, "size"),
        ({"size": 1, "name": "x" * 256}, 400, "name"),
        ({"size": 1, "metadata": {"k": "v" * 256}}, 400, "metadata"),
        ({"size": 1, "metadata": {"": "v"}}, 400, "metadata"),
        ({"size": 1, "metadata": {str(i): "" for i in range(129)}}, 400, "metadata"),
        ({"size": 1, "volume_type": UNKNOWN}, 404, "type"),
        ({"size": 1, "snapshot_id": UNKNOWN}, 404, "Snapshot"),
        ({"size": 1, "source_volid": UNKNOWN}, 404, "Volume"),
        ({"size": 1, "imageRef": UNKNOWN}, 400, "imageRef"),
        ({"size": 1, "availability_zone": "mars"}, 400, "availability_zone"),
        ({"size": 1, "multiattach": True}, 400, "multiattach"),
        ({"size": 1, "backup_id": UNKNOWN}, 400, "backup_id"),
        ({"size": 1001}, 413, "gigabytes"),
    ],
)
def test_bad_volumes_are_refused(
    cloud: Cloud, fields: dict[str, Any], status: int, word: str
) -> None:
    answer = cloud.api.post("/volume/v3/volumes", {"volume": fields})
    assert answer.status_code == status
    ((name, fault),) = answer.json.items()
    assert name == {400: "badRequest", 404: "itemNotFound", 413: "overLimit"}[status]
    assert word in fault["message"]
    assert cloud.api.get("/volume/v3/volumes").json["volumes"] == []


@pytest.mark.parametrize(
    ("action", "body", "status"),
    [
        ("os-extend", {"new_size": 0}, 400),
        ("os-extend", {"new_size": "abc"}, 400),
        ("os-extend", {"new_size": None}, 400),
        ("os-extend", {}, 400),
        ("os-extend", None, 400),
        ("os-extend", {"new_size": 1}, 400),
        ("os-nothing", {}, 400),
        ("os-reset_status", {"status": "available"}, 403),
        ("os-force_delete", {}, 403),
        ("os-set_bootable", {"bootable": "perhaps"}, 400),
        ("os-unreserve", None, 400),
    ],
)
def test_bad_actions_are_refused(cloud: Cloud, action: str, body: Any, status: int) -> None:
    volume_id = cloud.available()
    assert cloud.act(volume_id, action, body).status_code == status
    assert cloud.show(volume_id)["status"] == "available"


def test_wrong_state_is_400_as_cinder_says_it(cloud: Cloud) -> None:
    volume_id = cloud.available()
    assert cloud.act(volume_id, "os-reserve").status_code == 202
    again = cloud.act(volume_id, "os-reserve")
    assert again.status_code == 400
    assert "attaching" in again.json["badRequest"]["message"]
    assert cloud.act(volume_id, "os-unreserve").status_code == 202


def test_readers_may_look_and_not_touch(cloud: Cloud) -> None:
    volume_id = cloud.available()
    path = f"/volume/v3/volumes/{volume_id}"
    assert cloud.api.get(path, who="rita").status_code == 200
    assert cloud.api.delete(path, who="rita").status_code == 403
    extend = cloud.act(volume_id, "os-extend", {"new_size": 2}, who="rita")
    assert extend.status_code == 403
    assert cloud.act(volume_id, "os-show_image_metadata", {}, who="rita").status_code == 200


def test_admin_without_project_cannot_create(cloud: Cloud) -> None:
    from msgspec.structs import replace

    from tests.callers import CALLERS

    CALLERS["system"] = replace(CALLERS["admin"], project_id=None, is_system=True)
    try:
        answer = cloud.api.post("/volume/v3/volumes", {"volume": {"size": 1}}, who="system")
        assert answer.status_code == 400
        assert cloud.api.get("/volume/v3/volumes", who="system").status_code == 200
    finally:
        del CALLERS["system"]


# --- what can be done ----------------------------------------------------------------------------------


def test_actions(cloud: Cloud) -> None:
    volume_id = cloud.available()
    assert cloud.act(volume_id, "os-extend", {"new_size": 2}).status_code == 202
    assert cloud.show(volume_id)["status"] == "extending"
    cloud.obey()
    assert (cloud.show(volume_id)["status"], cloud.show(volume_id)["size"]) == ("available", 2)
    assert cloud.act(volume_id, "os-set_bootable", {"bootable": True}).status_code == 200
    assert cloud.show(volume_id)["bootable"] == "true"
    assert cloud.act(volume_id, "os-update_readonly_flag", {"readonly": True}).status_code == 202
    assert cloud.show(volume_id)["metadata"] == {"readonly": "True"}
    for status in ("error", "maintenance"):
        answer = cloud.act(volume_id, "os-reset_status", {"status": status}, who="admin")
        assert answer.status_code == (202 if status == "error" else 400)
    assert cloud.show(volume_id)["status"] == "error"
    image = {"metadata": {"os_type": "linux"}}
    assert cloud.act(volume_id, "os-set_image_metadata", image).json == image
    assert cloud.show(volume_id)["volume_image_metadata"] == image["metadata"]
    gone = cloud.act(volume_id, "os-unset_image_metadata", {"key": "os_type"})
    assert gone.status_code == 200
    assert "volume_image_metadata" not in cloud.show(volume_id)


def test_update_and_metadata(cloud: Cloud) -> None:
    volume_id = cloud.create(name="old", metadata={"a": "1"})["id"]
    path = f"/volume/v3/volumes/{volume_id}"
    answer = cloud.api.put(path, {"volume": {"name": "new", "description": None}})
    assert (answer.status_code, answer.json["volume"]["name"]) == (200, "new")
    assert cloud.api.get(f"{path}/metadata").json == {"metadata": {"a": "1"}}
    merged = cloud.api.post(f"{path}/metadata", {"metadata": {"b": "2"}})
    assert merged.json == {"metadata": {"a": "1", "b": "2"}}
    replaced = cloud.api.put(f"{path}/metadata", {"metadata": {"c": "3"}})
    assert replaced.json == {"metadata": {"c": "3"}}
    assert cloud.api.get(f"{path}/metadata/c").json == {"meta": {"c": "3"}}
    assert cloud.api.put(f"{path}/metadata/c", {"meta": {"c": "4"}}).json == {"meta": {"c": "4"}}
    assert cloud.api.put(f"{path}/metadata/c", {"meta": {"d": "4"}}).status_code == 400
    assert cloud.api.delete(f"{path}/metadata/c").status_code == 200
    assert cloud.api.delete(f"{path}/metadata/c").status_code == 404


def test_snapshots(cloud: Cloud) -> None:
    volume_id = cloud.available()
    empty = cloud.api.post("/volume/v3/snapshots", {"snapshot": {"volume_id": None}})
    assert empty.status_code == 404
    body = {"snapshot": {"volume_id": volume_id, "name": "s", "metadata": {"a": "1"}}}
    made = cloud.api.post("/volume/v3/snapshots", body).json["snapshot"]
    cloud.obey()
    path = f"/volume/v3/snapshots/{made['id']}"
    assert cloud.api.get(path).json["snapshot"]["status"] == "available"
    assert cloud.api.get(path, who="bob").status_code == 404
    assert cloud.api.put(path, {"snapshot": {}}).status_code == 400
    assert cloud.api.put(path, {"snapshot": {"name": "t"}}).json["snapshot"]["name"] == "t"
    assert cloud.api.get(f"{path}/metadata/a").json == {"meta": {"a": "1"}}
    copy = cloud.create(snapshot_id=made["id"])
    assert copy["snapshot_id"] == made["id"]
    cloud.obey()
    refused = cloud.api.delete(f"/volume/v3/volumes/{volume_id}")
    assert (refused.status_code, "dependent" in refused.text) == (400, True)
    assert cloud.api.delete(path).status_code == 202
    cloud.obey()
    assert cloud.api.get(path).status_code == 404


def test_snapshot_of_a_volume_in_use_by_version(cloud: Cloud) -> None:
    from tests.callers import CALLERS

    volume_id = VolumeId(cloud.available())
    cloud.database.write_now(
        lambda tx: service.attach(tx, CALLERS["alice"], volume_id, SERVER, "vdb")
    )
    cloud.database.write_now(lambda tx: service.attached(tx, volume_id, SERVER))

    def status(minor: int, **fields: Any) -> int:
        body = {"snapshot": {"volume_id": volume_id, **fields}}
        answer = cloud.api.post("/volume/v3/snapshots", body, headers=at(minor))
        return int(answer.status_code)

    assert status(0) == 400
    assert status(0, force=True) == 202
    assert status(66) == 202
    assert status(66, force=False) == 400


def test_delete_is_202_and_then_404(cloud: Cloud) -> None:
    volume_id = cloud.available()
    path = f"/volume/v3/volumes/{volume_id}"
    assert cloud.api.delete(path).status_code == 202
    assert cloud.show(volume_id)["status"] == "deleting"
    cloud.obey()
    assert cloud.api.get(path).status_code == 404


# --- lists ---------------------------------------------------------------------------------------------


def test_pages_follow_each_other(cloud: Cloud) -> None:
    made = [cloud.create(name=f"v{i}")["id"] for i in range(4)]
    seen: list[str] = []
    path = "/volume/v3/volumes/detail?limit=2&sort=name:asc"
    for _ in range(3):
        page = cloud.api.get(path).json
        seen += [v["id"] for v in page["volumes"]]
        if "volumes_links" not in page:
            break
        (link,) = page["volumes_links"]
        assert link["rel"] == "next"
        path = "/volume" + link["href"].split("/volume", 1)[1]
    assert seen == made
    assert page["volumes"] == []  # two full pages: only the empty third says that it was all


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name=b", ["b"]),
        ("status=creating&sort=name", ["c", "b", "a"]),
        ("status=null", []),
        ("size=2", ["b"]),
        ("bootable=true", []),
        ("availability_zone=nova&sort_key=name&sort_dir=asc", ["a", "b", "c"]),
        ("metadata=%7B%27k%27%3A%27b%27%7D", ["b"]),
        ("sort=size:desc,name:asc", ["c", "b", "a"]),
        ("sort=name:asc&offset=1&limit=1", ["b"]),
        ("limit=0", []),
        ("unheard=of&sort=name:asc", ["a", "b", "c"]),
    ],
)
def test_filters_and_order(cloud: Cloud, query: str, names: list[str]) -> None:
    for size, name in enumerate("abc", 1):
        cloud.create(name=name, size=size, metadata={"k": name})
    found = cloud.api.get(f"/volume/v3/volumes?{query}").json["volumes"]
    assert [v["name"] for v in found] == names


@pytest.mark.parametrize(
    ("kind", "query", "status"),
    [
        ("volumes", "limit=-1", 400),
        ("volumes", "limit=invalid", 400),
        ("volumes", "offset=-1", 400),
        ("volumes", "sort=secret", 400),
        ("volumes", "sort_dir=up", 400),
        ("volumes", "size=many", 400),
        ("volumes", "metadata=%5B", 400),
        ("volumes", f"marker={UNKNOWN}", 404),
        ("snapshots", "limit=invalid", 400),
        ("snapshots", "sort_key=invalid", 400),
        ("snapshots", f"marker={UNKNOWN}", 404),
    ],
)
def test_bad_queries_are_refused(cloud: Cloud, kind: str, query: str, status: int) -> None:
    assert cloud.api.get(f"/volume/v3/{kind}?{query}").status_code == status


def test_newer_versions_filter_more(cloud: Cloud) -> None:
    cloud.create(name="alpha")
    volumes = "/volume/v3/volumes"
    assert cloud.api.get(f"{volumes}?unheard=of", headers=at(31)).status_code == 400
    assert len(cloud.api.get(f"{volumes}?name~=lph", headers=at(34)).json["volumes"]) == 1
    assert cloud.api.get(f"{volumes}?with_count=true", headers=at(45)).json["count"] == 1
    later = f"{volumes}?created_at=gt:2026-06-01T00:00:00"
    assert cloud.api.get(later, headers=at(60)).json["volumes"] == []
    summary = cloud.api.get(f"{volumes}/summary", headers=at(36)).json["volume-summary"]
    assert summary == {"total_count": 1, "total_size": 1, "metadata": {}}


def test_lists_show_one_project_until_an_administrator_asks_for_all(cloud: Cloud) -> None:
    cloud.create()
    for who, query, count in (
        ("bob", "", 0), ("bob", "?all_tenants=1", 0), ("admin", "", 0), ("admin", "?all_tenants=1", 1),
    ):  # fmt: skip
        found = cloud.api.get(f"/volume/v3/volumes/detail{query}", who=who).json["volumes"]
        assert len(found) == count, (who, query)


# --- around --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["volumes", "snapshots"])
def test_unknown_id_is_said_before_unknown_action(cloud: Cloud, kind: str) -> None:
    answer = cloud.api.post(f"/volume/v3/{kind}/nothing/action", {"os-nothing": {}})
    assert answer.status_code == 404


def test_type_for_several_servers_is_not_ignored(cloud: Cloud) -> None:
    wanted = {"name": "shared", "extra_specs": {"multiattach": "<is> True"}}
    made = cloud.api.post("/volume/v3/types", {"volume_type": wanted}, who="admin")
    assert made.status_code == 200
    asked = {"volume": {"size": 1, "volume_type": "shared"}}
    answer = cloud.api.post("/volume/v3/volumes", asked)
    assert answer.status_code == 400
    assert "volume_type: 'shared'" in answer.text


def test_types(cloud: Cloud) -> None:
    types = "/volume/v3/types"
    (default,) = cloud.api.get(types).json["volume_types"]
    assert default["name"] == "__DEFAULT__"
    assert cloud.api.get(f"{types}/default").json["volume_type"]["id"] == default["id"]
    body = {"volume_type": {"name": "fast", "extra_specs": {"a": "1"}}}
    assert cloud.api.post(types, body).status_code == 403
    made = cloud.api.post(types, body, who="admin")
    assert made.status_code == 200
    assert cloud.api.post(types, body, who="admin").status_code == 409
    path = f"{types}/{made.json['volume_type']['id']}"
    assert cloud.api.get(path).json["volume_type"]["extra_specs"] == {}
    assert cloud.api.put(f"{path}/extra_specs/a", {"a": "2"}, who="admin").json == {"a": "2"}
    assert cloud.api.get(f"{path}/extra_specs", who="admin").json == {"extra_specs": {"a": "2"}}
    assert cloud.api.delete(f"{path}/extra_specs/a", who="admin").status_code == 202
    assert cloud.api.get(f"{path}/extra_specs/a", who="admin").status_code == 404
    cloud.create(volume_type="fast")
    assert cloud.api.delete(path, who="admin").status_code == 400
    assert cloud.api.delete(f"{types}/{default['id']}", who="admin").status_code == 400


def test_quotas_and_limits(cloud: Cloud) -> None:
    cloud.create(size=3)
    quotas = f"/volume/v3/os-quota-sets/{P1}"
    assert cloud.api.get(quotas).json["quota_set"]["volumes"] == 10
    used = cloud.api.get(f"{quotas}?usage=True").json["quota_set"]
    assert used["gigabytes"] == {"limit": 1000, "in_use": 3, "reserved": 0}
    assert cloud.api.get(quotas, who="bob").status_code == 404
    assert cloud.api.put(quotas, {"quota_set": {"volumes": 1}}).status_code == 403
    for bad in ({"volumes": "x"}, {"volumes": -2}, {"unheard": 1}, {}):
        answer = cloud.api.put(
            f"/volume/v3/os-quota-sets/{'a' * 32}", {"quota_set": bad}, who="admin"
        )
        assert answer.status_code == 400, bad
    limits = cloud.api.get("/volume/v3/limits").json["limits"]["absolute"]
    assert (limits["totalGigabytesUsed"], limits["maxTotalVolumes"]) == (3, 10)


def test_operators_view(cloud: Cloud) -> None:
    zones = cloud.api.get("/volume/v3/os-availability-zone").json["availabilityZoneInfo"]
    assert zones == [{"zoneName": "nova", "zoneState": {"available": True}}]
    assert cloud.api.get("/volume/v3/os-services").status_code == 403
    (found,) = cloud.api.get("/volume/v3/os-services", who="admin").json["services"]
    assert (found["host"], found["state"], found["status"]) == ("h1@files", "up", "enabled")
    pools = "/volume/v3/scheduler-stats/get_pools"
    assert cloud.api.get(pools, who="admin").json == {"pools": [{"name": "h1@files#files"}]}
    (pool,) = cloud.api.get(f"{pools}?detail=True", who="admin").json["pools"]
    assert pool["capabilities"]["total_capacity_gb"] == 100
    assert cloud.api.get("/volume/v3/extensions").json["extensions"]
