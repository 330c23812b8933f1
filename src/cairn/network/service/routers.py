"""Routers: legs in inside networks, one gateway into an external one, extra routes."""

import ipaddress
from collections.abc import Sequence

from msgspec import UNSET

from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.core.ids import RouterId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import DEFAULT_ZONE
from cairn.network import addresses
from cairn.network.records import (
    ROUTER_GATEWAY,
    ROUTER_INTERFACE,
    Address,
    Network,
    Port,
    Route,
    Router,
    Search,
    Subnet,
)
from cairn.network.service import allocation, groups
from cairn.network.service import ports as port_service
from cairn.network.service.access import admit, owner_of
from cairn.network.store import networks as network_store
from cairn.network.store import ports as port_store
from cairn.network.store import resources, tables
from cairn.network.store import routers as store
from cairn.network.wishes import FixedIpWish, GatewayWish, RouterWish, RouteWish, listed, said


def find_routers(tx: Tx, who: Caller, search: Search) -> list[Router]:
    return store.find_routers(tx, who.reach, search)


def get_router(tx: Tx, who: Caller, router_id: str) -> Router:
    return store.router(tx, who.reach, router_id)


def create_router(tx: Tx, who: Caller, wish: RouterWish) -> Router:
    """Raises Invalid, NotFound (the gateway's network), Conflict, OverQuota."""
    project_id = owner_of(who, wish.project_id)
    admit(tx, "router", project_id)
    groups.ensure_default(tx, project_id)
    router_id = RouterId(tx.new_id())
    gateway = _wanted_gateway(wish)
    zone = _zone(tx, said(wish.zone_hints, ()), gateway, who)
    resources.add(
        tx,
        tables.routers,
        id=router_id,
        project_id=project_id,
        name=said(wish.name, ""),
        description=said(wish.description, ""),
        zone=zone,
        is_enabled=said(wish.is_enabled, True),
        routes=(),
    )
    if gateway is not None:
        _set_gateway(tx, who, store.router(tx, None, router_id), gateway)
    if wish.routes is not UNSET:
        router = store.router(tx, None, router_id)
        routes = _routes(tx, router, listed(wish.routes))
        resources.change(tx, tables.routers, router_id, {"routes": routes})
    fleet.touch_zone(tx, zone)
    return store.router(tx, None, router_id)


def update_router(tx: Tx, who: Caller, router_id: str, wish: RouterWish) -> Router:
    """Raises NotFound, Invalid, Conflict (floating IPs or routes need what would go)."""
    router = store.router(tx, who.reach, router_id)
    if wish.gateway is not UNSET:
        gateway = _wanted_gateway(wish)
        if gateway is None:
            _clear_gateway(tx, router)
        else:
            _set_gateway(tx, who, router, gateway)
        router = store.router(tx, None, router.id)
    values: dict[str, object] = {
        name: value
        for name in ("name", "description", "is_enabled")
        if (value := getattr(wish, name)) is not UNSET
    }
    if wish.routes is not UNSET:
        values["routes"] = _routes(tx, router, listed(wish.routes))
    resources.change(tx, tables.routers, router.id, values)
    fleet.touch_zone(tx, router.zone)
    return store.router(tx, None, router.id)


def delete_router(tx: Tx, who: Caller, router_id: str) -> None:
    """Raises Conflict while it has a leg in an inside network; its gateway goes with it."""
    router = store.router(tx, who.reach, router_id)
    legs = port_store.interfaces_of(tx, router.id)
    if legs:
        raise Conflict(f"RouterInUse: Router {router.id} still has ports: {legs[0].id}.")
    _clear_gateway(tx, router)
    resources.remove(tx, tables.routers, router.id)
    fleet.touch_zone(tx, router.zone)


def change_routes(
    tx: Tx, who: Caller, router_id: str, wishes: Sequence[RouteWish], *, add: bool
) -> Router:
    """Add to or take from the extra routes; what is there (or gone) already stays so."""
    router = store.router(tx, who.reach, router_id)
    named = [_route(w) for w in wishes]
    if add:
        routes = tuple(dict.fromkeys((*router.routes, *named)))
        _require_reachable(tx, router, named)
    else:
        routes = tuple(r for r in router.routes if r not in named)
    resources.change(tx, tables.routers, router.id, {"routes": routes})
    fleet.touch_zone(tx, router.zone)
    return store.router(tx, None, router.id)


# --- inside networks ---------------------------------------------------------------------------------


