"""What becomes of the servers of a host that is fenced: those that may start elsewhere lose their place.

The placer does the rest, as with new ones: there is no second path. Each eviction checks in its own
transaction that the host is fenced still, so a host that comes back keeps what it has; and it raises the
number of the host's spec, so that the host learns on its return what is no longer its own.
"""

from functools import partial

from msgspec import Struct

from cairn.compute import migrations, store, store_actions
from cairn.compute.hosts import Hosts
from cairn.compute.marks import Mark, mark_of, obstacle
from cairn.compute.migration_records import Moving
from cairn.compute.placing import PLACER, place_batch
from cairn.compute.plugs import note
from cairn.compute.records import Server, ServerState
from cairn.compute.reports import release
from cairn.core.caller import Caller, system_caller
from cairn.core.clock import Clock
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import NodeId, ServerId
from cairn.db.engine import Database, Tx
from cairn.fleet import hosts, loss
from cairn.fleet import service as fleet
from cairn.fleet.records import Node, NodeState
from cairn.life.reconcile import Round
from cairn.network import service as network
from cairn.placement import service as placement
from cairn.volume import service as volumes
from cairn.volume.records import Volume
from cairn.wire.spec import Power

RECOVERIES_PER_MINUTE = 300
PERIOD_S = 1.0  # between two portions
RETRY_S = 30.0  # before servers that found no room are placed again
STRANDED_MAX = 100  # of them a round


class Recoverer:
    """Evicts servers of fenced hosts at a limited rate: many at once would only wait for each other."""

    name = loss.RECOVERY

    def __init__(
        self, database: Database, clock: Clock, *, per_minute: int = RECOVERIES_PER_MINUTE
    ) -> None:
        self._database = database
        self._clock = clock
        self._rate = per_minute / 60.0  # a second
        self._saved = 0.0  # evictions that may be done now; at most a portion's worth
        self._saved_at_s: float | None = None

    async def run_once(self) -> Round:
        nodes = await self._database.read(loss.fenced_nodes)
        done, is_more = 0, False
        for node in nodes:
            may = self._may_evict()
            if may == 0:
                is_more = True
                break
            portion = await self._database.write(partial(evict_some, node_id=node.id, most=may))
            self._saved -= portion.evicted
            done += portion.evicted
            is_more = is_more or portion.is_more
        waiting = await self._database.write(try_again)
        again_s = PERIOD_S if is_more else RETRY_S if waiting else None
        return Round(found=len(nodes) + waiting, done=done, again_s=again_s)

    def _may_evict(self) -> int:
        """The longer since the last, the more; never more than a second's worth, and at least one."""
        now_s = self._clock.monotonic_s()
        most = max(self._rate * PERIOD_S, 1.0)
        if self._saved_at_s is None:
            self._saved = most
        else:
            self._saved = min(self._saved + self._rate * (now_s - self._saved_at_s), most)
        self._saved_at_s = now_s
        return int(self._saved + 1e-6)


class Portion(Struct, frozen=True, kw_only=True):
    """What one transaction evicted, and whether there is more on that host."""

    evicted: int
    is_more: bool


def evict_some(tx: Tx, node_id: NodeId, most: int) -> Portion:
    """Evict up to `most` servers of a fenced host; when none is left that may go, it is recovered."""
    node = fleet.node(tx, node_id)
    if not loss.may_recover(tx, node):
        return Portion(evicted=0, is_more=False)
    stuck: list[tuple[Server, str]] = []
    evicted = between = 0
    for server in store.servers_on(tx, node.id):
        if migrations.is_between_hosts(tx, server):
            between += 1  # Its new host is asked whether it runs there.
        elif server.is_doomed:
            _finish_deleting(tx, server, node)
        elif (why := _why_not(tx, server, node)) is not None:
            stuck.append((server, why))
        elif evicted == most:
            return Portion(evicted=evicted, is_more=True)
        else:
            evict(tx, server, node)
            _note(tx, server, f"Host {node.hostname} was lost.")
            evicted += 1
    if between:
        return Portion(evicted=evicted, is_more=True)
    for server, why in stuck:
        _note(tx, server, f"Host {node.hostname} was lost; it stays there: {why}.", is_error=True)
    _move_volumes(tx, node)
    loss.recovered(tx, node.id)
    return Portion(evicted=evicted, is_more=False)


def evict(tx: Tx, server: Server, node: Node) -> None:
    """Take the server off a fenced host, for the placer to find it another."""
    if server.moving == Moving.MOVED:
        migrations.confirm(tx, server)  # There is no way back any more.
    has_shared_pool = node.facts is not None and node.facts.has_shared_pool
    placement.release(tx, server.id)
    store.evict(tx, server, pool_zone=node.zone if has_shared_pool else None)
    migrations.outlive(tx, server)
    network.unplace_ports(tx, server.id)
    for disk in store.disks_of(tx, [server.id]).get(server.id, []):
        volumes.unplace(tx, disk.volume_id)
    fleet.touch(tx, node.id)
    tx.wake(PLACER)
    tx.wake(loss.RECOVERY)  # Whether it finds room is looked at there.


