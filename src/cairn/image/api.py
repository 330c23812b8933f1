"""Glance's Image API v2 over HTTP: the table of routes and what each answers."""

import re
from collections.abc import Mapping
from typing import Any

from cairn.core.errors import Invalid, NoCapacity, NotFound, OverQuota
from cairn.core.ids import ImageId, ProjectId
from cairn.db.engine import Database, Tx
from cairn.http import faults
from cairn.http.call import Call
from cairn.http.faults import HttpFault
from cairn.http.pages import page_of
from cairn.http.routes import Reply, Route, Service
from cairn.image import attributes, lists, shapes
from cairn.image import service as verbs
from cairn.image.content import ContentStore
from cairn.image.policy import POLICY
from cairn.image.records import Content, Upload, Visibility

_PATCH_TYPES = frozenset({
    "application/openstack-images-v2.1-json-patch",
    "application/openstack-images-v2.0-json-patch",
})  # fmt: skip
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def service(content: ContentStore) -> Service:
    """The image service, its files in `content`."""
    return Service(
        name="glance",
        kind="image",
        root="/image",
        catalog_path="",
        policy=POLICY,
        shape_fault=faults.glance,
        statuses={OverQuota: 413, NoCapacity: 413},
        routes=(*_DOCUMENTS, *_IMAGES, *_MEMBERS, *_files(content)),
    )


# --- documents ---------------------------------------------------------------------------------------


def list_versions(_tx: Tx, call: Call[None]) -> Any:
    return shapes.versions(call.base_url)


def show_schema(_tx: Tx, call: Call[None]) -> Any:
    name = call.path["name"]
    if name not in shapes.SCHEMAS:
        raise NotFound(f"There is no schema '{name[:60]}'.")
    return shapes.SCHEMAS[name]


def show_import_info(_tx: Tx, _call: Call[None]) -> Any:
    methods = {
        "description": "Import methods available.",
        "type": "array",
        "value": list(shapes.IMPORT_METHODS),
    }
    return {"import-methods": methods}


def show_usage(tx: Tx, call: Call[None]) -> Any:
    project_id = call.who.project_id
    if project_id is None:
        raise Invalid("Usage is counted per project: use a token of a project.")
    used, limits = verbs.usage(tx, project_id)
    return {
        "usage": {
            name: {"limit": limits[name], "usage": count} for name, count in used.counts.items()
        }
    }


# --- images ------------------------------------------------------------------------------------------


def create_image(tx: Tx, call: Call[object]) -> Reply:
    wish = attributes.read_wish(call.body)
    _require_visibility(call, wish.visibility)
    image = verbs.create(tx, call.who, wish)
    return Reply(
        body=shapes.image(image),
        headers={
            "Location": f"{call.base_url}/image/v2/images/{image.id}",
            "OpenStack-image-import-methods": ",".join(shapes.IMPORT_METHODS),
        },
    )


def list_images(tx: Tx, call: Call[None]) -> Any:
    page = page_of(call)
    wanted, order = lists.read_filter(call.query), lists.read_order(call.query)
    marker = ImageId(page.marker) if page.marker else None
    found = verbs.listed(tx, call.who, wanted, order, limit=page.limit, marker=marker)
    body: dict[str, Any] = {
        "images": [shapes.image(image) for image in found],
        "first": lists.link(call),
        "schema": "/v2/schemas/images",
    }
    if found and len(found) == page.limit:
        body["next"] = lists.link(call, marker=found[-1].id)
    return body


def show_image(tx: Tx, call: Call[None]) -> Any:
    return shapes.image(verbs.get(tx, call.who, _image_id(call)))


def update_image(tx: Tx, call: Call[object]) -> Any:
    kind = call.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in _PATCH_TYPES:
        accepted = ", ".join(sorted(_PATCH_TYPES))
        raise HttpFault(415, f"Unsupported Content-Type '{kind[:60]}'; use one of {accepted}.")
    changes = attributes.read_patch(call.body)
    for change in changes:
        if change.name == "visibility":
            _require_visibility(call, change.value)
    return shapes.image(verbs.update(tx, call.who, _image_id(call), changes))


def deactivate(tx: Tx, call: Call[None]) -> None:
    verbs.deactivate(tx, call.who, _image_id(call))


def reactivate(tx: Tx, call: Call[None]) -> None:
    verbs.reactivate(tx, call.who, _image_id(call))


def add_tag(tx: Tx, call: Call[None]) -> None:
    verbs.add_tag(tx, call.who, _image_id(call), call.path["tag"])


def remove_tag(tx: Tx, call: Call[None]) -> None:
    verbs.remove_tag(tx, call.who, _image_id(call), call.path["tag"])


def list_tasks(tx: Tx, call: Call[None]) -> Any:
    image = verbs.get(tx, call.who, _image_id(call))
    return {"tasks": [shapes.task(task, image) for task in image.tasks]}


