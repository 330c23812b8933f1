"""Flavors over the API."""

import re
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType, field

from cairn.compute import bodies, flavors
from cairn.compute.bodies import Flag, Number, Strict, Text255
from cairn.compute.records import Flavor
from cairn.compute.shapes import links, minor_of
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import FlavorId, ProjectId
from cairn.db.engine import Tx
from cairn.http import pages
from cairn.http.call import Call
from cairn.http.faults import HttpFault
from cairn.http.routes import Route
from cairn.http.versions import Version
from cairn.identity import service as identity

_ID = re.compile(r"[\w.\- ]{1,255}")
_SPEC_KEY = re.compile(r"[\w.\-: ]{1,255}")
_MAX = 2**31 - 1


class NewFlavor(Strict, frozen=True, kw_only=True):
    name: Text255
    ram: Number
    vcpus: Number
    disk: Number
    id: str | int | None = None
    swap: Number | None = None
    ephemeral: Number = field(default=0, name="OS-FLV-EXT-DATA:ephemeral")
    rxtx_factor: float | str = 1.0
    is_public: Flag = field(default=True, name="os-flavor-access:is_public")
    description: Annotated[str, Meta(max_length=65535)] | UnsetType | None = UNSET


class CreateFlavor(Strict, frozen=True, kw_only=True):
    flavor: NewFlavor


class ChangedFlavor(Strict, frozen=True, kw_only=True):
    description: Annotated[str, Meta(max_length=65535)] | None


class UpdateFlavor(Strict, frozen=True, kw_only=True):
    flavor: ChangedFlavor


class Specs(Strict, frozen=True, kw_only=True):
    extra_specs: dict[str, str | int | float]


def index(tx: Tx, call: Call[None]) -> Any:
    found = _found(tx, call)
    root, minor = f"{call.base_url}/compute", minor_of(call)
    items = []
    for flavor in found:
        item: dict[str, Any] = {
            "id": flavor.id,
            "name": flavor.name,
            "links": links(root, "flavors", flavor.id),
        }
        if minor >= 55:
            item["description"] = flavor.description
        items.append(item)
    return _page(call, found, items)


def detail(tx: Tx, call: Call[None]) -> Any:
    found = _found(tx, call)
    return _page(call, found, [_shown(call, flavor) for flavor in found])


def show(tx: Tx, call: Call[None]) -> Any:
    return {"flavor": _shown(call, flavors.get(tx, call.who, _id(call)))}


def create(tx: Tx, call: Call[CreateFlavor]) -> Any:
    asked = call.body.flavor
    if asked.description is not UNSET and minor_of(call) < 55:
        raise Invalid("Additional properties are not allowed ('description' was unexpected)")
    wanted_id = "" if asked.id is None or asked.id == "auto" else str(asked.id)
    if wanted_id and (_ID.fullmatch(wanted_id) is None or wanted_id != wanted_id.strip()):
        raise Invalid(
            "Invalid input for field/attribute id: it may have letters, digits, spaces and '._-', at "
            "most 255, and no blanks around it."
        )
    new = Flavor(
        id=FlavorId(wanted_id or tx.new_id()),
        name=bodies.name_of(asked.name),
        vcpus=_number(asked.vcpus, "vcpus", minimum=1),
        memory_mib=_number(asked.ram, "ram", minimum=1),
        disk_gib=_number(asked.disk, "disk", minimum=0),
        ephemeral_gib=_number(asked.ephemeral, "OS-FLV-EXT-DATA:ephemeral", minimum=0),
        swap_mib=_number(asked.swap or 0, "swap", minimum=0),
        rxtx_factor=_factor(asked.rxtx_factor),
        is_public=bodies.flag(asked.is_public),
        description=None if asked.description is UNSET else asked.description,
    )
    return {"flavor": _shown(call, flavors.create(tx, new))}


def update(tx: Tx, call: Call[UpdateFlavor]) -> Any:
    changed = flavors.describe(tx, call.who, _id(call), call.body.flavor.description)
    return {"flavor": _shown(call, changed)}


def delete(tx: Tx, call: Call[None]) -> None:
    flavors.delete(tx, call.who, _id(call))


# --- extra specs -------------------------------------------------------------------------------------


