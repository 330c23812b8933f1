"""Block Storage v3 over HTTP: the routes of volumes, snapshots and attachments, and the whole table.

Every path exists twice, with the project's id in it and without (3.67 made that official; clients of
both kinds exist). Types, limits, quotas and what operators look at are in `api_more`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cairn.core.errors import Conflict, Invalid, NotFound, OverQuota
from cairn.core.ids import ImageId, NodeId, SnapshotId, VolumeId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.http import faults
from cairn.http.call import Call
from cairn.http.pages import next_link, page_of
from cairn.http.routes import Do, Reply, Route, Service
from cairn.http.versions import Version, Versions
from cairn.volume import api_more, lists, service, shapes, store
from cairn.volume.policy import POLICY
from cairn.volume.records import (
    Attachment,
    SnapshotState,
    SnapshotWish,
    Volume,
    VolumeState,
    VolumeWish,
)

MINIMUM, MAXIMUM = Version(3, 0), Version(3, 70)


# --- volumes -----------------------------------------------------------------------------------------


def create_volume(tx: Tx, call: Call[shapes.CreateVolume]) -> Any:
    asked = call.body.volume
    _require_project(call)
    _refuse_what_we_lack(asked)
    wish = VolumeWish(
        size_gib=shapes.gibibytes(asked.size, "size"),
        name=asked.display_name if asked.name is None else asked.name,
        description=(asked.display_description if asked.description is None else asked.description),
        type=asked.volume_type or None,
        zone=asked.availability_zone or None,
        metadata=_checked(asked.metadata or {}),
        image_id=_id(ImageId, asked.image_ref or asked.image_id),
        snapshot_id=_id(SnapshotId, asked.snapshot_id),
        source_id=_id(VolumeId, asked.source_volid),
    )
    volume = service.create(tx, call.who, wish)
    return {"volume": shapes.volume_new(call, volume, _around(tx, call, [volume]))}


def _refuse_what_we_lack(asked: shapes.NewVolume) -> None:
    if shapes.boolean(asked.multiattach, "multiattach"):
        raise Invalid("multiattach: no type of volume here can be attached to several servers.")
    for name in ("backup_id", "group_id", "consistencygroup_id"):
        if getattr(asked, name):
            raise Invalid(f"{name}: volumes cannot be made from or in one here.")


def list_volumes(tx: Tx, call: Call[None]) -> Any:
    return _volume_page(tx, call, lambda v, _: shapes.volume_brief(call, v), names=False)


def list_volumes_detail(tx: Tx, call: Call[None]) -> Any:
    return _volume_page(tx, call, lambda v, around: shapes.volume_detail(call, v, around))


def _volume_page(
    tx: Tx,
    call: Call[Any],
    view: Callable[[Volume, shapes.Surroundings], Any],
    *,
    names: bool = True,
) -> dict[str, Any]:
    wanted, reach = lists.volume_listing(call), lists.reach_of_list(call)
    found = store.list_volumes(tx, reach, wanted) if wanted.limit else []
    nothing = shapes.Surroundings(types={}, hostnames={})
    around = _around(tx, call, found) if names else nothing
    body: dict[str, Any] = {"volumes": [view(v, around) for v in found]}
    if found and len(found) == page_of(call).limit:
        body["volumes_links"] = [{"rel": "next", "href": next_link(call, found[-1].id)}]
    if call.at_least(3, 45) and call.query.boolean("with_count"):
        body["count"] = store.count_volumes(tx, reach, wanted)
    return body


def summarise_volumes(tx: Tx, call: Call[None]) -> Any:
    reach = lists.reach_of_list(call)
    count, size_gib = store.totals(tx, reach)
    summary: dict[str, Any] = {"total_count": count, "total_size": size_gib}
    if call.at_least(3, 36):
        values: dict[str, list[str]] = {}
        for metadata in store.all_metadata(tx, reach):
            for key, value in metadata.items():
                if value not in values.setdefault(key, []):
                    values[key].append(value)
        summary["metadata"] = values
    return {"volume-summary": summary}


def show_volume(tx: Tx, call: Call[None]) -> Any:
    volume = service.get(tx, call.who, _volume_id(call))
    return {"volume": shapes.volume_detail(call, volume, _around(tx, call, [volume]))}


def update_volume(tx: Tx, call: Call[shapes.UpdateVolume]) -> Any:
    changes = call.body.volume
    if not isinstance(changes.metadata, msgspec.UnsetType):
        service.set_metadata(tx, call.who, _volume_id(call), _checked(changes.metadata))
    volume = service.update(tx, call.who, _volume_id(call), changes.texts())
    return {"volume": shapes.volume_new(call, volume, _around(tx, call, [volume]))}


def delete_volume(tx: Tx, call: Call[None]) -> None:
    force = call.at_least(3, 23) and bool(call.query.boolean("force"))
    if force:
        call.require("volume:force_delete")
    cascade = bool(call.query.boolean("cascade"))
    service.delete(tx, call.who, _volume_id(call), cascade=cascade, force=force)


# --- what is done to one volume: POST …/action with one key -------------------------------------------


def _extend(tx: Tx, call: Call[Any], volume_id: VolumeId, body: Any) -> None:
    size_gib = shapes.gibibytes(_field(body, "new_size", int | str), "new_size")
    assert size_gib is not None, "the field is not optional"
    if call.at_least(3, 42):
        call.require("volume:extend_attached_volume")
    service.extend(tx, call.who, volume_id, size_gib, even_in_use=call.at_least(3, 42))


def _reserve(tx: Tx, call: Call[Any], volume_id: VolumeId, body: Any) -> None:
    service.reserve(tx, call.who, volume_id)


def _unreserve(tx: Tx, call: Call[Any], volume_id: VolumeId, body: Any) -> None:
    service.unreserve(tx, call.who, volume_id)


def _set_bootable(tx: Tx, call: Call[Any], volume_id: VolumeId, body: Any) -> Reply:
    bootable = shapes.boolean(_field(body, "bootable", bool | str), "bootable")
    service.set_bootable(tx, call.who, volume_id, bootable)
    return Reply(status=200)


def _set_readonly(tx: Tx, call: Call[Any], volume_id: VolumeId, body: Any) -> None:
    readonly = shapes.boolean(_field(body, "readonly", bool | str), "readonly")
    service.set_readonly(tx, call.who, volume_id, readonly)


def _reset_status(tx: Tx, call: Call[Any], volume_id: VolumeId, body: Any) -> None:
    word = _field(body, "status", str)
    if word not in set(VolumeState):
        raise Invalid(f"status: '{word[:40]}' is none of {', '.join(VolumeState)}.")
    service.reset_state(tx, call.who, volume_id, VolumeState(word))


def _force_delete(tx: Tx, call: Call[Any], volume_id: VolumeId, body: Any) -> None:
    service.delete(tx, call.who, volume_id, force=True)


def _show_image_metadata(tx: Tx, call: Call[Any], volume_id: VolumeId, body: Any) -> Reply:
    volume = service.get(tx, call.who, volume_id)
    return Reply(status=200, body={"metadata": volume.image_metadata})


def _set_image_metadata(tx: Tx, call: Call[Any], volume_id: VolumeId, body: Any) -> Reply:
    volume = service.get(tx, call.who, volume_id)
    merged = _checked({**volume.image_metadata, **_field(body, "metadata", shapes.Metadata)})
    service.set_image_metadata(tx, call.who, volume_id, merged)
    return Reply(status=200, body={"metadata": merged})


def _unset_image_metadata(tx: Tx, call: Call[Any], volume_id: VolumeId, body: Any) -> Reply:
    volume = service.get(tx, call.who, volume_id)
    key = _field(body, "key", str)
    if key not in volume.image_metadata:
        raise NotFound(f"Volume {volume.id} has no image metadata '{key[:60]}'.")
    kept = {k: v for k, v in volume.image_metadata.items() if k != key}
    service.set_image_metadata(tx, call.who, volume_id, kept)
    return Reply(status=200)


VOLUME_ACTIONS: Mapping[str, tuple[str, Callable[[Tx, Call[Any], VolumeId, Any], Any]]] = {
    "os-extend": ("volume:extend", _extend),
    "os-reserve": ("volume_extension:volume_actions:reserve", _reserve),
    "os-unreserve": ("volume_extension:volume_actions:unreserve", _unreserve),
    "os-set_bootable": ("volume_extension:volume_actions:set_bootable", _set_bootable),
    "os-update_readonly_flag": (
        "volume_extension:volume_actions:update_readonly_flag",
        _set_readonly,
    ),
    "os-reset_status": ("volume_extension:volume_admin_actions:reset_status", _reset_status),
    "os-force_delete": ("volume_extension:volume_admin_actions:force_delete", _force_delete),
    "os-show_image_metadata": (
        "volume_extension:volume_image_metadata:show",
        _show_image_metadata,
    ),
    "os-set_image_metadata": ("volume_extension:volume_image_metadata:set", _set_image_metadata),
    "os-unset_image_metadata": (
        "volume_extension:volume_image_metadata:remove",
        _unset_image_metadata,
    ),
}
"""By the body's key: the policy rule and what is done."""


