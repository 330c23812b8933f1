"""Moving servers between hosts: begin, give up, and what the reports of both hosts make of it.

One transaction a step. The source's reports come to `take_source`, the target's to `take_target`; neither
asks the database anything when a host has no guest on its way. What follows from what is in
migration_records.py; docs/states/migration.md draws it.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta

from msgspec import Struct

from cairn.compute import schedule, store, store_actions
from cairn.compute import store_migrations as rows
from cairn.compute.migration_records import (
    Cause,
    Migration,
    MigrationState,
    Moving,
    Way,
)
from cairn.compute.records import Fault, Server, ServerState, task_of
from cairn.core.caller import Caller
from cairn.core.errors import Conflict, NoCapacity, NotFound
from cairn.core.ids import NodeId, ServerId, VolumeId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import Node, NodeState
from cairn.network import service as network
from cairn.placement import service as placement
from cairn.placement.records import Amounts, Room
from cairn.volume import service as volumes
from cairn.volume.records import Volume, VolumeState
from cairn.wire.report import GuestSeen, GuestState, HostFacts, NodeReport
from cairn.wire.spec import Incoming, Outgoing, Power

MOVER = "compute.migrations"
TRIES_MAX = 3  # of a host to make ready, before the move fails
PREPARING_MAX = timedelta(seconds=120)
NO_PROGRESS_MAX = timedelta(seconds=300)
GONE = "A host of this move was lost for good."
LIVE = "live-migration"  # the feature of a host
PROCESSOR = "cpu-"  # what features begin with that say which processor guests see
CLAIMS_MAX = 5  # hosts tried for one server in one round

S = MigrationState
RAN = (GuestState.RUNNING, GuestState.STOPPING, GuestState.CRASHED, GuestState.ENDED)
"""What only a guest that has come can be."""


# --- what cannot move --------------------------------------------------------------------------------


class Belongings(Struct, frozen=True, kw_only=True):
    """What decides whether a server can move and what it needs where it goes."""

    volumes: tuple[Volume, ...]
    snapshots: Mapping[VolumeId, int]  # how many each has
    is_plugging: bool  # a disk or a nic is on its way in or out
    is_private: bool  # its disks are in its host's own pool

    @property
    def disk_gib(self) -> int:
        """What its volumes take of a pool that they must be copied into."""
        return sum(v.size_gib for v in self.volumes) if self.is_private else 0


def belongings(tx: Tx, node: Node, servers: Iterable[Server]) -> dict[ServerId, Belongings]:
    """Of servers of one host; a fixed number of statements."""
    disks = store.disks_of(tx, [s.id for s in servers])
    ids = [disk.volume_id for of_one in disks.values() for disk in of_one]
    held, snapshots = volumes.held(tx, ids)
    plugging = rows.unplugged_servers(tx, node.id)
    is_private = not (node.facts is not None and node.facts.has_shared_pool)
    return {
        s.id: Belongings(
            volumes=tuple(
                held[disk.volume_id] for disk in disks.get(s.id, []) if disk.volume_id in held
            ),
            snapshots=snapshots,
            is_plugging=s.id in plugging,
            is_private=is_private,
        )
        for s in servers
    }


def obstacle(server: Server, has: Belongings) -> str | None:
    """Why a server cannot move now, in words for its operator; None when it can."""
    if server.moving == Moving.MOVED:
        return "waits for its last move to be confirmed or reverted"
    if server.moving is not None:
        return "is being moved already"
    if (task := task_of(server)) is not None:
        return f"is in task_state {task}"
    if server.state not in (ServerState.ACTIVE, ServerState.STOPPED):
        return f"is in vm_state {server.state}"
    if has.is_plugging:
        return "has a disk or a network interface that is being plugged in or out"
    for volume in has.volumes:
        if volume.state is not VolumeState.IN_USE:
            return f"has volume {volume.id}, which is {volume.state}"
        if has.is_private and (count := has.snapshots.get(volume.id, 0)):
            what = "a snapshot" if count == 1 else f"{count} snapshots"
            return (
                f"has volume {volume.id} with {what} in the pool of this host, where volumes made from "
                "it may depend on it: delete the snapshots first"
            )
    return None


def need_of(server: Server, has: Belongings) -> schedule.Need:
    more = Amounts(disk_gib=has.disk_gib)
    return schedule.Need(amounts=server.need + more, zone=server.zone)


def is_running(server: Server) -> bool:
    return server.state is ServerState.ACTIVE


def why_not_live(source: Node, target: Node) -> str | None:
    """Why a running guest cannot go from one host to the other without standing still."""
    assert source.facts is not None and target.facts is not None
    for node in (source, target):
        assert node.facts is not None
        if LIVE not in node.facts.features:
            return f"host {node.hostname} cannot migrate live"
    if source.facts.accelerator != target.facts.accelerator:
        return f"host {target.hostname} has accelerator {target.facts.accelerator}"
    processors = [_processor(node.facts) for node in (source, target)]
    if processors[0] != processors[1]:
        return f"host {target.hostname} has another processor ({target.facts.cpu_model})"
    if _cpus(source.facts) != _cpus(target.facts):
        return f"guests see another processor on host {target.hostname}"
    if source.facts.datapath != target.facts.datapath:
        return (
            f"host {target.hostname} has another datapath, so a guest's network card would differ"
        )
    if source.facts.hypervisor_version > target.facts.hypervisor_version:
        return f"host {target.hostname} has an older hypervisor"
    return None


def _cpus(facts: HostFacts) -> set[str]:
    return {feature for feature in facts.features if feature.startswith("cpu-")}


def _processor(facts: HostFacts | None) -> str:
    """What guests see of it, where the host can tell; else its name."""
    assert facts is not None
    return next((f for f in facts.features if f.startswith(PROCESSOR)), facts.cpu_model)


def find_hosts(
    server: Server,
    has: Belongings,
    way: Way,
    source: Node,
    nodes: list[Node],
    room: dict[NodeId, Room],
) -> list[tuple[Node, Way]]:
    """Where a server may go and how, the best first. Raises NoCapacity that says what each host lacks."""
    others = [n for n in nodes if n.id != source.id]
    fitting = schedule.choose(need_of(server, has), others, room)
    is_private = has.is_private
    same = [n for n in fitting if n.facts and n.facts.has_shared_pool is not is_private]
    if not same:
        raise NoCapacity("No valid host was found. The others keep disks in another kind of pool.")
    if not is_running(server) or way is Way.COLD:
        return [(n, Way.COLD) for n in same]
    reasons = {n.id: why_not_live(source, n) for n in same}
    live = [(n, Way.LIVE) for n in same if reasons[n.id] is None]
    if way is Way.LIVE:
        if not live:
            words = "; ".join(sorted({r for r in reasons.values() if r}))
            raise NoCapacity(f"No valid host was found for a live migration: {words}.")
        return live
    return live or [(n, Way.COLD) for n in same]


# --- begin -------------------------------------------------------------------------------------------


def begin(
    tx: Tx,
    who: Caller,
    server: Server,
    *,
    way: Way,
    cause: Cause,
    to_node: NodeId | None = None,
    asks_confirmation: bool = False,
) -> Migration:
    """Promise to move a server. Raises Conflict: it cannot move now."""
    assert server.node_id is not None
    node = fleet.node(tx, server.node_id)
    has = belongings(tx, node, [server])[server.id]
    if (why := obstacle(server, has)) is not None:
        raise Conflict(f"Instance {server.id} cannot be moved: it {why}.")
    earlier = rows.of_server(tx, server.id)
    migration_id = tx.new_id()
    moving = Moving.LIVE if is_running(server) and way is not Way.COLD else Moving.COLD
    rows.add(
        tx,
        id=migration_id,
        server_id=server.id,
        project_id=server.project_id,
        user_id=who.user_id,
        cause=cause,
        way=way if is_running(server) else Way.COLD,
        asks_confirmation=asks_confirmation,
        was_running=is_running(server),
        from_node=server.node_id,
        to_node=to_node,
        state=S.QUEUED,
        # Each try has its own: what a lost host says of an earlier one is never taken for this.
        incarnation=max([server.incarnation, *(m.incarnation for m in earlier)]) + 1,
        secret=(tx.new_id() + tx.new_id()).replace("-", ""),
        is_cancelled=False,
        is_cleared=False,
        prepare_number=0,
        stop_number=0,
        ask_number=0,
        memory_port=0,
        disks=(),
        total_bytes=0,
        left_bytes=0,
        pause_ms=0,
        progress_at=tx.now,
        created_at=tx.now,
        updated_at=tx.now,
    )
    rows.set_moving(tx, server.id, migration_id=migration_id, moving=moving)
    volumes.set_moving(tx, [v.id for v in has.volumes], is_moving=True)
    tx.wake(MOVER)
    made = rows.find(tx, migration_id)
    assert made is not None
    return made


def prepare(tx: Tx, migration_id: str, *, but_not: frozenset[NodeId] = frozenset()) -> str | None:
    """Give a queued move a host and let that make ready. Why it has none yet, or None."""
    move = rows.find(tx, migration_id)
    if move is None or move.state is not S.QUEUED:
        return None
    server = store.server(tx, None, move.server_id)
    if server.is_doomed:
        end(tx, move, "The server was deleted.")
        return None
    nodes = fleet.nodes(tx)
    source = next(n for n in nodes if n.id == move.from_node)
    if source.state is not NodeState.UP:
        return f"host {source.hostname} is {source.state}"
    has = belongings(tx, source, [server])[server.id]
    wanted = [n for n in nodes if n.id == move.to_node] if move.to_node else nodes
    try:
        fitting = find_hosts(server, has, move.way, source, wanted, placement.rooms(tx, nodes))
    except NoCapacity as error:
        end(tx, move, error.message)
        return error.message
    free = [(node, way) for node, way in fitting if node.id not in but_not]
    if not free:
        return None  # They are busy receiving others; it waits for its turn.
    for node, way in free[:CLAIMS_MAX]:
        if placement.claim(tx, move.claimant, node, need_of(server, has).amounts):
            _prepare_on(tx, move, server, node, way)
            return None
    return "other placers were first everywhere; the next round tries again"


def _prepare_on(tx: Tx, move: Migration, server: Server, node: Node, way: Way) -> None:
    been_there = any(
        node.id in (m.from_node, m.to_node)
        for m in rows.of_server(tx, server.id)
        if m.id != move.id
    )
    rows.move(
        tx,
        move,
        "prepare",
        to_node=node.id,
        way=way,
        is_cleared=not been_there,
        prepare_number=fleet.touch(tx, node.id),
        progress_at=tx.now,
        why=None,
    )
    network.pin_ports(tx, server.id, (move.from_node, node.id))
    moving = Moving.LIVE if way is Way.LIVE else Moving.COLD
    rows.set_moving(tx, server.id, migration_id=move.id, moving=moving)


# --- give up -----------------------------------------------------------------------------------------


def cancel(tx: Tx, move: Migration, why: str) -> None:
    """End a move where it is; one that is over already stays as it is."""
    if not move.is_open:
        return
    rows.change(tx, move.id, is_cancelled=True)
    stopped = _again(tx, move)
    if stopped.state in (S.QUEUED, S.PREPARING):
        end(tx, stopped, why)
    elif stopped.state is S.COPYING:
        turn_back(tx, stopped, why)


def turn_back(tx: Tx, move: Migration, why: str) -> None:
    """Let the old host stop sending. What became of the guest is known when it has answered."""
    rows.move(tx, move, "turn back", why=why, stop_number=fleet.touch(tx, move.from_node))


def end(tx: Tx, move: Migration, why: str) -> None:
    """The guest stays where it is, for certain: take back all that was prepared."""
    rows.move(tx, move, "cancel" if move.is_cancelled else "fail", why=why, ended_at=tx.now)
    placement.release(tx, move.claimant)
    server = store.server(tx, None, move.server_id)
    _let_go_of_volumes(tx, server)
    more: dict[str, object] = {}
    if move.stands_still and move.was_running and move.state in (S.COPYING, S.STOPPING):
        more["boot_number"] = server.boot_number + 1  # It was shut down for the move.
    rows.set_moving(tx, server.id, migration_id=None, moving=None, **more)
    number = fleet.touch(tx, move.from_node)
    if host(tx, move.to_node) is not None and move.state is not S.QUEUED:
        assert move.to_node is not None
        network.pin_ports(tx, server.id, (move.from_node,))
        fleet.touch(tx, move.to_node)
    if server.is_doomed:
        store.doom(tx, server.id, number)
    _finish_action(tx, move, "Error", why)
    tx.wake(MOVER)


def delete_moving(tx: Tx, server: Server) -> None:
    """The server is to be deleted; first it must be known where it is."""
    assert server.migration_id is not None
    store.doom(tx, server.id, None)
    move = rows.find(tx, server.migration_id)
    assert move is not None
    cancel(tx, move, "The server was deleted.")


# --- reports -----------------------------------------------------------------------------------------


def take_source(tx: Tx, migration_id: str, guest: GuestSeen, report: NodeReport) -> bool:
    """What the old host says of a guest that is to leave it. True: there is no more to be said of it."""
    move = rows.find(tx, migration_id)
    if move is None or not move.is_open or move.from_node != report.node_id:
        return False
    seen = guest.migration
    if seen is not None and seen.migration_id != move.id:
        seen = None
    if guest.state is GuestState.SENT:
        if seen is not None and move.state in (S.COPYING, S.STOPPING):
            rows.change(tx, move.id, total_bytes=seen.total_bytes, left_bytes=0)
            arrive(tx, move, pause_ms=seen.pause_ms)
        return True
    is_up = guest.state in (GuestState.RUNNING, GuestState.STOPPING)
    if move.state is S.COPYING:
        if seen is not None and seen.trouble is not None:
            end(tx, move, seen.trouble.message)
            return True
        if move.way is Way.LIVE and not is_up:
            turn_back(tx, move, "The guest's process ended on its old host.")
        elif seen is not None:
            _note_progress(tx, move, seen.total_bytes, seen.left_bytes)
        elif guest.trouble is not None and guest.trouble.tries >= TRIES_MAX:
            turn_back(tx, move, guest.trouble.message)
    elif move.state is S.STOPPING and report.spec_number >= move.stop_number:
        if seen is not None and seen.trouble is not None:
            end(tx, move, move.why or seen.trouble.message)
            return True
        if not is_up and seen is not None and not move.ask_number:
            # It died on the way, and its host cannot know whether the other has all of it.
            assert move.to_node is not None
            rows.change(tx, move.id, ask_number=fleet.touch(tx, move.to_node))
    return False


def take_target(tx: Tx, report: NodeReport, strangers: Mapping[ServerId, GuestSeen]) -> None:
    """What a host says of guests that are not its own: some may be on their way to it."""
    for stranger in strangers.values():
        seen = stranger.migration
        if stranger.state is GuestState.SENT and seen is not None and seen.pause_ms:
            # Its new host was the first to tell; only the old one knows how long it stood still.
            rows.note_pause(tx, seen.migration_id, report.node_id, seen.pause_ms)
    present = {volume.id for volume in report.volumes}
    for move in rows.arriving(tx, report.node_id):
        guest = strangers.get(move.server_id)
        if guest is not None and guest.incarnation == move.incarnation:
            _take_target(tx, move, guest, report.spec_number, present)


def _take_target(
    tx: Tx, move: Migration, guest: GuestSeen, spec_number: int, present: set[VolumeId]
) -> None:
    seen = guest.migration
    if seen is not None and seen.migration_id != move.id:
        seen = None
    trouble = seen.trouble if seen is not None else None
    if trouble is None and guest.trouble is not None and guest.trouble.tries >= TRIES_MAX:
        trouble = guest.trouble
    is_record = guest.state is GuestState.STOPPED and guest.boot_number > 0
    if move.state is S.PREPARING:
        if trouble is not None:
            end(tx, move, trouble.message)
        elif not move.is_cleared:
            _take_cleared(tx, move, spec_number, present)
        elif guest.state is GuestState.RECEIVING and seen is not None and seen.memory_port:
            rows.move(
                tx,
                move,
                "ready",
                memory_port=seen.memory_port,
                disks=seen.disks,
                progress_at=tx.now,
            )
            fleet.touch(tx, move.from_node)
    elif guest.state in RAN or is_record:
        arrive(tx, move, pause_ms=move.pause_ms)
    elif move.ask_number and spec_number >= move.ask_number:
        end(tx, move, move.why or "The guest's process ended on its old host.")
    elif trouble is not None and move.state is S.COPYING:
        turn_back(tx, move, trouble.message)


def _take_cleared(tx: Tx, move: Migration, spec_number: int, present: set[VolumeId]) -> None:
    """What an earlier life of the server left must go before its disks are made anew and filled."""
    server = store.server(tx, None, move.server_id)
    assert move.to_node is not None
    if spec_number >= move.prepare_number and present.isdisjoint(disks_of(tx, server)):
        rows.change(tx, move.id, is_cleared=True)
        fleet.touch(tx, move.to_node)


def arrive(tx: Tx, move: Migration, *, pause_ms: int) -> None:
    """The guest is its new host's from now on, and never again its old one's."""
    server = store.server(tx, None, move.server_id)
    node = host(tx, move.to_node)
    if node is None:
        _lose(tx, move, server)
        return
    waits = move.asks_confirmation and not server.is_doomed
    rows.move(
        tx,
        move,
        "arrive",
        why=None,
        left_bytes=0,
        pause_ms=pause_ms,
        ended_at=tx.now,
        confirmation="waiting" if waits else "confirmed",
    )
    held = _let_go_of_volumes(tx, server)
    for volume_id in held:
        volumes.move(tx, volume_id, node.id)
    for nic in store.nics_of(tx, [server.id]).get(server.id, []):
        try:
            network.bind_port(tx, nic.port_id, server.id, node.id)
        except (NotFound, Conflict):
            store.remove_nic(tx, nic.port_id)  # Its owner took the port away meanwhile.
    network.pin_ports(tx, server.id, (node.id,))
    placement.hand_over(tx, giver=move.claimant, taker=server.id, amounts=server.need)
    if waits:  # Room for the way back.
        placement.claim(tx, move.claimant, fleet.node(tx, move.from_node), server.need)
    number = fleet.touch(tx, node.id)
    fleet.touch(tx, move.from_node)
    more: dict[str, object] = {}
    if move.stands_still and move.was_running:
        more["boot_number"] = server.boot_number + 1
    rows.set_moving(
        tx,
        server.id,
        migration_id=move.id if waits else None,
        moving=Moving.MOVED if waits else None,
        node_id=node.id,
        zone=node.zone,
        incarnation=move.incarnation,
        seen_number=0,
        trouble=None,
        mark_number=number,
        **more,
    )
    store.want_numbers(tx, server.id, number)
    _finish_action(tx, move, "Success", None)
    if server.is_doomed:
        store.doom(tx, server.id, number)
    tx.wake(MOVER)
    tx.wake("compute.placer")  # There is room where it was.


def _lose(tx: Tx, move: Migration, server: Server) -> None:
    """It was sent to a host that will never come back."""
    rows.move(tx, move, "fail", why=GONE, ended_at=tx.now)
    _let_go_of_volumes(tx, server)
    placement.release(tx, server.id)
    rows.set_moving(tx, server.id, migration_id=None, moving=None)
    number = fleet.touch(tx, move.from_node)
    if server.is_doomed:
        store.doom(tx, server.id, number)
        return
    store.move(tx, server, "failed", fault=Fault(message=GONE, created_at=tx.now))
    store.change_server(tx, server.id, node_id=None)
    _finish_action(tx, move, "Error", GONE)


def _note_progress(tx: Tx, move: Migration, total_bytes: int, left_bytes: int) -> None:
    if (total_bytes, left_bytes) != (move.total_bytes, move.left_bytes):
        rows.change(tx, move.id, total_bytes=total_bytes, left_bytes=left_bytes, progress_at=tx.now)


# --- time --------------------------------------------------------------------------------------------


def look_at(tx: Tx, migration_id: str) -> None:
    """End what takes too long, and ask about what a dead host can no longer answer."""
    move = rows.find(tx, migration_id)
    if move is None or not move.is_open or move.to_node is None:
        return
    waited = tx.now - move.progress_at
    target = host(tx, move.to_node)
    if target is None:
        return  # The old host knows by itself that nobody answers there.
    if move.state is S.PREPARING and waited > PREPARING_MAX:
        said = f" (it is {target.state})" if target.state is not NodeState.UP else ""
        end(tx, move, f"Host {target.hostname} did not make ready in time{said}.")
    elif move.state is S.COPYING and waited > NO_PROGRESS_MAX:
        turn_back(tx, move, f"Nothing was copied for {NO_PROGRESS_MAX.seconds} seconds.")
    elif move.state in (S.COPYING, S.STOPPING) and not move.ask_number:
        source = fleet.node(tx, move.from_node)
        if source.state in (NodeState.FENCED, NodeState.RECOVERED):
            source_is_dead(tx, move)


def source_is_dead(tx: Tx, move: Migration) -> None:
    """The old host is fenced: only the new one can still say where the guest is."""
    assert move.to_node is not None
    if move.state is S.COPYING:
        turn_back(tx, move, "The old host was lost.")
    if not _again(tx, move).ask_number:
        rows.change(tx, move.id, ask_number=fleet.touch(tx, move.to_node))


def is_between_hosts(tx: Tx, server: Server) -> bool:
    """Whether only the reports of two hosts can tell where the server is. A move that has not begun to
    copy is ended on the spot: for who finds its host dead and wants to start it elsewhere."""
    if server.migration_id is None or server.moving == Moving.MOVED:
        return False
    move = rows.find(tx, server.migration_id)
    if move is None or not move.is_open:
        return False
    if move.state in (S.QUEUED, S.PREPARING):
        end(tx, move, "The old host was lost.")
        return False
    source_is_dead(tx, move)
    return True


def write_off_host(tx: Tx, node_id: NodeId) -> None:
    """The host will never come back: what was to leave it stays its own, what was to come to it is called
    back, if that still can be."""
    rows.remove_drain(tx, node_id)
    for move in rows.open_ones(tx):
        is_early = move.state in (S.QUEUED, S.PREPARING)
        if move.from_node == node_id or (move.to_node == node_id and is_early):
            end(tx, move, GONE)
        elif move.to_node == node_id and move.state is S.COPYING:
            turn_back(tx, move, GONE)


def outlive(tx: Tx, server: Server) -> None:
    """What a host still has of a move that came to nothing must be older than the server's next life."""
    last = max((m.incarnation for m in rows.of_server(tx, server.id)), default=0)
    if last > server.incarnation:
        store.change_server(tx, server.id, incarnation=last)


