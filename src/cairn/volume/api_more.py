"""Block Storage v3 over HTTP, around volumes: types, limits and quotas, zones, services and pools."""

from collections.abc import Mapping
from typing import Any

import msgspec

from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import ProjectId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import DEFAULT_ZONE, Node
from cairn.http.call import Call
from cairn.http.faults import HttpFault
from cairn.http.routes import Route
from cairn.identity import service as identity
from cairn.volume import quota, service, shapes, types
from cairn.volume.records import DEFAULT_TYPE

# --- types -------------------------------------------------------------------------------------------


def list_types(tx: Tx, call: Call[None]) -> Any:
    found = types.visible(tx, call.who)
    word = call.query.get("is_public")
    if word is not None and word.lower() != "none":
        wanted = call.query.boolean("is_public")
        found = [t for t in found if t.is_public is wanted]
    elif word is None or not call.who.is_admin:
        found = [t for t in found if t.is_public]
    return {"volume_types": [shapes.type_view(call, t) for t in found]}


def show_type(tx: Tx, call: Call[None]) -> Any:
    return {"volume_type": shapes.type_view(call, types.get(tx, call.who, _type_id(call)))}


def create_type(tx: Tx, call: Call[shapes.CreateType]) -> Any:
    asked = call.body.volume_type
    try:
        new = types.create(
            tx,
            name=_name(asked.name),
            description=asked.description,
            is_public=shapes.boolean(asked.is_public, "os-volume-type-access:is_public"),
            extra_specs=asked.extra_specs,
        )
    except Conflict as error:
        raise HttpFault(409, error.message) from error
    view = shapes.type_view(call, new)
    view.pop("qos_specs_id", None)
    return {"volume_type": view}


def update_type(tx: Tx, call: Call[shapes.UpdateType]) -> Any:
    asked = call.body.volume_type
    changes: dict[str, object] = {}
    if asked.name is not None:
        changes["name"] = _name(asked.name)
    if not isinstance(asked.description, msgspec.UnsetType):
        changes["description"] = asked.description
    if asked.is_public is not None:
        changes["is_public"] = shapes.boolean(asked.is_public, "is_public")
    if not changes:
        raise Invalid("volume_type: name, description or is_public must be given.")
    try:
        changed = types.change(tx, call.who, _type_id(call), changes)
    except Conflict as error:
        raise HttpFault(409, error.message) from error
    view = shapes.type_view(call, changed)
    for key in ("qos_specs_id", "os-volume-type-access:is_public"):
        view.pop(key, None)
    return {"volume_type": view}


def delete_type(tx: Tx, call: Call[None]) -> None:
    types.delete(tx, call.who, _type_id(call))


def show_specs(tx: Tx, call: Call[None]) -> Any:
    found = types.get(tx, call.who, _type_id(call))
    return {"extra_specs": shapes.shown_specs(call, found)}


def add_specs(tx: Tx, call: Call[shapes.ExtraSpecs]) -> Any:
    _write_specs(tx, call, call.body.extra_specs)
    return {"extra_specs": call.body.extra_specs}


def show_spec(tx: Tx, call: Call[None]) -> Any:
    key = call.path["key"]
    specs = shapes.shown_specs(call, types.get(tx, call.who, _type_id(call)))
    if key not in specs:
        raise NotFound(f"Volume type {_type_id(call)[:64]} has no extra spec '{key[:60]}'.")
    return {key: specs[key]}


def update_spec(tx: Tx, call: Call[Any]) -> Any:
    key = call.path["key"]
    if not isinstance(call.body, dict) or list(call.body) != [key]:
        raise Invalid("The body must have exactly the key that the path names.")
    try:
        specs = msgspec.convert(call.body, shapes.Metadata)
    except msgspec.ValidationError as error:
        raise Invalid(f"{key[:60]}: {error}") from error
    _write_specs(tx, call, specs)
    return specs


def delete_spec(tx: Tx, call: Call[None]) -> None:
    key = call.path["key"]
    specs = types.get(tx, call.who, _type_id(call)).extra_specs
    if key not in specs:
        raise NotFound(f"Volume type {_type_id(call)[:64]} has no extra spec '{key[:60]}'.")
    kept = {k: v for k, v in specs.items() if k != key}
    types.change(tx, call.who, _type_id(call), {"extra_specs": kept})


def _write_specs(tx: Tx, call: Call[Any], specs: dict[str, str]) -> None:
    known = types.get(tx, call.who, _type_id(call)).extra_specs
    merged = {**known, **specs}
    if len(merged) > shapes.ITEMS_MAX:
        raise Invalid(f"extra_specs: at most {shapes.ITEMS_MAX} are possible.")
    types.change(tx, call.who, _type_id(call), {"extra_specs": merged})


def _type_id(call: Call[Any]) -> str:
    type_id = call.path["type_id"]
    return DEFAULT_TYPE.id if type_id == "default" else type_id


def _name(text: str) -> str:
    if not text.strip():
        raise Invalid("name: it must not be empty.")
    return text.strip()


