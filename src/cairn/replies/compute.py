"""Compute's. What depends on the microversion may be missing."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field


class Server(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    status: str
    tenant_id: str | None
    user_id: str | None
    metadata: dict[str, Any]
    host_id: str | None = field(name="hostId")
    image: Any
    flavor: dict[str, Any] | None
    created: str | None
    updated: str | None
    addresses: dict[str, Any] | None
    access_ipv4: str | None = field(name="accessIPv4")
    access_ipv6: str | None = field(name="accessIPv6")
    links: list[Any]
    OS_DCF_diskConfig: str | None = field(name="OS-DCF:diskConfig")
    progress: int | None
    OS_EXT_STS_task_state: str | None = field(name="OS-EXT-STS:task_state")
    OS_EXT_STS_vm_state: str | None = field(name="OS-EXT-STS:vm_state")
    OS_EXT_STS_power_state: int | None = field(name="OS-EXT-STS:power_state")
    OS_EXT_AZ_availability_zone: str | None = field(name="OS-EXT-AZ:availability_zone")
    OS_SRV_USG_launched_at: Any = field(name="OS-SRV-USG:launched_at")
    OS_SRV_USG_terminated_at: Any = field(name="OS-SRV-USG:terminated_at")
    key_name: Any
    config_drive: str | None
    os_extended_volumes_volumes_attached: list[Any] = field(
        name="os-extended-volumes:volumes_attached"
    )
    security_groups: list[Any]
    locked: bool | UnsetType = UNSET
    description: Any | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    trusted_image_certificates: Any | UnsetType = UNSET
    locked_reason: Any | UnsetType = UNSET
    pinned_availability_zone: Any | UnsetType = UNSET
    OS_EXT_SRV_ATTR_hostname: str | UnsetType | None = field(
        default=UNSET, name="OS-EXT-SRV-ATTR:hostname"
    )


class ServerName(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    links: list[Any]


class Flavor(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    ram: int | None
    disk: int | None
    vcpus: int | None
    swap: int | str
    OS_FLV_EXT_DATA_ephemeral: int | None = field(name="OS-FLV-EXT-DATA:ephemeral")
    OS_FLV_DISABLED_disabled: bool = field(name="OS-FLV-DISABLED:disabled")
    os_flavor_access_is_public: bool = field(name="os-flavor-access:is_public")
    rxtx_factor: float
    links: list[Any]
    description: Any | UnsetType = UNSET
    extra_specs: dict[str, Any] | UnsetType | None = UNSET


class FlavorName(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    links: list[Any]
    description: Any | UnsetType = UNSET


class Keypair(Struct, frozen=True, kw_only=True):
    keypair: dict[str, Any] | None


class Aggregate(Struct, frozen=True, kw_only=True):
    id: int
    name: str
    availability_zone: Any
    hosts: list[Any]
    metadata: dict[str, Any]
    created_at: str | None
    updated_at: Any
    deleted_at: Any
    deleted: bool
    uuid: str | UnsetType | None = UNSET
