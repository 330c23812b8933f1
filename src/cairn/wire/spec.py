"""What should be on one node: the whole of it, with a number.

The control plane compiles a `NodeSpec` for each node and raises its number at each change; the agent
compares it with what it sees, plans, acts and reports. It never gets commands: a start, a reboot or a
resize is a changed spec, so that a lost, late or repeated message cannot do harm.
"""

from enum import StrEnum

from msgspec import Struct

from cairn.core.ids import (
    ImageId,
    NetworkId,
    NodeId,
    PortId,
    RouterId,
    SecurityGroupId,
    ServerId,
    SnapshotId,
    SubnetId,
    VolumeId,
)


class ImageSpec(Struct, frozen=True, kw_only=True):
    """An image that this node needs as the source of a disk."""

    id: ImageId
    format: str  # "raw" or "qcow2": checked by the image service before it got here
    size_bytes: int  # of the file
    virtual_bytes: int  # of the disk inside
    sha256: str
    path_hint: str = ""  # where the control plane keeps it; tried first, for one machine


class SnapshotSpec(Struct, frozen=True, kw_only=True):
    id: SnapshotId


class VolumeSpec(Struct, frozen=True, kw_only=True):
    """A disk that should exist. At most one of the sources; none means zeros."""

    id: VolumeId  # a server's own root disk has the server's id
    size_gib: int
    from_image: ImageId | None = None
    from_snapshot: SnapshotId | None = None
    from_volume: VolumeId | None = None
    snapshots: tuple[SnapshotSpec, ...] = ()  # that should exist of it
    is_received: bool = False  # made empty: a migration fills it, so its source is of no matter
    # To be removed. Only on shared pools, where a volume that a host's spec lacks is another host's; on a
    # pool of its own a host removes what its spec lacks.
    is_doomed: bool = False


class DiskSpec(Struct, frozen=True, kw_only=True):
    """A volume plugged into a guest."""

    volume_id: VolumeId
    device: str  # "vda", "vdb", ...: the order and the name that the API shows
    boot: bool = False
    serial: str = ""  # at most 20 characters reach the guest


class NicSpec(Struct, frozen=True, kw_only=True):
    """A port plugged into a guest, in this order."""

    port_id: PortId
    position: int = (
        -1
    )  # keeps its place in the guest while others come and go; -1: that in the list


