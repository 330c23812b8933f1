"""Unified limits, and that those of our own services are the very rows that the services go by."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairn.app import Cloud as WholeCloud
from cairn.app import CloudOptions
from cairn.core.clock import FakeClock
from cairn.db.engine import Database
from cairn.identity import bootstrap, places
from cairn.identity.records import DEFAULT_DOMAIN, Project
from tests.callers import P1, P2, Api
from tests.identity.conftest import ADMIN_PASSWORD, Cloud, scope_of

V3 = "/identity/v3"


class Registered:
    """A service of others with a registered limit of 10, and a project."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.service = cloud.make("service", type="t", name="s")["id"]
        self.project = cloud.make("project", name="p")["id"]
        (made,) = self.register({"resource_name": "r", "default_limit": 10})
        self.id = made["id"]

    def register(self, *limits: dict[str, Any]) -> list[dict[str, Any]]:
        body = {"registered_limits": [{"service_id": self.service, **one} for one in limits]}
        answer = self.cloud.call("POST", "/registered_limits", body)
        assert answer.status_code == 201, answer.text
        assert "links" not in answer.json
        return list(answer.json["registered_limits"])

    def limit(self, **more: Any) -> Any:
        one = {"service_id": self.service, "resource_name": "r", "resource_limit": 3, **more}
        if "domain_id" not in more:
            one.setdefault("project_id", self.project)
        return self.cloud.call("POST", "/limits", {"limits": [one]})


@pytest.fixture
def registered(cloud_on_both: Cloud) -> Registered:
    return Registered(cloud_on_both)


# --- of services of others -----------------------------------------------------------------------------


def test_limits_are_registered_and_overruled(registered: Registered) -> None:
    cloud = registered.cloud
    shown = cloud.call("GET", f"/registered_limits/{registered.id}").json["registered_limit"]
    assert shown.pop("links")["self"].endswith(registered.id)
    assert shown == {
        "id": registered.id,
        "service_id": registered.service,
        "region_id": None,
        "resource_name": "r",
        "default_limit": 10,
        "description": None,
    }
    made = registered.limit(description="more")
    assert made.status_code == 201
    (limit,) = made.json["limits"]
    assert (limit["project_id"], limit["domain_id"]) == (registered.project, None)
    assert (limit["resource_limit"], limit["description"]) == (3, "more")
    path = f"/limits/{limit['id']}"
    assert cloud.call("GET", path).json["limit"] == limit
    changed = cloud.call("PATCH", path, {"limit": {"resource_limit": 0}}).json["limit"]
    assert (changed["resource_limit"], changed["description"]) == (0, "more")
    assert cloud.call("DELETE", path).status_code == 204
    assert cloud.call("GET", path).status_code == 404


def test_what_limits_refer_to_stays(registered: Registered) -> None:
    cloud, path = registered.cloud, f"/registered_limits/{registered.id}"
    limit = registered.limit().json["limits"][0]["id"]
    for answer in (
        cloud.call("DELETE", path),
        cloud.call("PATCH", path, {"registered_limit": {"default_limit": 5}}),
    ):
        assert answer.status_code == 403
        assert "associated" in answer.json["error"]["message"]
    assert cloud.call("DELETE", f"/services/{registered.service}").status_code == 409
    cloud.call("DELETE", f"/limits/{limit}")
    answer = cloud.call("PATCH", path, {"registered_limit": {"default_limit": 5}})
    assert answer.json["registered_limit"]["default_limit"] == 5
    assert cloud.call("DELETE", path).status_code == 204
    assert cloud.call("DELETE", path).status_code == 404


def test_nothing_is_there_twice(registered: Registered) -> None:
    cloud = registered.cloud
    assert registered.limit().status_code == 201
    assert registered.limit().status_code == 409
    again = {"service_id": registered.service, "resource_name": "r", "default_limit": 1}
    body = {"registered_limits": [{**again, "resource_name": "new"}, again]}
    assert cloud.call("POST", "/registered_limits", body).status_code == 409
    found = cloud.call("GET", f"/registered_limits?service_id={registered.service}").json
    assert [r["resource_name"] for r in found["registered_limits"]] == ["r"], "all or none"
    (other,) = registered.register(
        {"resource_name": "r", "default_limit": 1, "region_id": "RegionOne"}
    )
    into = {"registered_limit": {"region_id": None}}
    assert cloud.call("PATCH", f"/registered_limits/{other['id']}", into).status_code == 409