def add_interface(
    tx: Tx, who: Caller, router_id: str, *, subnet_id: str | None, port_id: str | None
) -> Port:
    """Join a router to a subnet, by its gateway address, or by a port that exists.

    Raises NotFound, Invalid (overlaps, no gateway address), Conflict (address or port in use)."""
    router = store.router(tx, who.reach, router_id)
    if (subnet_id is None) == (port_id is None):
        raise Invalid(
            "BadRequest: Bad router request: Either subnet_id or port_id must be specified, not both."
        )
    if port_id is not None:
        port = _join_by_port(tx, who, router, port_id)
    else:
        assert subnet_id is not None
        port = _join_by_subnet(tx, who, router, subnet_id)
    resources.change(tx, tables.routers, router.id, {})
    fleet.touch_zone(tx, router.zone)
    return port


def remove_interface(
    tx: Tx, who: Caller, router_id: str, *, subnet_id: str | None, port_id: str | None
) -> Port:
    """Take the router's leg out; returns the port as it was. Raises NotFound, Invalid, Conflict."""
    router = store.router(tx, who.reach, router_id)
    if subnet_id is None and port_id is None:
        raise Invalid(
            "BadRequest: Bad router request: Either subnet_id or port_id must be specified."
        )
    legs = port_store.interfaces_of(tx, router.id)
    if port_id is not None:
        port = next((p for p in legs if p.id == port_id), None)
        if port is None:
            raise NotFound(
                f"RouterInterfaceNotFound: Router {router.id} does not have an interface with id "
                f"{port_id[:64]}"
            )
        if subnet_id is not None and all(a.subnet_id != subnet_id for a in port.addresses):
            raise Conflict(
                f"SubnetMismatchForPort: Subnet on port {port.id} does not match the requested subnet "
                f"{subnet_id[:64]}"
            )
    else:
        assert subnet_id is not None
        network_store.subnet(tx, who.reach, subnet_id)
        port = next((p for p in legs if any(a.subnet_id == subnet_id for a in p.addresses)), None)
        if port is None:
            raise NotFound(
                f"RouterInterfaceNotFoundForSubnet: Router {router.id} has no interface on subnet "
                f"{subnet_id[:64]}"
            )
    _require_unneeded(tx, router, port)
    network = network_store.network(tx, None, port.network_id)
    port_service.remove_port(tx, port, network)
    resources.change(tx, tables.routers, router.id, {})
    return port


def _join_by_port(tx: Tx, who: Caller, router: Router, port_id: str) -> Port:
    port = port_store.port(tx, who.reach, port_id)
    if port.device_id or port.is_ours:
        raise Conflict(
            f"PortInUse: Unable to complete operation on port {port.id} for network "
            f"{port.network_id}. Port already has an attached device {port.device_id}."
        )
    if not port.addresses:
        raise Invalid(
            f"BadRequest: Bad router request: Router port {port.id} must have at least one fixed IP."
        )
    subnets = list(network_store.subnets_by_id(tx, (a.subnet_id for a in port.addresses)).values())
    network = network_store.network(tx, None, port.network_id)
    if len([s for s in subnets if s.ip_version == 4]) > 1:
        raise Invalid(
            "BadRequest: Bad router request: Cannot have multiple IPv4 subnets on router port."
        )
    _require_joinable(tx, router, network, subnets)
    resources.change(
        tx,
        tables.ports,
        port.id,
        {"device_id": router.id, "device_owner": ROUTER_INTERFACE, "has_security": False},
    )
    port_store.set_groups(tx, port.id, ())
    return port_store.port(tx, None, port.id)


def _join_by_subnet(tx: Tx, who: Caller, router: Router, subnet_id: str) -> Port:
    subnet = network_store.subnet(tx, who.reach, subnet_id)
    if subnet.gateway_ip is None:
        raise Invalid(
            "BadRequest: Bad router request: Subnet for router interface must have a gateway IP."
        )
    network = network_store.network(tx, None, subnet.network_id)
    if who.reach not in (None, network.project_id) and not network.is_shared:
        raise Denied(f"PolicyNotAuthorized: Network {network.id} belongs to another project.")
    _require_joinable(tx, router, network, [subnet])
    address = Address(subnet_id=subnet.id, ip=subnet.gateway_ip)
    if port_store.taken(tx, subnet.id, [address.ip]):
        raise Conflict(
            f"IpAddressAlreadyAllocated: IP address {address.ip} already allocated in subnet {subnet.id}"
        )
    admit(tx, "port", router.project_id)
    return port_service.add_port(
        tx,
        network,
        project_id=router.project_id,
        held=(address,),
        device_id=router.id,
        device_owner=ROUTER_INTERFACE,
    )


