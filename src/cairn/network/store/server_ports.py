"""What compute shows of servers' ports: one statement for any number of servers.

Every look at a server asks for it, so it is one prepared query of the columns that are shown, and not
the whole records of ports, networks and floating IPs that the other questions need.
"""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from sqlalchemy import and_, bindparam, select

from cairn.core.ids import PortId, ProjectId, ServerId
from cairn.db.engine import Tx
from cairn.network.records import Address, AddressPart, ServerPort
from cairn.network.store.resources import chunks
from cairn.network.store.tables import addresses, floating_ips, networks, ports

SERVERS_MAX = 1000  # found by one address

_QUERY = (
    select(
        ports.c.device_id,
        ports.c.id,
        ports.c.network_id,
        networks.c.name,
        ports.c.mac,
        networks.c.mtu,
        ports.c.is_up,
        addresses.c.subnet_id,
        addresses.c.ip,
        floating_ips.c.ip.label("outside_ip"),
    )
    .join(networks, networks.c.id == ports.c.network_id)
    .outerjoin(addresses, addresses.c.port_id == ports.c.id)
    .outerjoin(
        floating_ips,
        and_(floating_ips.c.port_id == ports.c.id, floating_ips.c.fixed_ip == addresses.c.ip),
    )
    .where(ports.c.device_id.in_(bindparam("ids", expanding=True)))
    .order_by(ports.c.made_at, ports.c.id, addresses.c.position, floating_ips.c.ip)
)


class _Draft(Struct):
    """A port whose addresses are still being collected, a row each."""

    row: Any
    held: dict[str, Address]
    floating: list[tuple[str, str]]


def server_ports(tx: Tx, server_ids: Iterable[ServerId]) -> dict[ServerId, tuple[ServerPort, ...]]:
    """The ports of each server, in the order in which they were made."""
    drafts: dict[PortId, _Draft] = {}
    for some in chunks(server_ids):
        for row in tx.execute(_QUERY, {"ids": some}):
            draft = drafts.get(row.id)
            if draft is None:
                draft = drafts[row.id] = _Draft(row, {}, [])
            if row.ip is not None:
                draft.held.setdefault(row.ip, Address(subnet_id=row.subnet_id, ip=row.ip))
            if row.outside_ip is not None:
                draft.floating.append((row.outside_ip, row.ip))
    found: dict[ServerId, tuple[ServerPort, ...]] = {}
    for port_id, draft in drafts.items():
        row = draft.row
        shown = ServerPort(
            port_id=port_id,
            server_id=row.device_id,
            network_id=row.network_id,
            network_name=row.name,
            mac=row.mac,
            mtu=row.mtu,
            is_up=row.is_up,
            addresses=tuple(draft.held.values()),
            floating=tuple(sorted(draft.floating)),
        )
        found[shown.server_id] = (*found.get(shown.server_id, ()), shown)
    return found


def servers_with_address(
    tx: Tx, reach: ProjectId | None, part: AddressPart, version: int
) -> set[ServerId]:
    """Servers of which a port has such an address; at most a page of them."""
    pattern = f"{'' if part.is_beginning else '%'}{part.text}{'' if part.is_end else '%'}"
    query = (
        select(ports.c.device_id)
        .join(addresses, addresses.c.port_id == ports.c.id)
        .where(ports.c.device_owner.startswith("compute:"), addresses.c.ip.like(pattern))
        .where(addresses.c.ip.contains(":") if version == 6 else ~addresses.c.ip.contains(":"))
        .distinct()
        .limit(SERVERS_MAX)
    )
    if reach is not None:
        query = query.where(ports.c.project_id == reach)
    return {ServerId(row.device_id) for row in tx.execute(query)}
