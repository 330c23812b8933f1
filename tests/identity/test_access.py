"""What a plain member sees, discovery and the catalog. Every route of every service is asked without a
token, without a role and as somebody else in tests/http; personas have a file of their own."""

from typing import Any

import pytest

from tests.identity.conftest import ADMIN_PASSWORD, Cloud, scope_of


@pytest.fixture
def people(cloud: Cloud) -> dict[str, Any]:
    """ann: member of P1; rose: reader of the system; null: nobody with any role."""
    project = cloud.make("project", name="P1")
    other = cloud.make("project", name="P2")
    ids = {n: cloud.make("user", name=n, password=n)["id"] for n in ("ann", "rose", "null")}
    cloud.grant(ids["ann"], project["id"], "member")
    cloud.call("PUT", f"/system/users/{ids['rose']}/roles/{cloud.role_id('reader')}")
    return {
        "ids": ids,
        "P1": project["id"],
        "P2": other["id"],
        "ann": cloud.token("ann", "ann", scope=scope_of("P1")),
        "rose": cloud.token("rose", "rose", scope={"system": {"all": True}}),
        "null": cloud.token("null", "null"),
    }


def test_a_member_sees_only_the_own_things(cloud: Cloud, people: dict[str, Any]) -> None:
    ids, ann = people["ids"], people["ann"]
    for path in (f"/users/{ids['ann']}", f"/users/{ids['ann']}/projects", f"/projects/{people['P1']}",
                 f"/users/{ids['ann']}/groups", f"/projects/{people['P1']}/tags",
                 "/domains/default"):  # fmt: skip
        assert cloud.call("GET", path, token=ann).status_code == 200, path
    for path in ("/users", "/projects", "/roles", "/role_assignments", "/domains", "/services",
                 f"/users/{ids['rose']}", f"/projects/{people['P2']}", "/users/nobody",
                 f"/users/{ids['rose']}/projects"):  # fmt: skip
        assert cloud.call("GET", path, token=ann).status_code == 403, path


def test_my_projects_domains_and_system(cloud: Cloud, people: dict[str, Any]) -> None:
    mine = cloud.call("GET", "/auth/projects", token=people["ann"]).json["projects"]
    assert [p["id"] for p in mine] == [people["P1"]]
    assert cloud.call("GET", "/auth/domains", token=people["ann"]).json["domains"] == []
    assert cloud.call("GET", "/auth/system", token=people["ann"]).json["system"] == []
    assert cloud.call("GET", "/auth/system", token=people["rose"]).json["system"] == [{"all": True}]


def test_discovery(cloud: Cloud) -> None:
    import falcon.testing

    client = falcon.testing.TestClient(cloud.shell.app)
    for path in ("/identity", "/identity/"):
        answer = client.simulate_get(path, host="cloud.example")
        assert answer.status_code == 300
        (version,) = answer.json["versions"]["values"]
        assert version["links"][0]["href"] == "http://cloud.example/identity/v3/"
        assert version["status"] == "stable"
    for path in ("/identity/v3", "/identity/v3/"):
        assert client.simulate_get(path, host="cloud.example").json == {"version": version}


def test_catalog_follows_the_address_that_the_client_used(cloud: Cloud) -> None:
    import falcon.testing

    client = falcon.testing.TestClient(cloud.shell.app)
    headers = {"X-Auth-Token": cloud.admin_token}
    answer = client.simulate_get(
        "/identity/v3/auth/catalog", headers=headers, host="cloud.example", protocol="https"
    )
    (entry,) = answer.json["catalog"]
    assert {e["url"] for e in entry["endpoints"]} == {"https://cloud.example/identity"}
    listed = cloud.call("GET", "/endpoints?interface=public").json["endpoints"]
    public = next(e for e in entry["endpoints"] if e["interface"] == "public")
    assert [e["id"] for e in listed] == [public["id"]]
    shown = cloud.call("GET", f"/endpoints/{public['id']}").json["endpoint"]
    assert shown["service_id"] == entry["id"]
    assert cloud.call("GET", f"/services/{entry['id']}").json["service"]["type"] == "identity"
    assert cloud.call("GET", "/regions/RegionOne").json["region"]["id"] == "RegionOne"
    assert cloud.call("GET", "/services?type=compute").json["services"] == []


def test_admin_in_any_scope_is_admin(cloud: Cloud) -> None:
    for scope in (scope_of("admin"), {"system": {"all": True}}):
        token = cloud.token("admin", ADMIN_PASSWORD, scope=scope)
        assert cloud.issuer.authenticate(token).is_admin
        assert cloud.call("GET", "/users", token=token).status_code == 200
    unscoped = cloud.token("admin", ADMIN_PASSWORD, scope="unscoped")
    assert not cloud.issuer.authenticate(unscoped).is_admin
    assert cloud.call("GET", "/users", token=unscoped).status_code == 403