class Power(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"


class Incoming(Struct, frozen=True, kw_only=True):
    """The guest is not booted here but received from another host, with the disks that are not shared."""

    migration_id: str
    from_node: NodeId
    from_address: str  # of that host's underlay
    secret: str = (
        ""  # 64 hexadecimal digits that only both hosts know, for this migration; never shown
    )


class DiskDoor(Struct, frozen=True, kw_only=True):
    """Where the receiving host takes the bytes of one disk: an NBD export under TLS."""

    volume_id: VolumeId
    port: int
    export: str


class Outgoing(Struct, frozen=True, kw_only=True):
    """The guest is to be sent to another host, which waits for it at `address`."""

    migration_id: str
    to_node: NodeId
    address: str
    memory_port: int  # as the receiver said
    disks: tuple[DiskDoor, ...] = ()  # of the disks that are not shared
    bandwidth_mib_s: int = 0  # at most; 0: as fast as it goes
    secret: str = ""  # the same as the receiver's
    is_cancelled: bool = False  # stop, unless it is done; do not boot before the next word on it


class GuestSpec(Struct, frozen=True, kw_only=True):
    """One incarnation of a server, as its node should run it."""

    id: ServerId
    incarnation: int  # raised at each placement; an older one must not run
    name: str
    vcpus: int  # >= 1
    memory_mib: int
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    power: Power = Power.RUNNING
    boot_number: int = 1  # raised at each start and reboot: an older boot must end
    soft_reboot: bool = False  # whether the boot before this one may first be asked to shut down
    stop_grace_s: int = 60  # how long a guest may take to shut itself down before it is cut off
    config_drive: bool = False
    metadata: "GuestMetadata | None" = None
    # It may have been started elsewhere while this host was away: after a start of the host it boots only
    # once the control plane has confirmed that it still belongs here.
    needs_confirmation: bool = False
    incoming: Incoming | None = None
    outgoing: Outgoing | None = None


class GuestMetadata(Struct, frozen=True, kw_only=True):
    """What the metadata service and the config drive tell the guest.

    It travels with the spec, so that a host which boots alone can still answer its guests.
    """

    hostname: str
    project_id: str
    availability_zone: str
    launch_index: int = 0
    key_name: str | None = None
    public_key: str | None = None
    admin_password: str | None = None
    user_data: bytes = b""  # decoded
    meta: dict[str, str] = {}


class PortSpec(Struct, frozen=True, kw_only=True):
    """A guest's port on this node: everything needed to plug it and to describe it to the guest."""

    id: PortId
    network_id: NetworkId
    server_id: ServerId
    mac: str
    mtu: int
    addresses: tuple["PortAddress", ...] = ()


class PortAddress(Struct, frozen=True, kw_only=True):
    """One fixed address, with what a guest without DHCP must know of its subnet."""

    subnet_id: SubnetId
    ip: str
    cidr: str
    gateway_ip: str | None = None
    dns: tuple[str, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()  # (destination CIDR, next hop)
    dhcp: bool = True


class MetadataNetworkSpec(Struct, frozen=True, kw_only=True):
    """A network for whose guests this node answers 169.254.169.254."""

    network_id: NetworkId
    port_id: PortId  # the network's localport, the same on every host
    mac: str
    addresses: tuple[str, ...]  # "10.1.0.2/24": one a subnet with DHCP


# --- the logical network of a zone: for the node that holds the network role ------------------------


class SubnetSpec(Struct, frozen=True, kw_only=True):
    id: SubnetId
    cidr: str
    ip_version: int  # 4 or 6
    gateway_ip: str | None = None
    dhcp: bool = True
    dns: tuple[str, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()
    metadata_ip: str | None = None  # the localport's address: next hop to 169.254.169.254
    ipv6_mode: str | None = None  # "slaac", "dhcpv6-stateful", "dhcpv6-stateless"


class ProviderSpec(Struct, frozen=True, kw_only=True):
    physical_network: str
    vlan: int | None = None


class SwitchSpec(Struct, frozen=True, kw_only=True):
    """A network."""

    id: NetworkId
    name: str
    mtu: int
    subnets: tuple[SubnetSpec, ...] = ()
    provider: ProviderSpec | None = None
    metadata_port: MetadataNetworkSpec | None = None


class AddressPair(Struct, frozen=True, kw_only=True):
    """An address beyond its own that a port may send from."""

    ip: str  # address or CIDR
    mac: str | None = None  # None: the port's own


class SwitchPortSpec(Struct, frozen=True, kw_only=True):
    """A port that a guest (or anything else at the edge) may plug into. Routers' ports are in RouterSpec."""

    id: PortId
    network_id: NetworkId
    mac: str
    addresses: tuple[tuple[SubnetId, str], ...] = ()
    enabled: bool = True
    port_security: bool = True
    allowed_pairs: tuple[AddressPair, ...] = ()
    groups: tuple[SecurityGroupId, ...] = ()
    dhcp_options: tuple[tuple[str, str], ...] = ()  # a user's extra DHCP options by name
    hostname: str = ""
    # Where it may be plugged: the first has its traffic, a second one waits for the guest to come and
    # announce itself there. (): wherever it is plugged.
    hosts: tuple[NodeId, ...] = ()


class GroupRuleSpec(Struct, frozen=True, kw_only=True):
    """One allow rule; what no rule allows is dropped."""

    direction: str  # "ingress" or "egress", seen from the guest
    ethertype: str  # "IPv4" or "IPv6"
    protocol: str | None = None  # "tcp", "udp", "icmp", "icmpv6", a number as text, or None for any
    port_min: int | None = None  # ICMP: type
    port_max: int | None = None  # ICMP: code
    remote_cidr: str | None = None
    remote_group: SecurityGroupId | None = None


class GroupSpec(Struct, frozen=True, kw_only=True):
    id: SecurityGroupId
    rules: tuple[GroupRuleSpec, ...] = ()
    stateful: bool = True


class RouterPortSpec(Struct, frozen=True, kw_only=True):
    """A leg of a router in a network."""

    id: PortId
    network_id: NetworkId
    mac: str
    addresses: tuple[str, ...]  # "10.1.0.1/24": one a subnet


class FloatingSpec(Struct, frozen=True, kw_only=True):
    """A floating IP that maps one outside address to one inside address, both ways."""

    floating_ip: str
    fixed_ip: str
    port_id: PortId
    mac: str  # of the outside address, so that the guest's own host can answer for it; "": the gateway does


class GatewaySpec(Struct, frozen=True, kw_only=True):
    port: RouterPortSpec
    next_hop: str | None
    snat: bool = True
    hosts: tuple[NodeId, ...] = ()  # that may be the gateway, the preferred one first


class RouterSpec(Struct, frozen=True, kw_only=True):
    id: RouterId
    name: str
    enabled: bool = True
    ports: tuple[RouterPortSpec, ...] = ()
    gateway: GatewaySpec | None = None
    routes: tuple[tuple[str, str], ...] = ()  # (destination CIDR, next hop)
    floating: tuple[FloatingSpec, ...] = ()


class ZoneSpec(Struct, frozen=True, kw_only=True):
    """The whole logical network of one zone. Sorted by id throughout, so that equal zones are equal."""

    switches: tuple[SwitchSpec, ...] = ()
    ports: tuple[SwitchPortSpec, ...] = ()
    groups: tuple[GroupSpec, ...] = ()
    routers: tuple[RouterSpec, ...] = ()


class MachineSpec(Struct, frozen=True, kw_only=True):
    """Another host's power, which this host (of the role "power") switches."""

    node_id: NodeId
    driver: str  # "fake"; later "redfish" and "ipmi"
    address: str
    user: str = ""
    password: str = ""
    on: bool = True
    number: int = 0  # raised at each wish: an old answer is no answer


class DoorSpec(Struct, frozen=True, kw_only=True):
    """Whether another host may write to the zone's shared pool, which this host sees to.

    Numbered like power, because an old wish must not open what a newer one has shut."""

    node_id: NodeId
    is_open: bool
    number: int


class NodeSpec(Struct, frozen=True, kw_only=True):
    """All that one node should be."""

    node_id: NodeId
    number: int
    guests: tuple[GuestSpec, ...] = ()
    volumes: tuple[VolumeSpec, ...] = ()
    images: tuple[ImageSpec, ...] = ()
    ports: tuple[PortSpec, ...] = ()
    metadata_networks: tuple[MetadataNetworkSpec, ...] = ()
    zone: ZoneSpec | None = None  # only for the node with the network role
    machines: tuple[MachineSpec, ...] = ()  # whose power this host switches
    doors: tuple[
        DoorSpec, ...
    ] = ()  # whom this host shuts out of the shared pool, or lets in again
    southbound: tuple[
        str, ...
    ] = ()  # "ssl:192.0.2.2:6642": the zone's network database; (): our own
