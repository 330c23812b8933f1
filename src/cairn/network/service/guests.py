"""What compute, the hosts and their reports need of the network."""

from collections.abc import Iterable

from cairn.core.caller import Caller
from cairn.core.errors import Conflict
from cairn.core.ids import NodeId, PortId, ServerId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.network import compile as compiler
from cairn.network.records import COMPUTE_OWNER, AddressPart, Network, Port, ServerPort
from cairn.network.service import ports as port_service
from cairn.network.store import agents as agent_store
from cairn.network.store import groups as group_store
from cairn.network.store import host_ports, resources, routers, tables
from cairn.network.store import networks as network_store
from cairn.network.store import ports as store
from cairn.network.store import server_ports as server_port_store
from cairn.wire.report import NodeReport
from cairn.wire.spec import MetadataNetworkSpec, PortSpec, ZoneSpec


def networks_for_server(tx: Tx, who: Caller) -> list[Network]:
    """Networks that a server of the caller may join when none is named: the project's own first, then
    shared ones; at most 100. External networks are joined only by naming them."""
    return network_store.networks_to_join(tx, who.home)


def claim_port(tx: Tx, who: Caller, port_id: str, server_id: ServerId) -> Port:
    """Give a user's own port to a server. Raises NotFound, Conflict (somebody has it)."""
    port = store.port(tx, who.reach, port_id)
    if port.device_id == server_id:
        return port
    if port.device_id or port.device_owner:
        raise Conflict(
            f"PortInUse: Port {port.id} is in use by {port.device_id or port.device_owner}."
        )
    resources.change(
        tx, tables.ports, port.id, {"device_id": server_id, "device_owner": COMPUTE_OWNER}
    )
    return store.port(tx, None, port.id)


def bind_port(tx: Tx, port_id: PortId, server_id: ServerId, node_id: NodeId) -> None:
    """The server runs on this host from now on; the port goes there with it. Repeatable."""
    port = store.port(tx, None, port_id)
    if port.device_id and port.device_id != server_id:
        raise Conflict(f"PortInUse: Port {port.id} belongs to server {port.device_id}.")
    if port.node_id == node_id and port.device_id == server_id:
        return
    node = fleet.node(tx, node_id)
    resources.change(
        tx,
        tables.ports,
        port.id,
        {
            "device_id": server_id,
            "device_owner": port.device_owner or COMPUTE_OWNER,
            "node_id": node_id,
            "host": node.hostname,
            # Reports are numbered by host: the new one has said nothing yet.
            "is_up": False,
            "seen_number": 0,
            "hosts": (),
        },
    )
    if port.hosts:
        fleet.touch_zone(tx, node.zone)
    fleet.touch(tx, node_id)
    if port.node_id is not None and port.node_id != node_id:
        fleet.touch(tx, port.node_id)
    if routers.floating_ips_of_ports(tx, [port.id]):
        fleet.touch_zone(tx, node.zone)  # Who answers for them depends on where the server is.


def pin_ports(tx: Tx, server_id: ServerId, node_ids: tuple[NodeId, ...]) -> None:
    """The server's ports may be plugged on these hosts; the first has their traffic until the guest
    announces itself on the other. Before two hosts plug one port, or each would take it from the other."""
    zones = set()
    for port in store.ports_of_devices(tx, [server_id]):
        if port.hosts != node_ids:
            resources.change(tx, tables.ports, port.id, {"hosts": node_ids})
            zones.add(fleet.node(tx, node_ids[0]).zone)
    for zone in sorted(zones):
        fleet.touch_zone(tx, zone)


def unplace_ports(tx: Tx, server_id: ServerId) -> None:
    """The server's host was lost: its ports stay its own, and go where it goes."""
    for port in store.ports_of_devices(tx, [server_id]):
        if port.node_id is not None:
            values = {"node_id": None, "host": "", "is_up": False, "seen_number": 0, "hosts": ()}
            resources.change(tx, tables.ports, port.id, values)