# --- limits and quotas -------------------------------------------------------------------------------


def show_limits(tx: Tx, call: Call[None]) -> Any:
    project_id = call.who.project_id or ProjectId("-")
    if call.who.is_admin and (wanted := call.query.get("project_id")):
        project_id = ProjectId(wanted)
    allowed, used = quota.limits(tx, project_id), quota.used(tx, project_id)
    return {"limits": {"rate": [], "absolute": shapes.absolute_limits(allowed, used)}}


def show_quotas(tx: Tx, call: Call[None]) -> Any:
    project_id = _target(tx, call)
    allowed = quota.limits(tx, project_id)
    if not call.query.boolean("usage"):
        return shapes.quota_view(project_id, allowed)
    used = {**quota.used_of_types(tx, project_id), **quota.used(tx, project_id)}
    detail = {
        name: {"limit": limit, "in_use": used.get(name, 0), "reserved": 0}
        for name, limit in allowed.items()
    }
    return shapes.quota_view(project_id, detail)


def show_default_quotas(tx: Tx, call: Call[None]) -> Any:
    return shapes.quota_view(_target(tx, call), quota.defaults(tx))


def update_quotas(tx: Tx, call: Call[shapes.QuotaUpdate]) -> Any:
    project_id = _target(tx, call)
    asked = {k: v for k, v in call.body.quota_set.items() if k not in ("tenant_id", "project_id")}
    asked.pop("force", None)  # limits may always be set below what is in use
    quota.change(tx, project_id, _numbers("quota_set", asked))
    return {"quota_set": quota.limits(tx, project_id)}


def delete_quotas(tx: Tx, call: Call[None]) -> None:
    quota.reset(tx, _target(tx, call))


def show_quota_class(tx: Tx, call: Call[None]) -> Any:
    """Whatever class is asked for: no project is of another one than the default."""
    return {"quota_class_set": {"id": call.path["class_name"], **quota.defaults(tx)}}


def update_quota_class(tx: Tx, call: Call[shapes.QuotaClassUpdate]) -> Any:
    """Change what projects may have that have no limit of their own."""
    if call.path["class_name"] != DEFAULT_CLASS:
        raise Invalid(f"No project is of another quota class than '{DEFAULT_CLASS}'.")
    asked = {k: v for k, v in call.body.quota_class_set.items() if k != "class_name"}
    quota.change_defaults(tx, _numbers("quota_class_set", asked))
    return {"quota_class_set": quota.defaults(tx)}


DEFAULT_CLASS = "default"


def _numbers(what: str, asked: Mapping[str, int | str | None]) -> dict[str, int]:
    if not asked:
        raise Invalid(f"{what}: no limit is given.")
    return {name: _number(name, value) for name, value in asked.items()}


def _target(tx: Tx, call: Call[Any]) -> ProjectId:
    """The project in the path: the caller's own, or for administrators any that exists."""
    project_id = ProjectId(call.path["target_id"])
    if project_id == call.who.project_id:
        return project_id
    if not call.who.is_admin or not identity.project_exists(tx, project_id):
        raise NotFound(f"Project {project_id[:64]} could not be found.")
    return project_id


def _number(name: str, value: int | str | None) -> int:
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and value.isascii():
        value = int(value) if len(value) < 12 else None
    if not isinstance(value, int) or not -1 <= value < 1 << 31:
        raise Invalid(f"{name[:60]}: it must be an integer from -1 to 2147483647.")
    return value


# --- the operator's view -----------------------------------------------------------------------------


def list_zones(tx: Tx, call: Call[None]) -> Any:
    usable = {n.zone: False for n in fleet.nodes(tx)} | {DEFAULT_ZONE: False}
    for node in fleet.nodes(tx):
        usable[node.zone] = usable[node.zone] or node.is_usable
    zones = [{"zoneName": z, "zoneState": {"available": ok}} for z, ok in sorted(usable.items())]
    return {"availabilityZoneInfo": zones}


def list_services(tx: Tx, call: Call[None]) -> Any:
    views = [_service(call, n) for n in fleet.nodes(tx) if "storage" in n.roles]
    for name in ("host", "binary"):
        if (wanted := call.query.get(name)) is not None:
            views = [v for v in views if v[name] == wanted or v[name].split("@")[0] == wanted]
    return {"services": views}


def _service(call: Call[None], node: Node) -> dict[str, Any]:
    view: dict[str, Any] = {
        "binary": "cinder-volume",
        "host": shapes.pool_name(node.hostname).partition("#")[0],
        "zone": node.zone,
        "status": "enabled" if node.enabled else "disabled",
        "state": "up" if fleet.is_up(node) else "down",
        "updated_at": shapes.moment(node.state_since),
        "disabled_reason": node.disabled_reason,
        "frozen": False,
        "replication_status": "disabled",
        "active_backend_id": None,
    }
    if call.at_least(3, 7):
        view["cluster"] = None
    if call.at_least(3, 49):
        view["backend_state"] = view["state"]
    return view


