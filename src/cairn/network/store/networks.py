"""Networks, their segments, subnets and the pools that subnets are cut from."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, case, delete, func, literal, or_, select

from cairn.core.errors import NotFound
from cairn.core.ids import ProjectId, SubnetId
from cairn.db.engine import Tx
from cairn.network.records import Network, NetworkKind, Search, Subnet, SubnetPool
from cairn.network.store.listing import Listing, boolean, find, integer, listing, matching_any, text
from cairn.network.store.resources import chunks, tags_of
from cairn.network.store.tables import addresses, networks, ports, segments, subnet_pools, subnets

NETWORKS: Listing = listing(
    "Network",
    networks,
    {
        "admin_state_up": boolean(networks.c.is_enabled),
        "status": text(literal("ACTIVE")),
        "shared": boolean(networks.c.is_shared),
        "router:external": boolean(networks.c.is_external),
        "is_default": boolean(networks.c.is_default),
        "port_security_enabled": boolean(networks.c.has_port_security),
        "mtu": integer(networks.c.mtu),
        "provider:network_type": text(networks.c.kind),
        "provider:physical_network": text(networks.c.physical_network),
        "provider:segmentation_id": integer(networks.c.segmentation_id),
        "subnets": matching_any(networks.c.id, subnets, subnets.c.network_id, subnets.c.id),
    },
    admin_state_up=networks.c.is_enabled,
    mtu=networks.c.mtu,
    status=networks.c.is_enabled,
    shared=networks.c.is_shared,
)

SUBNETS: Listing = listing(
    "Subnet",
    subnets,
    {
        "network_id": text(subnets.c.network_id),
        "ip_version": integer(subnets.c.ip_version),
        "cidr": text(subnets.c.cidr),
        "gateway_ip": text(subnets.c.gateway_ip),
        "enable_dhcp": boolean(subnets.c.has_dhcp),
        "ipv6_ra_mode": text(subnets.c.ra_mode),
        "ipv6_address_mode": text(subnets.c.address_mode),
        "subnetpool_id": text(subnets.c.subnet_pool_id),
        "shared": boolean(
            select(networks.c.is_shared)
            .where(networks.c.id == subnets.c.network_id)
            .scalar_subquery()
        ),
    },
    network_id=subnets.c.network_id,
    cidr=subnets.c.cidr,
    ip_version=subnets.c.ip_version,
    enable_dhcp=subnets.c.has_dhcp,
    gateway_ip=func.coalesce(subnets.c.gateway_ip, ""),
)

POOLS: Listing = listing(
    "Subnetpool",
    subnet_pools,
    {
        "ip_version": integer(subnet_pools.c.ip_version),
        "shared": boolean(subnet_pools.c.is_shared),
        "is_default": boolean(subnet_pools.c.is_default),
        "default_prefixlen": integer(subnet_pools.c.prefix_length_default),
        "min_prefixlen": integer(subnet_pools.c.prefix_length_min),
        "max_prefixlen": integer(subnet_pools.c.prefix_length_max),
        "default_quota": integer(subnet_pools.c.quota),
    },
    ip_version=subnet_pools.c.ip_version,
    default_prefixlen=subnet_pools.c.prefix_length_default,
)


def _sees_network(reach: ProjectId | None) -> ColumnElement[bool] | None:
    if reach is None:
        return None
    return or_(networks.c.project_id == reach, networks.c.is_shared, networks.c.is_external)


def _sees_subnet(reach: ProjectId | None) -> ColumnElement[bool] | None:
    """One's own, and those of networks that are shared or one's own."""
    if reach is None:
        return None
    open_networks = select(networks.c.id).where(
        or_(networks.c.is_shared, networks.c.project_id == reach)
    )
    return or_(subnets.c.project_id == reach, subnets.c.network_id.in_(open_networks))


def _sees_pool(reach: ProjectId | None) -> ColumnElement[bool] | None:
    if reach is None:
        return None
    return or_(subnet_pools.c.project_id == reach, subnet_pools.c.is_shared)


# --- networks ----------------------------------------------------------------------------------------


def find_networks(tx: Tx, reach: ProjectId | None, search: Search) -> list[Network]:
    return _networks(tx, find(tx, NETWORKS, search, _sees_network(reach)))


def network(tx: Tx, reach: ProjectId | None, network_id: str) -> Network:
    query = select(networks).where(networks.c.id == network_id)
    visible = _sees_network(reach)
    if visible is not None:
        query = query.where(visible)
    found = _networks(tx, tx.execute(query).all())
    if not found:
        raise NotFound(f"NetworkNotFound: Network {network_id[:64]} could not be found.")
    return found[0]


def networks_of_zone(tx: Tx, zone: str) -> list[Network]:
    return _networks(
        tx,
        tx.execute(select(networks).where(networks.c.zone == zone).order_by(networks.c.id)).all(),
    )


def counts_by_zone(tx: Tx) -> dict[str, int]:
    """How many networks live in each zone."""
    query = select(networks.c.zone, func.count().label("total")).group_by(networks.c.zone)
    return {row.zone: int(row.total) for row in tx.execute(query)}


def networks_to_join(tx: Tx, project_id: ProjectId) -> list[Network]:
    """Networks that a project's servers join when nobody names one: its own, then the shared."""
    own = networks.c.project_id == project_id
    query = (
        select(networks)
        .where(or_(own, networks.c.is_shared), networks.c.is_external.is_(False))
        .where(networks.c.is_enabled)
        .order_by(case((own, 0), else_=1), networks.c.made_at, networks.c.id)
        .limit(100)
    )
    return _networks(tx, tx.execute(query).all())