def _require_joinable(tx: Tx, router: Router, network: Network, wanted: Sequence[Subnet]) -> None:
    """Blocks on a router must not overlap, and all its networks lie in its zone."""
    if network.zone != router.zone:
        raise Invalid(
            f"BadRequest: Bad router request: router {router.id} is in zone {router.zone}, network "
            f"{network.id} in zone {network.zone}."
        )
    legs = port_store.interfaces_of(tx, router.id)
    held = [a.subnet_id for p in legs for a in p.addresses]
    outside = [a.subnet_id for a in router.gateway.addresses] if router.gateway else []
    known = network_store.subnets_by_id(tx, [*held, *outside])
    for subnet in wanted:
        if subnet.id in held:
            raise Invalid(
                f"BadRequest: Bad router request: Router already has a port on subnet {subnet.id}."
            )
        block = addresses.cidr(subnet.cidr, "cidr")
        for other in known.values():
            if addresses.overlapping(block, [other.cidr]):
                raise Invalid(
                    f"BadRequest: Bad router request: Cidr {subnet.cidr} of subnet {subnet.id} overlaps "
                    f"with cidr {other.cidr} of subnet {other.id}."
                )


def _require_unneeded(tx: Tx, router: Router, port: Port) -> None:
    """Floating IPs and routes may lean on a leg."""
    held = {a.subnet_id for a in port.addresses}
    floating = [f for f in store.floating_ips_of_routers(tx, [router.id]) if f.port_id]
    inside = port_store.ports_by_id(tx, (f.port_id for f in floating if f.port_id))
    for f in floating:
        target = inside[f.port_id] if f.port_id else None
        if target and any(a.ip == f.fixed_ip and a.subnet_id in held for a in target.addresses):
            raise Conflict(
                "RouterInterfaceInUseByFloatingIP: Router interface for subnet "
                f"{', '.join(sorted(held))} on router {router.id} cannot be deleted, as it is required "
                f"by one or more floating IPs ({f.ip})."
            )
    blocks = [ipaddress.ip_network(s.cidr) for s in network_store.subnets_by_id(tx, held).values()]
    for route in router.routes:
        if any(ipaddress.ip_address(route.nexthop) in b for b in blocks):
            raise Conflict(
                "RouterInterfaceInUseByRoute: Router interface for subnet "
                f"{', '.join(sorted(held))} on router {router.id} cannot be deleted, as it is required "
                f"by one or more routes ({route.destination})."
            )


# --- the outside -------------------------------------------------------------------------------------


def _wanted_gateway(wish: RouterWish) -> GatewayWish | None:
    """Raises Invalid for a gateway with everything but its network."""
    gateway = said(wish.gateway, None)
    if gateway is None or gateway == GatewayWish():
        return None
    if not gateway.network_id:
        raise Invalid(
            "InvalidInput: Invalid input for external_gateway_info. Reason: 'network_id' is missing."
        )
    return gateway


def _set_gateway(tx: Tx, who: Caller, router: Router, wish: GatewayWish) -> None:
    network = network_store.network(tx, who.reach, wish.network_id or "")
    if not network.is_external:
        raise Invalid(
            f"BadRequest: Bad router request: Network {network.id} is not an external network."
        )
    if network.zone != router.zone:
        raise Invalid(
            f"BadRequest: Bad router request: Network {network.id} is in zone {network.zone}, router "
            f"{router.id} in zone {router.zone}."
        )
    snat = {"has_snat": said(wish.has_snat, True)}
    same = router.gateway is not None and router.gateway.network_id == network.id
    if same and wish.fixed_ips is UNSET:
        resources.change(tx, tables.routers, router.id, snat)
        return
    if not same:
        _clear_gateway(tx, router)
        router = store.router(tx, None, router.id)
    _require_no_overlap_outside(tx, router, network)
    wanted = said(wish.fixed_ips, None) if wish.fixed_ips is not UNSET else None
    _place_gateway(tx, router, network, wanted or None)
    resources.change(tx, tables.routers, router.id, snat)


