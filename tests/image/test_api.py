"""Glance's API as clients meet it: records, content, members, and every way to be refused."""

import asyncio
import hashlib
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cairn.core.clock import FakeClock
from cairn.core.ids import ProjectId
from cairn.db.engine import Database
from cairn.http.routes import Service
from cairn.identity import service as identity
from cairn.image import api as image_api
from cairn.image.content import ContentStore
from cairn.image.control import UploadKeeper
from tests.callers import CALLERS, P1, P2, Api

PATCH = "application/openstack-images-v2.1-json-patch"
BYTES = "application/octet-stream"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def image_service(folder: Path) -> Service:
    return image_api.service(ContentStore(folder, bytes_max=1 << 30))


@pytest.fixture
def api(sqlite: Database, image_service: Service) -> Api:
    return Api(sqlite, image_service)


def create(api: Api, who: str = "alice", **attributes: Any) -> Any:
    body = {"name": "i", "disk_format": "raw", "container_format": "bare", **attributes}
    answer = api.post("/image/v2/images", body, who=who)
    assert answer.status_code == 201, answer.text
    return answer.json


def upload(api: Api, image: Any, data: bytes, **options: Any) -> Any:
    path = f"/image/v2/images/{image['id']}/file"
    return api.put(path, data, content_type=BYTES, **options)


def show(api: Api, image: Any, who: str = "alice") -> Any:
    return api.get(f"/image/v2/images/{image['id']}", who=who).json


def patch(api: Api, image: Any, operations: Any, **options: Any) -> Any:
    options.setdefault("content_type", PATCH)
    return api.patch(f"/image/v2/images/{image['id']}", operations, **options)


def qcow2(directory: Path, *words: str) -> bytes:
    raw, path = directory / "raw", directory / "image"
    raw.write_bytes(random.Random(1).randbytes(1 << 20))
    command = words or ("convert", "-f", "raw", "-O", "qcow2", str(raw), str(path))
    subprocess.run(["qemu-img", *command], check=True, capture_output=True, cwd=directory)
    return path.read_bytes()


# --- documents ---------------------------------------------------------------------------------------


def test_versions_need_no_token(api: Api) -> None:
    for path, status in (("/image/", 300), ("/image", 300), ("/image/v2", 300)):
        answer = api.get(path, who=None)
        assert answer.status_code == status
        first = answer.json["versions"][0]
        assert first["status"] == "CURRENT"
        assert first["links"][0]["href"].endswith("/image/v2/")
    assert api.get("/image/versions", who=None).status_code == 200


@pytest.mark.parametrize("name", ["image", "images", "member", "members"])
def test_schemas(api: Api, name: str) -> None:
    assert api.get(f"/image/v2/schemas/{name}").json["name"] == name


def test_import_methods_and_usage(api: Api) -> None:
    assert api.get("/image/v2/info/import").json["import-methods"]["value"] == ["glance-direct"]
    upload(api, create(api), os.urandom(1 << 20))
    usage = api.get("/image/v2/info/usage").json["usage"]
    assert usage["image_count_total"] == {"limit": 1000, "usage": 1}
    assert usage["image_size_total"] == {"limit": -1, "usage": 1}


def limit(api: Api, **limits: int) -> None:
    for name, maximum in limits.items():
        api.shell.database.write_now(
            lambda tx, n=name, m=maximum: identity.set_limit(tx, ProjectId(P1), n, m)  # type: ignore[misc]
        )


def usage_of(api: Api, name: str) -> int:
    return int(api.get("/image/v2/info/usage").json["usage"][name]["usage"])


def test_content_and_staged_content_have_limits_of_their_own(api: Api) -> None:
    limit(api, image_size_total=1, image_stage_total=2)
    stage = f"/image/v2/images/{create(api)['id']}/stage"
    assert api.put(stage, os.urandom(2 << 20), content_type=BYTES).status_code == 204
    assert (usage_of(api, "image_stage_total"), usage_of(api, "image_size_total")) == (2, 0)
    stage = f"/image/v2/images/{create(api)['id']}/stage"
    assert api.put(stage, b"x" * 512, content_type=BYTES).status_code == 413
    assert upload(api, create(api), os.urandom(1 << 20)).status_code == 204
    refused = upload(api, create(api), b"x" * 512)
    assert refused.status_code == 413
    assert usage_of(api, "image_size_total") == 1


