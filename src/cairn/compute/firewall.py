"""Security groups of a server, given and taken while it lives: on all its ports at once.

The network slice knows groups by port only; that a server "has" a group is compute's word for it, kept
in the server's record as names, in the order in which they were given.
"""

from cairn.compute import store
from cairn.compute.plugs import group_named, note
from cairn.compute.records import Server
from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import ServerId
from cairn.db.engine import Tx
from cairn.network import service as network
from cairn.network.wishes import PortWish


def add_group(tx: Tx, who: Caller, server_id: ServerId, name: str) -> None:
    """Raises NotFound, Conflict, Invalid: the server has no port to put it on."""
    server = _unlocked(tx, who, server_id)
    wanted = group_named(tx, who, name)
    ports = network.server_ports(tx, [server.id]).get(server.id, ())
    if not ports:
        raise Invalid(f"Server {server.id} has no port that a security group could apply to.")
    for shown in ports:
        port = network.get_port(tx, who, shown.port_id)
        if wanted.id not in port.group_ids:
            wish = PortWish(group_ids=(*port.group_ids, wanted.id))
            network.update_port(tx, who, port.id, wish)
    groups = tuple(dict.fromkeys((*server.groups, wanted.name)))
    store.change_server(tx, server.id, groups=groups)
    note(tx, who, server, "addSecurityGroup", "compute_add_security_group", is_done=True)


def remove_group(tx: Tx, who: Caller, server_id: ServerId, name: str) -> None:
    """Raises NotFound, also when no port of the server has the group."""
    server = _unlocked(tx, who, server_id)
    unwanted = group_named(tx, who, name)
    had_it = False
    for shown in network.server_ports(tx, [server.id]).get(server.id, ()):
        port = network.get_port(tx, who, shown.port_id)
        if unwanted.id in port.group_ids:
            had_it = True
            kept = tuple(g for g in port.group_ids if g != unwanted.id)
            network.update_port(tx, who, port.id, PortWish(group_ids=kept))
    if not had_it:
        raise NotFound(f"Security group {name[:255]} is not on any port of server {server.id}.")
    left = tuple(g for g in server.groups if g not in (unwanted.name, unwanted.id))
    store.change_server(tx, server.id, groups=left)
    note(tx, who, server, "removeSecurityGroup", "compute_remove_security_group", is_done=True)


def _unlocked(tx: Tx, who: Caller, server_id: ServerId) -> Server:
    server = store.server(tx, who.reach, server_id)
    if server.is_locked and not who.is_admin:
        raise Conflict(f"Instance {server.id} is locked")
    if server.is_doomed:
        raise Conflict(f"Instance {server.id} is in task_state deleting")
    return server
