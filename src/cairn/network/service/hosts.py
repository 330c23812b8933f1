"""Hosts as the network's API shows them: agents, zones, and how full networks are.

An agent of the API is a host's part in the network. Disabled, it keeps its guests' ports and is no
gateway any more.
"""

from datetime import datetime

from msgspec import Struct

from cairn.core.caller import Caller
from cairn.core.errors import NotFound
from cairn.core.ids import NetworkId, NodeId, SubnetId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import DEFAULT_ZONE, Node
from cairn.network import addresses
from cairn.network.records import Search
from cairn.network.store import agents as store
from cairn.network.store import networks as network_store


class Agent(Struct, frozen=True, kw_only=True):
    node_id: NodeId
    hostname: str
    zone: str
    description: str
    is_enabled: bool
    is_alive: bool
    since: datetime
    physical_networks: tuple[str, ...]
    datapath: str


class SubnetUse(Struct, frozen=True, kw_only=True):
    subnet_id: SubnetId
    name: str
    cidr: str
    ip_version: int
    total: int
    used: int


class NetworkUse(Struct, frozen=True, kw_only=True):
    network_id: NetworkId
    name: str
    project_id: str
    subnets: tuple[SubnetUse, ...]


def agents(tx: Tx) -> list[Agent]:
    said = store.said_of_nodes(tx)
    return [_agent(node, *said.get(node.id, ("", True))) for node in fleet.nodes(tx)]


def agent(tx: Tx, agent_id: str) -> Agent:
    """Raises NotFound."""
    for found in agents(tx):
        if found.node_id == agent_id:
            return found
    raise NotFound(f"AgentNotFound: Agent {agent_id[:64]} could not be found.")


def change_agent(
    tx: Tx, agent_id: str, *, description: str | None, is_enabled: bool | None
) -> Agent:
    known = agent(tx, agent_id)
    store.say(
        tx,
        known.node_id,
        description=known.description if description is None else description,
        is_enabled=known.is_enabled if is_enabled is None else is_enabled,
    )
    fleet.touch_zone(tx, known.zone)
    return agent(tx, agent_id)


def zones(tx: Tx) -> list[str]:
    return sorted(fleet.zones(tx) | {DEFAULT_ZONE})


def network_uses(tx: Tx, who: Caller, search: Search) -> list[NetworkUse]:
    """How many addresses of each network's pools are given out."""
    networks = network_store.find_networks(tx, who.reach, search)
    ids = [n.id for n in networks]
    used = network_store.used_addresses(tx, ids)
    children: dict[str, list[SubnetUse]] = {}
    for subnet in network_store.subnets_of(tx, ids):
        children.setdefault(subnet.network_id, []).append(
            SubnetUse(
                subnet_id=subnet.id,
                name=subnet.name,
                cidr=subnet.cidr,
                ip_version=subnet.ip_version,
                total=addresses.size(subnet.pools),
                used=used.get(subnet.id, 0),
            )
        )
    return [
        NetworkUse(
            network_id=n.id,
            name=n.name,
            project_id=n.project_id,
            subnets=tuple(children.get(n.id, ())),
        )
        for n in networks
    ]


def _agent(node: Node, description: str, is_enabled: bool) -> Agent:
    return Agent(
        node_id=node.id,
        hostname=node.hostname,
        zone=node.zone,
        description=description,
        is_enabled=is_enabled,
        is_alive=fleet.is_up(node),
        since=node.state_since,
        physical_networks=node.facts.physical_networks if node.facts else (),
        datapath=node.facts.datapath if node.facts else "",
    )
