"""How images, members and tasks look over HTTP, and the schemas that say so.

Addresses inside bodies are relative ("/v2/images/…"), as Glance's are: clients put their endpoint before.
"""

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

from cairn.drivers.formats import FORMATS
from cairn.image.records import (
    CONTAINER_FORMATS,
    Image,
    ImportTask,
    Member,
    MemberStatus,
    Visibility,
)

# Which of our versions a client may name. 2.12 stands for the tasks of an image.
VERSIONS = ("v2.12", "v2.9", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0")
IMPORT_METHODS = ("glance-direct",)


class NewMember(Struct, frozen=True, forbid_unknown_fields=True):
    member: Annotated[str, Meta(min_length=1, max_length=64)]


class ChangedMember(Struct, frozen=True):
    """openstacksdk repeats the member's id beside the status."""

    status: MemberStatus


class ImportMethod(Struct, frozen=True):
    name: str


class ImportRequest(Struct, frozen=True):
    """Stores are one here, so what names stores is accepted and means the same."""

    method: ImportMethod


def image(of: Image) -> dict[str, Any]:
    content = of.content
    failed = bool(of.tasks) and of.tasks[-1].status == "failure"
    return {
        **of.properties,
        **({"os_glance_failed_import": "files"} if failed else {}),
        "id": of.id,
        "name": of.name,
        "status": of.status,
        "visibility": of.visibility,
        "protected": of.is_protected,
        "os_hidden": of.is_hidden,
        "disk_format": of.format,
        "container_format": of.container,
        "min_disk": of.min_disk_gib,
        "min_ram": of.min_ram_mib,
        "owner": of.owner,
        "size": content.size_bytes if content else None,
        "virtual_size": content.virtual_bytes if content else None,
        "checksum": content.md5 if content else None,
        "os_hash_algo": "sha512" if content else None,
        "os_hash_value": content.sha512 if content else None,
        "created_at": _time(of.created_at),
        "updated_at": _time(of.updated_at),
        "tags": list(of.tags),
        "self": f"/v2/images/{of.id}",
        "file": f"/v2/images/{of.id}/file",
        "schema": "/v2/schemas/image",
    }


def member(of: Member) -> dict[str, Any]:
    return {
        "member_id": of.project_id,
        "image_id": of.image_id,
        "status": of.status,
        "created_at": _time(of.created_at),
        "updated_at": _time(of.updated_at),
        "schema": "/v2/schemas/member",
    }


def task(of: ImportTask, image: Image) -> dict[str, Any]:
    return {
        "id": of.id,
        "type": "api_image_import",
        "status": of.status,
        "message": of.message,
        "image_id": image.id,
        "request_id": of.request_id,
        "user_id": of.user_id,
        "owner": image.owner,
        "input": {"image_id": image.id, "import_req": {"method": {"name": of.method}}},
        "result": {"image_id": image.id},
        "created_at": _time(of.at),
        "updated_at": _time(of.at),
        "expires_at": None,
        "schema": "/v2/schemas/task",
    }


def versions(base_url: str) -> dict[str, Any]:
    links = [{"rel": "self", "href": f"{base_url}/image/v2/"}]
    return {
        "versions": [
            {"id": name, "status": "CURRENT" if i == 0 else "SUPPORTED", "links": links}
            for i, name in enumerate(VERSIONS)
        ]
    }


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# --- schemas -----------------------------------------------------------------------------------------

_ANY_TEXT = {"type": ["null", "string"], "maxLength": 255}
_READ_TEXT = {"type": ["null", "string"], "readOnly": True}
_UUID = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"

_IMAGE: dict[str, Any] = {
    "name": "image",
    "properties": {
        "id": {"type": "string", "pattern": _UUID, "description": "Identifies the image"},
        "name": {**_ANY_TEXT, "description": "Descriptive name"},
        "status": {**_READ_TEXT, "description": "Whether it has content that can be used"},
        "visibility": {"type": "string", "enum": list(Visibility)},
        "protected": {"type": "boolean", "description": "Whether it is kept from deletion"},
        "os_hidden": {"type": "boolean", "description": "Whether default lists leave it out"},
        "checksum": {**_READ_TEXT, "maxLength": 32, "description": "MD5 of the content"},
        "os_hash_algo": {**_READ_TEXT, "maxLength": 64},
        "os_hash_value": {**_READ_TEXT, "maxLength": 128},
        "owner": _ANY_TEXT,
        "size": {"type": ["null", "integer"], "readOnly": True, "description": "Bytes"},
        "virtual_size": {
            "type": ["null", "integer"],
            "readOnly": True,
            "description": "Bytes of the disk inside",
        },
        "container_format": {"type": ["null", "string"], "enum": [None, *CONTAINER_FORMATS]},
        "disk_format": {"type": ["null", "string"], "enum": [None, *FORMATS]},
        "created_at": {"type": "string", "readOnly": True},
        "updated_at": {"type": "string", "readOnly": True},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 255}},
        "min_ram": {"type": "integer", "description": "MiB"},
        "min_disk": {"type": "integer", "description": "GiB"},
        "self": {"type": "string", "readOnly": True},
        "file": {"type": "string", "readOnly": True},
        "schema": {"type": "string", "readOnly": True},
        "kernel_id": {"type": ["null", "string"], "pattern": _UUID, "is_base": False},
        "ramdisk_id": {"type": ["null", "string"], "pattern": _UUID, "is_base": False},
        "instance_uuid": {"type": "string", "is_base": False},
        "architecture": {"type": "string", "is_base": False},
        "os_distro": {"type": "string", "is_base": False},
        "os_version": {"type": "string", "is_base": False},
    },
    "additionalProperties": {"type": "string"},
    "links": [
        {"rel": "self", "href": "{self}"},
        {"rel": "enclosure", "href": "{file}"},
        {"rel": "describedby", "href": "{schema}"},
    ],
}
_MEMBER: dict[str, Any] = {
    "name": "member",
    "properties": {
        "member_id": {"type": "string", "description": "The project that it is shared with"},
        "image_id": {"type": "string", "pattern": _UUID},
        "status": {"type": "string", "enum": list(MemberStatus)},
        "created_at": {"type": "string"},
        "updated_at": {"type": "string"},
        "schema": {"type": "string", "readOnly": True},
    },
}


def _many(name: str, of: dict[str, Any]) -> dict[str, Any]:
    paging: dict[str, Any] = {"first": {"type": "string"}, "next": {"type": "string"}}
    return {
        "name": name,
        "properties": {
            name: {"type": "array", "items": of},
            "schema": {"type": "string"},
            **(paging if name == "images" else {}),
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }


SCHEMAS = {
    "image": _IMAGE,
    "images": _many("images", _IMAGE),
    "member": _MEMBER,
    "members": _many("members", _MEMBER),
}
