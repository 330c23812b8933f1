"""Volumes', and images'."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field


class Volume(Struct, frozen=True, kw_only=True):
    id: str
    name: Any
    links: list[Any]
    status: str
    size: int | None
    availability_zone: str | None
    created_at: str | None
    updated_at: str | None
    attachments: list[Any]
    description: Any
    volume_type: str | None
    snapshot_id: Any
    source_volid: Any
    metadata: dict[str, Any]
    user_id: str | None
    bootable: str | None
    encrypted: bool
    replication_status: Any
    consistencygroup_id: Any
    multiattach: bool
    os_vol_tenant_attr_tenant_id: str | None = field(name="os-vol-tenant-attr:tenant_id")
    group_id: Any | UnsetType = UNSET
    service_uuid: Any | UnsetType = UNSET
    shared_targets: bool | UnsetType = UNSET
    volume_type_id: str | UnsetType | None = UNSET
    consumes_quota: bool | UnsetType = UNSET


class Snapshot(Struct, frozen=True, kw_only=True):
    id: str
    name: Any
    description: Any
    volume_id: str | None
    status: str
    size: int | None
    created_at: str | None
    updated_at: str | None
    metadata: dict[str, Any]
    os_extended_snapshot_attributes_progress: str | None = field(
        name="os-extended-snapshot-attributes:progress"
    )
    os_extended_snapshot_attributes_project_id: str | None = field(
        name="os-extended-snapshot-attributes:project_id"
    )
    group_snapshot_id: Any | UnsetType = UNSET
    user_id: str | UnsetType | None = UNSET
    consumes_quota: bool | UnsetType = UNSET


class VolumeType(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    description: str | None
    is_public: bool
    extra_specs: dict[str, Any] | None
    os_volume_type_access_is_public: bool = field(name="os-volume-type-access:is_public")
    qos_specs_id: Any | UnsetType = UNSET


class Image(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    status: str
    visibility: str | None
    protected: bool
    os_hidden: bool
    disk_format: Any
    container_format: Any
    min_disk: int | None
    min_ram: int | None
    owner: str | None
    size: Any
    virtual_size: Any
    checksum: Any
    os_hash_algo: Any
    os_hash_value: Any
    created_at: str | None
    updated_at: str | None
    tags: list[str]
    self: str | None
    file: str | None
    schema: str | None
