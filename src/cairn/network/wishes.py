"""What callers may ask for, decoded straight from the API's bodies or made by other slices.

One record serves creation and change: UNSET means "not said", so that null stays a value. Field names
are ours, wire names Neutron's; limits are in the types. Which fields a change may not carry is the API's
to say (api/resource.py), who may say them is policy's.
"""

from typing import Annotated, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType, field

Name = Annotated[str, Meta(max_length=255)]
Mtu = Annotated[int, Meta(ge=68, le=65535)]
NonNegative = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Wish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every resource takes."""

    project_id: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    description: Name | UnsetType = UNSET


class NetworkWish(Wish, frozen=True, kw_only=True):
    is_enabled: bool | UnsetType = field(default=UNSET, name="admin_state_up")
    is_shared: bool | UnsetType = field(default=UNSET, name="shared")
    is_external: bool | UnsetType = field(default=UNSET, name="router:external")
    is_default: bool | UnsetType = UNSET
    has_port_security: bool | UnsetType = field(default=UNSET, name="port_security_enabled")
    mtu: Mtu | UnsetType = UNSET
    kind: str | UnsetType | None = field(default=UNSET, name="provider:network_type")
    physical_network: Name | UnsetType | None = field(
        default=UNSET, name="provider:physical_network"
    )
    segmentation_id: int | UnsetType | None = field(default=UNSET, name="provider:segmentation_id")
    zone_hints: tuple[Name, ...] | UnsetType = field(default=UNSET, name="availability_zone_hints")


class RangeWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    start: str
    end: str


class RouteWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    destination: str
    nexthop: str


Routes = Annotated[tuple[RouteWish, ...], Meta(max_length=64)]


class SubnetWish(Wish, frozen=True, kw_only=True):
    network_id: str | UnsetType = UNSET
    ip_version: int | UnsetType = UNSET
    cidr: str | UnsetType | None = UNSET
    gateway_ip: str | UnsetType | None = UNSET
    has_dhcp: bool | UnsetType = field(default=UNSET, name="enable_dhcp")
    pools: Annotated[tuple[RangeWish, ...], Meta(max_length=64)] | UnsetType | None = field(
        default=UNSET, name="allocation_pools"
    )
    dns: Annotated[tuple[str, ...], Meta(max_length=16)] | UnsetType | None = field(
        default=UNSET, name="dns_nameservers"
    )
    routes: Routes | UnsetType | None = field(default=UNSET, name="host_routes")
    ra_mode: str | UnsetType | None = field(default=UNSET, name="ipv6_ra_mode")
    address_mode: str | UnsetType | None = field(default=UNSET, name="ipv6_address_mode")
    subnet_pool_id: str | UnsetType | None = field(default=UNSET, name="subnetpool_id")
    prefix_length: int | UnsetType | None = field(default=UNSET, name="prefixlen")
    wants_default_pool: bool | UnsetType = field(default=UNSET, name="use_default_subnetpool")


class SubnetPoolWish(Wish, frozen=True, kw_only=True):
    prefixes: Annotated[tuple[str, ...], Meta(min_length=1, max_length=256)] | UnsetType = UNSET
    prefix_length_default: NonNegative | UnsetType = field(default=UNSET, name="default_prefixlen")
    prefix_length_min: NonNegative | UnsetType = field(default=UNSET, name="min_prefixlen")
    prefix_length_max: NonNegative | UnsetType = field(default=UNSET, name="max_prefixlen")
    quota: NonNegative | UnsetType | None = field(default=UNSET, name="default_quota")
    is_shared: bool | UnsetType = field(default=UNSET, name="shared")
    is_default: bool | UnsetType = UNSET


class FixedIpWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    subnet_id: str | None = None
    ip: str | None = field(default=None, name="ip_address")


class PairWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ip: str = field(name="ip_address")
    mac: str | None = field(default=None, name="mac_address")


class DhcpOptionWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Name = field(name="opt_name")
    value: Name | None = field(default=None, name="opt_value")
    ip_version: int = 4


class PortWish(Wish, frozen=True, kw_only=True):
    network_id: str | UnsetType = UNSET
    mac: str | UnsetType | None = field(default=UNSET, name="mac_address")
    fixed_ips: Annotated[tuple[FixedIpWish, ...], Meta(max_length=16)] | UnsetType | None = UNSET
    is_enabled: bool | UnsetType = field(default=UNSET, name="admin_state_up")
    device_id: Name | UnsetType = UNSET
    device_owner: Name | UnsetType = UNSET
    group_ids: Annotated[tuple[str, ...], Meta(max_length=64)] | UnsetType | None = field(
        default=UNSET, name="security_groups"
    )
    has_security: bool | UnsetType = field(default=UNSET, name="port_security_enabled")
    pairs: Annotated[tuple[PairWish, ...], Meta(max_length=64)] | UnsetType | None = field(
        default=UNSET, name="allowed_address_pairs"
    )
    dhcp_options: Annotated[tuple[DhcpOptionWish, ...], Meta(max_length=64)] | UnsetType | None = (
        field(default=UNSET, name="extra_dhcp_opts")
    )
    host: Name | UnsetType | None = field(default=UNSET, name="binding:host_id")
    vnic_type: str | UnsetType | None = field(default=UNSET, name="binding:vnic_type")
    profile: dict[str, object] | UnsetType | None = field(default=UNSET, name="binding:profile")


class GatewayWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An empty one is none: clients say `{}` where they mean null."""

    network_id: str | None = None
    has_snat: bool | UnsetType = field(default=UNSET, name="enable_snat")
    fixed_ips: Annotated[tuple[FixedIpWish, ...], Meta(max_length=16)] | UnsetType | None = field(
        default=UNSET, name="external_fixed_ips"
    )


class RouterWish(Wish, frozen=True, kw_only=True):
    is_enabled: bool | UnsetType = field(default=UNSET, name="admin_state_up")
    gateway: GatewayWish | UnsetType | None = field(default=UNSET, name="external_gateway_info")
    routes: Routes | UnsetType | None = UNSET
    zone_hints: tuple[Name, ...] | UnsetType = field(default=UNSET, name="availability_zone_hints")


class FloatingIpWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    project_id: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    description: Name | UnsetType = UNSET
    network_id: str | UnsetType = field(default=UNSET, name="floating_network_id")
    ip: str | UnsetType | None = field(default=UNSET, name="floating_ip_address")
    subnet_id: str | UnsetType | None = UNSET
    port_id: str | UnsetType | None = UNSET
    fixed_ip: str | UnsetType | None = field(default=UNSET, name="fixed_ip_address")


class GroupWish(Wish, frozen=True, kw_only=True):
    is_stateful: bool | UnsetType = field(default=UNSET, name="stateful")


class RuleWish(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    group_id: str = field(name="security_group_id")
    direction: str
    project_id: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    description: Name | UnsetType = UNSET
    ethertype: str | None = "IPv4"
    protocol: str | int | None = None
    port_min: int | None = field(default=None, name="port_range_min")
    port_max: int | None = field(default=None, name="port_range_max")
    remote_cidr: str | None = field(default=None, name="remote_ip_prefix")
    remote_group_id: str | None = None


T = TypeVar("T")


def said(value: T | UnsetType, default: T) -> T:
    """`value`, or `default` when the caller did not say."""
    return default if isinstance(value, UnsetType) else value


def listed(value: tuple[T, ...] | UnsetType | None) -> tuple[T, ...]:
    """`value`, or nothing when the caller said null or did not say."""
    return () if value is None or isinstance(value, UnsetType) else value
