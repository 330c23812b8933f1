"""The attributes of an image as clients write them: names, types, limits, and JSON patches. Pure.

An image's record is open-ended: whatever is not an attribute of Glance's schema is a property of the
user's, a string. Source: api-ref "Image service", "Create image", "Update image", and the media types
application/openstack-images-v2.0-json-patch and v2.1 (HTTP PATCH media types of the image service).
"""

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from cairn.core.errors import Conflict, Denied, Invalid, OverQuota
from cairn.core.ids import ImageId, ProjectId
from cairn.drivers.formats import FORMATS
from cairn.image.records import (
    CONTAINER_FORMATS,
    PROPERTIES_MAX,
    TAGS_MAX,
    Image,
    ImageStatus,
    ImageWish,
    Visibility,
)

READ_ONLY = frozenset({
    "id", "status", "checksum", "size", "virtual_size", "os_hash_algo", "os_hash_value", "created_at",
    "updated_at", "direct_url", "self", "file", "schema", "stores",
})  # fmt: skip
RESERVED = frozenset({"deleted", "deleted_at", "is_public", "location", "locations"})
RESERVED_PREFIX = "os_glance_"

_INT_MAX = 2147483647
_TEXT_MAX = 255
_PROPERTY_MAX = 65535
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


class Change(Struct, frozen=True, kw_only=True):
    """One operation of a patch: `operation` is "add", "replace" or "remove" of the attribute `name`."""

    operation: str
    name: str
    value: Any = None


def read_wish(body: object) -> ImageWish:
    """A create request's body. Raises Invalid naming the attribute, Denied for those that are ours."""
    if not isinstance(body, dict):
        raise Invalid("The body must be a JSON object of image attributes.")
    known: dict[str, Any] = {}
    properties: dict[str, str | None] = {}
    for name, value in body.items():
        if name == "id":
            known["id"] = _uuid("id", value)
            continue
        _require_writable(name)
        if name in _FIELDS:
            field, read = _FIELDS[name]
            known[field] = read(name, value)
        else:
            properties[_property_name(name)] = _property(name, value)
    _require_few_properties(properties)
    return ImageWish(**known, properties=properties)


def read_patch(body: object) -> tuple[Change, ...]:
    """A patch of either media type. Raises Invalid."""
    if not isinstance(body, list):
        raise Invalid("The body must be a JSON array of operations.")
    if len(body) > 1000:
        raise Invalid("A patch may have at most 1000 operations.")
    return tuple(_change(operation) for operation in body)


def changed(image: Image, changes: tuple[Change, ...]) -> Image:
    """The image after a patch. Raises Invalid, Denied (an attribute that is ours), Conflict."""
    for change in changes:
        _require_writable(change.name)
        apply = _with_field if change.name in _FIELDS else _with_property
        image = apply(image, change)
    _require_few_properties(image.properties)
    return image


def read_tag(value: object) -> str:
    return _text("tag", value, longest=_TEXT_MAX)


# --- one attribute -----------------------------------------------------------------------------------


def _with_field(image: Image, change: Change) -> Image:
    field, read = _FIELDS[change.name]
    if change.operation == "remove":
        raise Denied(f"Property '{change.name}' may not be removed.")
    if field in ("format", "container") and image.status is not ImageStatus.QUEUED:
        raise Denied(f"Attribute {change.name} can be only replaced for a queued image.")
    return replace(image, **{field: read(change.name, change.value)})


def _with_property(image: Image, change: Change) -> Image:
    name = _property_name(change.name)
    if change.operation != "add" and name not in image.properties:
        raise Conflict(f"Property {name} does not exist.")
    left = {key: value for key, value in image.properties.items() if key != name}
    if change.operation != "remove":
        left[name] = _property(name, change.value)
    return replace(image, properties=left)


