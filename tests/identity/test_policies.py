"""Policies kept for other services, and which of them an endpoint is under."""

from typing import Any

import pytest

from tests.identity.conftest import Cloud


def policy(cloud: Cloud, blob: str = "{}") -> str:
    answer = cloud.call("POST", "/policies", {"policy": {"blob": blob, "type": "application/json"}})
    assert answer.status_code == 201, answer.text
    return str(answer.json["policy"]["id"])


def at(policy_id: str, place: str) -> str:
    return f"/policies/{policy_id}/OS-ENDPOINT-POLICY/{place}"


def test_policies_are_kept(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    policy_id = policy(cloud, "{'admin': '!'}")
    path = f"/policies/{policy_id}"
    changed = cloud.call("PATCH", path, {"policy": {"type": "text/plain", "owner": "us"}})
    assert changed.json["policy"] == cloud.call("GET", path).json["policy"]
    assert changed.json["policy"]["blob"] == "{'admin': '!'}"
    assert changed.json["policy"]["owner"] == "us"
    assert [p["id"] for p in cloud.call("GET", "/policies?type=text/plain").json["policies"]] == [
        policy_id
    ]
    assert cloud.call("GET", "/policies?type=other").json["policies"] == []
    assert cloud.call("DELETE", path).status_code == 204
    assert cloud.call("GET", path).status_code == 404


@pytest.mark.parametrize(
    "body",
    [{"type": "t"}, {"blob": "b"}, {"type": 1, "blob": "b"}, {"type": "t" * 256, "blob": "b"}, {}],
)
def test_bad_policies_are_refused(cloud: Cloud, body: dict[str, Any]) -> None:
    assert cloud.call("POST", "/policies", {"policy": body}).status_code == 400


def test_the_nearest_place_decides(cloud: Cloud) -> None:
    for region, parent in (("world", None), ("north", "world"), ("oslo", "north")):
        cloud.make("region", id=region, parent_region_id=parent)
    service = cloud.make("service", type="t")["id"]
    endpoint = cloud.make(
        "endpoint", service_id=service, interface="public", url="http://e", region_id="oslo"
    )["id"]
    asked = f"/endpoints/{endpoint}/OS-ENDPOINT-POLICY/policy"
    assert cloud.call("GET", asked).status_code == 404
    for place in (
        f"services/{service}",
        f"services/{service}/regions/world",
        f"services/{service}/regions/oslo",
        f"endpoints/{endpoint}",
    ):
        nearer = policy(cloud)
        assert cloud.call("GET", at(nearer, place)).status_code == 404
        assert cloud.call("PUT", at(nearer, place)).status_code == 204
        assert cloud.call("GET", at(nearer, place)).status_code == 204
        assert cloud.call("HEAD", at(nearer, place)).status_code == 204
        assert cloud.call("GET", asked).json["policy"]["id"] == nearer
        found = cloud.call("GET", at(nearer, "endpoints")).json["endpoints"]
        assert [e["id"] for e in found] == [endpoint]


def test_a_place_has_one_policy(cloud: Cloud) -> None:
    service = cloud.make("service", type="t")["id"]
    first, second = policy(cloud), policy(cloud)
    for one in (first, second):
        assert cloud.call("PUT", at(one, f"services/{service}")).status_code == 204
    assert cloud.call("GET", at(first, f"services/{service}")).status_code == 404
    assert cloud.call("DELETE", at(first, f"services/{service}")).status_code == 204
    assert cloud.call("GET", at(second, f"services/{service}")).status_code == 204
    assert cloud.call("DELETE", at(second, f"services/{service}")).status_code == 204
    assert cloud.call("GET", at(second, f"services/{service}")).status_code == 404


def test_places_go_with_what_they_name(cloud: Cloud) -> None:
    service = cloud.make("service", type="t")["id"]
    endpoint = cloud.make("endpoint", service_id=service, interface="public", url="http://e")["id"]
    cloud.make("region", id="r")
    kept = policy(cloud)
    for place in (f"endpoints/{endpoint}", f"services/{service}/regions/r"):
        cloud.call("PUT", at(kept, place))
    cloud.call("DELETE", "/regions/r")
    cloud.make("region", id="r")
    assert cloud.call("GET", at(kept, f"services/{service}/regions/r")).status_code == 404
    cloud.call("DELETE", f"/policies/{kept}")
    assert cloud.call("GET", f"/endpoints/{endpoint}/OS-ENDPOINT-POLICY/policy").status_code == 404


def test_unknown_places_are_not_found(cloud: Cloud) -> None:
    kept = policy(cloud)
    service = cloud.make("service", type="t")["id"]
    for place in ("endpoints/x", "services/x", f"services/{service}/regions/x"):
        for method in ("GET", "PUT", "DELETE"):
            assert cloud.call(method, at(kept, place)).status_code == 404
    assert cloud.call("PUT", at("nobody", f"services/{service}")).status_code == 404