def test_domains_have_limits_too(registered: Registered) -> None:
    made = registered.limit(domain_id="default").json["limits"][0]
    assert (made["project_id"], made["domain_id"]) == (None, "default")
    found = registered.cloud.call("GET", "/limits?domain_id=default").json["limits"]
    assert [limit["id"] for limit in found] == [made["id"]]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"resource_name": "other"}, 403),
        ({"region_id": "RegionOne"}, 403),
        ({"region_id": "nowhere"}, 400),
        ({"service_id": "nobody"}, 400),
        ({"project_id": "nobody"}, 400),
        ({"domain_id": "nobody"}, 400),
        ({"project_id": None}, 400),
        ({"project_id": "default", "domain_id": "default"}, 400),
        ({"resource_limit": -2}, 400),
        ({"resource_limit": 2**31}, 400),
        ({"resource_limit": "3"}, 400),
        ({"resource_limit": True}, 400),
        ({"other": 1}, 400),
    ],
)
def test_bad_limits_are_refused(registered: Registered, more: Any, status: int) -> None:
    answer = registered.limit(**more)
    assert answer.status_code == status, answer.text
    assert registered.cloud.call("GET", "/limits").json["limits"] == []


@pytest.mark.parametrize(
    "change",
    [
        {"service_id": "nobody"},
        {"region_id": "nowhere"},
        {"resource_name": ""},
        {"default_limit": -2},
        {"default_limit": None},
        {"other": 1},
    ],
)
def test_bad_registered_limits_are_refused(registered: Registered, change: Any) -> None:
    cloud = registered.cloud
    new = {"service_id": registered.service, "resource_name": "x", "default_limit": 1, **change}
    assert cloud.call("POST", "/registered_limits", {"registered_limits": [new]}).status_code == 400
    path = f"/registered_limits/{registered.id}"
    assert cloud.call("PATCH", path, {"registered_limit": change}).status_code == 400
    assert cloud.call("POST", "/registered_limits", {"registered_limits": []}).status_code == 400


def test_everybody_sees_their_own(registered: Registered) -> None:
    cloud = registered.cloud
    other = cloud.make("project", name="other")["id"]
    domain = cloud.make("domain", name="d")["id"]
    mine = registered.limit().json["limits"][0]["id"]
    theirs = registered.limit(project_id=other).json["limits"][0]["id"]
    of_domain = registered.limit(domain_id=domain).json["limits"][0]["id"]
    ann = cloud.make("user", name="ann", password="ann's")["id"]
    cloud.grant(ann, registered.project, "member")
    role = cloud.role_id("member")
    assert cloud.call("PUT", f"/domains/{domain}/users/{ann}/roles/{role}").status_code == 204

    def seen(token: str) -> set[str]:
        return {one["id"] for one in cloud.call("GET", "/limits", token=token).json["limits"]}

    def status(token: str, limit: str) -> int:
        return int(cloud.call("GET", f"/limits/{limit}", token=token).status_code)

    in_project = cloud.token("ann", "ann's", scope=scope_of("p"))
    assert seen(in_project) == {mine}
    assert [status(in_project, one) for one in (mine, theirs, of_domain)] == [200, 403, 403]
    in_domain = cloud.token("ann", "ann's", scope={"domain": {"id": domain}})
    assert seen(in_domain) == {of_domain}
    assert [status(in_domain, one) for one in (mine, theirs, of_domain)] == [403, 403, 200]
    in_system = cloud.token("admin", ADMIN_PASSWORD, scope={"system": {"all": True}})
    assert seen(in_system) == {mine, theirs, of_domain}
    assert cloud.call("GET", "/limits/model", token=in_project).json["model"]["name"] == "flat"
    assert cloud.call("GET", "/registered_limits", token=in_project).status_code == 200
    for method, path in (
        ("DELETE", f"/limits/{mine}"),
        ("PATCH", f"/limits/{mine}"),
        ("DELETE", f"/registered_limits/{registered.id}"),
    ):
        assert cloud.call(method, path, {"limit": {}}, token=in_project).status_code == 403