def refuse_no_id(_tx: Tx, _call: Call[None]) -> None:
    """DELETE /v2/images/: an empty id, which clients expect not to be found."""
    raise NotFound("No image found with an empty ID.")


# --- members -----------------------------------------------------------------------------------------


def list_members(tx: Tx, call: Call[None]) -> Any:
    found = verbs.members(tx, call.who, _image_id(call))
    return {"members": [shapes.member(m) for m in found], "schema": "/v2/schemas/members"}


def show_member(tx: Tx, call: Call[None]) -> Any:
    return shapes.member(verbs.member(tx, call.who, _image_id(call), _member_id(call)))


def add_member(tx: Tx, call: Call[shapes.NewMember]) -> Any:
    project_id = _project_id(call.body.member)
    return shapes.member(verbs.add_member(tx, call.who, _image_id(call), project_id))


def change_member(tx: Tx, call: Call[shapes.ChangedMember]) -> Any:
    return shapes.member(
        verbs.set_member_status(tx, call.who, _image_id(call), _member_id(call), call.body.status)
    )


def remove_member(tx: Tx, call: Call[None]) -> None:
    verbs.remove_member(tx, call.who, _image_id(call), _member_id(call))


# --- content -----------------------------------------------------------------------------------------


class _Files:
    """The routes that touch images' files."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content

    async def upload(self, database: Database, call: Call[None]) -> None:
        await self._receive(database, call, stage=False)

    async def stage(self, database: Database, call: Call[None]) -> None:
        await self._receive(database, call, stage=True)

    async def download(self, database: Database, call: Call[None]) -> Reply:
        found = await database.read(
            lambda tx: verbs.content_for_download(tx, call.who, _image_id(call))
        )
        if found is None:
            return Reply(status=204)
        start, length = _range(call.headers, found.size_bytes)
        is_part = length != found.size_bytes
        headers = {"Accept-Ranges": "bytes"}
        if is_part:
            end = start + length - 1
            headers["Content-Range"] = f"bytes {start}-{end}/{found.size_bytes}"
        else:
            headers["Content-MD5"] = found.md5
        return Reply(
            status=206 if is_part else 200,
            headers=headers,
            content_type="application/octet-stream",
            stream=await self._content.read(found, start, length),
            content_length=length,
        )

    def delete(self, tx: Tx, call: Call[None]) -> None:
        gone = verbs.delete(tx, call.who, _image_id(call))
        self._discard_after(tx, gone.content, gone.staged)

    def import_staged(self, tx: Tx, call: Call[shapes.ImportRequest]) -> None:
        verbs.get(tx, call.who, _image_id(call))  # an unknown image is said before a wrong method
        method = call.body.method.name
        if method not in shapes.IMPORT_METHODS:
            possible = ", ".join(shapes.IMPORT_METHODS)
            raise Invalid(f"Unknown import method '{method[:60]}'; possible: {possible}.")
        image, staged = verbs.import_staged(tx, call.who, _image_id(call), call.request_id)
        if image.content is None:
            self._discard_after(tx, staged)

    def _discard_after(self, tx: Tx, *contents: Content | None) -> None:
        tx.after_commit(lambda: self._content.discard(*contents))
        tx.wake(verbs.KEEPER)  # On other control machines there may be copies.

    async def _receive(self, database: Database, call: Call[None], *, stage: bool) -> None:
        kind = call.headers.get("content-type", "application/octet-stream")
        if kind.split(";")[0].strip().lower() != "application/octet-stream":
            raise HttpFault(415, f"Unsupported Content-Type '{kind[:60]}'.")
        announced = _announced_bytes(call.headers)
        upload = await database.write(
            lambda tx: verbs.begin_upload(tx, call.who, _image_id(call), stage=stage)
        )
        try:
            await self._receive_into(database, call, upload, announced, stage=stage)
        except BaseException:  # cancelled as well: the client is gone
            if await database.write(lambda tx: verbs.fail_upload(tx, upload)):
                self._content.discard_upload(upload)
            raise

    async def _receive_into(
        self,
        database: Database,
        call: Call[None],
        upload: Upload,
        announced: int | None,
        *,
        stage: bool,
    ) -> None:
        async def renew() -> None:
            await database.write(lambda tx: verbs.renew_upload(tx, upload))

        assert call.stream is not None, "the route streams"
        content = await self._content.receive(
            upload, call.stream, announced_bytes=announced, renew=renew, refuse_later=stage
        )
        await database.write(lambda tx: verbs.finish_upload(tx, upload, content))


def _announced_bytes(headers: Mapping[str, str]) -> int | None:
    """How long the content will be, as far as the client says. Raises Invalid when it contradicts itself."""
    found: dict[str, int] = {}
    for name in ("content-length", "x-openstack-image-size"):
        text = headers.get(name)
        if text is None:
            continue
        if not (text.isascii() and text.isdecimal() and len(text) <= 18):
            raise Invalid(f"Header '{name}' must be a number of bytes, not '{text[:40]}'.")
        found[name] = int(text)
    if len(set(found.values())) > 1:
        raise Invalid(
            "Headers 'content-length' and 'x-openstack-image-size' contradict each other."
        )
    return next(iter(found.values()), None)


def _range(headers: Mapping[str, str], size_bytes: int) -> tuple[int, int]:
    """Start and length of what to send (RFC 9110, section 14.1.2; one range)."""
    text = headers.get("range")
    if text is None:
        return 0, size_bytes
    refusal = HttpFault(
        416,
        f"The range '{text[:60]}' cannot be served of {size_bytes} bytes.",
        {"Content-Range": f"bytes */{size_bytes}"},
    )
    match = _RANGE.fullmatch(text.strip())
    if match is None or match[0] == "bytes=-":
        raise refusal
    if not match[1]:  # the last n bytes
        length = min(int(match[2]), size_bytes)
        start = size_bytes - length
    else:
        start = int(match[1])
        end = min(int(match[2]), size_bytes - 1) if match[2] else size_bytes - 1
        length = end - start + 1
    if length <= 0 or start >= size_bytes:
        raise refusal
    return start, length


def _require_visibility(call: Call[Any], visibility: object) -> None:
    if visibility == Visibility.PUBLIC:
        call.require("publicize_image")
    if visibility == Visibility.COMMUNITY:
        call.require("communitize_image")


def _image_id(call: Call[Any]) -> ImageId:
    text = call.path["image_id"]
    if _UUID.fullmatch(text) is None:
        raise NotFound(f"No image found with ID {text[:64]}.")
    return ImageId(text)


def _member_id(call: Call[Any]) -> ProjectId:
    return _project_id(call.path["member_id"])


def _project_id(text: str) -> ProjectId:
    if not text.isprintable() or len(text) > 64:
        raise NotFound("There is no such project.")
    return ProjectId(text)


# --- the table ---------------------------------------------------------------------------------------

_IMAGE = "/v2/images/{image_id}"

_DOCUMENTS = (
    Route(method="GET", path="/", rule=None, do=list_versions, status=300),
    Route(method="GET", path="/versions", rule=None, do=list_versions),
    Route(method="GET", path="/v2", rule=None, do=list_versions, status=300),
    Route(method="GET", path="/v2/schemas/{name}", rule="get_schema", do=show_schema),
    Route(method="GET", path="/v2/info/import", rule="get_info", do=show_import_info),
    Route(method="GET", path="/v2/info/usage", rule="get_images", do=show_usage),
)  # fmt: skip

_IMAGES = (
    Route(method="POST", path="/v2/images", rule="add_image", do=create_image, body=object,
          status=201),
    Route(method="GET", path="/v2/images", rule="get_images", do=list_images, stale_ok=True),
    Route(method="DELETE", path="/v2/images", rule="delete_image", do=refuse_no_id, status=204),
    Route(method="GET", path=_IMAGE, rule="get_image", do=show_image),
    Route(method="PATCH", path=_IMAGE, rule="modify_image", do=update_image, body=object),
    Route(method="POST", path=_IMAGE + "/actions/deactivate", rule="deactivate", do=deactivate,
          status=204),
    Route(method="POST", path=_IMAGE + "/actions/reactivate", rule="reactivate", do=reactivate,
          status=204),
    Route(method="PUT", path=_IMAGE + "/tags/{tag}", rule="modify_image", do=add_tag, status=204),
    Route(method="DELETE", path=_IMAGE + "/tags/{tag}", rule="modify_image", do=remove_tag,
          status=204),
    Route(method="GET", path=_IMAGE + "/tasks", rule="get_task", do=list_tasks),
)  # fmt: skip

_MEMBERS = (
    Route(method="GET", path=_IMAGE + "/members", rule="get_members", do=list_members),
    Route(method="POST", path=_IMAGE + "/members", rule="add_member", do=add_member,
          body=shapes.NewMember),
    Route(method="GET", path=_IMAGE + "/members/{member_id}", rule="get_member", do=show_member),
    Route(method="PUT", path=_IMAGE + "/members/{member_id}", rule="modify_member",
          do=change_member, body=shapes.ChangedMember),
    Route(method="DELETE", path=_IMAGE + "/members/{member_id}", rule="delete_member",
          do=remove_member, status=204),
)  # fmt: skip


def _files(content: ContentStore) -> tuple[Route, ...]:
    files = _Files(content)
    return (
        Route(method="DELETE", path=_IMAGE, rule="delete_image", do=files.delete, status=204),
        Route(method="PUT", path=_IMAGE + "/file", rule="upload_image", run=files.upload,
              status=204, streams=True),
        Route(method="GET", path=_IMAGE + "/file", rule="download_image", run=files.download),
        Route(method="PUT", path=_IMAGE + "/stage", rule="import_image", run=files.stage,
              status=204, streams=True),
        Route(method="POST", path=_IMAGE + "/import", rule="import_image",
              do=files.import_staged, body=shapes.ImportRequest, status=202),
    )  # fmt: skip