def list_specs(tx: Tx, call: Call[None]) -> Any:
    return {"extra_specs": flavors.get(tx, call.who, _id(call)).extra_specs}


def add_specs(tx: Tx, call: Call[Specs]) -> Any:
    flavors.set_extra_specs(tx, call.who, _id(call), specs := _specs(call.body.extra_specs))
    return {"extra_specs": specs}


def show_spec(tx: Tx, call: Call[None]) -> Any:
    specs = flavors.get(tx, call.who, _id(call)).extra_specs
    key = call.path["key"]
    if key not in specs:
        raise NotFound(f"Flavor {_id(call)} has no extra specs with key {key[:255]}.")
    return {key: specs[key]}


def set_spec(tx: Tx, call: Call[dict[str, str | int | float]]) -> Any:
    if list(call.body) != [call.path["key"]]:
        raise Invalid(
            "Request body and URI mismatch: the body must have exactly the key of the path."
        )
    flavors.set_extra_specs(tx, call.who, _id(call), specs := _specs(call.body))
    return specs


def remove_spec(tx: Tx, call: Call[None]) -> None:
    flavors.remove_extra_spec(tx, call.who, _id(call), call.path["key"])


# --- access ------------------------------------------------------------------------------------------


def list_access(tx: Tx, call: Call[None]) -> Any:
    return _access(tx, call)


def change_access(tx: Tx, call: Call[Any]) -> Any:
    body = call.body
    if not isinstance(body, dict) or len(body) != 1:
        raise Invalid("The body must be an object with one key, the action.")
    ((name, asked),) = body.items()
    if name not in ("addTenantAccess", "removeTenantAccess"):
        raise Invalid(f"There is no such action: {str(name)[:60]}")
    tenant = asked.get("tenant") if isinstance(asked, dict) and set(asked) == {"tenant"} else None
    if not isinstance(tenant, str) or not 1 <= len(tenant) <= 255:
        raise Invalid("Invalid input for field/attribute tenant: the id of a project is needed.")
    project_id = ProjectId(tenant)
    if name == "addTenantAccess":
        call.require("os_compute_api:os-flavor-access:add_tenant_access")
        if minor_of(call) >= 7 and flavors.get(tx, call.who, _id(call)).is_public:
            raise Conflict("Can not add access to a public flavor.")
        if not identity.project_exists(tx, project_id):
            raise Invalid(f"Project ID {tenant} is not a valid project.")
        flavors.grant(tx, call.who, _id(call), project_id)
    else:
        call.require("os_compute_api:os-flavor-access:remove_tenant_access")
        flavors.revoke(tx, call.who, _id(call), project_id)
    return _access(tx, call)


def _access(tx: Tx, call: Call[Any]) -> Any:
    found = flavors.projects_with_access(tx, call.who, _id(call))
    return {"flavor_access": [{"flavor_id": _id(call), "tenant_id": p} for p in found]}


# --- shared ------------------------------------------------------------------------------------------


def _id(call: Call[Any]) -> FlavorId:
    return FlavorId(call.path["flavor_id"])


def _found(tx: Tx, call: Call[None]) -> list[Flavor]:
    query = call.query
    page = pages.page_of(call)
    direction = (query.get("sort_dir") or "asc").lower()
    if direction not in ("asc", "desc"):
        raise Invalid(f"Query parameter 'sort_dir' must be asc or desc, not '{direction[:20]}'.")
    if page.limit == 0:
        return []
    return flavors.list_flavors(
        tx,
        call.who,
        is_public=_is_public(call),
        disk_gib_min=_filter(call, "minDisk"),
        memory_mib_min=_filter(call, "minRam"),
        sort_key=query.get("sort_key") or "flavorid",
        descending=direction == "desc",
        limit=page.limit,
        marker=FlavorId(page.marker) if page.marker else None,
    )


def _is_public(call: Call[None]) -> bool | None:
    """Users see the public ones and those they were given; administrators choose."""
    if not call.who.is_admin:
        return None
    text = call.query.get("is_public")
    if text is None:
        return True
    if text.lower() == "none":
        return None
    try:
        return call.query.boolean("is_public")
    except Invalid as error:
        raise HttpFault(400, f"Invalid is_public filter [{text[:60]}]") from error