def list_pools(tx: Tx, call: Call[None]) -> Any:
    claimed = service.claimed_gib(tx)
    pools: list[dict[str, Any]] = []
    for node in fleet.nodes(tx):
        if node.facts is None or "storage" not in node.roles:
            continue
        pool: dict[str, Any] = {"name": shapes.pool_name(node.hostname)}
        if call.query.boolean("detail"):
            pool["capabilities"] = {
                "volume_backend_name": "files",
                "vendor_name": "Cairn",
                "driver_version": node.facts.agent_version,
                "storage_protocol": "file",
                "total_capacity_gb": node.facts.disk_gib,
                "free_capacity_gb": node.facts.disk_free_gib,
                "allocated_capacity_gb": claimed.get(node.id, 0),
                "reserved_percentage": 0,
                "QoS_support": False,
                "multiattach": False,
                "timestamp": shapes.moment(node.state_since),
            }
        pools.append(pool)
    return {"pools": pools}


_EXTENSIONS = {
    "os-admin-actions": "AdminActions",
    "os-availability-zone": "AvailabilityZones",
    "os-quota-class-sets": "QuotaClasses",
    "os-quota-sets": "Quotas",
    "os-services": "Services",
    "os-types-extra-specs": "TypesExtraSpecs",
    "os-types-manage": "TypesManage",
    "os-used-limits": "UsedLimits",
    "os-vol-host-attr": "VolumeHostAttribute",
    "os-vol-image-meta": "VolumeImageMetadata",
    "os-vol-tenant-attr": "VolumeTenantAttribute",
    "os-volume-actions": "VolumeActions",
    "scheduler-stats": "Scheduler_stats",
}
"""Alias and name of what is served of the extensions that were separate once."""


def list_extensions(tx: Tx, call: Call[None]) -> Any:
    return {
        "extensions": [
            {
                "alias": alias,
                "name": name,
                "description": name,
                "updated": "2013-04-18T00:00:00+00:00",
                "links": [],
            }
            for alias, name in _EXTENSIONS.items()
        ]
    }


_TYPE, _SPECS = "/types/{type_id}", "/types/{type_id}/extra_specs"
_QUOTAS = "/os-quota-sets/{target_id}"
_QUOTA_CLASS = "/os-quota-class-sets/{class_name}"
_specs, _quotas = "volume_extension:types_extra_specs", "volume_extension:quotas"

ROUTES = (
    Route(method="GET", path="/types", rule="volume_extension:type_get_all", do=list_types),
    Route(method="POST", path="/types", rule="volume_extension:type_create", do=create_type,
          body=shapes.CreateType),
    Route(method="GET", path=_TYPE, rule="volume_extension:type_get", do=show_type),
    Route(method="PUT", path=_TYPE, rule="volume_extension:type_update", do=update_type,
          body=shapes.UpdateType),
    Route(method="DELETE", path=_TYPE, rule="volume_extension:type_delete", do=delete_type,
          status=202),
    Route(method="GET", path=_SPECS, rule=f"{_specs}:index", do=show_specs),
    Route(method="POST", path=_SPECS, rule=f"{_specs}:create", do=add_specs,
          body=shapes.ExtraSpecs),
    Route(method="GET", path=f"{_SPECS}/{{key}}", rule=f"{_specs}:index", do=show_spec),
    Route(method="PUT", path=f"{_SPECS}/{{key}}", rule=f"{_specs}:update", do=update_spec,
          body=object),
    Route(method="DELETE", path=f"{_SPECS}/{{key}}", rule=f"{_specs}:delete", do=delete_spec,
          status=202),
    Route(method="GET", path="/limits", rule="limits_extension:used_limits", do=show_limits),
    Route(method="GET", path=_QUOTAS, rule=f"{_quotas}:show", do=show_quotas),
    Route(method="GET", path=f"{_QUOTAS}/defaults", rule=f"{_quotas}:show",
          do=show_default_quotas),
    Route(method="PUT", path=_QUOTAS, rule=f"{_quotas}:update", do=update_quotas,
          body=shapes.QuotaUpdate),
    Route(method="DELETE", path=_QUOTAS, rule=f"{_quotas}:delete", do=delete_quotas),
    Route(method="GET", path=_QUOTA_CLASS, rule="volume_extension:quota_classes:get",
          do=show_quota_class),
    Route(method="PUT", path=_QUOTA_CLASS, rule="volume_extension:quota_classes:update",
          do=update_quota_class, body=shapes.QuotaClassUpdate),
    Route(method="GET", path="/os-availability-zone", rule="volume:availability_zone_list",
          do=list_zones),
    Route(method="GET", path="/os-services", rule="volume_extension:services:index",
          do=list_services),
    Route(method="GET", path="/scheduler-stats/get_pools",
          rule="scheduler_extension:scheduler_stats:get_pools", do=list_pools),
    Route(method="GET", path="/extensions", rule="volume:extensions", do=list_extensions),
)  # fmt: skip
