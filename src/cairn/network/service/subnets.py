"""Subnets: address blocks of a network, checked so that OVN and guests can rely on them."""

import ipaddress

from msgspec import UNSET

from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Invalid
from cairn.core.ids import SubnetId
from cairn.db.engine import Tx
from cairn.network import addresses
from cairn.network.records import (
    DISTRIBUTED,
    OUR_OWNERS,
    Address,
    Network,
    Range,
    Route,
    Search,
    Subnet,
)
from cairn.network.service import metadata, pools
from cairn.network.service.access import admit, owner_of, require_owner
from cairn.network.service.networks import touch_network
from cairn.network.store import networks as store
from cairn.network.store import ports as port_store
from cairn.network.store import resources, tables
from cairn.network.wishes import RangeWish, RouteWish, SubnetWish, listed, said

IPV6_MODES = ("dhcpv6-stateful", "dhcpv6-stateless", "slaac")


def find_subnets(tx: Tx, who: Caller, search: Search) -> list[Subnet]:
    return store.find_subnets(tx, who.reach, search)


def get_subnet(tx: Tx, who: Caller, subnet_id: str) -> Subnet:
    """Raises NotFound."""
    return store.subnet(tx, who.reach, subnet_id)


def create_subnet(tx: Tx, who: Caller, wish: SubnetWish) -> Subnet:
    """Raises NotFound, Denied, Invalid (overlaps with another subnet, ...), OverQuota."""
    if wish.network_id is UNSET:
        raise Invalid(
            "HTTPBadRequest: Failed to parse request. Required attribute 'network_id' not specified"
        )
    network = store.network(tx, who.reach, said(wish.network_id, ""))
    require_owner(who, network, "network")
    # A subnet belongs to its network's project unless an admin says otherwise.
    project_id = network.project_id if wish.project_id is UNSET else owner_of(who, wish.project_id)
    admit(tx, "subnet", project_id)
    block, pool_id = _block(tx, who, wish, project_id)
    _require_alone(tx, network, block)
    _require_modes(wish, block)
    gateway = _gateway(wish, block)
    ranges = said(wish.pools, None)
    subnet_id = SubnetId(tx.new_id())
    resources.add(
        tx,
        tables.subnets,
        id=subnet_id,
        project_id=project_id,
        network_id=network.id,
        name=said(wish.name, ""),
        description=said(wish.description, ""),
        ip_version=block.version,
        cidr=str(block),
        gateway_ip=gateway,
        has_dhcp=said(wish.has_dhcp, True),
        pools=_pools(block, ranges, gateway),
        dns=_dns(listed(wish.dns)),
        routes=_routes(listed(wish.routes), block),
        ra_mode=said(wish.ra_mode, None),
        address_mode=said(wish.address_mode, None),
        subnet_pool_id=pool_id,
    )
    subnet = store.subnet(tx, None, subnet_id)
    if subnet.is_automatic:
        _join_automatically(tx, network, subnet)
    _network_changed(tx, network)
    return subnet


def update_subnet(tx: Tx, who: Caller, subnet_id: str, wish: SubnetWish) -> Subnet:
    """Raises NotFound, Denied, Invalid, Conflict."""
    subnet = store.subnet(tx, who.reach, subnet_id)
    require_owner(who, subnet, "subnet")
    block = addresses.cidr(subnet.cidr, "cidr")
    values: dict[str, object] = {
        name: value
        for name in ("name", "description")
        if (value := getattr(wish, name)) is not UNSET
    }
    gateway = subnet.gateway_ip
    if wish.gateway_ip is not UNSET:
        gateway = _gateway(wish, block)
        if gateway != subnet.gateway_ip:
            _require_gateway_free(tx, subnet)
            values["gateway_ip"] = gateway
    if wish.pools is not UNSET:
        values["pools"] = _pools(block, said(wish.pools, None), gateway)
    elif gateway is not None and gateway != subnet.gateway_ip:
        # Pools that nobody chose make room for the new gateway; chosen ones conflict with it.
        if subnet.pools == addresses.default_pools(block, subnet.gateway_ip):
            values["pools"] = addresses.default_pools(block, gateway)
        elif addresses.holds(subnet.pools, gateway):
            raise Conflict(
                f"GatewayConflictWithAllocationPools: Gateway ip {gateway} conflicts with allocation "
                "pools."
            )
    if wish.dns is not UNSET:
        values["dns"] = _dns(listed(wish.dns))
    if wish.routes is not UNSET:
        values["routes"] = _routes(listed(wish.routes), block)
    if wish.has_dhcp is not UNSET:
        if wish.has_dhcp is False and (subnet.ra_mode or subnet.address_mode):
            raise Invalid(
                "InvalidInput: Invalid input for operation: Cannot disable enable_dhcp with "
                "ipv6 attributes set."
            )
        values["has_dhcp"] = wish.has_dhcp
    resources.change(tx, tables.subnets, subnet.id, values)
    _network_changed(tx, store.network(tx, None, subnet.network_id))
    return store.subnet(tx, None, subnet.id)