def _filter(call: Call[None], key: str) -> int:
    text = call.query.get(key) or "0"
    if not text.isdecimal() or len(text) > 9:
        raise Invalid(f"Invalid {key} filter [{text[:60]}]")
    return int(text)


def _page(call: Call[None], found: list[Flavor], items: list[Any]) -> Any:
    body: dict[str, Any] = {"flavors": items}
    if found and len(found) == pages.page_of(call).limit:
        body["flavors_links"] = [
            {"rel": "next", "href": pages.next_link(call, marker=found[-1].id)}
        ]
    return body


def _shown(call: Call[Any], flavor: Flavor) -> dict[str, Any]:
    minor = minor_of(call)
    body: dict[str, Any] = {
        "id": flavor.id,
        "name": flavor.name,
        "ram": flavor.memory_mib,
        "disk": flavor.disk_gib,
        "vcpus": flavor.vcpus,
        "swap": flavor.swap_mib if flavor.swap_mib or minor >= 75 else "",
        "OS-FLV-EXT-DATA:ephemeral": flavor.ephemeral_gib,
        "OS-FLV-DISABLED:disabled": flavor.is_disabled,
        "os-flavor-access:is_public": flavor.is_public,
        "rxtx_factor": flavor.rxtx_factor,
        "links": links(f"{call.base_url}/compute", "flavors", flavor.id),
    }
    if minor >= 55:
        body["description"] = flavor.description
    if minor >= 61 and call.may("os_compute_api:os-flavor-extra-specs:index"):
        body["extra_specs"] = flavor.extra_specs
    return body


def _number(value: int | str, name: str, *, minimum: int) -> int:
    found = bodies.integer(value, name, minimum=minimum)
    assert found is not None
    return found


def _factor(value: float | str) -> float:
    try:
        factor = float(value)
    except ValueError:
        factor = -1.0
    if not 0 < factor <= 1e6:
        raise Invalid("Invalid input for field/attribute rxtx_factor: a number above 0 is needed.")
    return factor


def _specs(asked: dict[str, str | int | float]) -> dict[str, str]:
    found = {}
    for key, value in asked.items():
        text = str(value)
        if _SPEC_KEY.fullmatch(key) is None:
            raise Invalid(f"Invalid input for field/attribute extra_specs: the key '{key[:60]}'.")
        if len(text) > 255:
            raise Invalid(f"Invalid input for field/attribute extra_specs: the value of '{key}'.")
        found[key] = text
    return found


def _route(method: str, path: str, rule: str, do: Any, **options: Any) -> Route:
    return Route(
        method=method, path=f"/v2.1/flavors{path}", rule=f"os_compute_api:{rule}", do=do, **options
    )


_ONE, _SPECS, _SPEC = (
    "/{flavor_id}",
    "/{flavor_id}/os-extra_specs",
    "/{flavor_id}/os-extra_specs/{key}",
)
_SPEC_BODY = dict[str, str | int | float]

ROUTES = (
    _route("GET", "", "flavors", index, stale_ok=True),
    _route("GET", "/detail", "flavors", detail, stale_ok=True),
    _route("GET", _ONE, "flavors", show),
    _route("POST", "", "os-flavor-manage:create", create, body=CreateFlavor),
    _route("PUT", _ONE, "os-flavor-manage:update", update, body=UpdateFlavor, since=Version(2, 55)),
    _route("DELETE", _ONE, "os-flavor-manage:delete", delete, status=202),
    _route("GET", _SPECS, "os-flavor-extra-specs:index", list_specs),
    _route("POST", _SPECS, "os-flavor-extra-specs:create", add_specs, body=Specs),
    _route("GET", _SPEC, "os-flavor-extra-specs:show", show_spec),
    _route("PUT", _SPEC, "os-flavor-extra-specs:update", set_spec, body=_SPEC_BODY),
    _route("DELETE", _SPEC, "os-flavor-extra-specs:delete", remove_spec),
    _route("GET", "/{flavor_id}/os-flavor-access", "os-flavor-access", list_access),
    _route("POST", "/{flavor_id}/action", "os-flavor-access", change_access, body=object),
)
