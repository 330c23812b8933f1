"""Which endpoints a project is shown."""

from typing import Any

import pytest

from tests.identity.conftest import Cloud, scope_of

EP = "/OS-EP-FILTER"


class Filtered:
    """Two services of others, and ann who is a member of one project."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.services = {name: cloud.make("service", type=name, name=name)["id"] for name in "ab"}
        self.endpoints = {
            f"{name} {interface}": cloud.make(
                "endpoint", service_id=id_, interface=interface, url=f"http://{name}"
            )["id"]
            for name, id_ in self.services.items()
            for interface in ("public", "internal")
        }
        self.project = cloud.make("project", name="p")["id"]
        ann = cloud.make("user", name="ann", password="ann's")["id"]
        cloud.grant(ann, self.project, "member")
        self.ann = cloud.token("ann", "ann's", scope=scope_of("p"))

    def seen(self) -> list[str]:
        """The endpoints in ann's catalog: those of others by name, ours by their service's."""
        names = {id_: name for name, id_ in self.endpoints.items()}
        catalog = self.cloud.call("GET", "/auth/catalog", token=self.ann).json["catalog"]
        return sorted(
            names.get(endpoint["id"], service["name"])
            for service in catalog
            for endpoint in service["endpoints"]
        )

    def group(self, **filters: Any) -> str:
        body = {"endpoint_group": {"name": "g", "filters": filters}}
        answer = self.cloud.call("POST", f"{EP}/endpoint_groups", body)
        assert answer.status_code == 201, answer.text
        return str(answer.json["endpoint_group"]["id"])


@pytest.fixture
def filtered(cloud: Cloud) -> Filtered:
    return Filtered(cloud)


def test_a_project_is_shown_single_endpoints(filtered: Filtered) -> None:
    cloud, project = filtered.cloud, filtered.project
    everything = filtered.seen()
    assert len(everything) == 7
    endpoint = filtered.endpoints["a public"]
    path = f"{EP}/projects/{project}/endpoints/{endpoint}"
    assert cloud.call("GET", path).status_code == 404
    assert cloud.call("PUT", path).status_code == 204
    assert cloud.call("PUT", path).status_code == 409
    assert cloud.call("GET", path).status_code == 204
    assert cloud.call("HEAD", path).status_code == 204
    assert filtered.seen() == ["a public"]
    listed = cloud.call("GET", f"{EP}/projects/{project}/endpoints").json["endpoints"]
    assert [e["id"] for e in listed] == [endpoint]
    projects = cloud.call("GET", f"{EP}/endpoints/{endpoint}/projects").json["projects"]
    assert [p["id"] for p in projects] == [project]
    assert cloud.call("DELETE", path).status_code == 204
    assert cloud.call("DELETE", path).status_code == 404
    assert filtered.seen() == everything


def test_a_project_is_shown_groups(filtered: Filtered) -> None:
    cloud, project = filtered.cloud, filtered.project
    group = filtered.group(service_id=filtered.services["b"])
    path = f"{EP}/endpoint_groups/{group}/projects/{project}"
    assert cloud.call("GET", path).status_code == 404
    assert cloud.call("PUT", path).status_code == 204
    assert cloud.call("PUT", path).status_code == 409
    assert cloud.call("GET", path).json["project_endpoint_group"]["project_id"] == project
    assert filtered.seen() == ["b internal", "b public"]
    listed = cloud.call("GET", f"{EP}/projects/{project}/endpoint_groups").json
    assert [g["id"] for g in listed["endpoint_groups"]] == [group]
    projects = cloud.call("GET", f"{EP}/endpoint_groups/{group}/projects").json["projects"]
    assert [p["id"] for p in projects] == [project]
    change = {"endpoint_group": {"filters": {"interface": "internal"}}}
    assert cloud.call("PATCH", f"{EP}/endpoint_groups/{group}", change).status_code == 200
    assert filtered.seen() == ["a internal", "b internal", "keystone"]
    also = f"{EP}/projects/{project}/endpoints/{filtered.endpoints['a public']}"
    cloud.call("PUT", also)
    assert filtered.seen() == ["a internal", "a public", "b internal", "keystone"]
    assert cloud.call("DELETE", f"{EP}/endpoint_groups/{group}").status_code == 204
    assert filtered.seen() == ["a public"]


def test_groups_have_the_endpoints_that_their_filters_say(filtered: Filtered) -> None:
    cloud = filtered.cloud
    group = filtered.group(service_id=filtered.services["a"], interface="public")
    found = cloud.call("GET", f"{EP}/endpoint_groups/{group}/endpoints").json["endpoints"]
    assert [e["id"] for e in found] == [filtered.endpoints["a public"]]
    ours = filtered.group(region_id="RegionOne")
    found = cloud.call("GET", f"{EP}/endpoint_groups/{ours}/endpoints").json["endpoints"]
    assert len(found) == 3


def test_what_projects_are_shown_goes_with_them_and_with_endpoints(filtered: Filtered) -> None:
    cloud = filtered.cloud
    endpoint = filtered.endpoints["a public"]
    other = cloud.make("project", name="other")["id"]
    for project in (filtered.project, other):
        cloud.call("PUT", f"{EP}/projects/{project}/endpoints/{endpoint}")
    assert cloud.call("DELETE", f"/projects/{other}").status_code == 204
    projects = cloud.call("GET", f"{EP}/endpoints/{endpoint}/projects").json["projects"]
    assert [p["id"] for p in projects] == [filtered.project]
    assert filtered.seen() == ["a public"]
    assert cloud.call("DELETE", f"/endpoints/{endpoint}").status_code == 204
    assert len(filtered.seen()) == 6


def test_a_disabled_endpoint_is_not_shown_to_whom_it_belongs(filtered: Filtered) -> None:
    cloud = filtered.cloud
    for name in ("a public", "b public"):
        cloud.call("PUT", f"{EP}/projects/{filtered.project}/endpoints/{filtered.endpoints[name]}")
    path = f"/endpoints/{filtered.endpoints['a public']}"
    cloud.call("PATCH", path, {"endpoint": {"enabled": False}})
    assert filtered.seen() == ["b public"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"filters": {}}, "filters"),
        ({"filters": {"url": "http://a"}}, "url"),
        ({"filters": {"enabled": True}}, "enabled"),
        ({"filters": {"interface": "side"}}, "interface"),
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"other": 1}, "other"),
    ],
)
def test_bad_groups_are_refused(cloud: Cloud, changes: dict[str, Any], word: str) -> None:
    good = {"name": "g", "filters": {"interface": "public"}}
    answer = cloud.call("POST", f"{EP}/endpoint_groups", {"endpoint_group": {**good, **changes}})
    assert answer.status_code == 400
    assert word in answer.json["error"]["message"]


def test_groups_are_found_by_name(filtered: Filtered) -> None:
    cloud = filtered.cloud
    filtered.group(interface="public")
    found = cloud.call("GET", f"{EP}/endpoint_groups?name=g").json["endpoint_groups"]
    assert found[0]["filters"] == {"interface": "public"}
    assert cloud.call("GET", f"{EP}/endpoint_groups?name=h").json["endpoint_groups"] == []
    for method in ("GET", "HEAD", "DELETE"):
        assert cloud.call(method, f"{EP}/endpoint_groups/nobody").status_code == 404


def test_members_may_not(filtered: Filtered) -> None:
    cloud, ann = filtered.cloud, filtered.ann
    path = f"{EP}/projects/{filtered.project}/endpoints"
    assert cloud.call("GET", path, token=ann).status_code == 403
    assert cloud.call("GET", f"{EP}/endpoint_groups", token=ann).status_code == 403
    one = f"{path}/{filtered.endpoints['a public']}"
    assert cloud.call("PUT", one, token=ann).status_code == 403
