"""Ports and their addresses."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    String,
    bindparam,
    case,
    cast,
    delete,
    exists,
    insert,
    or_,
    select,
    update,
)

from cairn.core.errors import NotFound
from cairn.core.ids import NodeId, PortId, ProjectId, SecurityGroupId, SubnetId
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared, inserting
from cairn.network.records import (
    DISTRIBUTED,
    OUR_OWNERS,
    ROUTER_INTERFACE,
    Address,
    Port,
    Search,
)
from cairn.network.store.listing import (
    Listing,
    Match,
    boolean,
    find,
    listing,
    matching_any,
    text,
)
from cairn.network.store.resources import chunks, tags_of
from cairn.network.store.tables import addresses, networks, port_groups, ports

_STATUS = case(
    (ports.c.is_up, "ACTIVE"),
    (ports.c.device_owner.like("network:router%"), "ACTIVE"),
    else_="DOWN",
)


def _fixed_ips() -> Match:
    """`fixed_ips=ip_address=10.0.0.5`, `subnet_id=...`, `ip_address_substr=...`: of one kind or-ed,
    kinds and-ed."""
    columns: dict[str, ColumnElement[Any]] = {
        "ip_address": addresses.c.ip,
        "subnet_id": addresses.c.subnet_id,
    }

    def match(values: tuple[str, ...]) -> ColumnElement[bool]:
        wanted: dict[str, list[str]] = {}
        for value in values:
            key, _, text_ = value.partition("=")
            wanted.setdefault(key, []).append(text_)
        of_port = addresses.c.port_id == ports.c.id
        clauses = []
        for key, texts in wanted.items():
            if key == "ip_address_substr":
                clauses.append(or_(*[addresses.c.ip.contains(t, autoescape=True) for t in texts]))
            elif key in columns:
                clauses.append(columns[key].in_(texts))
        return exists(select(addresses.c.ip).where(of_port, *clauses))

    return match


PORTS: Listing = listing(
    "Port",
    ports,
    {
        "network_id": text(ports.c.network_id),
        "admin_state_up": boolean(ports.c.is_enabled),
        "mac_address": lambda values: ports.c.mac.in_([v.lower() for v in values]),
        "device_id": text(ports.c.device_id),
        "device_owner": text(ports.c.device_owner),
        "status": text(cast(_STATUS, String)),
        "fixed_ips": _fixed_ips(),
        "ip_address": matching_any(ports.c.id, addresses, addresses.c.port_id, addresses.c.ip),
        "security_groups": matching_any(
            ports.c.id, port_groups, port_groups.c.port_id, port_groups.c.group_id
        ),
        "port_security_enabled": boolean(ports.c.has_security),
        "binding:host_id": text(ports.c.host),
        "binding:vnic_type": text(ports.c.vnic_type),
    },
    network_id=ports.c.network_id,
    mac_address=ports.c.mac,
    device_id=ports.c.device_id,
    device_owner=ports.c.device_owner,
    admin_state_up=ports.c.is_enabled,
)  # fmt: skip


def _sees(reach: ProjectId | None) -> ColumnElement[bool] | None:
    """One's own ports, and all on one's own networks."""
    if reach is None:
        return None
    own = select(networks.c.id).where(networks.c.project_id == reach)
    return or_(ports.c.project_id == reach, ports.c.network_id.in_(own))


def find_ports(tx: Tx, reach: ProjectId | None, search: Search) -> list[Port]:
    return load(tx, find(tx, PORTS, search, _sees(reach)))


def zones_of_ports(tx: Tx, ids: Iterable[str]) -> set[str]:
    """Where the networks of these ports live."""
    query = select(networks.c.zone).join(ports, ports.c.network_id == networks.c.id).distinct()
    return {
        zone
        for some in chunks(ids)
        for zone in tx.execute(query.where(ports.c.id.in_(some))).scalars()
    }


def port(tx: Tx, reach: ProjectId | None, port_id: str) -> Port:
    if reach is None:
        row = tx.run(_PORT, {"port_id": port_id}).first()
        if row is None:
            raise NotFound(f"PortNotFound: Port {port_id[:64]} could not be found.")
        return _one(tx, row)
    query = select(ports).where(ports.c.id == port_id)
    visible = _sees(reach)
    if visible is not None:
        query = query.where(visible)
    found = load(tx, tx.execute(query).all())
    if not found:
        raise NotFound(f"PortNotFound: Port {port_id[:64]} could not be found.")
    return found[0]


def ports_by_id(tx: Tx, ids: Iterable[str]) -> dict[PortId, Port]:
    return {p.id: p for some in chunks(ids) for p in _where(tx, ports.c.id.in_(some))}


def ports_of_devices(tx: Tx, device_ids: Iterable[str]) -> list[Port]:
    """In the order in which they were made."""
    return [p for some in chunks(device_ids) for p in _where(tx, ports.c.device_id.in_(some))]


def ports_of_network(tx: Tx, network_id: str) -> list[Port]:
    return _where(tx, ports.c.network_id == network_id)


def ports_of_zone(tx: Tx, zone: str) -> list[Port]:
    mine = select(networks.c.id).where(networks.c.zone == zone)
    return _where(tx, ports.c.network_id.in_(mine))


def ports_of_node(tx: Tx, node_id: NodeId) -> list[Port]:
    return _where(tx, ports.c.node_id == node_id)


def metadata_ports(tx: Tx, network_ids: Iterable[str]) -> list[Port]:
    return [
        p
        for some in chunks(network_ids)
        for p in _where(tx, ports.c.network_id.in_(some) & (ports.c.device_owner == DISTRIBUTED))
    ]


def ports_on_subnet(tx: Tx, subnet_id: str) -> list[Port]:
    on_it = select(addresses.c.port_id).where(addresses.c.subnet_id == subnet_id)
    return _where(tx, ports.c.id.in_(on_it))


def interfaces_of(tx: Tx, router_id: str) -> list[Port]:
    """A router's legs in its inside networks."""
    return _where(tx, (ports.c.device_id == router_id) & (ports.c.device_owner == ROUTER_INTERFACE))


