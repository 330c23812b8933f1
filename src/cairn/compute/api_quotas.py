"""Limits of projects over the API: quota sets, and what `limits` says to everybody."""

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, UnsetType

from cairn.compute import quota, store
from cairn.compute.bodies import Flag, Number, Strict, flag
from cairn.compute.records import LIMITS, Usage
from cairn.compute.shapes import minor_of
from cairn.core.errors import Invalid
from cairn.core.ids import ProjectId
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity import service as identity

_OF_NETWORK = ("fixed_ips", "floating_ips", "security_groups", "security_group_rules")
_OF_FILES = ("injected_files", "injected_file_content_bytes", "injected_file_path_bytes")
_OF_GROUPS = ("server_groups", "server_group_members")
DEFAULT_CLASS = "default"
COUNTED = ("instances", "cores", "ram")


class ClassLimits(Strict, frozen=True, kw_only=True):
    instances: Number | UnsetType = UNSET
    cores: Number | UnsetType = UNSET
    ram: Number | UnsetType = UNSET
    metadata_items: Number | UnsetType = UNSET
    key_pairs: Number | UnsetType = UNSET
    server_groups: Number | UnsetType = UNSET
    server_group_members: Number | UnsetType = UNSET
    injected_files: Number | UnsetType = UNSET
    injected_file_content_bytes: Number | UnsetType = UNSET
    injected_file_path_bytes: Number | UnsetType = UNSET
    fixed_ips: Number | UnsetType = UNSET
    floating_ips: Number | UnsetType = UNSET
    security_groups: Number | UnsetType = UNSET
    security_group_rules: Number | UnsetType = UNSET


class NewLimits(ClassLimits, frozen=True, kw_only=True):
    tenant_id: str | UnsetType = UNSET
    force: Flag = False


class UpdateLimits(Strict, frozen=True, kw_only=True):
    quota_set: NewLimits


class UpdateClass(Strict, frozen=True, kw_only=True):
    quota_class_set: ClassLimits


def show(tx: Tx, call: Call[None]) -> Any:
    project_id = _project(tx, call)
    shown = _shown(quota.limits(tx, project_id), minor_of(call))
    return {"quota_set": {"id": project_id, **shown}}


def show_detail(tx: Tx, call: Call[None]) -> Any:
    project_id = _project(tx, call)
    used = store.usage(tx, project_id)
    detailed = {
        name: {"limit": limit, "in_use": _used(used, name), "reserved": 0}
        for name, limit in _shown(quota.limits(tx, project_id), minor_of(call)).items()
    }
    return {"quota_set": {"id": project_id, **detailed}}


def show_defaults(tx: Tx, call: Call[None]) -> Any:
    shown = _shown(identity.defaults_of(tx, LIMITS), minor_of(call))
    return {"quota_set": {"id": call.path["project_id"], **shown}}


def update(tx: Tx, call: Call[UpdateLimits]) -> Any:
    project_id = _project(tx, call)
    asked = call.body.quota_set
    used = store.usage(tx, project_id)
    for name, limit in _asked(asked, _shown(LIMITS.defaults, minor_of(call))).items():
        if 0 <= limit < _used(used, name) and not flag(asked.force):
            raise Invalid(
                f"Quota limit {limit} for {name} must be greater than or equal to already used and "
                f"reserved {_used(used, name)}."
            )
        identity.set_limit(tx, project_id, name, limit)
    return {"quota_set": _shown(quota.limits(tx, project_id), minor_of(call))}


def delete(tx: Tx, call: Call[None]) -> None:
    identity.reset_limits(tx, _project(tx, call), LIMITS.names)


def show_class(tx: Tx, call: Call[None]) -> Any:
    """Whatever class is asked for: no project is of another one than the default."""
    shown = _shown_of_class(identity.defaults_of(tx, LIMITS), minor_of(call))
    return {"quota_class_set": {"id": call.path["class_name"], **shown}}


def update_class(tx: Tx, call: Call[UpdateClass]) -> Any:
    """Change what projects may have that have no limit of their own."""
    if call.path["class_name"] != DEFAULT_CLASS:
        raise Invalid(f"No project is of another quota class than '{DEFAULT_CLASS}'.")
    known = _shown_of_class(LIMITS.defaults, minor_of(call))
    for name, limit in _asked(call.body.quota_class_set, known).items():
        identity.set_default(tx, name, limit)
    shown = _shown_of_class(identity.defaults_of(tx, LIMITS), minor_of(call))
    return {"quota_class_set": shown}