def _networks(tx: Tx, rows: Sequence[Any]) -> list[Network]:
    ids = [row.id for row in rows]
    labels = tags_of(tx, ids)
    children: dict[str, tuple[SubnetId, ...]] = {}
    for some in chunks(ids):
        for row in tx.execute(
            select(subnets.c.network_id, subnets.c.id)
            .where(subnets.c.network_id.in_(some))
            .order_by(subnets.c.made_at, subnets.c.id)
        ):
            children[row.network_id] = (*children.get(row.network_id, ()), row.id)
    return [
        Network(
            **{**row._mapping, "kind": NetworkKind(row.kind)},
            subnet_ids=children.get(row.id, ()),
            tags=labels.get(row.id, ()),
        )
        for row in rows
    ]


# --- segments ----------------------------------------------------------------------------------------


def taken_segments(tx: Tx, zone: str, physical_network: str, wanted: Iterable[int]) -> set[int]:
    """Which of `wanted` are somebody's."""
    query = select(segments.c.segmentation_id).where(
        segments.c.zone == zone,
        segments.c.physical_network == physical_network,
        segments.c.segmentation_id.in_(list(wanted)),
    )
    return set(tx.execute(query).scalars())


def take_segment(
    tx: Tx, zone: str, physical_network: str, segmentation_id: int, network_id: str
) -> None:
    tx.execute(
        segments.insert().values(
            zone=zone,
            physical_network=physical_network,
            segmentation_id=segmentation_id,
            network_id=network_id,
        )
    )


def free_segments(tx: Tx, network_id: str) -> None:
    tx.execute(delete(segments).where(segments.c.network_id == network_id))


# --- subnets -----------------------------------------------------------------------------------------


def find_subnets(tx: Tx, reach: ProjectId | None, search: Search) -> list[Subnet]:
    return _subnets(tx, find(tx, SUBNETS, search, _sees_subnet(reach)))


def subnet(tx: Tx, reach: ProjectId | None, subnet_id: str) -> Subnet:
    query = select(subnets).where(subnets.c.id == subnet_id)
    visible = _sees_subnet(reach)
    if visible is not None:
        query = query.where(visible)
    found = _subnets(tx, tx.execute(query).all())
    if not found:
        raise NotFound(f"SubnetNotFound: Subnet {subnet_id[:64]} could not be found.")
    return found[0]


def subnets_of(tx: Tx, network_ids: Iterable[str]) -> list[Subnet]:
    """All subnets of the networks, oldest first."""
    rows = [
        row
        for some in chunks(network_ids)
        for row in tx.execute(
            select(subnets)
            .where(subnets.c.network_id.in_(some))
            .order_by(subnets.c.made_at, subnets.c.id)
        )
    ]
    return _subnets(tx, rows)


def subnets_by_id(tx: Tx, ids: Iterable[str]) -> dict[SubnetId, Subnet]:
    rows = [
        row
        for some in chunks(ids)
        for row in tx.execute(select(subnets).where(subnets.c.id.in_(some)))
    ]
    return {s.id: s for s in _subnets(tx, rows)}


def cidrs_of_pool(tx: Tx, pool_id: str) -> list[tuple[ProjectId, str]]:
    query = select(subnets.c.project_id, subnets.c.cidr).where(subnets.c.subnet_pool_id == pool_id)
    return [(row.project_id, row.cidr) for row in tx.execute(query)]


def used_addresses(tx: Tx, network_ids: Iterable[str]) -> dict[SubnetId, int]:
    """How many addresses each subnet has given out."""
    used: dict[SubnetId, int] = {}
    for some in chunks(network_ids):
        query = (
            select(addresses.c.subnet_id, func.count().label("given"))
            .join(subnets, subnets.c.id == addresses.c.subnet_id)
            .where(subnets.c.network_id.in_(some))
            .group_by(addresses.c.subnet_id)
        )
        used.update({row.subnet_id: int(row.given) for row in tx.execute(query)})
    return used


def nodes_on_network(tx: Tx, network_id: str) -> list[str]:
    """Hosts with a port of the network bound to them."""
    query = (
        select(ports.c.node_id)
        .where(ports.c.network_id == network_id, ports.c.node_id.is_not(None))
        .distinct()
        .order_by(ports.c.node_id)
    )
    return list(tx.execute(query).scalars())


def _subnets(tx: Tx, rows: Sequence[Any]) -> list[Subnet]:
    labels = tags_of(tx, [row.id for row in rows])
    return [Subnet(**row._mapping, tags=labels.get(row.id, ())) for row in rows]


# --- subnet pools ------------------------------------------------------------------------------------


def find_pools(tx: Tx, reach: ProjectId | None, search: Search) -> list[SubnetPool]:
    return _pools(tx, find(tx, POOLS, search, _sees_pool(reach)))


def pool(tx: Tx, reach: ProjectId | None, pool_id: str) -> SubnetPool:
    query = select(subnet_pools).where(subnet_pools.c.id == pool_id)
    visible = _sees_pool(reach)
    if visible is not None:
        query = query.where(visible)
    found = _pools(tx, tx.execute(query).all())
    if not found:
        raise NotFound(f"SubnetPoolNotFound: Subnet pool {pool_id[:64]} could not be found.")
    return found[0]


def default_pool(tx: Tx, ip_version: int) -> SubnetPool | None:
    query = select(subnet_pools).where(
        subnet_pools.c.is_default, subnet_pools.c.ip_version == ip_version
    )
    found = _pools(tx, tx.execute(query.limit(1)).all())
    return found[0] if found else None


def _pools(tx: Tx, rows: Sequence[Any]) -> list[SubnetPool]:
    labels = tags_of(tx, [row.id for row in rows])
    return [SubnetPool(**row._mapping, tags=labels.get(row.id, ())) for row in rows]