def evacuate(
    tx: Tx,
    who: Caller,
    server_id: ServerId,
    *,
    to: str | None = None,
    password: str | None = None,
    stay_stopped: bool = False,
) -> None:
    """A person's word that this server is to start elsewhere, marked or not; its host must be fenced.

    `to`: the name of the host that it must be. Without a shared pool its disk is made anew from its image.
    Raises NotFound, Conflict, Invalid."""
    server = store.server(tx, who.reach, server_id)
    if server.is_doomed:
        raise Conflict(f"Instance {server.id} is being deleted.")
    if server.node_id is None:
        raise Conflict(f"Instance {server.id} is not on any host: it waits for one already.")
    node = fleet.node(tx, server.node_id)
    if node.state not in (NodeState.FENCED, NodeState.RECOVERED):
        raise Invalid(
            f"Compute service of {node.hostname} is still in use: the host is {node.state}, not "
            f"fenced. Fence it first: `cairn host fence {node.hostname}`, or with --by-hand after you "
            "made sure that it is off."
        )
    if migrations.is_between_hosts(tx, server):
        raise Conflict(f"Instance {server.id} is on its way between two hosts. Try again later.")
    mark = Mark.TRUE if mark_of(server) is Mark.TRUE else Mark.FRESH
    if (why := obstacle(server, node, mark, _attached(tx, server))) is not None:
        raise Invalid(f"Instance {server.id} cannot start elsewhere: {why}.")
    changes: dict[str, object] = {"power": Power.STOPPED} if stay_stopped else {}
    if password is not None:
        changes["admin_password"] = password
    if changes:
        store.change_server(tx, server.id, **changes)
    note(tx, who, server, "evacuate", "compute_rebuild_instance")
    evict(tx, server, node)
    if to is not None:
        _place_on(tx, server.id, to)


def try_again(tx: Tx) -> int:
    """Let servers that were evicted and found no room be placed again. How many have none yet."""
    stranded = store.evicted_servers(tx, STRANDED_MAX)
    failed = [server for server in stranded if server.state is ServerState.ERROR]
    for server in failed:
        if server.fault is None or (tx.now - server.fault.created_at).total_seconds() >= RETRY_S:
            store.move(tx, server, "evict")
            tx.wake(PLACER)
    return len(stranded)


def dispose(tx: Tx, server: Server) -> bool:
    """Give an evicted server that is to be deleted to a host that can remove its disk; False: no need.

    Raises Conflict when there is no such host now."""
    if server.pool_zone is None:
        return False
    home = _pool_host(tx, server.pool_zone)
    if home is None:
        raise Conflict(
            f"Instance {server.id} lies in the shared pool of zone {server.pool_zone}, of which no "
            "host is up to remove it. Try again later."
        )
    for disk in store.disks_of(tx, [server.id]).get(server.id, []):
        volumes.place(tx, disk.volume_id, home)
    if server.root_id is None:
        return False
    store.give_remains(tx, server.id, home, fleet.touch(tx, home))
    return True


def _place_on(tx: Tx, server_id: ServerId, name: str) -> None:
    """On this host or not at all. Raises NotFound, Invalid."""
    nodes = [hosts.find(tx, name)]
    choice = Hosts(nodes, placement.rooms(tx, nodes))
    outcome = place_batch(tx, [server_id], choice, is_fresh=True)
    if outcome.refused or outcome.raced:
        raise Invalid(outcome.refused.get(server_id, f"Host {name} has no room just now."))


def _why_not(tx: Tx, server: Server, node: Node) -> str | None:
    if server.mark_number > node.reported_spec_number:
        return "its host had not heard yet that it may start elsewhere, and might start it as well"
    return obstacle(server, node, mark_of(server), _attached(tx, server))


def _attached(tx: Tx, server: Server) -> list[Volume]:
    found = []
    for disk in store.disks_of(tx, [server.id]).get(server.id, []):
        try:
            found.append(volumes.get(tx, system_caller(), disk.volume_id))
        except NotFound:
            continue
    return found


def _finish_deleting(tx: Tx, server: Server, node: Node) -> None:
    """Its guest is no more. A disk on the host goes when the host returns; one in a shared pool is given
    to another host to remove."""
    if node.facts is None or not node.facts.has_shared_pool or server.root_id is None:
        release(tx, server)
    elif (home := _pool_host(tx, node.zone)) is not None:
        store.give_remains(tx, server.id, home, fleet.touch(tx, home))
        fleet.touch(tx, node.id)


def _move_volumes(tx: Tx, node: Node) -> None:
    """Volumes of the shared pool that no server left here has: another host's care from now on."""
    if node.facts is not None and node.facts.has_shared_pool:
        home = _pool_host(tx, node.zone)
        if home is not None and volumes.move_care(tx, node.id, home):
            fleet.touch(tx, node.id)


def _pool_host(tx: Tx, zone: str) -> NodeId | None:
    for node in fleet.nodes(tx):
        is_up = node.state is NodeState.UP and node.zone == zone and "storage" in node.roles
        if is_up and node.facts is not None and node.facts.has_shared_pool:
            return node.id
    return None


def _note(tx: Tx, server: Server, message: str, *, is_error: bool = False) -> None:
    store_actions.add_action(
        tx,
        server_id=server.id,
        project_id=server.project_id,
        user_id=server.user_id,
        request_id=f"req-{tx.new_id()}",
        action="evacuate",
        event="compute_rebuild_instance",
        node_id=server.node_id,
        message=message,
        **({"finished_at": tx.now, "result": "Error"} if is_error else {}),
    )
