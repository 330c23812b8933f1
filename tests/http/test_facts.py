"""What clients take for granted of every service alike: a test a fact, over all services it concerns."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from cairn.http.faults import JSON
from tests.callers import P1
from tests.http.everything import UNKNOWN, World, name_of

ROOTS = {"keystone": "/identity", "nova": "/compute", "glance": "/image", "neutron": "/network",
         "cinder": "/volume"}  # fmt: skip
LISTS = {
    "keystone": ("/identity/v3/projects", "projects"),
    "nova": ("/compute/v2.1/servers", "servers"),
    "glance": ("/image/v2/images", "images"),
    "neutron": ("/network/v2.0/networks", "networks"),
    "cinder": ("/volume/v3/volumes", "volumes"),
}
ITEMS = {
    "keystone": "/identity/v3/projects",
    "nova": "/compute/v2.1/servers",
    "glance": "/image/v2/images",
    "neutron": "/network/v2.0/networks",
    "cinder": "/volume/v3/volumes",
}
VERSIONED = {"nova": ("compute", "/compute/v2.1/flavors"), "cinder": ("volume", "/volume/v3/types")}
every = pytest.mark.parametrize("name", list(ROOTS))
versioned = pytest.mark.parametrize("name", list(VERSIONED))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World("sqlite://", tmp_path_factory.mktemp("control"))
    yield made
    made.database.close()


def versions(body: Any) -> list[Any]:
    found = body.get("versions", body.get("version"))
    found = found["values"] if isinstance(found, dict) and "values" in found else found
    return found if isinstance(found, list) else [found]


def at_host(world: World, path: str, host: str, **headers: str) -> Any:
    bare, _, query = path.partition("?")
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return world.api.client.simulate_get(
        bare, query_string=query, host=host, headers={"X-Auth-Token": "alice", **sent}
    )


def path_of(link: str) -> str:
    parts = urlsplit(link)
    return parts.path + (f"?{parts.query}" if parts.query else "")


# --- sign-in, catalog, discovery (facts 1 to 6; sign-in itself is in tests/identity) -----------------------


@pytest.mark.parametrize(
    ("name", "status"),
    [("keystone", 300), ("nova", 200), ("glance", 300), ("cinder", 300), ("neutron", 200)],
)
def test_fact_3_discovery_needs_no_token(world: World, name: str, status: int) -> None:
    for path in (ROOTS[name], ROOTS[name] + "/"):
        answer = world.api.get(path, who=None)
        assert answer.status_code == status
        assert versions(answer.json)
    if name == "nova":
        assert versions(answer.json)[0]["id"] == "v2.0"


@every
def test_fact_3_version_documents_are_reached_by_their_own_links(world: World, name: str) -> None:
    for version in versions(world.api.get(ROOTS[name], who=None).json):
        (own,) = {ln["href"] for ln in version["links"] if ln["rel"] == "self"}
        assert own.startswith("http")
        answer = world.api.get(path_of(own), who=None)
        assert answer.status_code in (200, 300), own
        if name == "neutron":  # whose document of a version lists resources
            assert "resources" in answer.json
            continue
        again = {
            ln["href"].rstrip("/")
            for v in versions(answer.json)
            for ln in v["links"]
            if ln["rel"] == "self"
        }
        assert own.rstrip("/") in again


@every
def test_fact_4_version_documents_say_what_clients_derive_from_them(
    world: World, name: str
) -> None:
    service = next(s for s in world.services if s.name == name)
    found = versions(world.api.get(ROOTS[name], who=None).json)
    assert all(v["status"] in ("CURRENT", "SUPPORTED", "stable") for v in found)
    if service.versions is not None:
        newest = found[-1]
        assert newest["version"] == str(service.versions.maximum)
        assert newest["min_version"] == str(service.versions.minimum)


@every
def test_fact_4_links_are_right_behind_a_proxy(world: World, name: str) -> None:
    """With Host as the proxy passes it on; what else a client writes is not believed (test_rates.py)."""
    lies = {"X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "gopher",
            "Forwarded": "host=evil.example", "X_Forwarded_Prefix": "/evil"}  # fmt: skip
    answer = at_host(world, ROOTS[name], "cloud.example:8443", **lies)
    assert answer.status_code in (200, 300)
    for version in versions(answer.json):
        assert all(ln["href"].startswith("http://cloud.example:8443/") for ln in version["links"]
                   if ln["rel"] == "self")  # fmt: skip
    assert "evil" not in answer.text
    path, _ = LISTS[name]
    assert "evil" not in at_host(world, path + "?limit=1", "cloud.example:8443", **lies).text


@every
def test_fact_4_a_host_that_is_none_is_refused(world: World, name: str) -> None:
    answer = at_host(world, ROOTS[name], "a b\\c")
    assert answer.status_code == 400


def test_fact_5_volumes_with_and_without_the_project(world: World) -> None:
    for path in ("/volume/v3/volumes", f"/volume/v3/{P1}/volumes"):
        assert world.api.get(path).status_code == 200


# --- microversions (7 to 9) --------------------------------------------------------------------------------


@versioned
def test_fact_7_version_is_repeated_and_named_in_vary(world: World, name: str) -> None:
    word, path = VERSIONED[name]
    service = next(s for s in world.services if s.name == name)
    assert service.versions is not None
    for asked, told in (
        (None, service.versions.minimum),
        ("latest", service.versions.maximum),
        (str(service.versions.maximum), service.versions.maximum),
    ):
        headers = {} if asked is None else {"OpenStack-API-Version": f"{word} {asked}"}
        answer = world.api.get(path, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["openstack-api-version"] == f"{word} {told}"
        assert "OpenStack-API-Version" in answer.headers["vary"]
        if name == "nova":
            assert answer.headers["x-openstack-nova-api-version"] == str(told)
            assert "X-OpenStack-Nova-API-Version" in answer.headers["vary"]


@versioned
@pytest.mark.parametrize(
    ("version", "status"), [("9.99", 406), ("1.0", 406), ("x", 400), ("2", 400)]
)
def test_fact_7_versions_that_are_not_spoken(
    world: World, name: str, version: str, status: int
) -> None:
    word, path = VERSIONED[name]
    answer = world.api.get(path, headers={"OpenStack-API-Version": f"{word} {version}"})
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith(JSON)
    assert "OpenStack-API-Version" in answer.headers["vary"]


@versioned
def test_fact_7_refusals_repeat_the_version(world: World, name: str) -> None:
    """Tempest compares it on every call, and not only the good ones."""
    word, path = VERSIONED[name]
    service = next(s for s in world.services if s.name == name)
    assert service.versions is not None
    asked = f"{word} {service.versions.maximum}"
    for who, at, status in (("alice", f"{path}/{UNKNOWN}", 404), (None, path, 401)):
        answer = world.api.get(at, who=who, headers={"OpenStack-API-Version": asked})
        assert answer.status_code == status
        assert answer.headers["openstack-api-version"] == asked


# --- statuses and errors (10 to 15) ------------------------------------------------------------------------


def test_fact_10_head_and_204_have_no_body(world: World) -> None:
    failures = []
    for service, route in world.routes():
        if route.method != "GET" or route.streams or route.run is not None:
            continue
        answer = world.api.call("HEAD", world.url(service, route, "admin"), who="admin")
        if answer.content or answer.status_code >= 500:
            failures.append(f"{name_of(service, route)}: {answer.status_code}")
    assert not failures


@every
@pytest.mark.parametrize(
    "what", ["unknown path", "unknown id", "no token", "bad method", "bad body"]
)
def test_facts_11_and_12_every_refusal_has_the_services_shape(
    world: World, name: str, what: str
) -> None:
    path = ITEMS[name]
    answer = {
        "unknown path": lambda: world.api.get(f"{ROOTS[name]}/nothing/here", who="admin"),
        "unknown id": lambda: world.api.get(f"{path}/{UNKNOWN}", who="admin"),
        "no token": lambda: world.api.get(path, who=None),
        "bad method": lambda: world.api.call("PATCH", path, {}, who="admin"),
        "bad body": lambda: world.api.post(path, b"{", who="admin"),
    }[what]()
    status = {"unknown path": 404, "unknown id": 404, "no token": 401, "bad method": 405,
              "bad body": 400}[what]  # fmt: skip
    assert answer.status_code == status
    if name == "glance":
        assert answer.headers["content-type"].startswith("text/html")
        return
    assert answer.headers["content-type"].startswith(JSON)
    body = answer.json
    if name == "neutron":
        assert set(body["NeutronError"]) == {"type", "message", "detail"}
    elif name == "keystone":
        assert set(body["error"]) == {"code", "message", "title"}
        assert body["error"]["code"] == status
    else:
        word = {404: "itemNotFound", 401: "unauthorized", 405: "badMethod", 400: "badRequest"}
        assert set(body) == {word[status]}
        assert body[word[status]]["code"] == status
    if status == 401:
        assert "www-authenticate" in answer.headers


@every
def test_fact_11_wrong_methods_are_told_which_are_right(world: World, name: str) -> None:
    answer = world.api.call("PATCH", ITEMS[name], {}, who="admin")
    assert {"GET", "POST"} <= set(re.split(r",\s*", answer.headers["allow"]))


# --- request ids, paging, filters (16 to 19) ---------------------------------------------------------------

_ID = re.compile(r"req-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_fact_16_every_answer_has_a_request_id(world: World) -> None:
    seen = set()
    for service, route in world.routes():
        if route.method != "GET" or route.run is not None:
            continue
        for who in ("alice", None):
            answer = world.api.get(world.url(service, route, "admin"), who=who)
            told = answer.headers["x-openstack-request-id"]
            assert _ID.fullmatch(told), name_of(service, route)
            assert told not in seen
            seen.add(told)
            if service.name == "nova":
                assert answer.headers["x-compute-request-id"] == told


@every
def test_fact_16_clients_ids_are_not_taken_for_ours(world: World, name: str) -> None:
    sent = "req-11111111-1111-4111-8111-111111111111"
    answer = world.api.get(ROOTS[name], who=None, headers={"X-Openstack-Request-Id": sent})
    assert answer.headers["x-openstack-request-id"] != sent
    odd = {"X-Openstack-Request-Id": "x" * 3000}
    assert world.api.get(ROOTS[name], who=None, headers=odd).status_code in (200, 300)


@every
def test_fact_17_pages_lead_to_each_other(world: World, name: str) -> None:
    path, plural = ("/compute/v2.1/flavors", "flavors") if name == "nova" else LISTS[name]
    world.make_another(list(LISTS).index(name))
    who = "admin" if name == "keystone" else "alice"
    shown = world.api.get(path, who=who).json[plural]
    whole = [one["id"] for one in (one.get("flavor", one) for one in shown)]
    assert len(whole) > 1
    paged: list[str] = []
    link: str | None = f"{path}?limit=1"
    while link is not None and len(paged) <= len(whole):
        body = at_host(world, path_of(link), "cloud.example", X_Auth_Token=who).json
        paged += [one["id"] for one in body[plural]]
        assert len(body[plural]) <= 1
        link = next_of(name, plural, body)
        assert link is None or name == "glance" or link.startswith("http://cloud.example/")
    assert sorted(paged) == sorted(whole)


def next_of(name: str, plural: str, body: Any) -> str | None:
    if name == "keystone":
        return body["links"]["next"]  # type: ignore[no-any-return]
    if name == "glance":
        return "/image" + body["next"] if "next" in body else None  # below the endpoint
    found = [ln["href"] for ln in body.get(f"{plural}_links", []) if ln["rel"] == "next"]
    return found[0] if found else None


@every
def test_fact_17_unknown_markers_are_refused(world: World, name: str) -> None:
    path, _ = LISTS[name]
    assert world.api.get(f"{path}?marker={UNKNOWN}", who="admin").status_code in (400, 404)


@every
@pytest.mark.parametrize("limit", ["-1", "x", "1.5", "%F0%9F%98%80", "9" * 40])
def test_fact_17_odd_limits_are_refused(world: World, name: str, limit: str) -> None:
    path, _ = LISTS[name]
    assert world.api.get(f"{path}?limit={limit}", who="admin").status_code == 400


@pytest.mark.parametrize("name", ["nova", "glance", "neutron", "cinder"])
def test_fact_18_unknown_sort_keys_and_directions_are_refused(world: World, name: str) -> None:
    path, _ = LISTS[name]
    for query in ("sort_key=nothing", "sort_key=name&sort_dir=sideways"):
        answer = world.api.get(f"{path}?{query}", who="admin")
        assert answer.status_code == 400, query


@pytest.mark.parametrize("name", ["nova", "glance", "neutron", "cinder"])
def test_fact_18_lists_are_sorted_as_asked(world: World, name: str) -> None:
    path, plural = LISTS[name]
    key = "display_name" if name == "nova" else "name"
    for direction in ("asc", "desc"):
        query = f"?sort_key={key}&sort_dir={direction}"
        names = [one["name"] for one in world.api.get(path + query, who="admin").json[plural]]
        assert names == sorted(names, reverse=direction == "desc")


def test_fact_18_neutron_trims_to_fields_and_takes_any_of_repeated_filters(world: World) -> None:
    path = "/network/v2.0/networks"
    networks = world.api.get(path, who="admin").json["networks"]
    two = networks[:2]
    query = "&".join(f"id={one['id']}" for one in two)
    found = world.api.get(f"{path}?{query}&fields=id", who="admin").json["networks"]
    assert sorted(one["id"] for one in found) == sorted(one["id"] for one in two)
    assert all(set(one) == {"id"} for one in found)
    assert world.api.get(f"{path}?nothing=1", who="admin").status_code == 400


def test_fact_19_revision_numbers_guard_changes(world: World) -> None:
    made = world.api.post("/network/v2.0/networks", {"network": {"name": "r"}}).json["network"]
    path, number = f"/network/v2.0/networks/{made['id']}", made["revision_number"]
    stale = {"If-Match": f"revision_number={number + 7}"}
    body = {"network": {"name": "s"}}
    for method, sent in (("PUT", body), ("DELETE", None)):
        answer = world.api.call(method, path, sent, headers=stale)
        assert answer.status_code == 412
        assert answer.json["NeutronError"]["type"] == "RevisionNumberConstraintFailed"
    right = {"If-Match": f"revision_number={number}"}
    assert world.api.put(path, body, headers=right).status_code == 200
    assert world.api.put(path, body, headers=right).status_code == 412
