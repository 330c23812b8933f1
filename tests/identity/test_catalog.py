"""Regions, services and endpoints: those of others, which operators add, and our own."""

from typing import Any

import falcon.testing
import pytest

from cairn.db.engine import Tx
from cairn.db.feed import EVERYTHING
from cairn.identity.catalog import store as catalog_store
from tests.identity.conftest import ADMIN_PASSWORD, Cloud, scope_of


def shown(cloud: Cloud, token: str = "", host: str = "") -> dict[str, dict[str, Any]]:
    """The services of the catalog, by name, as a client sees it who called us `host`."""
    answer = asked(cloud, host, "GET", "/auth/catalog", token=token)
    return {service["name"]: service for service in answer.json["catalog"]}


def asked(
    cloud: Cloud, host: str, method: str, path: str, body: Any = None, token: str = ""
) -> Any:
    if not host:
        return cloud.call(method, path, body, token=token)
    return falcon.testing.simulate_request(
        cloud.shell.app,
        method,
        f"/identity/v3{path}",
        host=host,
        json=body,
        headers={"X-Auth-Token": token or cloud.admin_token},
    )


def swift(cloud: Cloud, url: str = "http://swift:8080/v1/AUTH_%(project_id)s") -> tuple[str, str]:
    """An object store that somebody else runs; the ids of service and endpoint."""
    service = cloud.make("service", type="object-store", name="swift")
    endpoint = cloud.make(
        "endpoint", service_id=service["id"], interface="public", url=url, region="RegionOne"
    )
    return service["id"], endpoint["id"]


def own(cloud: Cloud) -> dict[str, Any]:
    (service,) = cloud.call("GET", "/services?name=keystone").json["services"]
    (endpoint,) = cloud.call("GET", f"/endpoints?service_id={service['id']}&interface=public").json[
        "endpoints"
    ]
    return {"service": service, "endpoint": endpoint}


# --- services and endpoints of others ------------------------------------------------------------------


def test_a_service_of_others_is_listed_and_in_the_catalog_of_tokens(cloud: Cloud) -> None:
    service_id, endpoint_id = swift(cloud)
    listed = cloud.call("GET", "/services?type=object-store").json["services"]
    assert [s["id"] for s in listed] == [service_id]
    entry = shown(cloud)["swift"]
    assert entry["type"] == "object-store"
    (endpoint,) = entry["endpoints"]
    assert endpoint == {
        "id": endpoint_id,
        "interface": "public",
        "region": "RegionOne",
        "region_id": "RegionOne",
        "url": f"http://swift:8080/v1/AUTH_{cloud.admin.project_id}",
    }
    signed_in = cloud.sign_in("admin", ADMIN_PASSWORD, scope=scope_of("admin")).json["token"]
    assert "swift" in [s["name"] for s in signed_in["catalog"]]


@pytest.mark.parametrize("place", ["%(tenant_id)s", "$(project_id)s", "$(tenant_id)s"])
def test_places_of_an_address_are_filled(cloud: Cloud, place: str) -> None:
    swift(cloud, f"http://s/100%%/{place}/%(user_id)s")
    (endpoint,) = shown(cloud)["swift"]["endpoints"]
    assert endpoint["url"] == f"http://s/100%/{cloud.admin.project_id}/{cloud.admin.user_id}"


def test_an_address_for_projects_is_not_shown_without_one(cloud: Cloud) -> None:
    swift(cloud)
    token = cloud.token("admin", ADMIN_PASSWORD, scope={"system": {"all": True}})
    assert shown(cloud, token)["swift"]["endpoints"] == []
    assert shown(cloud, token)["keystone"]["endpoints"]


def test_what_is_disabled_is_not_shown(cloud: Cloud) -> None:
    service_id, endpoint_id = swift(cloud)
    off = cloud.call("PATCH", f"/endpoints/{endpoint_id}", {"endpoint": {"enabled": False}})
    assert off.json["endpoint"]["enabled"] is False
    assert shown(cloud)["swift"]["endpoints"] == []
    cloud.call("PATCH", f"/endpoints/{endpoint_id}", {"endpoint": {"enabled": True}})
    cloud.call("PATCH", f"/services/{service_id}", {"service": {"enabled": False}})
    assert "swift" not in shown(cloud)
    assert cloud.call("GET", f"/services/{service_id}").json["service"]["enabled"] is False