def interfaces_on_subnets(tx: Tx, subnet_ids: Iterable[str]) -> list[Port]:
    """Legs of any router in one of the subnets."""
    on_them = select(addresses.c.port_id).where(addresses.c.subnet_id.in_(list(subnet_ids)))
    return _where(tx, ports.c.id.in_(on_them) & (ports.c.device_owner == ROUTER_INTERFACE))


def counted_ports(project_id: str) -> ColumnElement[bool]:
    """Those that weigh on a project's quota: not what the service made for itself."""
    return (ports.c.project_id == project_id) & ports.c.device_owner.not_in(
        tuple(o for o in OUR_OWNERS if o != ROUTER_INTERFACE)
    )


def load(tx: Tx, rows: Sequence[Any]) -> list[Port]:
    """Rows with their addresses, groups and tags: three statements, however many rows."""
    ids = [row.id for row in rows]
    if len(ids) == 1:
        return [_one(tx, rows[0])]
    labels = tags_of(tx, ids)
    held: dict[str, tuple[Address, ...]] = {}
    joined: dict[str, tuple[SecurityGroupId, ...]] = {}
    for some in chunks(ids):
        for row in tx.execute(
            select(addresses.c.port_id, addresses.c.subnet_id, addresses.c.ip)
            .where(addresses.c.port_id.in_(some))
            .order_by(addresses.c.position, addresses.c.ip)
        ):
            held[row.port_id] = (
                *held.get(row.port_id, ()),
                Address(subnet_id=row.subnet_id, ip=row.ip),
            )
        for row in tx.execute(
            select(port_groups.c.port_id, port_groups.c.group_id)
            .where(port_groups.c.port_id.in_(some))
            .order_by(port_groups.c.group_id)
        ):
            joined[row.port_id] = (*joined.get(row.port_id, ()), row.group_id)
    return [
        Port(
            **row._mapping,
            addresses=held.get(row.id, ()),
            group_ids=joined.get(row.id, ()),
            tags=labels.get(row.id, ()),
        )
        for row in rows
    ]


_ADDRESSES_OF_ONE = Prepared(
    select(addresses.c.subnet_id, addresses.c.ip)
    .where(addresses.c.port_id == bindparam("port_id"))
    .order_by(addresses.c.position, addresses.c.ip)
)
_GROUPS_OF_ONE = Prepared(
    select(port_groups.c.group_id)
    .where(port_groups.c.port_id == bindparam("port_id"))
    .order_by(port_groups.c.group_id)
)
_PORT = Prepared(select(ports).where(ports.c.id == bindparam("port_id")))
_PORT_NAMES = tuple(c.name for c in ports.c)