def test_uploads_at_the_same_time_have_a_limit(api: Api) -> None:
    limit(api, image_count_uploading=1)
    staged = create(api)
    path = f"/image/v2/images/{staged['id']}"
    assert api.put(f"{path}/stage", b"x" * 512, content_type=BYTES).status_code == 204
    assert usage_of(api, "image_count_uploading") == 1
    waiting = create(api)
    assert upload(api, waiting, b"x" * 512).status_code == 413
    assert show(api, waiting)["status"] == "queued"
    assert api.post(f"{path}/import", {"method": {"name": "glance-direct"}}).status_code == 202
    assert usage_of(api, "image_count_uploading") == 0
    assert upload(api, waiting, b"x" * 512).status_code == 204


# --- records -----------------------------------------------------------------------------------------


def test_created_image_is_queued_and_shared(api: Api) -> None:
    image = create(api, tags=["b", "a"], os_distro="debian")
    assert image["status"] == "queued"
    assert image["visibility"] == "shared"
    assert image["tags"] == ["a", "b"]
    assert image["os_distro"] == "debian"
    assert image["size"] is None
    assert image["file"] == f"/v2/images/{image['id']}/file"
    assert show(api, image) == image


def test_create_says_where_and_how_to_import(api: Api) -> None:
    answer = api.post("/image/v2/images", {"name": "x"})
    assert answer.headers["location"].endswith(f"/image/v2/images/{answer.json['id']}")
    assert answer.headers["openstack-image-import-methods"] == "glance-direct"


@pytest.mark.parametrize(
    ("body", "status", "names"),
    [
        ({"disk_format": "wrong"}, 400, "disk_format"),
        ({"container_format": "wrong"}, 400, "container_format"),
        ({"name": "x" * 256}, 400, "name"),
        ({"name": 5}, 400, "name"),
        ({"id": "no-uuid"}, 400, "id"),
        ({"min_disk": -1}, 400, "min_disk"),
        ({"min_ram": True}, 400, "min_ram"),
        ({"protected": "yes"}, 400, "protected"),
        ({"visibility": "secret"}, 400, "visibility"),
        ({"visibility": ["public"]}, 400, "visibility"),
        ({"disk_format": {}}, 400, "disk_format"),
        ({"tags": "t"}, 400, "tags"),
        ({"tags": ["x" * 256]}, 400, "tag"),
        ({"colour": 5}, 400, "colour"),
        ({"kernel_id": "x"}, 400, "kernel_id"),
        ({"x" * 256: "y"}, 400, "Property name"),
        ({"os_glance_foo": "bar"}, 403, "os_glance_foo"),
        ({"status": "active"}, 403, "status"),
        ({"locations": []}, 403, "locations"),
        ({"visibility": "public"}, 403, "publicize_image"),
        ({"owner": P2}, 403, "another project"),
        ({f"p{n}": "v" for n in range(129)}, 413, "128"),
        ([1], 400, "object"),
        (b"{", 400, "Invalid input"),
    ],
)
def test_bad_creations_name_the_field(api: Api, body: Any, status: int, names: str) -> None:
    answer = api.post("/image/v2/images", body)
    assert answer.status_code == status
    assert names in answer.text
    assert api.get("/image/v2/images").json["images"] == []


def test_admin_makes_public_images_and_for_others(api: Api) -> None:
    image = create(api, "admin", visibility="public", owner=P2)
    assert image["owner"] == P2
    assert show(api, image)["id"] == image["id"]


def test_list_has_first_next_and_schema(api: Api) -> None:
    ids = [create(api, name=f"i{n}")["id"] for n in range(3)]
    one = api.get("/image/v2/images?limit=2&sort=name:asc").json
    assert [image["id"] for image in one["images"]] == ids[:2]
    assert one["first"] == "/v2/images?limit=2&sort=name%3Aasc"
    assert one["schema"] == "/v2/schemas/images"
    two = api.get("/image" + one["next"]).json
    assert [image["id"] for image in two["images"]] == ids[2:]
    assert "next" not in two


@pytest.mark.parametrize(
    "query",
    [
        "limit=x", "limit=-1", f"marker={UNKNOWN}", "sort=nothing", "sort=name:up", "size_min=x",
        "visibility=secret", "member_status=x", "created_at=yesterday", "protected=maybe",
        "sort=name&sort_key=name", "name=in:", "name=%00", "%00=x",
        "sort_key=name&sort_dir=asc&sort_dir=asc",
    ],
)  # fmt: skip
def test_bad_queries_are_refused(api: Api, query: str) -> None:
    assert api.get(f"/image/v2/images?{query}").status_code == 400


