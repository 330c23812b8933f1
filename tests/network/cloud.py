"""Shorthand of the network tests: callers, hosts with facts, and the usual network, subnet, router."""

from cairn.core.caller import Caller
from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.network import service as network_service
from cairn.network.records import Network, Port, Router, Subnet
from cairn.network.service import networks, ports, routers, subnets
from cairn.network.wishes import GatewayWish, NetworkWish, PortWish, RouterWish, SubnetWish
from cairn.wire.report import HostFacts, NodeReport, PortSeen
from tests.callers import CALLERS

ALICE, BOB, ADMIN = CALLERS["alice"], CALLERS["bob"], CALLERS["admin"]


def host(
    tx: Tx,
    name: str = "n1",
    *,
    mtu: int = 1500,
    physical: tuple[str, ...] = ("public",),
    roles: tuple[str, ...] = ("compute", "network"),
    zone: str = "nova",
) -> NodeId:
    node_id = NodeId(name)
    fleet.enrol(tx, node_id, hostname=name, zone=zone, roles=roles)
    first = report(node_id, 1, mtu=mtu, physical=physical)
    fleet.take_report(tx, first)
    network_service.take_report(tx, first)
    return node_id


def report(
    node_id: NodeId,
    number: int,
    *,
    up: tuple[str, ...] = (),
    mtu: int = 1500,
    physical: tuple[str, ...] = ("public",),
) -> NodeReport:
    facts = HostFacts(
        hostname=node_id, vcpus=2, memory_mib=2048, disk_gib=20, disk_free_gib=10,
        accelerator="tcg", underlay_mtu=mtu, physical_networks=physical,
    )  # fmt: skip
    seen = tuple(PortSeen(id=p, up=True) for p in up)  # type: ignore[arg-type]
    return NodeReport(node_id=node_id, number=number, spec_number=0, facts=facts, ports=seen)


def network(tx: Tx, who: Caller = ALICE, **wish: object) -> Network:
    return networks.create_network(tx, who, NetworkWish(**wish))  # type: ignore[arg-type]


def subnet(tx: Tx, of: Network, cidr: str, who: Caller = ALICE, **wish: object) -> Subnet:
    version = 6 if ":" in cidr else 4
    wished = SubnetWish(network_id=of.id, cidr=cidr, ip_version=version, **wish)  # type: ignore[arg-type]
    return subnets.create_subnet(tx, who, wished)


def port(tx: Tx, of: Network, who: Caller = ALICE, **wish: object) -> Port:
    return ports.create_port(tx, who, PortWish(network_id=of.id, **wish))  # type: ignore[arg-type]


def outside(tx: Tx) -> Network:
    """An external network on the physical network "public" with 203.0.113.0/24."""
    made = network(
        tx, ADMIN, is_external=True, kind="flat", physical_network="public", name="public"
    )
    subnet(tx, made, "203.0.113.0/24", ADMIN, has_dhcp=False)
    return made


def router(tx: Tx, to: Network | None = None, who: Caller = ALICE) -> Router:
    gateway = GatewayWish(network_id=to.id) if to else None
    return routers.create_router(tx, who, RouterWish(gateway=gateway))