def act_on_volume(tx: Tx, call: Call[Any]) -> Any:
    service.get(tx, call.who, _volume_id(call))  # Unknown volumes answer the same to every action.
    action, body = _action(call, VOLUME_ACTIONS)
    rule, do = VOLUME_ACTIONS[action]
    call.require(rule)
    return do(tx, call, _volume_id(call), body)


# --- snapshots ---------------------------------------------------------------------------------------


def create_snapshot(tx: Tx, call: Call[shapes.CreateSnapshot]) -> Any:
    asked = call.body.snapshot
    if not asked.volume_id:
        raise NotFound("Volume could not be found: volume_id is empty.")
    force = shapes.boolean(asked.force, "force", default=call.at_least(3, 66))
    if call.at_least(3, 66) and not force:
        raise Invalid("force: since 3.66 it is always true; leave it out.")
    wish = SnapshotWish(
        volume_id=VolumeId(asked.volume_id),
        name=asked.display_name if asked.name is None else asked.name,
        description=(asked.display_description if asked.description is None else asked.description),
        metadata=_checked(asked.metadata or {}),
        even_in_use=force,
    )
    snapshot = service.create_snapshot(tx, call.who, wish)
    return {"snapshot": shapes.snapshot_view(call, snapshot, detail=False)}


def list_snapshots(tx: Tx, call: Call[None]) -> Any:
    return _snapshot_page(tx, call, detail=False)