# --- confirm -----------------------------------------------------------------------------------------


def confirm(tx: Tx, server: Server) -> None:
    """It stays where it was moved to. Raises Conflict when there is nothing to confirm."""
    move = _unconfirmed(tx, server, "confirm_resize")
    rows.change(tx, move.id, confirmation="confirmed")
    placement.release(tx, move.claimant)
    rows.set_moving(tx, server.id, migration_id=None, moving=None)


def revert(tx: Tx, who: Caller, server: Server) -> Migration:
    """Send it back where it came from. Raises Conflict."""
    move = _unconfirmed(tx, server, "revert_resize")
    rows.change(tx, move.id, confirmation="reverted")
    placement.release(tx, move.claimant)
    rows.set_moving(tx, server.id, migration_id=None, moving=None)
    freed = store.server(tx, None, server.id)
    return begin(tx, who, freed, way=Way.ANY, cause=Cause.API, to_node=move.from_node)


def _unconfirmed(tx: Tx, server: Server, task: str) -> Migration:
    if server.moving != Moving.MOVED or server.migration_id is None:
        raise Conflict(
            f"Cannot '{task}' instance {server.id} while it is in vm_state {server.state}"
        )
    move = rows.find(tx, server.migration_id)
    assert move is not None
    return move


# --- what the hosts are told -------------------------------------------------------------------------