def delete_subnet(tx: Tx, who: Caller, subnet_id: str) -> None:
    """Raises Conflict while a port has an address of it that did not come by itself."""
    subnet = store.subnet(tx, who.reach, subnet_id)
    require_owner(who, subnet, "subnet")
    holders = port_store.ports_on_subnet(tx, subnet.id)
    for port in holders:
        if port.device_owner == DISTRIBUTED or (subnet.is_automatic and not port.is_ours):
            continue
        raise Conflict(
            f"SubnetInUse: Unable to complete operation on subnet {subnet.id}: One or more ports "
            f"have an IP allocation from this subnet: port {port.id}."
        )
    port_store.remove_addresses_of_subnet(tx, subnet.id)
    resources.remove(tx, tables.subnets, subnet.id)
    _network_changed(tx, store.network(tx, None, subnet.network_id))


def _network_changed(tx: Tx, network: Network) -> None:
    resources.change(tx, tables.networks, network.id, {})
    metadata.keep(tx, network)
    touch_network(tx, network, hosts=True)


def _block(
    tx: Tx, who: Caller, wish: SubnetWish, project_id: str
) -> tuple[addresses.Cidr, str | None]:
    """The address block as said, or cut from a pool; and the pool's id."""
    text = said(wish.cidr, None)
    version = said(wish.ip_version, 0)
    if version not in (0, 4, 6):
        raise Invalid(
            f"InvalidInput: Invalid input for ip_version. Reason: '{version}' is not in [4, 6]."
        )
    pool = pools.chosen(tx, who, wish)
    if pool is not None:
        block = pools.cut(tx, pool, wish, project_id)
        return block, pool.id
    if not text:
        raise Invalid("BadRequest: Bad subnets request: a subnet needs a cidr or a subnetpool_id.")
    block = addresses.cidr(text, "cidr")
    if version == 0:
        raise Invalid(
            "HTTPBadRequest: Failed to parse request. Required attribute 'ip_version' not specified"
        )
    if block.version != version:
        raise Invalid(
            f"InvalidInput: Invalid input for operation: cidr '{text}' does not match the ip_version "
            f"'{version}'."
        )
    if (
        block.prefixlen == 0
        or block.is_multicast
        or block.is_loopback
        or block.is_link_local
        or block.is_unspecified
    ):
        raise Invalid(
            f"InvalidInput: Invalid input for operation: '{text}' is no block for guests."
        )
    return block, None


def _require_alone(tx: Tx, network: Network, block: addresses.Cidr) -> None:
    other = addresses.overlapping(block, (s.cidr for s in store.subnets_of(tx, [network.id])))
    if other is not None:
        # Clients look for "overlaps with another subnet" to try the next block.
        raise Invalid(
            f"InvalidInput: Invalid input for operation: Requested subnet with cidr: {block} for "
            f"network: {network.id} overlaps with another subnet."
        )


