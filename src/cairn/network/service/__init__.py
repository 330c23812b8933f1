"""What may be done to networks, and what other slices ask of them.

The verbs of the API live in a module a family (`networks`, `subnets`, `ports`, ...); what compute, the
hosts and the installer need is named here.
"""

from cairn.network.service.guests import (
    bind_port,
    claim_port,
    counts_by_zone,
    forget_node,
    metadata_networks_of,
    networks_for_server,
    pin_ports,
    ports_of,
    ports_of_servers,
    server_ports,
    servers_with_address,
    take_report,
    unbind_port,
    unplace_ports,
    zone_of,
    zones_of_ports,
)
from cairn.network.service.ports import create_port, delete_port, get_port, update_port

__all__ = [
    "bind_port",
    "claim_port",
    "counts_by_zone",
    "create_port",
    "delete_port",
    "forget_node",
    "get_port",
    "metadata_networks_of",
    "networks_for_server",
    "pin_ports",
    "ports_of",
    "ports_of_servers",
    "server_ports",
    "servers_with_address",
    "take_report",
    "unbind_port",
    "unplace_ports",
    "update_port",
    "zone_of",
    "zones_of_ports",
]