def test_filters_of_the_query(api: Api) -> None:
    one = create(api, name="a,b", tags=["t"], colour="red")
    create(api, name="c")
    for query in ('name=in:"a,b",z', "name=a,b", "tag=t", "colour=red", f"id=in:{one['id']}"):
        found = api.get(f"/image/v2/images?{query}").json["images"]
        assert [image["id"] for image in found] == [one["id"]], query
    assert len(api.get("/image/v2/images?sort_key=size&sort_dir=desc").json["images"]) == 2


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        ({"op": "replace", "path": "/name", "value": "new"}, 200),
        ({"replace": "/name", "value": "new"}, 200),
        ({"op": "add", "path": "/colour", "value": "blue"}, 200),
        ({"op": "replace", "path": "/shape", "value": "x"}, 409),
        ({"op": "remove", "path": "/shape"}, 409),
        ({"op": "remove", "path": "/name"}, 403),
        ({"op": "replace", "path": "/status", "value": "active"}, 403),
        ({"op": "add", "path": "/os_glance_x", "value": "y"}, 403),
        ({"op": "add", "path": "/locations/-", "value": {}}, 403),
        ({"op": "replace", "path": "/visibility", "value": "public"}, 403),
        ({"op": "replace", "path": "/owner", "value": P2}, 403),
        ({"op": "replace", "path": "/name", "value": 5}, 400),
        ({"op": "replace", "path": "/name"}, 400),
        ({"op": "replace", "path": "name", "value": "x"}, 400),
        ({"op": "replace", "path": "/name/first", "value": "x"}, 400),
        ({"op": "move", "path": "/name", "from": "/x"}, 400),
        ({"replace": "/a", "add": "/b", "value": "x"}, 400),
        ({}, 400),
        ("x", 400),
    ],
)
def test_patches(api: Api, operation: Any, status: int) -> None:
    image = create(api)
    answer = patch(api, image, [operation])
    assert answer.status_code == status, answer.text
    if status != 200:
        assert show(api, image) == image


def test_patch_wants_its_own_type_and_a_list(api: Api) -> None:
    image = create(api)
    assert patch(api, image, [], content_type="application/json").status_code == 415
    assert patch(api, image, {}).status_code == 400


def test_formats_are_fixed_once_there_is_content(api: Api) -> None:
    image = create(api)
    upload(api, image, b"x" * 512)
    answer = patch(api, image, [{"op": "replace", "path": "/disk_format", "value": "qcow2"}])
    assert answer.status_code == 403


def test_tags(api: Api) -> None:
    image = create(api)
    path = f"/image/v2/images/{image['id']}/tags/blue"
    assert api.put(path).status_code == 204
    assert api.put(path).status_code == 204
    assert show(api, image)["tags"] == ["blue"]
    assert api.delete(path).status_code == 204
    assert api.delete(path).status_code == 404


def test_deleted_image_is_gone_with_its_file(api: Api, folder: Path) -> None:
    image = create(api)
    upload(api, image, b"x")
    path = f"/image/v2/images/{image['id']}"
    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404
    assert api.delete(path).status_code == 404
    assert list(folder.iterdir()) == []


# --- content -----------------------------------------------------------------------------------------


def test_uploaded_bytes_come_back_with_their_hashes(api: Api) -> None:
    image = create(api)
    before = api.get(f"/image/v2/images/{image['id']}/file")
    assert (before.status_code, before.content) == (204, b"")
    data = os.urandom(3 << 20)
    assert upload(api, image, data).status_code == 204
    seen = show(api, image)
    assert (seen["status"], seen["size"], seen["virtual_size"]) == ("active", len(data), len(data))
    assert seen["checksum"] == hashlib.md5(data).hexdigest()
    assert seen["os_hash_algo"] == "sha512"
    assert seen["os_hash_value"] == hashlib.sha512(data).hexdigest()
    answer = api.get(f"/image/v2/images/{image['id']}/file")
    assert answer.content == data
    assert answer.headers["content-md5"] == seen["checksum"]
    assert answer.headers["content-type"] == BYTES