def _one(tx: Tx, row: Any) -> Port:
    """One port with its addresses, groups and tags."""
    values = (
        dict(row._mapping) if hasattr(row, "_mapping") else dict(zip(_PORT_NAMES, row, strict=True))
    )
    of_it = {"port_id": values["id"]}
    return Port(
        **values,
        addresses=tuple(
            Address(subnet_id=subnet_id, ip=ip)
            for subnet_id, ip in tx.run(_ADDRESSES_OF_ONE, of_it)
        ),
        group_ids=tuple(tx.run(_GROUPS_OF_ONE, of_it).scalars()),
        tags=tags_of(tx, [values["id"]]).get(values["id"], ()),
    )


def add_port(tx: Tx, port: Port) -> None:
    """A new port with its addresses and groups. A taken address is an IntegrityError: the verb has looked
    before."""
    values = {name: getattr(port, name) for name in _PORT_NAMES}
    tx.run(inserting(ports, _PORT_NAMES), values)
    _add_addresses(tx, port.id, port.addresses)
    _add_groups(tx, port.id, port.group_ids)


def set_addresses(tx: Tx, port_id: PortId, wanted: Sequence[Address]) -> None:
    """Exactly these, in this order."""
    tx.execute(delete(addresses).where(addresses.c.port_id == port_id))
    _add_addresses(tx, port_id, wanted)


def add_addresses(tx: Tx, added: Sequence[tuple[PortId, Address]]) -> None:
    rows = [
        {"subnet_id": a.subnet_id, "ip": a.ip, "port_id": port_id, "position": 99}
        for port_id, a in added
    ]
    if rows:
        tx.execute(insert(addresses), rows)


def remove_addresses_of_subnet(tx: Tx, subnet_id: str) -> None:
    tx.execute(delete(addresses).where(addresses.c.subnet_id == subnet_id))


def taken(tx: Tx, subnet_id: SubnetId, candidates: Iterable[str] | None = None) -> set[str]:
    """Addresses of the subnet that somebody has: all, or those among `candidates`."""
    query = select(addresses.c.ip).where(addresses.c.subnet_id == subnet_id)
    if candidates is not None:
        query = query.where(addresses.c.ip.in_(list(candidates)))
    return set(tx.execute(query).scalars())


def is_mac_taken(tx: Tx, network_id: str, mac: str) -> bool:
    query = select(ports.c.id).where(ports.c.network_id == network_id, ports.c.mac == mac)
    return tx.execute(query).first() is not None


def set_groups(tx: Tx, port_id: PortId, group_ids: Iterable[str]) -> None:
    """Exactly these."""
    tx.execute(delete(port_groups).where(port_groups.c.port_id == port_id))
    _add_groups(tx, port_id, group_ids)


def seen_on_node(tx: Tx, node_id: NodeId) -> list[tuple[PortId, bool, int]]:
    """(port, was up, by which report) of every port bound to the node."""
    return [
        (port_id, is_up, number)
        for port_id, is_up, number in tx.run(_SEEN_ON_NODE, {"node_id": node_id})
    ]


_SEEN_ON_NODE = Prepared(
    select(ports.c.id, ports.c.is_up, ports.c.seen_number).where(
        ports.c.node_id == bindparam("node_id")
    )
)


def record_seen(tx: Tx, node_id: NodeId, port_id: PortId, *, up: bool, number: int) -> bool:
    """Write what a host saw of a port; False when we know something newer or it is bound elsewhere."""
    done = tx.execute(
        update(ports)
        .where(ports.c.id == port_id, ports.c.node_id == node_id, ports.c.seen_number < number)
        .values(is_up=up, seen_number=number)
    )
    return done.rowcount == 1


def _add_addresses(tx: Tx, port_id: PortId, wanted: Sequence[Address]) -> None:
    rows = [
        {"subnet_id": a.subnet_id, "ip": a.ip, "port_id": port_id, "position": position}
        for position, a in enumerate(wanted)
    ]
    tx.run_many(inserting(addresses, ("subnet_id", "ip", "port_id", "position")), rows)


def _add_groups(tx: Tx, port_id: PortId, group_ids: Iterable[str]) -> None:
    rows = [{"port_id": port_id, "group_id": g} for g in sorted(set(group_ids))]
    tx.run_many(inserting(port_groups, ("port_id", "group_id")), rows)


def _where(tx: Tx, condition: ColumnElement[bool]) -> list[Port]:
    query = select(ports).where(condition).order_by(ports.c.made_at, ports.c.id)
    return load(tx, tx.execute(query).all())
