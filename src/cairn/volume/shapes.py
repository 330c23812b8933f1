"""How volumes, snapshots and types look over HTTP: request bodies in, reply bodies out.

Source: Block Storage API v3 reference, with the microversion history up to 3.70. Replies are closed: a
client refuses keys that its version does not know, so each key that came later names its version here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, field

from cairn.core.errors import Invalid
from cairn.core.ids import NodeId
from cairn.http.call import Call
from cairn.volume.records import (
    DEFAULT_TYPE,
    Attachment,
    Snapshot,
    Volume,
    VolumeState,
    VolumeType,
)

Name = Annotated[str, Meta(max_length=255)]
Id = Annotated[str, Meta(max_length=255)]
Key = Annotated[str, Meta(min_length=1, max_length=255)]
Metadata = dict[Key, Annotated[str, Meta(max_length=255)]]
ITEMS_MAX = 128  # metadata of one resource
SIZE_GIB_MAX = 1 << 21  # 2 PiB: what fits the column many times over


# --- requests ----------------------------------------------------------------------------------------


class NewVolume(Struct, frozen=True, kw_only=True):
    """Open to unknown keys, as the real API is; what we cannot do is refused by name."""

    size: int | str | None = None
    name: Name | None = None
    display_name: Name | None = None
    description: Name | None = None
    display_description: Name | None = None
    volume_type: Name | None = None
    availability_zone: Name | None = None
    metadata: Metadata | None = None
    snapshot_id: Id | None = None
    source_volid: Id | None = None
    image_ref: Id | None = field(name="imageRef", default=None)
    image_id: Id | None = None
    multiattach: bool | str | None = None
    backup_id: Id | None = None
    group_id: Id | None = None
    consistencygroup_id: Id | None = None


class CreateVolume(Struct, frozen=True, kw_only=True):
    volume: NewVolume


class Changes(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a volume or a snapshot."""

    name: Name | UnsetType | None = UNSET
    display_name: Name | UnsetType | None = UNSET
    description: Name | UnsetType | None = UNSET
    display_description: Name | UnsetType | None = UNSET
    metadata: Metadata | UnsetType = UNSET

    def texts(self) -> dict[str, str | None]:
        """Name and description as far as they are given."""
        given = {
            "name": self.display_name if self.name is UNSET else self.name,
            "description": (
                self.display_description if self.description is UNSET else self.description
            ),
        }
        return {k: v for k, v in given.items() if not isinstance(v, UnsetType)}


class UpdateVolume(Struct, frozen=True, kw_only=True):
    volume: Changes


class NewSnapshot(Struct, frozen=True, kw_only=True):
    volume_id: Id | None = None
    name: Name | None = None
    display_name: Name | None = None
    description: Name | None = None
    display_description: Name | None = None
    metadata: Metadata | None = None
    force: bool | str | None = None


class CreateSnapshot(Struct, frozen=True, kw_only=True):
    snapshot: NewSnapshot


class UpdateSnapshot(Struct, frozen=True, kw_only=True):
    snapshot: Changes


class MetadataBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    metadata: Metadata