def test_a_service_goes_with_its_endpoints(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    service_id, endpoint_id = swift(cloud)
    assert cloud.call("DELETE", f"/services/{service_id}").status_code == 204
    assert cloud.call("GET", f"/services/{service_id}").status_code == 404
    assert cloud.call("GET", f"/endpoints/{endpoint_id}").status_code == 404
    assert "swift" not in shown(cloud)


def test_services_and_endpoints_keep_other_attributes(cloud: Cloud) -> None:
    service = cloud.make("service", type="dns", description="names", owner="us")
    assert (service["name"], service["enabled"]) == ("", True)
    changed = cloud.call(
        "PATCH", f"/services/{service['id']}", {"service": {"description": "d", "name": "n"}}
    ).json["service"]
    assert (changed["description"], changed["name"], changed["owner"]) == ("d", "n", "us")
    endpoint = cloud.make(
        "endpoint", service_id=service["id"], interface="admin", url="http://d", name="e"
    )
    assert (endpoint["name"], endpoint["region_id"], endpoint["region"]) == ("e", None, None)
    path = f"/endpoints/{endpoint['id']}"
    moved = cloud.call("PATCH", path, {"endpoint": {"url": "http://e", "description": "x"}})
    assert (moved.json["endpoint"]["name"], moved.json["endpoint"]["url"]) == ("e", "http://e")
    assert cloud.call("HEAD", path).status_code == 200


def test_lists_are_filtered_and_paged(cloud: Cloud) -> None:
    service_id, endpoint_id = swift(cloud)
    cloud.make("service", type="dns", name="Swift-like")

    def ids(query: str, what: str = "endpoints") -> list[str]:
        return [one["id"] for one in cloud.call("GET", f"/{what}?{query}").json[what]]

    assert ids(f"service_id={service_id}") == [endpoint_id]
    assert ids(f"service_id={service_id}&interface=internal") == []
    assert endpoint_id in ids("region_id=RegionOne&interface=public")
    assert ids("region_id=nowhere") == []
    assert len(ids("name__icontains=SWIFT", "services")) == 2
    assert ids("name__startswith=swi", "services") == [service_id]
    first = cloud.call("GET", "/services?limit=1").json
    second = first["links"]["next"].partition("/v3")[2]
    rest = cloud.call("GET", second.replace("limit=1", "limit=100")).json["services"]
    assert len(rest) == len(ids("", "services")) - 1
    assert cloud.call("GET", "/services?marker=nobody").status_code == 400
    assert cloud.call("GET", "/endpoints?interface=side").status_code == 400


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"url": None}, "url"),
        ({"url": "no address"}, "url"),
        ({"url": "http://x/%(password)s"}, "%(password)s"),
        ({"url": "http://x/%20"}, "%20"),
        ({"url": "http://x/%(project_id)d"}, "%(project_id)d"),
        ({"service_id": "nobody"}, "service_id"),
        ({"region_id": "nowhere"}, "region_id"),
        ({"interface": "side"}, "interface"),
        ({"enabled": "True"}, "enabled"),
    ],
)
def test_bad_endpoints_are_refused(cloud: Cloud, changes: dict[str, Any], word: str) -> None:
    service_id, endpoint_id = swift(cloud)
    good = {"service_id": service_id, "interface": "public", "url": "http://x"}
    made = cloud.call("POST", "/endpoints", {"endpoint": {**good, **changes}})
    changed = cloud.call("PATCH", f"/endpoints/{endpoint_id}", {"endpoint": changes})
    for answer in (made, changed):
        assert answer.status_code == 400
        assert word in answer.json["error"]["message"]


@pytest.mark.parametrize("missing", ["service_id", "interface", "url"])
def test_what_an_endpoint_needs(cloud: Cloud, missing: str) -> None:
    service_id, _ = swift(cloud)
    body = {"service_id": service_id, "interface": "public", "url": "http://x"}
    del body[missing]
    answer = cloud.call("POST", "/endpoints", {"endpoint": body})
    assert answer.status_code == 400
    assert missing in answer.json["error"]["message"]


