"""Network's."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field


class Network(Struct, frozen=True, kw_only=True):
    id: str
    project_id: str | None
    tenant_id: str | None
    description: str | None
    created_at: str | None
    updated_at: str | None
    revision_number: int | None
    name: str
    admin_state_up: bool
    status: str
    subnets: list[str]
    shared: bool
    router_external: bool = field(name="router:external")
    is_default: bool
    mtu: int | None
    port_security_enabled: bool
    availability_zone_hints: list[Any]
    availability_zones: list[str]
    ipv4_address_scope: Any
    ipv6_address_scope: Any
    provider_network_type: str | UnsetType | None = field(
        default=UNSET, name="provider:network_type"
    )
    provider_physical_network: Any | UnsetType = field(
        default=UNSET, name="provider:physical_network"
    )
    provider_segmentation_id: int | UnsetType | None = field(
        default=UNSET, name="provider:segmentation_id"
    )
    tags: list[Any]


class Subnet(Struct, frozen=True, kw_only=True):
    id: str
    project_id: str | None
    tenant_id: str | None
    description: str | None
    created_at: str | None
    updated_at: str | None
    revision_number: int | None
    name: str
    network_id: str | None
    ip_version: int | None
    cidr: str | None
    gateway_ip: str | None
    enable_dhcp: bool
    allocation_pools: list[Any]
    dns_nameservers: list[Any]
    host_routes: list[Any]
    ipv6_ra_mode: Any
    ipv6_address_mode: Any
    subnetpool_id: Any
    service_types: list[Any]
    tags: list[Any]


class Port(Struct, frozen=True, kw_only=True):
    id: str
    project_id: str | None
    tenant_id: str | None
    description: str | None
    created_at: str | None
    updated_at: str | None
    revision_number: int | None
    name: str
    network_id: str | None
    mac_address: str | None
    admin_state_up: bool
    status: str
    device_id: str | None
    device_owner: str | None
    fixed_ips: list[Any]
    security_groups: list[str]
    port_security_enabled: bool
    allowed_address_pairs: list[Any]
    extra_dhcp_opts: list[Any]
    binding_host_id: str | UnsetType | None = field(default=UNSET, name="binding:host_id")
    binding_vnic_type: str | None = field(name="binding:vnic_type")
    binding_vif_type: str | UnsetType | None = field(default=UNSET, name="binding:vif_type")
    binding_vif_details: dict[str, Any] | UnsetType | None = field(
        default=UNSET, name="binding:vif_details"
    )
    binding_profile: dict[str, Any] | UnsetType | None = field(
        default=UNSET, name="binding:profile"
    )
    tags: list[Any]


class Router(Struct, frozen=True, kw_only=True):
    id: str
    project_id: str | None
    tenant_id: str | None
    description: str | None
    created_at: str | None
    updated_at: str | None
    revision_number: int | None
    name: str
    admin_state_up: bool
    status: str
    external_gateway_info: Any
    routes: list[Any]
    availability_zone_hints: list[Any]
    availability_zones: list[str]
    tags: list[Any]


class FloatingIp(Struct, frozen=True, kw_only=True):
    id: str
    project_id: str | None
    tenant_id: str | None
    description: str | None
    created_at: str | None
    updated_at: str | None
    revision_number: int | None
    floating_network_id: str | None
    floating_ip_address: str | None
    fixed_ip_address: Any
    port_id: Any
    router_id: Any
    status: str
    port_details: Any
    tags: list[Any]


class SecurityGroup(Struct, frozen=True, kw_only=True):
    id: str
    project_id: str | None
    tenant_id: str | None
    description: str | None
    created_at: str | None
    updated_at: str | None
    revision_number: int | None
    name: str
    stateful: bool
    shared: bool
    security_group_rules: list[Any]
    tags: list[Any]


class SecurityGroupRule(Struct, frozen=True, kw_only=True):
    id: str
    project_id: str | None
    tenant_id: str | None
    description: str | None
    created_at: str | None
    updated_at: str | None
    revision_number: int | None
    security_group_id: str | None
    direction: str | None
    ethertype: str | None
    protocol: Any
    port_range_min: Any
    port_range_max: Any
    remote_ip_prefix: Any
    normalized_cidr: Any
    remote_group_id: str | None


class SubnetPool(Struct, frozen=True, kw_only=True):
    id: str
    project_id: str | None
    tenant_id: str | None
    description: str | None
    created_at: str | None
    updated_at: str | None
    revision_number: int | None
    name: str
    ip_version: int | None
    prefixes: list[str]
    default_prefixlen: int | None
    min_prefixlen: int | None
    max_prefixlen: int | None
    default_quota: Any
    address_scope_id: Any
    shared: bool
    is_default: bool
    tags: list[Any]