class MetaItem(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    meta: Metadata


class NewType(Struct, frozen=True, kw_only=True):
    name: Key
    description: Name | None = None
    extra_specs: Metadata = {}
    is_public: bool | str = field(name="os-volume-type-access:is_public", default=True)


class CreateType(Struct, frozen=True, kw_only=True):
    volume_type: NewType


class TypeChanges(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Key | None = None
    description: Name | UnsetType | None = UNSET
    is_public: bool | str | None = None


class UpdateType(Struct, frozen=True, kw_only=True):
    volume_type: TypeChanges


class ExtraSpecs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    extra_specs: Metadata


Limit = Annotated[int, Meta(ge=-1, le=(1 << 31) - 1)]


class QuotaUpdate(Struct, frozen=True, kw_only=True):
    quota_set: dict[str, Limit | str | None]


class QuotaClassUpdate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    quota_class_set: dict[str, Limit | str | None]


def boolean(value: bool | str | None, field_name: str, *, default: bool = False) -> bool:
    """A JSON boolean, or one of the words that clients of old send."""
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if value.strip().lower() in ("1", "t", "true", "on", "y", "yes"):
        return True
    if value.strip().lower() in ("0", "f", "false", "off", "n", "no"):
        return False
    raise Invalid(f"{field_name}: '{value[:40]}' is no boolean.")


def gibibytes(value: int | str | None, field_name: str) -> int | None:
    """A size; clients send numbers and numerals."""
    if value is None:
        return None
    if isinstance(value, str):
        if not (value.isascii() and value.isdecimal() and len(value) < 20):
            raise Invalid(f"{field_name}: '{value[:40]}' is not an integer greater than 0.")
        value = int(value)
    if not 1 <= value <= SIZE_GIB_MAX:
        raise Invalid(f"{field_name}: {value} is not between 1 and {SIZE_GIB_MAX} GiB.")
    return value


# --- replies -----------------------------------------------------------------------------------------


class Surroundings(Struct, frozen=True, kw_only=True):
    """What a view needs besides its resource: names of types, and of hosts for administrators."""

    types: Mapping[str, str]
    hostnames: Mapping[NodeId, str]

    def host(self, node_id: NodeId | None) -> str | None:
        hostname = self.hostnames.get(node_id) if node_id is not None else None
        return None if hostname is None else pool_name(hostname)


def pool_name(hostname: str) -> str:
    """ "host@backend#pool", the form that clients parse."""
    return f"{hostname}@files#files"


def moment(value: datetime | None) -> str | None:
    return None if value is None else value.replace(tzinfo=None).isoformat(timespec="microseconds")


def links(call: Call[Any], kind: str, thing_id: str) -> list[dict[str, str]]:
    project = call.who.project_id
    middle = f"/{project}" if project else ""
    return [
        {"rel": "self", "href": f"{call.base_url}/volume/v3{middle}/{kind}/{thing_id}"},
        {"rel": "bookmark", "href": f"{call.base_url}/volume{middle}/{kind}/{thing_id}"},
    ]


def volume_brief(call: Call[Any], volume: Volume) -> dict[str, Any]:
    return {
        "id": volume.id,
        "name": volume.name,
        "links": links(call, "volumes", volume.id),
    }


def volume_new(call: Call[Any], volume: Volume, around: Surroundings) -> dict[str, Any]:
    """As create and update answer."""
    view = {
        **volume_brief(call, volume),
        "status": volume.state,
        "size": volume.shown_size_gib,
        "availability_zone": volume.zone,
        "created_at": moment(volume.created_at),
        "updated_at": moment(volume.updated_at),
        "attachments": [
            _attached(call, volume, a, around) for a in volume.attachments if a.attached_at
        ],
        "description": volume.description,
        "volume_type": around.types.get(volume.type_id, DEFAULT_TYPE.name),
        "snapshot_id": volume.snapshot_id,
        "source_volid": volume.source_id,
        "metadata": shown_metadata(volume),
        "user_id": volume.user_id,
        "bootable": str(volume.is_bootable).lower(),
        "encrypted": False,
        "replication_status": None,
        "consistencygroup_id": None,
        "multiattach": False,
    }
    if call.who.is_admin:
        view["migration_status"] = None
    if call.at_least(3, 13):
        view["group_id"] = None
    if call.at_least(3, 21) and call.who.is_admin:
        view["provider_id"] = None
    if call.at_least(3, 48):
        view["service_uuid"] = None
        view["shared_targets"] = False
    if call.at_least(3, 61) and call.who.is_admin:
        view["cluster_name"] = None
    if call.at_least(3, 63):
        view["volume_type_id"] = volume.type_id
    if call.at_least(3, 65):
        view["consumes_quota"] = True
    return view


def volume_detail(call: Call[Any], volume: Volume, around: Surroundings) -> dict[str, Any]:
    view = volume_new(call, volume, around)
    view["os-vol-tenant-attr:tenant_id"] = volume.project_id
    if volume.image_metadata:
        view["volume_image_metadata"] = volume.image_metadata
    if call.who.is_admin:
        view["os-vol-host-attr:host"] = around.host(volume.node_id)
        view["os-vol-mig-status-attr:migstat"] = None
        view["os-vol-mig-status-attr:name_id"] = None
    return view


def shown_metadata(volume: Volume) -> dict[str, str]:
    """The owner's, and the read-only flag once it was said, where clients look for it."""
    if volume.is_readonly is None:
        return volume.metadata
    return {**volume.metadata, "readonly": str(volume.is_readonly)}


def _attached(
    call: Call[Any], volume: Volume, attachment: Attachment, around: Surroundings
) -> dict[str, Any]:
    hostname = around.hostnames.get(volume.node_id) if volume.node_id else None
    return {
        "id": volume.id,  # the volume's: an old mistake that clients rely on
        "attachment_id": attachment.id,
        "volume_id": volume.id,
        "server_id": attachment.server_id,
        "host_name": hostname if call.who.is_admin else None,
        "device": f"/dev/{attachment.device}",
        "attached_at": moment(attachment.attached_at),
    }


def snapshot_view(call: Call[Any], snapshot: Snapshot, *, detail: bool) -> dict[str, Any]:
    view: dict[str, Any] = {
        "id": snapshot.id,
        "name": snapshot.name,
        "description": snapshot.description,
        "volume_id": snapshot.volume_id,
        "status": snapshot.state,
        "size": snapshot.size_gib,
        "created_at": moment(snapshot.created_at),
        "updated_at": moment(snapshot.updated_at),
        "metadata": snapshot.metadata,
    }
    if detail:
        view["os-extended-snapshot-attributes:progress"] = (
            "100%" if snapshot.state == "available" else "0%"
        )
        view["os-extended-snapshot-attributes:project_id"] = snapshot.project_id
        if call.at_least(3, 14):
            view["group_snapshot_id"] = None
    if call.at_least(3, 41):
        view["user_id"] = snapshot.user_id
    if call.at_least(3, 65):
        view["consumes_quota"] = True
    return view


def type_view(call: Call[Any], of: VolumeType) -> dict[str, Any]:
    view: dict[str, Any] = {
        "id": of.id,
        "name": of.name,
        "description": of.description,
        "is_public": of.is_public,
        "extra_specs": shown_specs(call, of),
        "os-volume-type-access:is_public": of.is_public,
    }
    if call.who.is_admin:
        view["qos_specs_id"] = None
    return view


def shown_specs(call: Call[Any], of: VolumeType) -> dict[str, str]:
    """Users see what tells them how to use the type; the rest is the operator's."""
    if call.who.is_admin:
        return of.extra_specs
    visible = ("RESKEY:availability_zones", "multiattach", "replication_enabled")
    return {k: v for k, v in of.extra_specs.items() if k in visible}


def attachment_view(volume: Volume | None, of: Attachment, *, detail: bool) -> dict[str, Any]:
    """Since 3.27."""
    leaving = volume is not None and volume.state is VolumeState.DETACHING
    status = "detaching" if leaving else "attached" if of.attached_at else "attaching"
    view: dict[str, Any] = {
        "id": of.id,
        "volume_id": of.volume_id,
        "instance": of.server_id,
        "status": status,
    }
    if detail:
        view |= {
            "attached_at": moment(of.attached_at) or "",
            "detached_at": "",
            "attach_mode": "rw",
            "connection_info": {},
        }
    return view


def quota_view(project_id: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {"quota_set": {"id": project_id, **numbers}}


def absolute_limits(allowed: Mapping[str, int], used: Mapping[str, int]) -> dict[str, int]:
    return {
        "maxTotalVolumes": allowed["volumes"],
        "maxTotalSnapshots": allowed["snapshots"],
        "maxTotalVolumeGigabytes": allowed["gigabytes"],
        "maxTotalBackups": allowed["backups"],
        "maxTotalBackupGigabytes": allowed["backup_gigabytes"],
        "totalVolumesUsed": used["volumes"],
        "totalSnapshotsUsed": used["snapshots"],
        "totalGigabytesUsed": used["gigabytes"],
        "totalBackupsUsed": 0,
        "totalBackupGigabytesUsed": 0,
    }


def document(base_url: str, minimum: str, maximum: str) -> dict[str, Sequence[Any]]:
    """The discovery document, the same for the root and for v3."""
    return {
        "versions": [
            {
                "id": "v3.0",
                "status": "CURRENT",
                "version": maximum,
                "min_version": minimum,
                "updated": "2023-08-31T00:00:00Z",
                "links": [
                    {
                        "rel": "describedby",
                        "type": "text/html",
                        "href": "https://docs.openstack.org/api-ref/block-storage/",
                    },
                    {"rel": "self", "href": f"{base_url}/volume/v3/"},
                ],
                "media-types": [
                    {
                        "base": "application/json",
                        "type": "application/vnd.openstack.volume+json;version=3",
                    }
                ],
            }
        ]
    }