def _require_modes(wish: SubnetWish, block: addresses.Cidr) -> None:
    ra_mode, address_mode = said(wish.ra_mode, None), said(wish.address_mode, None)
    if ra_mode is None and address_mode is None:
        return
    for name, mode in (("ipv6_ra_mode", ra_mode), ("ipv6_address_mode", address_mode)):
        if mode is not None and mode not in IPV6_MODES:
            raise Invalid(
                f"InvalidInput: Invalid input for {name}. Reason: '{mode[:40]}' is not in "
                f"{list(IPV6_MODES)}."
            )
    if block.version != 6:
        raise Invalid(
            "InvalidInput: Invalid input for operation: ipv6_ra_mode and ipv6_address_mode are "
            "possible with ip_version 6 only."
        )
    if said(wish.has_dhcp, True) is False:
        raise Invalid(
            "InvalidInput: Invalid input for operation: ipv6_ra_mode or ipv6_address_mode cannot be "
            "set when enable_dhcp is set to False"
        )
    if ra_mode and address_mode and ra_mode != address_mode:
        raise Invalid(
            f"InvalidInput: Invalid input for operation: ipv6_ra_mode set to '{ra_mode}' with "
            f"ipv6_address_mode set to '{address_mode}' is not valid. If both attributes are set, "
            "they must be the same value."
        )
    if "dhcpv6-stateful" not in (ra_mode, address_mode) and block.prefixlen != 64:
        raise Invalid(
            f"InvalidInput: Invalid input for operation: Invalid CIDR {block} for IPv6 address mode. "
            "OpenStack uses the EUI-64 address format, which requires the prefix to be /64."
        )


def _gateway(wish: SubnetWish, block: addresses.Cidr) -> str | None:
    if wish.gateway_ip is UNSET:
        return addresses.default_gateway(block)
    text = said(wish.gateway_ip, None)
    if not text:
        return None
    gateway = addresses.ip(text, "gateway_ip")
    first, last = addresses.usable(block)
    is_neighbour = gateway.version == 6 and gateway.is_link_local
    if gateway.version != block.version or not (first <= int(gateway) <= last or is_neighbour):
        raise Invalid(
            f"InvalidInput: Invalid input for operation: Gateway IP {gateway} is not a host of the "
            f"subnet {block}."
        )
    return str(gateway)


def _require_gateway_free(tx: Tx, subnet: Subnet) -> None:
    for port in port_store.interfaces_on_subnets(tx, [subnet.id]):
        if any(a.ip == subnet.gateway_ip for a in port.addresses):
            raise Conflict(
                f"GatewayIpInUse: Current gateway ip {subnet.gateway_ip} already in use by port "
                f"{port.id}. Unable to update."
            )


def _pools(
    block: addresses.Cidr, ranges: tuple[RangeWish, ...] | None, gateway: str | None
) -> tuple[Range, ...]:
    if ranges is None:
        return addresses.default_pools(block, gateway)
    return addresses.checked_pools(block, [(r.start, r.end) for r in ranges], gateway)


def _dns(servers: tuple[str, ...]) -> tuple[str, ...]:
    result = tuple(str(addresses.ip(s, "dns_nameservers")) for s in servers)
    if len(set(result)) != len(result):
        raise Invalid(
            "InvalidInput: Invalid input for dns_nameservers. Reason: Duplicate nameserver."
        )
    return result


def _routes(wishes: tuple[RouteWish, ...], block: addresses.Cidr) -> tuple[Route, ...]:
    result = []
    for wish in wishes:
        destination = addresses.loose_cidr(wish.destination, "host_routes")
        nexthop = addresses.ip(wish.nexthop, "host_routes")
        if destination.version != block.version or nexthop.version != block.version:
            raise Invalid("InvalidInput: Invalid input for host_routes. Reason: mixed IP versions.")
        result.append(Route(destination=str(destination), nexthop=str(nexthop)))
    if len(set(result)) != len(result):
        raise Invalid("InvalidInput: Invalid input for host_routes. Reason: Duplicate hostroute.")
    return tuple(result)


def _join_automatically(tx: Tx, network: Network, subnet: Subnet) -> None:
    """Ports that are there already hear the router's announcements and take an address."""
    block = ipaddress.ip_network(subnet.cidr)
    joined = [
        (port.id, Address(subnet_id=subnet.id, ip=addresses.autoconfigured(block, port.mac)))
        for port in port_store.ports_of_network(tx, network.id)
        if port.device_owner not in OUR_OWNERS
    ]
    port_store.add_addresses(tx, joined)
