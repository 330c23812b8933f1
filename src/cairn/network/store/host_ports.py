"""The ports of one host with all that it must know of their networks: one statement.

Asked at every change of a host's spec, so it reads no more than goes into the spec.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select, bindparam, select

from cairn.core.ids import NodeId, ServerId
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared
from cairn.network.records import DISTRIBUTED
from cairn.network.store.tables import addresses, networks, ports, subnets
from cairn.wire.spec import PortAddress, PortSpec


def _described() -> Select[Any]:
    return (
        select(
            ports.c.id,
            ports.c.network_id,
            ports.c.device_id,
            ports.c.mac,
            networks.c.mtu,
            subnets.c.id.label("subnet_id"),
            addresses.c.ip,
            subnets.c.cidr,
            subnets.c.gateway_ip,
            subnets.c.dns,
            subnets.c.routes,
            subnets.c.has_dhcp,
        )
        .join(networks, networks.c.id == ports.c.network_id)
        .outerjoin(addresses, addresses.c.port_id == ports.c.id)
        .outerjoin(subnets, subnets.c.id == addresses.c.subnet_id)
        .order_by(ports.c.id, addresses.c.position, addresses.c.ip)
    )


_OF_NODE = Prepared(_described().where(ports.c.node_id == bindparam("node_id")))
_OF_SERVER = Prepared(_described().where(ports.c.device_id == bindparam("server_id")))
# The metadata port of each network that the host has a port in, an address a row.
_own, _theirs = ports.alias("own"), ports.alias("theirs")
_METADATA = Prepared(
    select(_own.c.network_id, _own.c.id, _own.c.mac, addresses.c.ip, subnets.c.cidr)
    .join(addresses, addresses.c.port_id == _own.c.id)
    .join(subnets, subnets.c.id == addresses.c.subnet_id)
    .where(_own.c.device_owner == DISTRIBUTED)
    .where(
        _own.c.network_id.in_(
            select(_theirs.c.network_id).where(_theirs.c.node_id == bindparam("node_id"))
        )
    )
    .order_by(_own.c.network_id, addresses.c.ip)
)


def ports_of_node(tx: Tx, node_id: NodeId) -> tuple[PortSpec, ...]:
    """The ports bound to a host, by id."""
    return _specs(tx.run(_OF_NODE, {"node_id": node_id}).rows)


def ports_of_servers(tx: Tx, server_ids: Iterable[ServerId]) -> tuple[PortSpec, ...]:
    """The ports of these servers, wherever they are bound."""
    return tuple(
        port
        for server_id in server_ids
        for port in _specs(tx.run(_OF_SERVER, {"server_id": server_id}).rows)
    )


def metadata_addresses(tx: Tx, node_id: NodeId) -> list[tuple[str, str, str, str, str]]:
    """(network, port, MAC, address, CIDR) of the metadata ports of a host's networks."""
    return [
        (network_id, port_id, mac, ip, cidr)
        for network_id, port_id, mac, ip, cidr in tx.run(_METADATA, {"node_id": node_id})
    ]


def _specs(rows: Sequence[tuple[Any, ...]]) -> tuple[PortSpec, ...]:
    found: dict[str, tuple[tuple[Any, ...], list[PortAddress]]] = {}
    for row in rows:
        _, held = found.setdefault(row[0], (row, []))
        subnet_id, ip, cidr, gateway_ip, dns, routes, has_dhcp = row[5:]
        if ip is not None:
            held.append(
                PortAddress(
                    subnet_id=subnet_id,
                    ip=ip,
                    cidr=cidr,
                    gateway_ip=gateway_ip,
                    dns=dns,
                    routes=tuple((r.destination, r.nexthop) for r in routes),
                    dhcp=bool(has_dhcp),
                )
            )
    return tuple(
        PortSpec(
            id=row[0],
            network_id=row[1],
            server_id=ServerId(row[2]),
            mac=row[3],
            mtu=row[4],
            addresses=tuple(held),
        )
        for row, held in found.values()
    )
