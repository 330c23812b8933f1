"""The tables. Columns are named as the records' fields, so that a row is a record without a map.

What must be unique is unique here: an address in its subnet, a MAC in its network, a segment in its zone,
a rule in its group, a project's default group. Verbs check first for a good message; these keep the
promise when two come at once.
"""

from typing import Any

from sqlalchemy import BigInteger as Big
from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, String, Table, Text

from cairn.core.ids import NodeId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.network.records import AllowedPair, DhcpOption, Range, Route


def _standard() -> list[Column[Any]]:
    """What every resource has: who, what, when, and how often changed."""
    return [
        id_column(primary_key=True),
        id_column("project_id", nullable=False),
        Column("name", String(255), nullable=False, default=""),
        Column("description", String(255), nullable=False, default=""),
        Column("revision", Integer, nullable=False, default=0),
        Column("made_at", Time, nullable=False),
        Column("changed_at", Time, nullable=False),
    ]


def _flag(name: str, *, default: bool) -> "Column[bool]":
    return Column(name, Boolean, nullable=False, default=default)


networks = Table(
    "networks",
    metadata,
    *_standard(),
    Column("zone", String(255), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("physical_network", String(255)),
    Column("segmentation_id", Integer),
    Column("mtu", Integer, nullable=False),
    _flag("is_enabled", default=True),
    _flag("is_external", default=False),
    _flag("is_shared", default=False),
    _flag("is_default", default=False),
    _flag("has_port_security", default=True),
    Index("ix_networks_project_id", "project_id", "id"),
    Index("ix_networks_zone", "zone", "id"),
)

segments = Table(
    "network_segments",
    metadata,
    Column("zone", String(255), primary_key=True),
    Column("physical_network", String(255), primary_key=True),  # "" is the overlay
    Column("segmentation_id", Integer, primary_key=True, autoincrement=False),  # 0: untagged
    id_column("network_id", nullable=False, index=True),
)
"""Who has which segment."""

subnets = Table(
    "subnets",
    metadata,
    *_standard(),
    Column("network_id", ForeignKey("networks.id"), nullable=False, index=True),
    Column("ip_version", Integer, nullable=False),
    Column("cidr", String(64), nullable=False),
    Column("gateway_ip", String(64)),
    _flag("has_dhcp", default=True),
    Column("pools", Json(tuple[Range, ...]), nullable=False),
    Column("dns", Json(tuple[str, ...]), nullable=False),
    Column("routes", Json(tuple[Route, ...]), nullable=False),
    Column("ra_mode", String(32)),
    Column("address_mode", String(32)),
    id_column("subnet_pool_id", index=True),
    Index("ix_subnets_project_id", "project_id", "id"),
)

subnet_pools = Table(
    "subnet_pools",
    metadata,
    *_standard(),
    Column("ip_version", Integer, nullable=False),
    Column("prefixes", Json(tuple[str, ...]), nullable=False),
    Column("prefix_length_default", Integer, nullable=False),
    Column("prefix_length_min", Integer, nullable=False),
    Column("prefix_length_max", Integer, nullable=False),
    Column("quota", Integer),
    _flag("is_shared", default=False),
    _flag("is_default", default=False),
    Index("ix_subnet_pools_project_id", "project_id", "id"),
)

ports = Table(
    "ports",
    metadata,
    *_standard(),
    Column("network_id", ForeignKey("networks.id"), nullable=False),
    Column("mac", String(32), nullable=False),
    _flag("is_enabled", default=True),
    Column("device_id", String(255), nullable=False, default=""),
    Column("device_owner", String(255), nullable=False, default=""),
    Column("host", String(255), nullable=False, default=""),
    id_column("node_id", index=True),
    Column("hosts", Json(tuple[NodeId, ...]), nullable=False, server_default="[]"),
    Column("vnic_type", String(64), nullable=False, default="normal"),
    Column("profile", Json(dict[str, object]), nullable=False),
    _flag("has_security", default=True),
    Column("pairs", Json(tuple[AllowedPair, ...]), nullable=False),
    Column("dhcp_options", Json(tuple[DhcpOption, ...]), nullable=False),
    _flag("is_up", default=False),
    Column("seen_number", Big, nullable=False, default=0),
    Index("uq_ports_network_id_mac", "network_id", "mac", unique=True),
    Index("ix_ports_project_id", "project_id", "id"),
    Index("ix_ports_device_id", "device_id"),
)

addresses = Table(
    "port_addresses",
    metadata,
    Column("subnet_id", ForeignKey("subnets.id"), primary_key=True),
    Column("ip", String(64), primary_key=True),
    Column("port_id", ForeignKey("ports.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("position", Integer, nullable=False),
)

groups = Table(
    "security_groups",
    metadata,
    *_standard(),
    _flag("is_stateful", default=True),
    _flag("is_default", default=False),
    Index("ix_security_groups_project_id", "project_id", "id"),
)
Index(
    "uq_security_groups_default",
    groups.c.project_id,
    unique=True,
    sqlite_where=groups.c.is_default,
    postgresql_where=groups.c.is_default,
)

rules = Table(
    "security_group_rules",
    metadata,
    id_column(primary_key=True),
    Column(
        "group_id", ForeignKey("security_groups.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    id_column("project_id", nullable=False, index=True),
    Column("description", String(255), nullable=False, default=""),
    Column("direction", String(16), nullable=False),
    Column("ethertype", String(8), nullable=False),
    Column("protocol", String(16)),
    Column("port_min", Integer),
    Column("port_max", Integer),
    Column("remote_cidr", String(64)),
    Column("remote_group_id", ForeignKey("security_groups.id", ondelete="CASCADE"), index=True),
    Column("fingerprint", Text, nullable=False),  # all that makes two rules the same
    Column("revision", Integer, nullable=False, default=0),
    Column("made_at", Time, nullable=False),
    Column("changed_at", Time, nullable=False),
    Index("uq_security_group_rules_fingerprint", "group_id", "fingerprint", unique=True),
)

port_groups = Table(
    "port_security_groups",
    metadata,
    Column("port_id", ForeignKey("ports.id", ondelete="CASCADE"), primary_key=True),
    Column("group_id", ForeignKey("security_groups.id"), primary_key=True, index=True),
)

routers = Table(
    "routers",
    metadata,
    *_standard(),
    Column("zone", String(255), nullable=False, index=True),
    _flag("is_enabled", default=True),
    _flag("has_snat", default=True),
    Column("gateway_port_id", ForeignKey("ports.id"), index=True),
    Column("routes", Json(tuple[Route, ...]), nullable=False),
    Index("ix_routers_project_id", "project_id", "id"),
)

floating_ips = Table(
    "floating_ips",
    metadata,
    id_column(primary_key=True),
    id_column("project_id", nullable=False),
    Column("description", String(255), nullable=False, default=""),
    Column("network_id", ForeignKey("networks.id"), nullable=False, index=True),
    Column("ip", String(64), nullable=False),
    Column("own_port_id", ForeignKey("ports.id"), nullable=False, unique=True),
    Column("port_id", ForeignKey("ports.id"), index=True),
    Column("fixed_ip", String(64)),
    Column("router_id", ForeignKey("routers.id"), index=True),
    Column("revision", Integer, nullable=False, default=0),
    Column("made_at", Time, nullable=False),
    Column("changed_at", Time, nullable=False),
    Index("uq_floating_ips_target", "port_id", "fixed_ip", "network_id", unique=True),
    Index("ix_floating_ips_project_id", "project_id", "id"),
)

tags = Table(
    "network_tags",
    metadata,
    id_column("resource_id", primary_key=True),
    Column("tag", String(255), primary_key=True),
)
"""Tags of every kind of resource: ids are unique across kinds."""

agents = Table(
    "network_agents",
    metadata,
    id_column("node_id", primary_key=True),
    Column("description", String(255), nullable=False, default=""),
    _flag("is_enabled", default=True),
    Column("seen_physical_networks", Json(tuple[str, ...])),
)
"""What an operator has said of a host's part in the network, and the physical networks that it had when
the zone was last told; a host without a row is as usual."""