def test_limits_go_with_their_project(registered: Registered) -> None:
    registered.limit()
    assert registered.cloud.call("DELETE", f"/projects/{registered.project}").status_code == 204
    assert registered.cloud.call("GET", "/limits").json["limits"] == []
    path = f"/registered_limits/{registered.id}"
    assert registered.cloud.call("DELETE", path).status_code == 204


# --- of our own services -------------------------------------------------------------------------------


@pytest.fixture
def api(database: Database, clock: FakeClock, tmp_path: Path) -> Iterator[Api]:
    """All services as they are put together, asked as the callers of the tests."""
    options = CloudOptions(control_dir=tmp_path, clock=clock, admin_password="admin")
    whole = WholeCloud(database, options)
    database.write_now(lambda tx: bootstrap.bootstrap(tx, "no hash"))
    for id_ in (P1, P2):
        project = Project(id=id_, name=id_, domain_id=DEFAULT_DOMAIN, parent_id=DEFAULT_DOMAIN)  # type: ignore[arg-type]
        database.write_now(lambda tx, new=project: places.create_project(tx, new))  # type: ignore[misc]
    yield Api(database, *whole.shell.services)
    whole.passwords.close()


def ours(api: Api, name: str) -> dict[str, Any]:
    found = api.get(f"{V3}/registered_limits?resource_name={name}", who="admin").json
    (one,) = found["registered_limits"]
    assert isinstance(one, dict)
    return one


NOVA, CINDER = "/compute/v2.1/os-quota-sets", f"/volume/v3/{P1}/os-quota-sets"
SETS = {
    "cores": (f"{NOVA}/{P1}", "quota_set"),
    "volumes": (f"/volume/v3/os-quota-sets/{P1}", "quota_set"),
    "port": (f"/network/v2.0/quotas/{P1}", "quota"),
}
"""Where each service shows and sets its own limits of a project."""


@pytest.mark.parametrize("name", SETS)
def test_a_limit_is_the_same_row_wherever_it_is_set(api: Api, name: str) -> None:
    path, key = SETS[name]
    registered = ours(api, name)

    def of_service() -> int:
        return int(api.get(path, who="admin").json[key][name])

    def unified() -> list[int]:
        query = f"resource_name={name}&project_id={P1}"
        found = api.get(f"{V3}/limits?{query}", who="alice").json["limits"]
        return [limit["resource_limit"] for limit in found]

    assert of_service() == registered["default_limit"]
    assert unified() == []
    set_ = api.put(path, {key: {name: 7}}, who="admin")
    assert set_.status_code == 200
    assert unified() == [7]
    (limit,) = api.get(f"{V3}/limits?project_id={P1}", who="admin").json["limits"]
    one = f"{V3}/limits/{limit['id']}"
    assert api.get(one, who="alice").json["limit"] == limit
    assert api.get(one, who="bob").status_code == 403
    api.patch(one, {"limit": {"resource_limit": 9}}, who="admin")
    assert of_service() == 9
    assert api.delete(one, who="admin").status_code == 204
    assert of_service() == registered["default_limit"]
    assert unified() == []
    new = {
        "service_id": registered["service_id"],
        "resource_name": name,
        "resource_limit": 11,
        "project_id": P1,
    }
    made = api.post(f"{V3}/limits", {"limits": [new]}, who="admin")
    assert made.status_code == 201
    assert api.post(f"{V3}/limits", {"limits": [new]}, who="admin").status_code == 409
    assert of_service() == 11
    api.delete(path, who="admin")
    assert api.get(one, who="admin").status_code == 404