def test_ids_do_not_change(cloud: Cloud) -> None:
    service_id, endpoint_id = swift(cloud)
    for path, key in (
        (f"/services/{service_id}", "service"),
        (f"/endpoints/{endpoint_id}", "endpoint"),
        ("/regions/RegionOne", "region"),
    ):
        answer = cloud.call("PATCH", path, {key: {"id": "other"}})
        assert answer.status_code == 400, path
        assert cloud.call("PATCH", path, {key: {}}).status_code == 400


# --- our own -------------------------------------------------------------------------------------------


def test_our_own_addresses_follow_the_client(cloud: Cloud) -> None:
    def address(host: str) -> str:
        entry = shown(cloud, host=host)["keystone"]
        return str(entry["endpoints"][0]["url"])

    assert address("a.example") == "http://a.example/identity"
    assert address("b.example") == "http://b.example/identity"


def test_our_own_services_are_renamed_and_hidden(cloud: Cloud) -> None:
    mine = own(cloud)
    path = f"/services/{mine['service']['id']}"
    renamed = cloud.call("PATCH", path, {"service": {"name": "id", "description": "ours"}})
    assert (renamed.json["service"]["name"], renamed.json["service"]["description"]) == (
        "id",
        "ours",
    )
    assert shown(cloud)["id"]["type"] == "identity"
    cloud.call("PATCH", path, {"service": {"enabled": False}})
    assert shown(cloud) == {}
    cloud.call("PATCH", path, {"service": {"enabled": True, "name": "keystone"}})
    assert shown(cloud)["keystone"]["endpoints"]


def test_our_own_endpoints_are_overruled_and_given_back(cloud: Cloud) -> None:
    path = f"/endpoints/{own(cloud)['endpoint']['id']}"
    computed = cloud.call("GET", path).json["endpoint"]["url"]

    def public() -> str:
        entry = shown(cloud)["keystone"]["endpoints"]
        return str(next(e["url"] for e in entry if e["interface"] == "public"))

    # Another change does not freeze the address at which the operator happened to call us.
    asked(cloud, "admin.only", "PATCH", path, {"endpoint": {"description": "d"}})
    assert public() == computed
    cloud.call("PATCH", path, {"endpoint": {"url": "https://cloud.example/identity"}})
    assert public() == "https://cloud.example/identity"
    cloud.call("PATCH", path, {"endpoint": {"url": None}})
    assert public() == computed


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("service", {"type": "other"}),
        ("endpoint", {"interface": "admin"}),
        ("endpoint", {"service_id": "f" * 32}),
    ],
)
def test_what_follows_from_the_code_stays(cloud: Cloud, what: str, change: Any) -> None:
    id_ = own(cloud)[what]["id"]
    before = cloud.call("GET", f"/{what}s/{id_}").json
    assert cloud.call("PATCH", f"/{what}s/{id_}", {what: change}).status_code == 403
    deleted = cloud.call("DELETE", f"/{what}s/{id_}")
    assert deleted.status_code == 403
    assert "Cairn itself serves it" in deleted.json["error"]["message"]
    assert cloud.call("GET", f"/{what}s/{id_}").json == before


def test_a_row_about_what_is_not_served_any_more_is_nothing(cloud: Cloud) -> None:
    def leave(tx: Tx) -> None:
        tx.execute(
            catalog_store.services.insert().values(
                id="gone", type="old", name="old", enabled=True, extra={}, is_own=True
            )
        )
        tx.wake(catalog_store.TOPIC)

    cloud.database.write_now(leave)
    assert cloud.call("GET", "/services/gone").status_code == 404
    assert "old" not in shown(cloud)


# --- regions -------------------------------------------------------------------------------------------


