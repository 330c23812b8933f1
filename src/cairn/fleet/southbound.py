"""Which host's network database the hosts of a zone follow.

Each host with the network role keeps one and writes the zone into it, but a zone is one network only if
all follow the same: that of the first such host, by id, that is not given up as lost. With one there is
nothing to choose; with several, the next takes over, and every host is told.
"""

from cairn.db.engine import Tx
from cairn.fleet import store
from cairn.fleet.records import Node, NodeState
from cairn.fleet.touching import touch

_TRUSTED = (NodeState.UP, NodeState.SUSPECT)  # a suspect's guests and database most likely run


def southbound_of(tx: Tx, node: Node) -> tuple[str, ...]:
    """Where this host finds the zone's database; (): on itself, or nobody has told of one."""
    doors = store.southbound_doors(tx, node.zone)
    chosen = [door for door in doors if door.state in _TRUSTED] or doors
    if not chosen or chosen[0].node_id == node.id:
        return ()
    return (chosen[0].address,)


def moved(tx: Tx, node: Node) -> None:
    """This host's database came, went, or is elsewhere: the hosts of the zone may have to follow another."""
    if "network" in node.roles:
        for node_id in store.nodes_in_zone(tx, node.zone):
            touch(tx, node_id)
