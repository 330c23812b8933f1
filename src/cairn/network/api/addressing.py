"""Networks, subnets and subnet pools over HTTP."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from cairn.db.engine import Tx
from cairn.network import shapes
from cairn.network.api.policy import ADMINS_TO_SEE
from cairn.network.api.resource import Resource, Shown, routes
from cairn.network.service import networks, pools, subnets
from cairn.network.wishes import NetworkWish, SubnetPoolWish, SubnetWish

R = TypeVar("R")


def each(show: Callable[[R], Shown]) -> Callable[[Tx, Sequence[R]], list[Shown]]:
    """For records that say everything themselves."""
    return lambda tx, records: [show(record) for record in records]


NETWORK = Resource(
    one="network",
    many="networks",
    path="networks",
    wish=NetworkWish,
    find=networks.find_networks,
    get=networks.get_network,
    show=each(shapes.network),
    create=networks.create_network,
    update=networks.update_network,
    delete=networks.delete_network,
    fixed=frozenset(
        {
            "availability_zone_hints",
            "provider:network_type",
            "provider:physical_network",
            "provider:segmentation_id",
        }
    ),
    hidden=ADMINS_TO_SEE["network"],
)

SUBNET = Resource(
    one="subnet",
    many="subnets",
    path="subnets",
    wish=SubnetWish,
    find=subnets.find_subnets,
    get=subnets.get_subnet,
    show=each(shapes.subnet),
    create=subnets.create_subnet,
    update=subnets.update_subnet,
    delete=subnets.delete_subnet,
    fixed=frozenset(
        {
            "network_id",
            "ip_version",
            "cidr",
            "ipv6_ra_mode",
            "ipv6_address_mode",
            "subnetpool_id",
            "prefixlen",
            "use_default_subnetpool",
        }
    ),
)

SUBNET_POOL = Resource(
    one="subnetpool",
    many="subnetpools",
    path="subnetpools",
    wish=SubnetPoolWish,
    find=pools.find_pools,
    get=pools.get_pool,
    show=each(shapes.subnet_pool),
    create=pools.create_pool,
    update=pools.update_pool,
    delete=pools.delete_pool,
    fixed=frozenset({"shared"}),
)

ROUTES = (*routes(NETWORK), *routes(SUBNET), *routes(SUBNET_POOL))