def show_limits(tx: Tx, call: Call[None]) -> Any:
    """What the caller's project may have and has."""
    who, minor = call.who, minor_of(call)
    wanted = call.query.get("tenant_id") or call.query.get("project_id")
    if wanted and wanted != who.project_id:
        call.require("os_compute_api:limits:other_project")
    project_id = ProjectId(wanted or who.project_id or "")
    allowed, used = quota.limits(tx, project_id), store.usage(tx, project_id)
    absolute = {
        "maxTotalInstances": allowed["instances"],
        "maxTotalCores": allowed["cores"],
        "maxTotalRAMSize": allowed["ram"],
        "maxServerMeta": allowed["metadata_items"],
        "maxTotalKeypairs": allowed["key_pairs"],
        "maxServerGroups": allowed["server_groups"],
        "maxServerGroupMembers": allowed["server_group_members"],
        "totalInstancesUsed": used.instances,
        "totalCoresUsed": used.cores,
        "totalRAMUsed": used.ram,
        "totalServerGroupsUsed": 0,
    }
    if minor < 57:
        absolute["maxPersonality"] = allowed["injected_files"]
        absolute["maxPersonalitySize"] = allowed["injected_file_content_bytes"]
    if minor < 39:
        absolute["maxImageMeta"] = allowed["metadata_items"]
    if minor < 36:
        absolute |= {
            "maxTotalFloatingIps": allowed["floating_ips"],
            "maxSecurityGroups": allowed["security_groups"],
            "maxSecurityGroupRules": allowed["security_group_rules"],
            "totalFloatingIpsUsed": 0,
            "totalSecurityGroupsUsed": 0,
        }
    return {"limits": {"rate": [], "absolute": absolute}}


def _project(tx: Tx, call: Call[Any]) -> ProjectId:
    """Whose limits. Raises Denied for another's; Invalid: there is no such project."""
    project_id = ProjectId(call.path["project_id"])
    if project_id != call.who.project_id:
        call.require("os_compute_api:os-quota-sets:other_project")
        if not identity.project_exists(tx, project_id):
            raise Invalid(f"Project ID {project_id[:64]} is not a valid project.")
    return project_id


def _asked(asked: ClassLimits, known: Mapping[str, int]) -> dict[str, int]:
    """The limits that a body has. Raises Invalid for those that are not `known` in its version."""
    found = {}
    for name in LIMITS.names:
        value = getattr(asked, name)
        if value is UNSET:
            continue
        if name not in known:
            raise Invalid(f"Additional properties are not allowed ('{name}' was unexpected)")
        limit = int(value)
        if not -1 <= limit <= 2**31 - 1:
            raise Invalid(f"Invalid input for field/attribute {name}. Value: {limit}.")
        found[name] = limit
    return found


def _shown_of_class(limits: Mapping[str, int], minor: int) -> dict[str, int]:
    """Before 2.50 a class says nothing of server groups, and goes on with the network's."""
    hidden = (_OF_GROUPS if minor < 50 else _OF_NETWORK) + (_OF_FILES if minor >= 57 else ())
    return {name: limits[name] for name in LIMITS.names if name not in hidden}


def _shown(limits: Mapping[str, int], minor: int) -> dict[str, int]:
    hidden = (_OF_NETWORK if minor >= 36 else ()) + (_OF_FILES if minor >= 57 else ())
    return {name: limits[name] for name in LIMITS.names if name not in hidden}


def _used(used: Usage, name: str) -> int:
    return int(getattr(used, name)) if name in COUNTED else 0


_SETS = "/v2.1/os-quota-sets/{project_id}"
_CLASS = "/v2.1/os-quota-class-sets/{class_name}"
_SHOW = "os_compute_api:os-quota-sets:show"

ROUTES = (
    Route(method="GET", path=_SETS, rule=_SHOW, do=show),
    Route(method="GET", path=_SETS + "/detail", rule=_SHOW, do=show_detail),
    Route(
        method="GET",
        path=_SETS + "/defaults",
        rule="os_compute_api:os-quota-sets:defaults",
        do=show_defaults,
    ),
    Route(
        method="PUT",
        path=_SETS,
        rule="os_compute_api:os-quota-sets:update",
        do=update,
        body=UpdateLimits,
    ),
    Route(
        method="DELETE",
        path=_SETS,
        rule="os_compute_api:os-quota-sets:delete",
        do=delete,
        status=202,
    ),
    Route(
        method="GET",
        path=_CLASS,
        rule="os_compute_api:os-quota-class-sets:show",
        do=show_class,
    ),
    Route(
        method="PUT",
        path=_CLASS,
        rule="os_compute_api:os-quota-class-sets:update",
        do=update_class,
        body=UpdateClass,
    ),
    Route(method="GET", path="/v2.1/limits", rule="os_compute_api:limits", do=show_limits),
)
