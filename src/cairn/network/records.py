"""What the network service keeps: one record a resource, with its children loaded.

A network lives in one zone (one OVN), and everything hung on it lives there too. What a host reported of
a port (`is_up`) is a sighting; all else is a wish. Statuses of the API are computed from both.
"""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from cairn.core.ids import (
    FloatingIpId,
    NetworkId,
    NodeId,
    PortId,
    ProjectId,
    RouterId,
    SecurityGroupId,
    SecurityGroupRuleId,
    ServerId,
    SubnetId,
)
from cairn.core.limits import Limit, Limits

OVERLAY_BYTES = 58  # geneve with OVN's option, on IPv4: 20 + 8 + 8 + 8 + 14
UNDERLAY_MTU_DEFAULT = 1500  # while no host has said what its underlay carries

COMPUTE_OWNER = "compute:nova"
ROUTER_INTERFACE = "network:router_interface"
ROUTER_GATEWAY = "network:router_gateway"
FLOATING_IP = "network:floatingip"
DISTRIBUTED = "network:distributed"  # the metadata port: the same on every host
OUR_OWNERS = (ROUTER_INTERFACE, ROUTER_GATEWAY, FLOATING_IP, DISTRIBUTED)

LIMITS = Limits(
    service="network",
    limits=(
        Limit(name="network", default=100),
        Limit(name="subnet", default=100),
        Limit(name="subnetpool", default=-1),
        Limit(name="port", default=500),
        Limit(name="router", default=10),
        Limit(name="floatingip", default=50),
        Limit(name="security_group", default=10),
        Limit(name="security_group_rule", default=100),
    ),
)
"""How many of each a project may have unless somebody decided otherwise (Neutron's own defaults)."""
"""Owners of the ports that this service makes for itself."""


class NetworkKind(StrEnum):
    GENEVE = "geneve"  # between the hosts of a zone
    FLAT = "flat"  # a physical network as it is
    VLAN = "vlan"  # a VLAN of a physical network


class Network(Struct, frozen=True, kw_only=True):
    id: NetworkId
    project_id: ProjectId
    name: str
    description: str
    zone: str
    kind: NetworkKind
    physical_network: str | None
    segmentation_id: int | None  # geneve VNI or VLAN
    mtu: int  # fixed when it is made: guests have it from DHCP and must not see it shrink
    is_enabled: bool
    is_external: bool
    is_shared: bool
    is_default: bool
    has_port_security: bool  # what ports get that do not say
    revision: int
    made_at: datetime
    changed_at: datetime
    subnet_ids: tuple[SubnetId, ...] = ()
    tags: tuple[str, ...] = ()


class Range(Struct, frozen=True, kw_only=True):
    """Addresses from `start` to `end`, both included."""

    start: str
    end: str


class Route(Struct, frozen=True, kw_only=True):
    destination: str
    nexthop: str


class Subnet(Struct, frozen=True, kw_only=True):
    id: SubnetId
    project_id: ProjectId
    network_id: NetworkId
    name: str
    description: str
    ip_version: int
    cidr: str
    gateway_ip: str | None
    has_dhcp: bool
    pools: tuple[Range, ...]
    dns: tuple[str, ...]
    routes: tuple[Route, ...]
    ra_mode: str | None
    address_mode: str | None
    subnet_pool_id: str | None
    revision: int
    made_at: datetime
    changed_at: datetime
    tags: tuple[str, ...] = ()

    @property
    def is_automatic(self) -> bool:
        """Whether a port's address follows from its MAC (IPv6 stateless autoconfiguration)."""
        return self.address_mode in ("slaac", "dhcpv6-stateless")


class SubnetPool(Struct, frozen=True, kw_only=True):
    """Prefixes from which subnets are cut."""

    id: str
    project_id: ProjectId
    name: str
    description: str
    ip_version: int
    prefixes: tuple[str, ...]
    prefix_length_default: int
    prefix_length_min: int
    prefix_length_max: int
    quota: int | None  # addresses (IPv4) or /64s (IPv6) that one project may take
    is_shared: bool
    is_default: bool
    revision: int
    made_at: datetime
    changed_at: datetime
    tags: tuple[str, ...] = ()


class Address(Struct, frozen=True, kw_only=True):
    subnet_id: SubnetId
    ip: str