def test_regions_form_a_tree(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    north = cloud.make("region", id="north", description="cold", color="white")
    assert (north["color"], north["parent_region_id"]) == ("white", None)
    made = cloud.call("PUT", "/regions/oslo", {"region": {"parent_region_id": "north"}})
    assert made.status_code == 201
    assert made.json["region"]["description"] == ""
    below = cloud.call("GET", "/regions?parent_region_id=north").json["regions"]
    assert [r["id"] for r in below] == ["oslo"]
    circle = cloud.call("PATCH", "/regions/north", {"region": {"parent_region_id": "oslo"}})
    assert circle.status_code == 400
    assert "circular" in circle.json["error"]["message"]
    assert cloud.call("DELETE", "/regions/north").status_code == 204
    assert cloud.call("GET", "/regions/oslo").status_code == 404


def test_a_region_without_id_gets_one(cloud: Cloud) -> None:
    assert len(cloud.make("region")["id"]) == 32
    assert len(cloud.make("region", id="")["id"]) == 32


def test_bad_regions_are_refused(cloud: Cloud) -> None:
    cloud.make("region", id="north")

    def status(method: str, path: str, **region: Any) -> int:
        return int(cloud.call(method, path, {"region": region}).status_code)

    assert status("POST", "/regions", id="north") == 409
    assert status("PUT", "/regions/north") == 409
    assert status("PUT", "/regions/RegionOne") == 409
    assert status("PUT", "/regions/a", id="b") == 400
    assert status("POST", "/regions", id="x" * 256) == 400
    assert status("POST", "/regions", id={"a": 1}) == 400
    assert status("POST", "/regions", id="a/b") == 400
    assert status("POST", "/regions", parent_region_id="nowhere") == 404
    assert status("PATCH", "/regions/north", parent_region_id="north") == 400
    assert status("PATCH", "/regions/nowhere", description="d") == 404


def test_a_region_with_endpoints_stays(cloud: Cloud) -> None:
    cloud.make("region", id="north")
    cloud.make("region", id="oslo", parent_region_id="north")
    service_id, endpoint_id = swift(cloud)
    cloud.call("PATCH", f"/endpoints/{endpoint_id}", {"endpoint": {"region_id": "oslo"}})
    for region in ("north", "RegionOne"):
        answer = cloud.call("DELETE", f"/regions/{region}")
        assert answer.status_code == 403
        assert "associated endpoints" in answer.json["error"]["message"]
    cloud.call("DELETE", f"/services/{service_id}")
    assert cloud.call("DELETE", "/regions/north").status_code == 204


def test_our_region_is_described_and_stays(cloud: Cloud) -> None:
    answer = cloud.call("PATCH", "/regions/RegionOne", {"region": {"description": "home"}})
    assert answer.json["region"]["description"] == "home"
    found = cloud.call("GET", "/regions").json["regions"]
    assert [(r["id"], r["description"]) for r in found] == [("RegionOne", "home")]
    assert cloud.call("DELETE", "/regions/RegionOne").status_code == 403


def test_the_older_field_makes_its_region(cloud: Cloud) -> None:
    service_id, endpoint_id = swift(cloud)
    made = cloud.make(
        "endpoint", service_id=service_id, interface="admin", url="http://a", region="new"
    )
    assert (made["region"], made["region_id"]) == ("new", "new")
    assert cloud.call("GET", "/regions/new").status_code == 200
    moved = cloud.call("PATCH", f"/endpoints/{endpoint_id}", {"endpoint": {"region": "newer"}})
    assert moved.json["endpoint"]["region_id"] == "newer"
    assert cloud.call("GET", "/regions/newer").status_code == 200


# --- who may, and what it costs -----------------------------------------------------------------------


def test_only_admins_change_and_everybody_sees_regions(cloud: Cloud) -> None:
    user = cloud.make("user", name="ann", password="ann's")
    project = cloud.make("project", name="p")
    cloud.grant(user["id"], project["id"], "member")
    ann = cloud.token("ann", "ann's", scope=scope_of("p"))
    assert cloud.call("GET", "/regions", token=ann).status_code == 200
    for method, path, body in (
        ("POST", "/regions", {"region": {}}),
        ("PUT", "/regions/x", {"region": {}}),
        ("POST", "/services", {"service": {"type": "t"}}),
        ("GET", "/services", None),
        ("GET", "/endpoints", None),
        ("DELETE", "/regions/RegionOne", None),
    ):
        assert cloud.call(method, path, body, token=ann).status_code == 403, path


def test_the_catalog_costs_no_statement_until_it_changes(cloud: Cloud) -> None:
    swift(cloud)
    shown(cloud)
    database = cloud.database

    def statements() -> int:
        before = database.statements_total
        shown(cloud)
        return database.statements_total - before

    assert statements() == 0
    cloud.make("service", type="dns")
    assert statements() > 0
    assert statements() == 0
    database.wake(EVERYTHING)
    assert statements() > 0