@pytest.mark.parametrize(
    ("text", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=990-", 206, 990, 1000),
        ("bytes=990-5000", 206, 990, 1000),
        ("bytes=-10", 206, 990, 1000),
        ("bytes=1000-", 416, 0, 0),
        ("bytes=5-4", 416, 0, 0),
        ("bytes=-", 416, 0, 0),
        ("bytes=0-1,5-6", 416, 0, 0),
        ("lines=1-2", 416, 0, 0),
    ],
)
def test_ranges(api: Api, text: str, status: int, start: int, end: int) -> None:
    image, data = create(api), random.Random(2).randbytes(1000)
    upload(api, image, data)
    answer = api.get(f"/image/v2/images/{image['id']}/file", headers={"Range": text})
    assert answer.status_code == status
    if status == 206:
        assert answer.content == data[start:end]
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1000"
    else:
        assert answer.headers["content-range"] == "bytes */1000"


def test_qcow2_tells_the_size_of_its_disk(api: Api, tmp_path: Path) -> None:
    image = create(api, disk_format="qcow2")
    assert upload(api, image, qcow2(tmp_path)).status_code == 204
    assert show(api, image)["virtual_size"] == 1 << 20


@pytest.mark.parametrize("stage", [False, True])
def test_content_that_lies_is_refused_and_nothing_is_left(
    api: Api, folder: Path, tmp_path: Path, stage: bool
) -> None:
    whole = qcow2(tmp_path)
    backing = ("-b", "/etc/shadow", "-F", "raw")
    linked = qcow2(tmp_path, "create", "-u", "-f", "qcow2", *backing, "image", "1M")
    for claimed, data, reason in (
        ("qcow2", os.urandom(2048), "qcow2"),
        ("raw", whole, "its content is qcow2"),
        ("vmdk", whole, "vmdk"),
        ("qcow2", whole[: len(whole) // 2], "cut off"),
        ("qcow2", linked, "backing file"),
        ("raw", b"", "no content"),
    ):
        image = create(api, disk_format=claimed)
        if stage and data:
            path = f"/image/v2/images/{image['id']}"
            answer = api.put(f"{path}/stage", data, content_type=BYTES)
            assert answer.status_code == 204
            assert (
                api.post(f"{path}/import", {"method": {"name": "glance-direct"}}).status_code == 202
            )
            (task,) = api.get(f"{path}/tasks").json["tasks"]
            assert (task["status"], reason in task["message"]) == ("failure", True)
            assert show(api, image)["os_glance_failed_import"]
        else:
            answer = upload(api, image, data)
            assert answer.status_code == 400
            assert reason in answer.text
        assert show(api, image)["status"] == "queued"
        assert list(folder.iterdir()) == []


def test_image_that_was_refused_takes_the_right_content(api: Api, tmp_path: Path) -> None:
    image = create(api, disk_format="qcow2")
    assert upload(api, image, b"x" * 1024).status_code == 400
    assert upload(api, image, qcow2(tmp_path)).status_code == 204
    assert show(api, image)["status"] == "active"
    assert upload(api, image, b"again").status_code == 409


def test_archives_are_kept_unopened(api: Api) -> None:
    image = create(api, disk_format="vmdk", container_format="ova")
    assert upload(api, image, b"any").status_code == 204
    assert show(api, image)["virtual_size"] is None


def test_announced_size_must_come(api: Api, folder: Path) -> None:
    image = create(api)
    answer = upload(api, image, b"x" * 100, headers={"x-openstack-image-size": "200"})
    assert answer.status_code == 400
    assert "contradict" in answer.text
    answer = upload(api, image, b"x" * 100, headers={"x-openstack-image-size": "many"})
    assert answer.status_code == 400
    assert show(api, image)["status"] == "queued"
    assert list(folder.iterdir()) == []


def raw_upload(api: Api, image: Any, events: list[dict[str, Any]], **headers: str) -> int:
    """An upload as ASGI events, so that a client can vanish in the middle. Returns the status."""
    sent: list[dict[str, Any]] = []
    waiting = iter(events)

    async def receive() -> dict[str, Any]:
        return next(waiting)

    async def send(event: Any) -> None:
        sent.append(event)

    path = f"/image/v2/images/{image['id']}/file"
    given = {"x-auth-token": "alice", "content-type": BYTES, "host": "x", **headers}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "PUT",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "scheme": "http", "server": ("x", 80), "client": ("x", 1),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in given.items()],
    }  # fmt: skip
    asyncio.run(api.shell.app(scope, receive, send))
    return int(sent[0]["status"])


