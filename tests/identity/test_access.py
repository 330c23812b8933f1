"""Who may do what: every route in the table without a token, without a role, and as somebody else."""

from typing import Any

import pytest

from tests.identity.conftest import ADMIN_PASSWORD, Cloud, scope_of

PUBLIC = {
    ("GET", "/"), ("GET", "/v3"), ("POST", "/v3/auth/tokens"),
    ("POST", "/v3/users/{user_id}/password"),
}  # fmt: skip
SIGNED_IN = {
    "/v3/auth/tokens", "/v3/auth/catalog", "/v3/auth/projects", "/v3/auth/domains",
    "/v3/auth/system", "/v3/regions", "/v3/regions/{region_id}",
}  # fmt: skip


def filled(path: str) -> str:
    for name in (
        "user_id", "group_id", "role_id", "implied_id", "service_id", "endpoint_id", "region_id",
        "project", "domain", "tag",
    ):  # fmt: skip
        path = path.replace(f"{{{name}}}", "f" * 32)
    return path.removeprefix("/v3") or "/"


def a_body(route: Any) -> Any:
    if route.body is None:
        return None
    fields = route.body.__struct_fields__
    return {fields[0]: ["t"] if fields[0] == "tags" else {"name": "x"}}


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


def test_every_route_wants_a_token_but_the_public_ones(cloud: Cloud) -> None:
    public = {(r.method, r.path) for r in cloud.service.routes if r.rule is None}
    assert public == PUBLIC
    for route in cloud.service.routes:
        if (route.method, route.path) in PUBLIC:
            continue
        for token in (None, "nonsense"):
            answer = cloud.call(route.method, filled(route.path), a_body(route), token=token)
            assert answer.status_code == 401, (route.method, route.path)
            assert answer.headers["www-authenticate"].startswith("Keystone")


def test_a_caller_without_a_role_gets_nowhere(cloud: Cloud, people: dict[str, Any]) -> None:
    for route in cloud.service.routes:
        if route.rule is None or route.path in SIGNED_IN:
            continue
        answer = cloud.call(route.method, filled(route.path), a_body(route), token=people["null"])
        assert answer.status_code == 403, (route.method, route.path)


def test_a_member_may_not_write_and_sees_only_the_own_things(
    cloud: Cloud, people: dict[str, Any]
) -> None:
    ids, ann = people["ids"], people["ann"]
    for path in (f"/users/{ids['ann']}", f"/users/{ids['ann']}/projects", f"/projects/{people['P1']}",
                 f"/users/{ids['ann']}/groups", f"/projects/{people['P1']}/tags",
                 "/domains/default"):  # fmt: skip
        assert cloud.call("GET", path, token=ann).status_code == 200, path
    for path in ("/users", "/projects", "/roles", "/role_assignments", "/domains", "/services",
                 f"/users/{ids['rose']}", f"/projects/{people['P2']}", "/users/nobody",
                 f"/users/{ids['rose']}/projects"):  # fmt: skip
        assert cloud.call("GET", path, token=ann).status_code == 403, path
    for route in cloud.service.routes:
        if route.method in ("POST", "PUT", "PATCH", "DELETE") and route.path not in SIGNED_IN:
            if (route.method, route.path) in PUBLIC:
                continue
            path = filled(
                route.path.replace("{user_id}", ids["ann"]).replace("{project}", people["P1"])
            )
            answer = cloud.call(route.method, path, a_body(route), token=ann)
            assert answer.status_code == 403, (route.method, route.path)


def test_a_reader_of_the_system_reads_all_and_writes_nothing(
    cloud: Cloud, people: dict[str, Any]
) -> None:
    for route in cloud.service.routes:
        if route.rule is None or route.path in SIGNED_IN:
            continue
        answer = cloud.call(route.method, filled(route.path), a_body(route), token=people["rose"])
        expected = (200, 404) if route.method in ("GET", "HEAD") else (403,)
        assert answer.status_code in expected, (route.method, route.path)


def test_unknown_ids_are_not_found(cloud: Cloud) -> None:
    for route in cloud.service.routes:
        if "{" not in route.path or route.rule is None:
            continue
        answer = cloud.call(route.method, filled(route.path), a_body(route))
        assert answer.status_code == 404, (route.method, route.path)
        assert answer.json["error"]["title"] == "Not Found" if route.method != "HEAD" else True


def test_bad_bodies_name_the_field(cloud: Cloud) -> None:
    for route in cloud.service.routes:
        if route.body is None:
            continue
        field = route.body.__struct_fields__[0]
        bodies: tuple[Any, ...] = ([], {}, {"unknown": 1}, {field: 3})
        for body in bodies:
            answer = cloud.call(route.method, filled(route.path), body)
            assert answer.status_code == 400, (route.method, route.path)
        assert f"$.{field}" in answer.json["error"]["message"]


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