def outgoing_of(tx: Tx, move: Migration) -> Outgoing | None:
    """For the old host; None while it needs to know nothing."""
    if move.state not in (S.COPYING, S.STOPPING) or move.to_node is None:
        return None
    target = host(tx, move.to_node)
    facts = target.facts if target is not None else None
    return Outgoing(
        migration_id=move.id,
        to_node=move.to_node,
        address=facts.address if facts is not None else "",
        memory_port=move.memory_port,
        disks=move.disks,
        secret=move.secret,
        is_cancelled=move.state is S.STOPPING,
    )


def incoming_of(tx: Tx, move: Migration) -> Incoming:
    facts = fleet.node(tx, move.from_node).facts
    return Incoming(
        migration_id=move.id,
        from_node=move.from_node,
        from_address=facts.address if facts is not None else "",
        secret=move.secret,
    )


def power_of(move: Migration, server: Server) -> Power:
    """Who is moved cold is off, on both hosts, from when the copying may begin until it is over."""
    return Power.STOPPED if move.stands_still else server.power


def disks_of(tx: Tx, server: Server) -> set[VolumeId]:
    """Every disk of a server, its own root disk too."""
    found = {disk.volume_id for disk in store.disks_of(tx, [server.id]).get(server.id, [])}
    return found | ({server.root_id} if server.root_id is not None else set())


# --- shared ------------------------------------------------------------------------------------------


def host(tx: Tx, node_id: NodeId | None) -> Node | None:
    """None of one that was written off."""
    try:
        return fleet.node(tx, node_id) if node_id is not None else None
    except NotFound:
        return None


def _again(tx: Tx, move: Migration) -> Migration:
    found = rows.find(tx, move.id)
    assert found is not None
    return found


def _let_go_of_volumes(tx: Tx, server: Server) -> list[VolumeId]:
    held = [disk.volume_id for disk in store.disks_of(tx, [server.id]).get(server.id, [])]
    volumes.set_moving(tx, held, is_moving=False)
    return held


def _finish_action(tx: Tx, move: Migration, result: str, why: str | None) -> None:
    names = ("live-migration", "migrate", "revertResize")
    store_actions.finish_actions(tx, move.server_id, result, details=why, names=names)