def _change(operation: object) -> Change:
    """v2.1: {"op": "add", "path": "/x", "value": 1}; v2.0: {"add": "/x", "value": 1}."""
    if not isinstance(operation, dict):
        raise Invalid("Each operation of a patch must be a JSON object.")
    kinds = [kind for kind in ("add", "replace", "remove") if kind in operation]
    if "op" in operation:
        kind, path = operation["op"], operation.get("path")
    elif len(kinds) == 1:
        kind, path = kinds[0], operation[kinds[0]]
    else:
        raise Invalid("An operation must be one of 'add', 'replace' and 'remove'.")
    if kind not in ("add", "replace", "remove"):
        raise Invalid(f"Operation '{str(kind)[:40]}' is not one of 'add', 'replace' and 'remove'.")
    if not isinstance(path, str) or not path.startswith("/") or "//" in path or path.endswith("/"):
        raise Invalid(
            f"Invalid path '{str(path)[:60]}': it must start with '/' and name something."
        )
    if kind != "remove" and "value" not in operation:
        raise Invalid(f"The operation on '{path[:60]}' lacks a 'value'.")
    name, *deeper = path[1:].split("/")
    name = name.replace("~1", "/").replace("~0", "~")
    if deeper:
        _require_writable(name)
        raise Invalid(f"Invalid path '{path[:60]}': attributes have no parts.")
    return Change(operation=kind, name=name, value=operation.get("value"))


def _require_writable(name: str) -> None:
    if name in READ_ONLY:
        raise Denied(f"Attribute '{name}' is read-only.")
    if name in RESERVED or name.startswith(RESERVED_PREFIX):
        raise Denied(f"Attribute '{name}' is reserved.")


def _require_few_properties(properties: Mapping[str, str | None]) -> None:
    if len(properties) > PROPERTIES_MAX:
        raise OverQuota(f"An image may have at most {PROPERTIES_MAX} properties.")


def _property_name(name: str) -> str:
    if not name or len(name) > _TEXT_MAX or _CONTROL.search(name):
        raise Invalid(
            f"Property name '{name[:60]}' must have 1 to {_TEXT_MAX} printable characters."
        )
    return name


def _property(name: str, value: object) -> str | None:
    if name in ("kernel_id", "ramdisk_id"):
        return None if value is None else _uuid(name, value)
    return _text(name, value, longest=_PROPERTY_MAX)


def _text(name: str, value: object, *, longest: int) -> str:
    if not isinstance(value, str):
        raise Invalid(f"Invalid value for '{name[:60]}': it must be a string.")
    if len(value) > longest:
        raise Invalid(f"Invalid value for '{name[:60]}': it has more than {longest} characters.")
    if "\x00" in value:
        raise Invalid(f"Invalid value for '{name[:60]}': it contains a NUL character.")
    return value


def _name(name: str, value: object) -> str | None:
    return None if value is None else _text(name, value, longest=_TEXT_MAX)


def _owner(name: str, value: object) -> ProjectId | None:
    return None if value is None else ProjectId(_text(name, value, longest=64))


def _uuid(name: str, value: object) -> ImageId:
    try:
        return ImageId(str(uuid.UUID(_text(name, value, longest=64))))
    except ValueError as error:
        raise Invalid(f"Invalid value for '{name}': it must be a UUID.") from error


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise Invalid(f"Invalid value for '{name}': it must be true or false.")
    return value


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INT_MAX:
        raise Invalid(f"Invalid value for '{name}': it must be an integer from 0 to {_INT_MAX}.")
    return value


def _one_of(allowed: tuple[str, ...]) -> Callable[[str, object], str | None]:
    def read(name: str, value: object) -> str | None:
        if value is None or (isinstance(value, str) and value in allowed):
            return value
        raise Invalid(f"Invalid value for '{name}': {str(value)[:60]!r} is not one of {allowed}.")

    return read


def _visibility(name: str, value: object) -> Visibility:
    try:
        return Visibility(str(value))
    except ValueError as error:
        allowed = ", ".join(Visibility)
        raise Invalid(f"Invalid value for '{name}': it must be one of {allowed}.") from error


def _tags(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Invalid(f"Invalid value for '{name}': it must be an array of strings.")
    tags = tuple(sorted({read_tag(tag) for tag in value}))
    if len(tags) > TAGS_MAX:
        raise OverQuota(f"An image may have at most {TAGS_MAX} tags.")
    return tags


_FIELDS: dict[str, tuple[str, Callable[[str, object], Any]]] = {
    "name": ("name", _name),
    "owner": ("owner", _owner),
    "visibility": ("visibility", _visibility),
    "protected": ("is_protected", _boolean),
    "os_hidden": ("is_hidden", _boolean),
    "disk_format": ("format", _one_of(FORMATS)),
    "container_format": ("container", _one_of(CONTAINER_FORMATS)),
    "min_disk": ("min_disk_gib", _count),
    "min_ram": ("min_ram_mib", _count),
    "tags": ("tags", _tags),
}
"""The API's name to the record's, and how to read it."""