def _place_gateway(
    tx: Tx, router: Router, network: Network, wanted: Sequence[FixedIpWish] | None
) -> None:
    """The gateway's port with its addresses, new or changed."""
    # A gateway is named by others: it never takes an address that follows from its MAC.
    subnets = [s for s in network_store.subnets_of(tx, [network.id]) if not s.is_automatic]
    if router.gateway is not None:
        held = allocation.addresses_for(
            tx, network, subnets, "", wanted or (), keep=router.gateway.addresses
        )
        port_store.set_addresses(tx, router.gateway.port_id, held)
        return
    held = allocation.addresses_for(tx, network, subnets, "", wanted)
    port = port_service.add_port(
        tx,
        network,
        project_id="",
        held=held,
        device_id=router.id,
        device_owner=ROUTER_GATEWAY,
    )
    resources.change(tx, tables.routers, router.id, {"gateway_port_id": port.id})


def _clear_gateway(tx: Tx, router: Router) -> None:
    if router.gateway is None:
        return
    needed = [f for f in store.floating_ips_of_routers(tx, [router.id]) if f.port_id]
    if needed:
        raise Conflict(
            f"RouterExternalGatewayInUseByFloatingIp: Gateway cannot be updated for router {router.id}, "
            f"since a gateway to external network {router.gateway.network_id} is required by one or "
            f"more floating IPs ({needed[0].ip})."
        )
    resources.change(tx, tables.routers, router.id, {"gateway_port_id": None, "has_snat": True})
    port = port_store.port(tx, None, router.gateway.port_id)
    port_service.remove_port(tx, port, network_store.network(tx, None, port.network_id))


def _require_no_overlap_outside(tx: Tx, router: Router, network: Network) -> None:
    legs = port_store.interfaces_of(tx, router.id)
    inside = network_store.subnets_by_id(tx, (a.subnet_id for p in legs for a in p.addresses))
    for subnet in network_store.subnets_of(tx, [network.id]):
        block = addresses.cidr(subnet.cidr, "cidr")
        if other := addresses.overlapping(block, (s.cidr for s in inside.values())):
            raise Invalid(
                f"BadRequest: Bad router request: Cidr {subnet.cidr} of subnet {subnet.id} overlaps "
                f"with cidr {other} of an inside subnet."
            )


def _zone(tx: Tx, hints: Sequence[str], gateway: GatewayWish | None, who: Caller) -> str:
    """As hinted, else where the gateway's network is."""
    if hints:
        known = fleet.zones(tx) | {DEFAULT_ZONE}
        if hints[0] not in known:
            raise Invalid(
                f"AvailabilityZoneNotFound: AvailabilityZone {hints[0]} could not be found."
            )
        return hints[0]
    if gateway is not None:
        return network_store.network(tx, who.reach, gateway.network_id or "").zone
    return DEFAULT_ZONE


# --- routes ------------------------------------------------------------------------------------------


def _route(wish: RouteWish) -> Route:
    destination = addresses.loose_cidr(wish.destination, "routes")
    nexthop = addresses.ip(wish.nexthop, "routes")
    if destination.version != nexthop.version:
        raise Invalid("InvalidInput: Invalid input for routes. Reason: mixed IP versions.")
    return Route(destination=str(destination), nexthop=str(nexthop))


def _routes(tx: Tx, router: Router, wishes: Sequence[RouteWish]) -> tuple[Route, ...]:
    routes = [_route(w) for w in wishes]
    if len(set(routes)) != len(routes):
        raise Invalid("InvalidInput: Invalid input for routes. Reason: Duplicate route.")
    _require_reachable(tx, router, routes)
    return tuple(routes)


def _require_reachable(tx: Tx, router: Router, routes: Sequence[Route]) -> None:
    """A next hop is a neighbour of the router, and not the router itself."""
    if not routes:
        return
    held = [a for p in port_store.interfaces_of(tx, router.id) for a in p.addresses]
    if router.gateway is not None:
        held += router.gateway.addresses
    subnets = network_store.subnets_by_id(tx, (a.subnet_id for a in held))
    blocks = [ipaddress.ip_network(s.cidr) for s in subnets.values()]
    for route in routes:
        if not any(ipaddress.ip_address(route.nexthop) in b for b in blocks):
            raise Invalid(
                f"InvalidRoutes: Invalid format for routes: the nexthop is not connected with router: "
                f"{route.nexthop}."
            )
        if any(a.ip == route.nexthop for a in held):
            raise Invalid(
                f"InvalidRoutes: Invalid format for routes: the nexthop is used by router: {route.nexthop}."
            )
