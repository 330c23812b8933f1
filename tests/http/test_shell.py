"""The shell's own promises, on a service made for them."""

from typing import Any

import pytest
from msgspec import Struct

from cairn.core.errors import NotFound, OverQuota
from cairn.db.engine import Database, Tx
from cairn.http import faults
from cairn.http.call import Call
from cairn.http.routes import Reply, Route, Service
from cairn.http.versions import Version, Versions
from tests.callers import Api


class Thing(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    size: int


def show(tx: Tx, call: Call[None]) -> Any:
    if call.path["thing_id"] != "1":
        raise NotFound("Thing could not be found.")
    return {"project": call.who.project_id, "version": str(call.version)}


def create(tx: Tx, call: Call[Thing]) -> Any:
    if call.body.size > 10:
        raise OverQuota("Quota exceeded for things: 10 allowed.")
    return Reply(body={"name": call.body.name}, headers={"Location": "/things/1"})


def broken(tx: Tx, call: Call[None]) -> Any:
    raise NotFound("Thing could not be found.", because="it fell")


SERVICE = Service(
    name="things",
    kind="thing",
    root="/thing",
    catalog_path="/v1",
    policy={"show": "rule:project_reader", "create": "rule:project_member"},
    shape_fault=faults.nova,
    versions=Versions(service="thing", minimum=Version(2, 1), maximum=Version(2, 9)),
    statuses={OverQuota: 413},
    routes=(
        Route(method="GET", path="/", rule=None, do=lambda tx, call: {"versions": []}),
        Route(method="GET", path="/v1/things/{thing_id}", rule="show", do=show),
        Route(
            method="POST", path="/v1/things", rule="create", do=create, body=Thing, status=202,
            body_bytes_max=500,
        ),
        Route(method="GET", path="/v1/broken", rule="show", do=broken),
        Route(
            method="GET", path="/v1/new", rule="show", since=Version(2, 5),
            do=lambda tx, call: {"new": True},
        ),
    ),
)  # fmt: skip


@pytest.fixture
def api(sqlite: Database) -> Api:
    return Api(sqlite, SERVICE)


def test_reply_carries_request_id_and_version(api: Api) -> None:
    answer = api.get("/thing/v1/things/1", headers={"OpenStack-API-Version": "thing 2.3"})
    assert answer.json["version"] == "2.3"
    assert answer.headers["openstack-api-version"] == "thing 2.3"
    assert answer.headers["vary"] == "OpenStack-API-Version"
    assert answer.headers["x-openstack-request-id"].startswith("req-")


def test_clients_own_request_id_stands_in_the_log(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """The global request id of oslo: one for all that a client does at once. What is no id is left out."""
    known = "req-11111111-1111-4111-8111-111111111111"
    for sent in (known, "x\ty"):
        api.get("/thing/v1/broken", headers={"X-Openstack-Request-Id": sent})
    said = capsys.readouterr().out
    assert f"global_request_id={known}" in said
    assert "x\ty" not in said


def test_public_route_needs_no_token(api: Api) -> None:
    assert api.get("/thing/", who=None).status_code == 200
    assert api.get("/thing", who=None).status_code == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_address_that_ends_in_an_empty_id_is_unknown(api: Api, method: str) -> None:
    """Not the collection: a client that lost its id must not hear "200", or worse delete."""
    assert api.call(method, "/thing/v1/things/").status_code == (405 if method == "DELETE" else 404)
    assert api.call(method, "/thing/v1/new/").status_code == 404


def test_empty_id_tells_nothing_without_a_token(api: Api) -> None:
    assert api.get("/thing/v1/things/", who=None).status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "body", "who", "status"),
    [
        ("GET", "/thing/v1/things/1", None, None, 401),
        ("GET", "/thing/v1/things/1", None, "nobody", 401),
        ("GET", "/thing/v1/things/1", None, "mallory", 403),
        ("GET", "/thing/v1/things/2", None, "alice", 404),
        ("POST", "/thing/v1/things", {"name": "x", "size": 1}, "rita", 403),
        ("POST", "/thing/v1/things", {"name": "x", "size": 11}, "alice", 413),
        ("POST", "/thing/v1/things", {"name": "x"}, "alice", 400),
        ("POST", "/thing/v1/things", {"name": "x", "size": 1, "more": 2}, "alice", 400),
        ("POST", "/thing/v1/things", b"\xff\xfe", "alice", 400),
        ("POST", "/thing/v1/things", b"[" * 400, "alice", 400),
        ("POST", "/thing/v1/things", b" " * 501, "alice", 413),
        ("POST", "/thing/v1/things", b'{"name": "a\\u0000", "size": 1}', "alice", 400),
        ("GET", "/thing/v1/things/1?name=%00", None, "alice", 400),
        ("PUT", "/thing/v1/things/1", {}, "alice", 405),
        ("GET", "/thing/v1/nothing", None, "alice", 404),
        ("GET", "/thing/v1/new", None, "alice", 404),
    ],
)
def test_refusals(
    api: Api, method: str, path: str, body: Any, who: str | None, status: int
) -> None:
    answer = api.call(method, path, body, who=who)
    assert answer.status_code == status
    assert answer.headers["x-openstack-request-id"].startswith("req-")
    (fault,) = answer.json.values()
    assert fault["code"] == status
    assert fault["message"]


def test_bad_body_names_the_field(api: Api) -> None:
    answer = api.post("/thing/v1/things", {"name": "x", "size": "big"})
    assert "$.size" in answer.json["badRequest"]["message"]


@pytest.mark.parametrize(
    ("asked", "status"),
    [("thing 2.10", 406), ("thing 3.0", 406), ("thing x", 400), ("other 9", 200)],
)
def test_versions_outside_the_range_are_refused(api: Api, asked: str, status: int) -> None:
    answer = api.get("/thing/v1/things/1", headers={"OpenStack-API-Version": asked})
    assert answer.status_code == status


def test_latest_means_the_newest(api: Api) -> None:
    answer = api.get("/thing/v1/things/1", headers={"OpenStack-API-Version": "thing latest"})
    assert answer.json["version"] == "2.9"


def test_head_is_get_without_body(api: Api) -> None:
    answer = api.call("HEAD", "/thing/v1/things/1")
    assert answer.status_code == 200
    assert answer.content == b""