def list_snapshots_detail(tx: Tx, call: Call[None]) -> Any:
    return _snapshot_page(tx, call, detail=True)


def _snapshot_page(tx: Tx, call: Call[Any], *, detail: bool) -> Any:
    wanted, reach = lists.snapshot_listing(call), lists.reach_of_list(call)
    found = store.list_snapshots(tx, reach, wanted) if wanted.limit else []
    body: dict[str, Any] = {
        "snapshots": [shapes.snapshot_view(call, s, detail=detail) for s in found]
    }
    if found and len(found) == page_of(call).limit:
        body["snapshots_links"] = [{"rel": "next", "href": next_link(call, found[-1].id)}]
    if call.at_least(3, 45) and call.query.boolean("with_count"):
        body["count"] = store.count_snapshots(tx, reach, wanted)
    return body


def show_snapshot(tx: Tx, call: Call[None]) -> Any:
    snapshot = service.get_snapshot(tx, call.who, _snapshot_id(call))
    return {"snapshot": shapes.snapshot_view(call, snapshot, detail=True)}


def update_snapshot(tx: Tx, call: Call[shapes.UpdateSnapshot]) -> Any:
    texts = call.body.snapshot.texts()
    if not texts:
        raise Invalid("snapshot: name or description must be given.")
    snapshot = service.update_snapshot(tx, call.who, _snapshot_id(call), texts)
    return {"snapshot": shapes.snapshot_view(call, snapshot, detail=False)}