@pytest.mark.parametrize("name", [*SETS, "image_count_total"])
def test_a_registered_default_is_what_projects_have(api: Api, name: str) -> None:
    registered = ours(api, name)
    path = f"{V3}/registered_limits/{registered['id']}"
    change = {"registered_limit": {"default_limit": 0, "description": "none for now"}}
    changed = api.patch(path, change, who="admin").json["registered_limit"]
    assert (changed["default_limit"], changed["description"]) == (0, "none for now")
    assert ours(api, name) == changed
    if name in SETS:
        of_project, key = SETS[name]
        assert api.get(of_project, who="alice").json[key][name] == 0
        for default in ("defaults", "default"):
            shown = api.get(f"{of_project}/{default}", who="admin")
            if shown.status_code == 200:
                assert shown.json[key][name] == 0
    else:
        image = {"name": "i", "disk_format": "raw", "container_format": "bare"}
        assert api.post("/image/v2/images", image).status_code == 413


def test_our_registered_limits_stay(api: Api) -> None:
    registered = ours(api, "cores")
    path = f"{V3}/registered_limits/{registered['id']}"
    assert api.delete(path, who="admin").status_code == 403
    rename = {"registered_limit": {"resource_name": "kernels"}}
    assert api.patch(path, rename, who="admin").status_code == 403
    again = {
        "service_id": registered["service_id"],
        "resource_name": "cores",
        "default_limit": 1,
        "region_id": "RegionOne",
    }
    body = {"registered_limits": [again]}
    assert api.post(f"{V3}/registered_limits", body, who="admin").status_code == 409
    assert ours(api, "cores") == registered


def test_every_slice_has_registered_its_limits(api: Api) -> None:
    services = api.get(f"{V3}/services", who="admin").json["services"]
    kinds = {service["id"]: service["type"] for service in services}
    found = api.get(f"{V3}/registered_limits", who="admin").json["registered_limits"]
    assert {kinds[one["service_id"]] for one in found} == {
        "compute",
        "block-storage",
        "network",
        "image",
    }
    names = [one["resource_name"] for one in found]
    assert len(names) == len(set(names)), "one table keeps them all"
    assert "fixed_ips" not in names, "it limits nothing"


def test_quota_classes_are_the_defaults(api: Api) -> None:
    nova, cinder = "/compute/v2.1/os-quota-class-sets", "/volume/v3/os-quota-class-sets"
    changed = api.put(f"{nova}/default", {"quota_class_set": {"cores": 3}}, who="admin")
    assert changed.json["quota_class_set"]["cores"] == 3
    assert "id" not in changed.json["quota_class_set"]
    assert ours(api, "cores")["default_limit"] == 3
    changed = api.put(f"{cinder}/default", {"quota_class_set": {"volumes": 4}}, who="admin")
    assert changed.json["quota_class_set"]["volumes"] == 4
    assert ours(api, "volumes")["default_limit"] == 4
    for path in (nova, cinder):
        assert api.get(f"{path}/default", who="admin").json["quota_class_set"]["id"] == "default"
        assert api.get(f"{path}/default", who="alice").status_code == 403
        other = api.put(f"{path}/gold", {"quota_class_set": {}}, who="admin")
        assert other.status_code == 400
        bad = api.put(f"{path}/default", {"quota_class_set": {"wings": 2}}, who="admin")
        assert bad.status_code == 400


def test_volume_types_have_limits(api: Api) -> None:
    made = api.post("/volume/v3/types", {"volume_type": {"name": "fast"}}, who="admin")
    type_id = made.json["volume_type"]["id"]
    path = f"/volume/v3/os-quota-sets/{P1}"
    assert api.get(path).json["quota_set"]["gigabytes_fast"] == -1
    api.put(path, {"quota_set": {"gigabytes_fast": 3, "volumes_fast": 5}}, who="admin")
    volume = {"volume": {"size": 2, "volume_type": "fast"}}
    assert api.post("/volume/v3/volumes", volume).status_code == 202
    refused = api.post("/volume/v3/volumes", volume)
    assert refused.status_code == 413
    assert "gigabytes of this volume type" in refused.text
    assert api.post("/volume/v3/volumes", {"volume": {"size": 2}}).status_code == 202
    used = api.get(f"{path}?usage=true").json["quota_set"]
    assert used["gigabytes_fast"] == {"limit": 3, "in_use": 2, "reserved": 0}
    assert used["gigabytes"]["in_use"] == 4
    api.put(f"/volume/v3/types/{type_id}", {"volume_type": {"name": "swift"}}, who="admin")
    assert api.get(path).json["quota_set"]["gigabytes_swift"] == 3
