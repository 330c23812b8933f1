"""What keeps servers true without being asked: the placer, and the janitor of old records."""

from datetime import timedelta
from functools import partial

from sqlalchemy import select

from cairn.compute import schedule, store, store_actions
from cairn.compute.records import Fault, Server, ServerState
from cairn.core.caller import system_caller
from cairn.core.errors import Conflict, NoCapacity, NotFound
from cairn.core.ids import NodeId, ServerId
from cairn.db.engine import Database, Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import Node
from cairn.life.reconcile import Round
from cairn.network import service as network
from cairn.placement import service as placement
from cairn.volume import service as volumes

PLACER = "compute.placer"
BATCH_MAX = 200  # servers a round: the next round follows at once while there are more
CLAIMS_MAX = 5  # hosts tried for one server before the round gives way to others
RETRY_S = 10.0  # before servers that lost the race for room are looked at again
JANITOR_PERIOD_S = 6 * 3600.0
ACTIONS_KEPT = timedelta(days=30)  # of servers that are gone


class Placer:
    """Gives each new server a host: claim, ports, volumes and number in one transaction a server.

    Any number of placers may run at once: the claim is a guarded UPDATE, and so is the server's place.
    """

    name = PLACER

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> Round:
        waiting = await self._database.read(lambda tx: store.unplaced_servers(tx, BATCH_MAX))
        failed: list[str] = []
        for server in waiting:
            refused = await self._database.write(partial(place_one, server_id=server.id))
            if refused is not None:
                failed.append(f"server {server.id}: {refused}")
        if len(waiting) == BATCH_MAX:
            await self._database.write(lambda tx: tx.wake(PLACER))
        return Round(
            found=len(waiting),
            done=len(waiting) - len(failed),
            failed=tuple(failed),
            again_s=RETRY_S if failed else None,
        )


def place_one(tx: Tx, server_id: ServerId) -> str | None:
    """Place one server, or say why not; a server without a valid host is in ERROR afterwards.

    A server that somebody placed or deleted meanwhile is done."""
    try:
        server = store.server(tx, None, server_id)
    except NotFound:
        return None
    if server.node_id is not None or server.is_doomed or server.state is not ServerState.BUILDING:
        return None
    nodes = fleet.nodes(tx)
    rooms = placement.rooms(tx, nodes)
    try:
        fitting = schedule.choose(_need(tx, server), nodes, rooms)
    except (NoCapacity, Conflict, NotFound) as error:
        _give_up(tx, server, error.message)
        return error.message
    for node in fitting[:CLAIMS_MAX]:
        if placement.claim(tx, server.id, node, server.need):
            _settle(tx, server, node)
            return None
    return "other placers were first everywhere; the next round tries again"


def _need(tx: Tx, server: Server) -> schedule.Need:
    """What the server asks of its host. Raises NotFound when one of its volumes is gone."""
    homes: set[NodeId] = set()
    for disk in store.disks_of(tx, [server.id]).get(server.id, []):
        home = volumes.get(tx, system_caller(), disk.volume_id).node_id
        if home is not None:
            homes.add(home)
    if len(homes) > 1:
        raise Conflict("The server's volumes live on different hosts, so no host can run it.")
    return schedule.Need(
        amounts=server.need,
        zone=server.zone_wish,
        node_ids=frozenset(homes) or None,
    )


def _settle(tx: Tx, server: Server, node: Node) -> None:
    """Write that the server lives on `node`, which it has claimed."""
    assert store.place(tx, server, node.id, node.zone), "read and written in one transaction"
    for nic in store.nics_of(tx, [server.id]).get(server.id, []):
        try:
            network.bind_port(tx, nic.port_id, server.id, node.id)
        except (NotFound, Conflict):
            store.remove_nic(tx, nic.port_id)  # Its owner took the port away meanwhile.
    for disk in store.disks_of(tx, [server.id]).get(server.id, []):
        volumes.place(tx, disk.volume_id, node.id)
    store.want_numbers(tx, server.id, fleet.touch(tx, node.id))
    store_actions.set_node(tx, server.id, node.id)


def _give_up(tx: Tx, server: Server, message: str) -> None:
    store.move(tx, server, "failed", fault=Fault(message=message, created_at=tx.now))
    store_actions.finish_actions(tx, server.id, "Error", details=message, names=("create",))


class Janitor:
    """Forgets what nobody will ask for any more: old actions of gone servers, unused console keys."""

    name = "compute.janitor"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_once(self) -> Round:
        count = await self._database.write(forget_old)
        return Round(found=count, done=count, again_s=JANITOR_PERIOD_S)


def forget_old(tx: Tx) -> int:
    """Remove them; how many there were."""
    present = select(store.servers.c.id)
    gone = store_actions.forget_actions(tx, tx.now - ACTIONS_KEPT, present)
    return gone + store_actions.forget_screen_keys(tx)
