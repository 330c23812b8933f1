"""Agents, availability zones, address use and service providers over HTTP."""

from typing import Any

from cairn.core.errors import Invalid, NotFound
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.network.api.resource import Shown, part
from cairn.network.records import Search
from cairn.network.service import hosts
from cairn.network.service.hosts import Agent, NetworkUse

_USE_FILTERS = {
    "network_id": "id",
    "network_name": "name",
    "tenant_id": "project_id",
    "project_id": "project_id",
}


def _agents(tx: Tx, call: Call[Any]) -> Shown:
    """An empty list for who may not see them, as Neutron answers."""
    if not call.may("get_agent"):
        return {"agents": []}
    names = [n for n in call.query.keys() if n not in ("fields", "limit", "marker")]  # noqa: SIM118
    shown = [_shown(agent) for agent in hosts.agents(tx)]
    for name in names:
        wanted = {value.lower() for value in call.query.all(name)}
        shown = [s for s in shown if name in s and str(s[name]).lower() in wanted]
    return {"agents": shown}


def _agent(tx: Tx, call: Call[Any]) -> Shown:
    return {"agent": _shown(hosts.agent(tx, call.path["agent_id"]))}


def _change_agent(tx: Tx, call: Call[Any]) -> Shown:
    wanted = part(call.body, "agent")
    for name in wanted:
        if name not in ("description", "admin_state_up"):
            raise Invalid(f"HTTPBadRequest: Cannot update read-only attribute {name[:60]}")
    description, is_enabled = wanted.get("description"), wanted.get("admin_state_up")
    if description is not None and (not isinstance(description, str) or len(description) > 255):
        raise Invalid(
            "InvalidInput: Invalid input for description. Reason: not a text of at most 255 "
            "characters."
        )
    if is_enabled is not None and not isinstance(is_enabled, bool):
        raise Invalid("InvalidInput: Invalid input for admin_state_up. Reason: not a boolean.")
    changed = hosts.change_agent(
        tx, call.path["agent_id"], description=description, is_enabled=is_enabled
    )
    return {"agent": _shown(changed)}


def _shown(agent: Agent) -> Shown:
    since = agent.since.strftime("%Y-%m-%d %H:%M:%S")
    return {
        "id": agent.node_id,
        "agent_type": "OVN Controller agent",
        "binary": "ovn-controller",
        "topic": "n/a",
        "host": agent.hostname,
        "availability_zone": agent.zone,
        "alive": agent.is_alive,
        "admin_state_up": agent.is_enabled,
        "description": agent.description,
        "created_at": since,
        "started_at": since,
        "heartbeat_timestamp": since,
        "resources_synced": None,
        "configurations": {
            "physical_networks": list(agent.physical_networks),
            "datapath": agent.datapath,
        },
    }


def _zones(tx: Tx, call: Call[Any]) -> Shown:
    shown = [
        {"name": zone, "resource": resource, "state": "available"}
        for zone in hosts.zones(tx)
        for resource in ("network", "router")
    ]
    for name in ("name", "resource", "state"):
        if wanted := call.query.all(name):
            shown = [s for s in shown if s[name] in wanted]
    return {"availability_zones": shown}


def _uses(tx: Tx, call: Call[Any]) -> Shown:
    filters = []
    versions = {int(v) for v in call.query.all("ip_version") if v in ("4", "6")}
    for name in call.query.keys():  # noqa: SIM118 - not a dict
        if name in _USE_FILTERS:
            filters.append((_USE_FILTERS[name], tuple(call.query.all(name))))
        elif name not in ("ip_version", "fields"):
            raise Invalid(f"HTTPBadRequest: ['{name}'] is invalid attribute for filtering")
    found = hosts.network_uses(tx, call.who, Search(filters=tuple(filters)))
    return {"network_ip_availabilities": [_use(use, versions) for use in found]}


def _one_use(tx: Tx, call: Call[Any]) -> Shown:
    network_id = call.path["network_id"]
    found = hosts.network_uses(tx, call.who, Search(filters=(("id", (network_id,)),)))
    if not found:
        raise NotFound(f"NetworkNotFound: Network {network_id[:64]} could not be found.")
    return {"network_ip_availability": _use(found[0], set())}


def _use(use: NetworkUse, versions: set[int]) -> Shown:
    subnets = [s for s in use.subnets if not versions or s.ip_version in versions]
    return {
        "network_id": use.network_id,
        "network_name": use.name,
        "project_id": use.project_id,
        "tenant_id": use.project_id,
        "total_ips": sum(s.total for s in subnets),
        "used_ips": sum(s.used for s in subnets),
        "subnet_ip_availability": [
            {
                "subnet_id": s.subnet_id,
                "subnet_name": s.name,
                "cidr": s.cidr,
                "ip_version": s.ip_version,
                "total_ips": s.total,
                "used_ips": s.used,
            }
            for s in subnets
        ],
    }


ROUTES = (
    Route(method="GET", path="/v2.0/agents", rule="list_agents", do=_agents),
    Route(method="GET", path="/v2.0/agents/{agent_id}", rule="get_agent", do=_agent),
    Route(
        method="PUT", path="/v2.0/agents/{agent_id}", rule="update_agent", do=_change_agent,
        body=object,
    ),
    Route(
        method="GET", path="/v2.0/availability_zones", rule="get_availability_zone", do=_zones
    ),
    Route(
        method="GET", path="/v2.0/network-ip-availabilities", rule="get_network_ip_availability",
        do=_uses,
    ),
    Route(
        method="GET", path="/v2.0/network-ip-availabilities/{network_id}",
        rule="get_network_ip_availability", do=_one_use,
    ),
    Route(
        method="GET", path="/v2.0/service-providers", rule="get_service_provider",
        do=lambda tx, call: {"service_providers": []},
    ),
)  # fmt: skip
