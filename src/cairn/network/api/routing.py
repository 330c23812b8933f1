"""Routers and floating IPs over HTTP."""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.network import shapes
from cairn.network.api.addressing import each
from cairn.network.api.resource import (
    Resource,
    Shown,
    convert,
    part,
    require_revision,
    routes,
)
from cairn.network.records import FloatingIp, Port, Router
from cairn.network.service import floating_ips, routers
from cairn.network.wishes import FloatingIpWish, RouterWish, RouteWish


def _show_floating_ips(tx: Tx, records: Sequence[FloatingIp]) -> list[Shown]:
    inside = floating_ips.inside_ports(tx, records)
    return [shapes.floating_ip(record, inside) for record in records]


ROUTER = Resource(
    one="router",
    many="routers",
    path="routers",
    wish=RouterWish,
    find=routers.find_routers,
    get=routers.get_router,
    show=each(shapes.router),
    create=routers.create_router,
    update=routers.update_router,
    delete=routers.delete_router,
    fixed=frozenset({"availability_zone_hints"}),
)

FLOATING_IP = Resource(
    one="floatingip",
    many="floatingips",
    path="floatingips",
    wish=FloatingIpWish,
    find=floating_ips.find_floating_ips,
    get=floating_ips.get_floating_ip,
    show=_show_floating_ips,
    create=floating_ips.create_floating_ip,
    update=floating_ips.update_floating_ip,
    delete=floating_ips.delete_floating_ip,
    fixed=frozenset({"floating_network_id", "floating_ip_address", "subnet_id"}),
)


class _InterfaceBody(Struct, frozen=True, kw_only=True):
    """Older clients repeat more here; Neutron reads these two."""

    subnet_id: str | None = None
    port_id: str | None = None


def _add_interface(tx: Tx, call: Call[_InterfaceBody]) -> Shown:
    router_id = call.path["resource_id"]
    require_revision(call, routers.get_router(tx, call.who, router_id))
    port = routers.add_interface(
        tx, call.who, router_id, subnet_id=call.body.subnet_id, port_id=call.body.port_id
    )
    return _interface(tx, call, port)


def _remove_interface(tx: Tx, call: Call[_InterfaceBody]) -> Shown:
    router_id = call.path["resource_id"]
    require_revision(call, routers.get_router(tx, call.who, router_id))
    port = routers.remove_interface(
        tx, call.who, router_id, subnet_id=call.body.subnet_id, port_id=call.body.port_id
    )
    return _interface(tx, call, port)


def _interface(tx: Tx, call: Call[Any], port: Port) -> Shown:
    router = routers.get_router(tx, call.who, call.path["resource_id"])
    subnet_ids = [a.subnet_id for a in port.addresses]
    return {
        "id": router.id,
        "project_id": router.project_id,
        "tenant_id": router.project_id,
        "network_id": port.network_id,
        "port_id": port.id,
        "subnet_id": subnet_ids[0] if subnet_ids else None,
        "subnet_ids": subnet_ids,
        "tags": list(port.tags),
    }


class _RoutesPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    routes: Annotated[tuple[RouteWish, ...], Meta(max_length=64)]


def _change_routes(tx: Tx, call: Call[Any], *, add: bool) -> Shown:
    wished = convert(part(call.body, "router"), _RoutesPart)
    router_id = call.path["resource_id"]
    require_revision(call, routers.get_router(tx, call.who, router_id))
    changed: Router = routers.change_routes(tx, call.who, router_id, wished.routes, add=add)
    return {"router": shapes.router(changed)}


_ONE = "/v2.0/routers/{resource_id}"

ROUTES = (
    *routes(ROUTER),
    Route(
        method="PUT", path=f"{_ONE}/add_router_interface", rule="add_router_interface",
        do=_add_interface, body=_InterfaceBody,
    ),
    Route(
        method="PUT", path=f"{_ONE}/remove_router_interface", rule="remove_router_interface",
        do=_remove_interface, body=_InterfaceBody,
    ),
    Route(
        method="PUT", path=f"{_ONE}/add_extraroutes", rule="add_extraroutes",
        do=lambda tx, call: _change_routes(tx, call, add=True), body=object,
    ),
    Route(
        method="PUT", path=f"{_ONE}/remove_extraroutes", rule="remove_extraroutes",
        do=lambda tx, call: _change_routes(tx, call, add=False), body=object,
    ),
    *routes(FLOATING_IP),
)  # fmt: skip
