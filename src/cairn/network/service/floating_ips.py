"""Floating IPs: an outside address for one inside address, through the router between them."""

from collections.abc import Iterable

from msgspec import UNSET

from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.core.ids import FloatingIpId, PortId, RouterId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.network.records import FLOATING_IP, FloatingIp, Network, Port, Router, Search
from cairn.network.service import allocation
from cairn.network.service import ports as port_service
from cairn.network.service.access import admit, owner_of
from cairn.network.store import networks as network_store
from cairn.network.store import ports as port_store
from cairn.network.store import resources, tables
from cairn.network.store import routers as store
from cairn.network.wishes import FixedIpWish, FloatingIpWish, said


def find_floating_ips(tx: Tx, who: Caller, search: Search) -> list[FloatingIp]:
    return store.find_floating_ips(tx, who.reach, search)


def get_floating_ip(tx: Tx, who: Caller, floating_ip_id: str) -> FloatingIp:
    return store.floating_ip(tx, who.reach, floating_ip_id)


def inside_ports(tx: Tx, records: Iterable[FloatingIp]) -> dict[PortId, Port]:
    """The ports that they map to, for those who show them."""
    return port_store.ports_by_id(tx, (f.port_id for f in records if f.port_id))


def create_floating_ip(tx: Tx, who: Caller, wish: FloatingIpWish) -> FloatingIp:
    """Take an address of an external network, and map it when a port is named.

    Raises NotFound, Invalid, Conflict, OverQuota."""
    if wish.network_id is UNSET:
        raise Invalid(
            "HTTPBadRequest: Failed to parse request. Required attribute 'floating_network_id' not "
            "specified"
        )
    project_id = owner_of(who, wish.project_id)
    admit(tx, "floatingip", project_id)
    network = network_store.network(tx, who.reach, said(wish.network_id, ""))
    if not network.is_external:
        raise Invalid(
            f"BadRequest: Bad floatingip request: Network {network.id} is not a valid external network."
        )
    subnets = [s for s in network_store.subnets_of(tx, [network.id]) if s.ip_version == 4]
    if not subnets:
        raise Invalid(
            f"BadRequest: Bad floatingip request: Network {network.id} does not contain any IPv4 subnet."
        )
    wanted = [FixedIpWish(subnet_id=said(wish.subnet_id, None), ip=said(wish.ip, None))]
    anywhere = wanted[0].subnet_id is None and wanted[0].ip is None
    held = allocation.addresses_for(tx, network, subnets, "", None if anywhere else wanted)
    floating_ip_id = FloatingIpId(tx.new_id())
    own = port_service.add_port(
        tx,
        network,
        project_id="",
        held=held[:1],
        device_id=floating_ip_id,
        device_owner=FLOATING_IP,
    )
    resources.add(
        tx,
        tables.floating_ips,
        id=floating_ip_id,
        project_id=project_id,
        description=said(wish.description, ""),
        network_id=network.id,
        ip=held[0].ip,
        own_port_id=own.id,
    )
    floating = store.floating_ip(tx, None, floating_ip_id)
    if port_id := said(wish.port_id, None):
        _map(tx, who, floating, network, port_id, said(wish.fixed_ip, None))
    return store.floating_ip(tx, None, floating_ip_id)


def update_floating_ip(
    tx: Tx, who: Caller, floating_ip_id: str, wish: FloatingIpWish
) -> FloatingIp:
    """Map it to another port, or to none (a null port). Raises NotFound, Invalid, Conflict."""
    floating = store.floating_ip(tx, who.reach, floating_ip_id)
    network = network_store.network(tx, None, floating.network_id)
    if wish.description is not UNSET:
        resources.change(tx, tables.floating_ips, floating.id, {"description": wish.description})
    if wish.port_id is not UNSET or wish.fixed_ip is not UNSET:
        port_id = said(wish.port_id, floating.port_id)
        if port_id:
            _map(tx, who, floating, network, port_id, said(wish.fixed_ip, None))
        else:
            if said(wish.fixed_ip, None):
                raise Invalid(
                    "BadRequest: Bad floatingip request: fixed_ip_address needs a port_id."
                )
            _unmap(tx, floating, network)
    return store.floating_ip(tx, None, floating.id)


def delete_floating_ip(tx: Tx, who: Caller, floating_ip_id: str) -> None:
    floating = store.floating_ip(tx, who.reach, floating_ip_id)
    network = network_store.network(tx, None, floating.network_id)
    own = port_store.port(tx, None, floating.own_port_id)
    resources.remove(tx, tables.floating_ips, floating.id)
    port_service.remove_port(tx, own, network)


def _map(
    tx: Tx, who: Caller, floating: FloatingIp, network: Network, port_id: str, fixed_ip: str | None
) -> None:
    port = port_store.port(tx, who.reach, port_id)
    if who.reach not in (None, port.project_id):
        raise Denied(f"PolicyNotAuthorized: Port {port.id} belongs to another project.")
    target = _target(tx, port, fixed_ip)
    for other in store.floating_ips_of_ports(tx, [port.id]):
        if (
            other.id != floating.id
            and other.fixed_ip == target
            and other.network_id == floating.network_id
        ):
            raise Conflict(
                "FloatingIPPortAlreadyAssociated: Cannot associate floating IP "
                f"{floating.ip} ({floating.id}) with port {port.id} using fixed IP {target}, as that "
                f"fixed IP already has a floating IP on external network {network.id}."
            )
    router = _router_between(tx, network, port, target)
    resources.change(
        tx,
        tables.floating_ips,
        floating.id,
        {"port_id": port.id, "fixed_ip": target, "router_id": router.id},
    )
    fleet.touch_zone(tx, network.zone)


def _unmap(tx: Tx, floating: FloatingIp, network: Network) -> None:
    nothing: dict[str, PortId | RouterId | None] = {
        "port_id": None,
        "fixed_ip": None,
        "router_id": None,
    }
    resources.change(tx, tables.floating_ips, floating.id, nothing)
    fleet.touch_zone(tx, network.zone)


def _target(tx: Tx, port: Port, fixed_ip: str | None) -> str:
    """The inside address: as named, or the port's only IPv4 address. Raises Invalid."""
    mine = [a.ip for a in port.addresses if ":" not in a.ip]
    if fixed_ip is not None:
        if fixed_ip not in mine:
            raise Invalid(
                f"BadRequest: Bad floatingip request: Port {port.id} does not have fixed ip {fixed_ip[:64]}."
            )
        return fixed_ip
    if not mine:
        raise Invalid(
            f"BadRequest: Bad floatingip request: Cannot add floating IP to port {port.id} that has no "
            "fixed IPv4 addresses."
        )
    if len(mine) > 1:
        raise Invalid(
            f"BadRequest: Bad floatingip request: Port {port.id} has multiple fixed IPv4 addresses. Must "
            "provide a specific IPv4 address when assigning a floating IP."
        )
    return mine[0]


def _router_between(tx: Tx, network: Network, port: Port, fixed_ip: str) -> Router:
    """The router with a leg in the address's subnet and its gateway in the external network."""
    subnet_id = next(a.subnet_id for a in port.addresses if a.ip == fixed_ip)
    legs = port_store.interfaces_on_subnets(tx, [subnet_id])
    for router in store.routers_by_id(tx, (leg.device_id for leg in legs)):
        if router.gateway is not None and router.gateway.network_id == network.id:
            return router
    raise NotFound(
        f"ExternalGatewayForFloatingIPNotFound: External network {network.id} is not reachable from "
        f"subnet {subnet_id}.  Therefore, cannot associate Port {port.id} with a Floating IP."
    )