def delete_snapshot(tx: Tx, call: Call[None]) -> None:
    service.delete_snapshot(tx, call.who, _snapshot_id(call))


SNAPSHOT_ACTIONS: Mapping[str, str] = {
    "os-reset_status": "volume_extension:snapshot_admin_actions:reset_status",
    "os-force_delete": "volume_extension:snapshot_admin_actions:force_delete",
}


def act_on_snapshot(tx: Tx, call: Call[Any]) -> None:
    service.get_snapshot(tx, call.who, _snapshot_id(call))
    action, body = _action(call, SNAPSHOT_ACTIONS)
    call.require(SNAPSHOT_ACTIONS[action])
    if action == "os-force_delete":
        service.delete_snapshot(tx, call.who, _snapshot_id(call), force=True)
        return
    word = _field(body, "status", str)
    if word not in set(SnapshotState):
        raise Invalid(f"status: '{word[:40]}' is none of {', '.join(SnapshotState)}.")
    service.reset_snapshot_state(tx, call.who, _snapshot_id(call), SnapshotState(word))


# --- metadata, the same for both ----------------------------------------------------------------------


def _volume_metadata(tx: Tx, call: Call[Any]) -> dict[str, str]:
    return service.get(tx, call.who, _volume_id(call)).metadata


def _write_volume_metadata(tx: Tx, call: Call[Any], metadata: dict[str, str]) -> None:
    service.set_metadata(tx, call.who, _volume_id(call), metadata)


def _snapshot_metadata(tx: Tx, call: Call[Any]) -> dict[str, str]:
    return service.get_snapshot(tx, call.who, _snapshot_id(call)).metadata


def _write_snapshot_metadata(tx: Tx, call: Call[Any], metadata: dict[str, str]) -> None:
    service.set_snapshot_metadata(tx, call.who, _snapshot_id(call), metadata)


def _metadata_routes(
    path: str,
    policy: str,
    read: Callable[[Tx, Call[Any]], dict[str, str]],
    write: Callable[[Tx, Call[Any], dict[str, str]], None],
) -> tuple[Route, ...]:
    def show(tx: Tx, call: Call[None]) -> Any:
        return {"metadata": read(tx, call)}

    def merge(tx: Tx, call: Call[shapes.MetadataBody]) -> Any:
        merged = _checked({**read(tx, call), **call.body.metadata})
        write(tx, call, merged)
        return {"metadata": merged}

    def replace(tx: Tx, call: Call[shapes.MetadataBody]) -> Any:
        read(tx, call)
        write(tx, call, _checked(call.body.metadata))
        return {"metadata": call.body.metadata}

    def show_item(tx: Tx, call: Call[None]) -> Any:
        return {"meta": {call.path["key"]: _item(read(tx, call), call.path["key"])}}

    def write_item(tx: Tx, call: Call[shapes.MetaItem]) -> Any:
        known, key = read(tx, call), call.path["key"]
        if list(call.body.meta) != [key]:
            raise Invalid("meta: it must have exactly the key that the path names.")
        write(tx, call, _checked({**known, **call.body.meta}))
        return {"meta": call.body.meta}

    def delete_item(tx: Tx, call: Call[None]) -> None:
        known, key = read(tx, call), call.path["key"]
        _item(known, key)
        write(tx, call, {k: v for k, v in known.items() if k != key})

    many, one = f"{path}/metadata", f"{path}/metadata/{{key}}"
    get, put = f"volume:get_{policy}_metadata", f"volume:update_{policy}_metadata"
    delete = f"volume:delete_{policy}_metadata"
    body, item = shapes.MetadataBody, shapes.MetaItem
    return (
        Route(method="GET", path=many, rule=get, do=show),
        Route(method="POST", path=many, rule=put, do=merge, body=body),
        Route(method="PUT", path=many, rule=put, do=replace, body=body),
        Route(method="GET", path=one, rule=get, do=show_item),
        Route(method="PUT", path=one, rule=put, do=write_item, body=item),
        Route(method="DELETE", path=one, rule=delete, do=delete_item),
    )