CHUNK = {"type": "http.request", "body": b"x" * 1024, "more_body": True}
END = {"type": "http.request", "body": b"", "more_body": False}
GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize("headers", [{}, {"content_length": "4096"}])
def test_client_that_goes_leaves_nothing(api: Api, folder: Path, headers: dict[str, str]) -> None:
    image = create(api)
    assert raw_upload(api, image, [CHUNK, CHUNK, GONE], **headers) == 400
    assert show(api, image)["status"] == "queued"
    assert list(folder.iterdir()) == []
    assert raw_upload(api, image, [CHUNK, CHUNK, END]) == 204
    assert show(api, image)["size"] == 2048


def test_upload_larger_than_allowed_is_refused(sqlite: Database, folder: Path) -> None:
    api = Api(sqlite, image_api.service(ContentStore(folder, bytes_max=0 << 30)))
    image = create(api)
    assert upload(api, image, b"x" * 4096).status_code == 413
    assert raw_upload(api, image, [CHUNK, CHUNK, END]) == 413
    assert show(api, image)["status"] == "queued"


def test_full_disk_is_said(api: Api, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    image = create(api)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        answer = upload(api, image, b"x" * 4096)
    assert answer.status_code == 413
    assert "no room left" in answer.text
    assert show(api, image)["status"] == "queued"
    assert list(folder.iterdir()) == []


def test_deactivated_image_is_not_given_out(api: Api) -> None:
    image = create(api)
    path = f"/image/v2/images/{image['id']}"
    assert api.post(f"{path}/actions/deactivate").status_code == 403  # there is nothing yet
    upload(api, image, b"x" * 10)
    assert api.post(f"{path}/actions/deactivate").status_code == 204
    assert show(api, image)["status"] == "deactivated"
    assert api.get(f"{path}/file").status_code == 403
    assert api.get(f"{path}/file", who="admin").status_code == 200
    assert api.post(f"{path}/actions/reactivate").status_code == 204
    assert api.get(f"{path}/file").content == b"x" * 10


def test_staged_content_is_imported(api: Api, folder: Path) -> None:
    image = create(api)
    path = f"/image/v2/images/{image['id']}"
    assert api.post(f"{path}/import", {"method": {"name": "glance-direct"}}).status_code == 409
    assert api.put(f"{path}/stage", b"y" * 1024, content_type=BYTES).status_code == 204
    assert show(api, image)["status"] == "uploading"
    assert api.post(f"{path}/import", {"method": {"name": "telepathy"}}).status_code == 400
    answer = api.post(f"{path}/import", {"method": {"name": "glance-direct"}, "all_stores": True})
    assert answer.status_code == 202
    assert show(api, image)["status"] == "active"
    (task,) = api.get(f"{path}/tasks").json["tasks"]
    assert task["status"] == "success"
    assert task["request_id"] == answer.headers["x-openstack-request-id"]
    assert task["input"]["import_req"]["method"]["name"] == "glance-direct"
    assert api.get(f"{path}/file").content == b"y" * 1024
    assert len(list(folder.iterdir())) == 1


# --- members -----------------------------------------------------------------------------------------


def test_image_is_shared_and_accepted(api: Api) -> None:
    image = create(api)
    path = f"/image/v2/images/{image['id']}/members"
    member = api.post(path, {"member": P2})
    assert member.status_code == 200
    assert (member.json["member_id"], member.json["status"]) == (P2, "pending")
    assert api.post(path, {"member": P2}).status_code == 409
    assert api.put(f"{path}/{P2}", {"status": "accepted"}).status_code == 403
    assert api.put(f"{path}/{P2}", {"status": "perhaps"}, who="bob").status_code == 400
    assert api.put(f"{path}/{P2}", {"status": "accepted"}, who="bob").status_code == 200
    assert api.get(f"{path}/{P2}").json["status"] == "accepted"
    assert [m["member_id"] for m in api.get(path, who="bob").json["members"]] == [P2]
    assert api.get("/image/v2/images", who="bob").json["images"][0]["id"] == image["id"]
    assert api.delete(f"{path}/{P2}", who="bob").status_code == 403
    assert api.delete(f"{path}/{P2}").status_code == 204
    assert api.delete(f"{path}/{P2}").status_code == 404


def test_only_shared_images_have_members(api: Api) -> None:
    image = create(api, visibility="private")
    path = f"/image/v2/images/{image['id']}/members"
    assert api.post(path, {"member": P2}).status_code == 403
    assert api.get(path, who="bob").status_code == 404


# --- every route -------------------------------------------------------------------------------------

PUBLIC = {("GET", "/"), ("GET", "/versions"), ("GET", "/v2")}
FOR_ANYONE = {"/v2/schemas/{name}", "/v2/info/import"}


def filled(path: str, image_id: str) -> str:
    names = {"image_id": image_id, "member_id": P2, "tag": "t", "name": "image"}
    for name, value in names.items():
        path = path.replace(f"{{{name}}}", value)
    return "/image" + path


def test_every_route_wants_a_token_and_a_role(api: Api, image_service: Service) -> None:
    image = create(api)
    assert {(r.method, r.path) for r in image_service.routes if r.rule is None} == PUBLIC
    for route in image_service.routes:
        if route.rule is None:
            continue
        path = filled(route.path, image["id"])
        assert api.call(route.method, path, who=None).status_code == 401, path
        assert api.call(route.method, path, who="nobody").status_code == 401, path
        if route.path not in FOR_ANYONE:
            assert api.call(route.method, path, who="mallory").status_code == 403, path
        if route.method != "GET":
            assert api.call(route.method, path, who="rita").status_code == 403, path
    assert show(api, image) == image


@pytest.mark.parametrize(
    ("who", "image_id"), [("bob", None), ("alice", UNKNOWN), ("alice", "x'--")]
)
def test_foreign_and_unknown_images_are_not_found(
    api: Api, image_service: Service, who: str, image_id: str | None
) -> None:
    image = create(api)
    bodies: dict[str, Any] = {
        "/import": {"method": {"name": "glance-direct"}},
        "/members": {"member": P2},
        "/members/{member_id}": {"status": "accepted"},
    }
    for route in image_service.routes:
        if "{image_id}" not in route.path:
            continue
        body = bodies.get(route.path.removeprefix("/v2/images/{image_id}"))
        options: dict[str, Any] = {}
        if route.method == "PATCH":
            body, options = [{"op": "add", "path": "/a", "value": "b"}], {"content_type": PATCH}
        if route.streams:
            body, options = b"x", {"content_type": BYTES}
        if route.method == "GET":
            body = None
        path = filled(route.path, image_id or image["id"])
        answer = api.call(route.method, path, body, who=who, **options)
        assert answer.status_code == 404, (route.method, path, answer.text)
        assert answer.headers["content-type"].startswith("text/html")
    assert show(api, image) == image


def test_every_body_is_checked(api: Api, image_service: Service) -> None:
    image = create(api)
    for route in image_service.routes:
        if route.body is None:
            continue
        path = filled(route.path, image["id"])
        kind = PATCH if route.method == "PATCH" else "application/json"
        for body in (b"", b"{", b"\xff", b"5", b'{"unknown": [1]}'):
            answer = api.call(route.method, path, body, content_type=kind)
            assert answer.status_code == 400, (route.method, path, body)


# --- what is left behind -----------------------------------------------------------------------------


async def test_upload_of_a_dead_process_is_given_up(
    sqlite: Database, clock: FakeClock, folder: Path
) -> None:
    from cairn.image import service
    from cairn.image.attributes import read_wish

    alice = CALLERS["alice"]
    image_api.service(ContentStore(folder, bytes_max=1 << 30))
    wish = read_wish({"disk_format": "raw", "container_format": "bare"})
    image = sqlite.write_now(lambda tx: service.create(tx, alice, wish))
    begun = sqlite.write_now(lambda tx: service.begin_upload(tx, alice, image.id))
    part = folder / f"{begun.file_name}.part"
    part.write_bytes(b"half")
    long_ago = time.time() - 1000
    os.utime(part, (long_ago, long_ago))
    (folder / "new").write_bytes(b"too young to judge")
    keeper = UploadKeeper(sqlite, folder)
    assert (await keeper.run_once()).found == 0
    clock.advance(61)
    assert (await keeper.run_once()).done == 2
    assert sqlite.read_now(lambda tx: service.get(tx, alice, image.id)).status == "queued"
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert (await keeper.run_once()).found == 0
