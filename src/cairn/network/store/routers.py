"""Routers and floating IPs."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, case, func, select, update

from cairn.core.errors import NotFound
from cairn.core.ids import PortId, ProjectId
from cairn.db.engine import Tx
from cairn.network.records import FloatingIp, Gateway, Router, Search
from cairn.network.store.listing import Listing, boolean, find, listing, text
from cairn.network.store.ports import ports_by_id
from cairn.network.store.resources import chunks, tags_of
from cairn.network.store.tables import floating_ips, ports, routers

_GATEWAY_NETWORK = (
    select(ports.c.network_id).where(ports.c.id == routers.c.gateway_port_id).scalar_subquery()
)

ROUTERS: Listing = listing(
    "Router",
    routers,
    {
        "admin_state_up": boolean(routers.c.is_enabled),
        "status": text(case((routers.c.id == routers.c.id, "ACTIVE"))),
        "enable_snat": boolean(routers.c.has_snat),
        "external_gateway_info": lambda values: _GATEWAY_NETWORK.in_(
            [v.partition("network_id=")[2] or v for v in values]
        ),
    },
    admin_state_up=routers.c.is_enabled,
    status=routers.c.is_enabled,
)

_STATUS = case((floating_ips.c.port_id.is_not(None), "ACTIVE"), else_="DOWN")

FLOATING_IPS: Listing = listing(
    "FloatingIP",
    floating_ips,
    {
        "floating_network_id": text(floating_ips.c.network_id),
        "floating_ip_address": text(floating_ips.c.ip),
        "fixed_ip_address": text(floating_ips.c.fixed_ip),
        "port_id": text(floating_ips.c.port_id),
        "router_id": text(floating_ips.c.router_id),
        "status": text(_STATUS),
    },
    floating_ip_address=floating_ips.c.ip,
    fixed_ip_address=func.coalesce(floating_ips.c.fixed_ip, ""),
    floating_network_id=floating_ips.c.network_id,
    router_id=func.coalesce(floating_ips.c.router_id, ""),
    status=_STATUS,
)


def _owned(column: ColumnElement[Any], reach: ProjectId | None) -> ColumnElement[bool] | None:
    return None if reach is None else column == reach


# --- routers -----------------------------------------------------------------------------------------


def find_routers(tx: Tx, reach: ProjectId | None, search: Search) -> list[Router]:
    return _routers(tx, find(tx, ROUTERS, search, _owned(routers.c.project_id, reach)))


def router(tx: Tx, reach: ProjectId | None, router_id: str) -> Router:
    query = select(routers).where(routers.c.id == router_id)
    if reach is not None:
        query = query.where(routers.c.project_id == reach)
    found = _routers(tx, tx.execute(query).all())
    if not found:
        raise NotFound(f"RouterNotFound: Router {router_id[:64]} could not be found.")
    return found[0]


def routers_by_id(tx: Tx, ids: Iterable[str]) -> list[Router]:
    rows = [
        row
        for some in chunks(ids)
        for row in tx.execute(select(routers).where(routers.c.id.in_(some)).order_by(routers.c.id))
    ]
    return _routers(tx, rows)


def routers_of_zone(tx: Tx, zone: str) -> list[Router]:
    query = select(routers).where(routers.c.zone == zone).order_by(routers.c.id)
    return _routers(tx, tx.execute(query).all())


def _routers(tx: Tx, rows: Sequence[Any]) -> list[Router]:
    labels = tags_of(tx, [row.id for row in rows])
    legs = ports_by_id(tx, [row.gateway_port_id for row in rows if row.gateway_port_id])
    gateways = {
        leg.id: Gateway(port_id=leg.id, network_id=leg.network_id, addresses=leg.addresses)
        for leg in legs.values()
    }
    return [
        Router(
            **row._mapping,
            gateway=gateways.get(row.gateway_port_id),
            tags=labels.get(row.id, ()),
        )
        for row in rows
    ]


# --- floating IPs ------------------------------------------------------------------------------------


def find_floating_ips(tx: Tx, reach: ProjectId | None, search: Search) -> list[FloatingIp]:
    visible = _owned(floating_ips.c.project_id, reach)
    return _floating_ips(tx, find(tx, FLOATING_IPS, search, visible))


def floating_ip(tx: Tx, reach: ProjectId | None, floating_ip_id: str) -> FloatingIp:
    query = select(floating_ips).where(floating_ips.c.id == floating_ip_id)
    if reach is not None:
        query = query.where(floating_ips.c.project_id == reach)
    found = _floating_ips(tx, tx.execute(query).all())
    if not found:
        raise NotFound(f"FloatingIPNotFound: Floating IP {floating_ip_id[:64]} could not be found.")
    return found[0]


def floating_ips_of_ports(tx: Tx, port_ids: Iterable[str]) -> list[FloatingIp]:
    """Those that map to one of the ports."""
    return [f for some in chunks(port_ids) for f in _where(tx, floating_ips.c.port_id.in_(some))]


def floating_ips_of_routers(tx: Tx, router_ids: Iterable[str]) -> list[FloatingIp]:
    return [
        f for some in chunks(router_ids) for f in _where(tx, floating_ips.c.router_id.in_(some))
    ]


def unmapped_floating_ips(tx: Tx, network_id: str) -> list[FloatingIp]:
    return _where(tx, (floating_ips.c.network_id == network_id) & floating_ips.c.port_id.is_(None))


def release_port(tx: Tx, port_id: PortId) -> None:
    """The inside port goes away: its floating IPs map to nothing."""
    tx.execute(
        update(floating_ips)
        .where(floating_ips.c.port_id == port_id)
        .values(
            port_id=None,
            fixed_ip=None,
            router_id=None,
            changed_at=tx.now,
            revision=floating_ips.c.revision + 1,
        )
    )


def _where(tx: Tx, condition: ColumnElement[bool]) -> list[FloatingIp]:
    query = select(floating_ips).where(condition).order_by(floating_ips.c.id)
    return _floating_ips(tx, tx.execute(query).all())


def _floating_ips(tx: Tx, rows: Sequence[Any]) -> list[FloatingIp]:
    labels = tags_of(tx, [row.id for row in rows])
    return [FloatingIp(**row._mapping, tags=labels.get(row.id, ())) for row in rows]