def unbind_port(tx: Tx, port_id: PortId) -> None:
    """The server is gone: the port stays its owner's and is free for another server."""
    port = store.port(tx, None, port_id)
    port_service.release_device(tx, port)
    if port.node_id is not None:
        fleet.touch(tx, port.node_id)


def forget_node(tx: Tx, node_id: NodeId) -> None:
    """The host is no member any more: no port is there."""
    agent_store.forget(tx, node_id)


def server_ports(tx: Tx, server_ids: Iterable[ServerId]) -> dict[ServerId, tuple[ServerPort, ...]]:
    """The ports of each server in the order in which they were made. One statement for all of them."""
    return server_port_store.server_ports(tx, server_ids)


def servers_with_address(tx: Tx, who: Caller, part: AddressPart, version: int) -> set[ServerId]:
    """The servers in the caller's reach of which an address of this IP version is like that."""
    return server_port_store.servers_with_address(tx, who.reach, part, version)


def zones_of_ports(tx: Tx, port_ids: Iterable[str]) -> set[str]:
    """The availability zones in which the networks of these ports live."""
    return store.zones_of_ports(tx, port_ids)


def ports_of(tx: Tx, node_id: NodeId) -> tuple[PortSpec, ...]:
    """What the host should have plugged."""
    return host_ports.ports_of_node(tx, node_id)


def ports_of_servers(tx: Tx, server_ids: Iterable[ServerId]) -> tuple[PortSpec, ...]:
    """What a host that is about to receive these servers should have plugged."""
    return host_ports.ports_of_servers(tx, server_ids)


def metadata_networks_of(tx: Tx, node_id: NodeId) -> tuple[MetadataNetworkSpec, ...]:
    """Networks whose guests on this host ask 169.254.169.254."""
    return compiler.metadata_networks(host_ports.metadata_addresses(tx, node_id))


def counts_by_zone(tx: Tx) -> dict[str, int]:
    """How many networks live in each zone."""
    return network_store.counts_by_zone(tx)


def zone_of(tx: Tx, zone: str) -> ZoneSpec:
    """The whole logical network of a zone. A fixed number of statements per 500 rows."""
    networks = network_store.networks_of_zone(tx, zone)
    found = store.ports_of_zone(tx, zone)
    used = {g for p in found for g in p.group_ids}
    groups = group_store.groups_by_id(tx, used)
    named = {r.remote_group_id for g in groups.values() for r in g.rules if r.remote_group_id}
    groups |= group_store.groups_by_id(tx, named - used)
    zone_routers = routers.routers_of_zone(tx, zone)
    floating = routers.floating_ips_of_routers(tx, (r.id for r in zone_routers))
    own = store.ports_by_id(tx, (f.own_port_id for f in floating))
    reaching = agent_store.reaching(tx)
    in_zone = {n for n, glance in fleet.glances(tx, reaching).items() if glance.zone == zone}
    hosts = [
        compiler.GatewayHost(id=node_id, physical_networks=physical)
        for node_id, physical in reaching.items()
        if node_id in in_zone
    ]
    return compiler.zone(
        compiler.ZoneRecords(
            networks=networks,
            subnets=network_store.subnets_of(tx, (n.id for n in networks)),
            ports=found,
            groups=list(groups.values()),
            routers=zone_routers,
            floating_ips=floating,
            own_ports=list(own.values()),
            hosts=hosts,
        )
    )


def take_report(tx: Tx, report: NodeReport) -> None:
    """Write which ports carry traffic, and tell the zone when a host reaches other physical networks:
    it may have become a gateway. Only what changed is written: reports are whole and frequent."""
    physical = tuple(sorted(report.facts.physical_networks))
    if agent_store.seen_physical_networks(tx, report.node_id) != physical:
        agent_store.record_physical_networks(tx, report.node_id, physical)
        fleet.touch_zone(tx, fleet.node(tx, report.node_id).zone)
    up = {p.id for p in report.ports if p.up}
    for port_id, was_up, number in store.seen_on_node(tx, report.node_id):
        if number < report.number and was_up != (port_id in up):
            store.record_seen(tx, report.node_id, port_id, up=port_id in up, number=report.number)