class AllowedPair(Struct, frozen=True, kw_only=True):
    """An address that a port may use besides its own. `ip` may be a CIDR."""

    ip: str
    mac: str | None  # None: the port's own


class DhcpOption(Struct, frozen=True, kw_only=True):
    name: str
    value: str
    ip_version: int = 4


class Port(Struct, frozen=True, kw_only=True):
    id: PortId
    project_id: ProjectId  # "" for ports that only this service uses
    network_id: NetworkId
    name: str
    description: str
    mac: str
    is_enabled: bool
    device_id: str
    device_owner: str
    host: str  # host name, as the API shows it
    node_id: NodeId | None  # where compute has bound it
    vnic_type: str
    profile: dict[str, object]
    has_security: bool
    pairs: tuple[AllowedPair, ...]
    dhcp_options: tuple[DhcpOption, ...]
    is_up: bool  # seen: flows for it are in place
    seen_number: int
    revision: int
    made_at: datetime
    changed_at: datetime
    addresses: tuple[Address, ...] = ()
    group_ids: tuple[SecurityGroupId, ...] = ()
    tags: tuple[str, ...] = ()
    # While its server moves: the host that has its traffic, then the one that waits for it; afterwards the
    # one it came to. (): wherever it is plugged.
    hosts: tuple[NodeId, ...] = ()

    @property
    def is_ours(self) -> bool:
        return self.device_owner in OUR_OWNERS


class Gateway(Struct, frozen=True, kw_only=True):
    """A router's leg in an external network."""

    port_id: PortId
    network_id: NetworkId
    addresses: tuple[Address, ...]


class Router(Struct, frozen=True, kw_only=True):
    id: RouterId
    project_id: ProjectId
    name: str
    description: str
    zone: str
    is_enabled: bool
    has_snat: bool
    gateway_port_id: PortId | None
    routes: tuple[Route, ...]
    revision: int
    made_at: datetime
    changed_at: datetime
    gateway: Gateway | None = None
    tags: tuple[str, ...] = ()


class FloatingIp(Struct, frozen=True, kw_only=True):
    id: FloatingIpId
    project_id: ProjectId
    description: str
    network_id: NetworkId
    ip: str
    own_port_id: PortId  # holds the outside address
    port_id: PortId | None  # the inside port, whose `fixed_ip` it maps to
    fixed_ip: str | None
    router_id: RouterId | None
    revision: int
    made_at: datetime
    changed_at: datetime
    tags: tuple[str, ...] = ()


class Rule(Struct, frozen=True, kw_only=True):
    """One allow rule of a security group."""

    id: SecurityGroupRuleId
    group_id: SecurityGroupId
    project_id: ProjectId
    description: str
    direction: str
    ethertype: str
    protocol: str | None
    port_min: int | None
    port_max: int | None
    remote_cidr: str | None
    remote_group_id: SecurityGroupId | None
    revision: int
    made_at: datetime
    changed_at: datetime


class Group(Struct, frozen=True, kw_only=True):
    """A security group."""

    id: SecurityGroupId
    project_id: ProjectId
    name: str
    description: str
    is_stateful: bool
    is_default: bool
    revision: int
    made_at: datetime
    changed_at: datetime
    rules: tuple[Rule, ...] = ()
    tags: tuple[str, ...] = ()


class AddressPart(Struct, frozen=True, kw_only=True):
    """What an address must contain, perhaps at its beginning or end."""

    text: str  # hexadecimal digits, dots and colons
    is_beginning: bool = False
    is_end: bool = False


class ServerPort(Struct, frozen=True, kw_only=True):
    """A server's port, with what compute shows of it."""

    port_id: PortId
    server_id: ServerId
    network_id: NetworkId
    network_name: str
    mac: str
    mtu: int
    is_up: bool
    addresses: tuple[Address, ...] = ()
    floating: tuple[tuple[str, str], ...] = ()  # (floating IP, fixed IP)
    group_ids: tuple[SecurityGroupId, ...] = ()


class Search(Struct, frozen=True, kw_only=True):
    """What a list asks for: attributes under the API's names, values or-ed."""

    filters: tuple[tuple[str, tuple[str, ...]], ...] = ()
    sort: tuple[tuple[str, bool], ...] = ()  # (attribute, descending)
    limit: int = 1000
    marker: str | None = None
    backwards: bool = False  # the page before the marker