def _item(metadata: Mapping[str, str], key: str) -> str:
    if key not in metadata:
        raise NotFound(f"There is no metadata item '{key[:60]}'.")
    return metadata[key]


def _checked(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > shapes.ITEMS_MAX:
        raise Invalid(f"metadata: at most {shapes.ITEMS_MAX} items are possible.")
    return metadata


# --- attachments: what compute made, to read -----------------------------------------------------------


def list_attachments(tx: Tx, call: Call[None]) -> Any:
    return _attachment_page(tx, call, detail=False)


def list_attachments_detail(tx: Tx, call: Call[None]) -> Any:
    return _attachment_page(tx, call, detail=True)


def _attachment_page(tx: Tx, call: Call[Any], *, detail: bool) -> Any:
    columns = store.attachments.c
    known = {"volume_id": columns.volume_id, "instance_id": columns.server_id, "id": columns.id}
    where = [known[name] == value for name, value in call.query.pairs if name in known]
    found = store.list_attachments(tx, lists.reach_of_list(call), where, page_of(call).limit)
    volumes = store.volumes_by_id(tx, [a.volume_id for a in found])
    return {
        "attachments": [
            shapes.attachment_view(volumes.get(a.volume_id), a, detail=detail) for a in found
        ]
    }


def show_attachment(tx: Tx, call: Call[None]) -> Any:
    attachment = _attachment(tx, call)
    volume = store.find_volume(tx, attachment.volume_id)
    return {"attachment": shapes.attachment_view(volume, attachment, detail=True)}


def _attachment(tx: Tx, call: Call[Any]) -> Attachment:
    attachment_id = call.path["attachment_id"]
    by_id = [store.attachments.c.id == attachment_id]
    found = store.list_attachments(tx, call.who.reach, by_id, 1)
    if not found:
        raise NotFound(f"Volume attachment {attachment_id[:64]} could not be found.")
    return found[0]


# --- small things ------------------------------------------------------------------------------------


def _volume_id(call: Call[Any]) -> VolumeId:
    return VolumeId(call.path["volume_id"])


def _snapshot_id(call: Call[Any]) -> SnapshotId:
    return SnapshotId(call.path["snapshot_id"])


def _id(kind: Callable[[str], Any], value: str | None) -> Any:
    return kind(value) if value else None


def _require_project(call: Call[Any]) -> None:
    if call.who.project_id is None:
        raise Invalid("New volumes belong to a project: ask with a token of one.")


def _action(call: Call[Any], known: Mapping[str, Any]) -> tuple[str, Any]:
    """The one key of an action's body, and what is under it."""
    if not isinstance(call.body, dict) or len(call.body) != 1:
        raise Invalid("The body must be an object with one key, the action.")
    ((action, body),) = call.body.items()
    if action not in known:
        raise Invalid(f"There is no such action: {action[:60]}. Known: {', '.join(known)}.")
    return action, body


def _field(body: Any, name: str, kind: Any) -> Any:
    if not isinstance(body, dict) or name not in body:
        raise Invalid(f"{name}: it is required.")
    try:
        return msgspec.convert(body[name], kind)
    except msgspec.ValidationError as error:
        raise Invalid(f"{name}: {error}") from error


def _around(tx: Tx, call: Call[Any], volumes: list[Volume]) -> shapes.Surroundings:
    types = {t.id: t.name for t in store.all_types(tx)} if volumes else {}
    return shapes.Surroundings(types=types, hostnames=_hostnames(tx, call, volumes))


def _hostnames(tx: Tx, call: Call[Any], volumes: list[Volume]) -> dict[NodeId, str]:
    """For administrators only; users do not learn where things run."""
    node_ids = {v.node_id for v in volumes if v.node_id is not None}
    if not call.who.is_admin or not node_ids:
        return {}
    return {n.id: n.hostname for n in fleet.glances(tx, node_ids).values()}


# --- the table ---------------------------------------------------------------------------------------


def discover(tx: Tx, call: Call[None]) -> Any:
    return shapes.document(call.base_url, str(MINIMUM), str(MAXIMUM))


_VOLUME, _SNAPSHOT = "/volumes/{volume_id}", "/snapshots/{snapshot_id}"
_SINCE_ATTACHMENTS = Version(3, 27)

_ROUTES = (
    Route(method="POST", path="/volumes", rule="volume:create", do=create_volume,
          body=shapes.CreateVolume, status=202),
    Route(method="GET", path="/volumes", rule="volume:get_all", do=list_volumes, stale_ok=True),
    Route(method="GET", path="/volumes/detail", rule="volume:get_all", do=list_volumes_detail,
          stale_ok=True),
    Route(method="GET", path="/volumes/summary", rule="volume:get_all", do=summarise_volumes,
          since=Version(3, 12)),
    Route(method="GET", path=_VOLUME, rule="volume:get", do=show_volume),
    Route(method="PUT", path=_VOLUME, rule="volume:update", do=update_volume,
          body=shapes.UpdateVolume),
    Route(method="DELETE", path=_VOLUME, rule="volume:delete", do=delete_volume, status=202),
    Route(method="POST", path=f"{_VOLUME}/action", rule="volume:action", do=act_on_volume,
          body=object, status=202),
    *_metadata_routes(_VOLUME, "volume", _volume_metadata, _write_volume_metadata),
    Route(method="POST", path="/snapshots", rule="volume:create_snapshot", do=create_snapshot,
          body=shapes.CreateSnapshot, status=202),
    Route(method="GET", path="/snapshots", rule="volume:get_all_snapshots", do=list_snapshots),
    Route(method="GET", path="/snapshots/detail", rule="volume:get_all_snapshots",
          do=list_snapshots_detail),
    Route(method="GET", path=_SNAPSHOT, rule="volume:get_snapshot", do=show_snapshot),
    Route(method="PUT", path=_SNAPSHOT, rule="volume:update_snapshot", do=update_snapshot,
          body=shapes.UpdateSnapshot),
    Route(method="DELETE", path=_SNAPSHOT, rule="volume:delete_snapshot", do=delete_snapshot,
          status=202),
    Route(method="POST", path=f"{_SNAPSHOT}/action", rule="volume:snapshot_action",
          do=act_on_snapshot, body=object, status=202),
    *_metadata_routes(_SNAPSHOT, "snapshot", _snapshot_metadata, _write_snapshot_metadata),
    Route(method="GET", path="/attachments", rule="volume:attachment_get", do=list_attachments,
          since=_SINCE_ATTACHMENTS),
    Route(method="GET", path="/attachments/detail", rule="volume:attachment_get",
          do=list_attachments_detail, since=_SINCE_ATTACHMENTS),
    Route(method="GET", path="/attachments/{attachment_id}", rule="volume:attachment_get",
          do=show_attachment, since=_SINCE_ATTACHMENTS),
    *api_more.ROUTES,
)  # fmt: skip


def _of_own_project(do: Do) -> Do:
    """The same, on a path that names a project: it must be the token's."""

    def checked(tx: Tx, call: Call[Any]) -> Any:
        if call.path["project_id"] != call.who.project_id:
            raise Invalid("Malformed request url: its project is not the token's.")
        return do(tx, call)

    return checked


def _twice(route: Route) -> tuple[Route, Route]:
    assert route.do is not None, "no route of block storage streams"
    with_project = msgspec.structs.replace(
        route, path="/v3/{project_id}" + route.path, do=_of_own_project(route.do)
    )
    return with_project, msgspec.structs.replace(route, path="/v3" + route.path)


SERVICE = Service(
    name="cinder",
    kind="block-storage",
    root="/volume",
    catalog_path="/v3",
    policy=POLICY,
    shape_fault=faults.nova,
    versions=Versions(service="volume", minimum=MINIMUM, maximum=MAXIMUM),
    statuses={OverQuota: 413, Conflict: 400},  # "Invalid volume: status must be …" is a 400 here
    routes=(
        Route(method="GET", path="/", rule=None, do=discover, status=300),
        Route(method="GET", path="/v3", rule=None, do=discover),
        *(twin for route in _ROUTES for twin in _twice(route)),
    ),
)
