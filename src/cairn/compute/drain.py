"""Emptying a host: what goes where, what cannot go and why, and how far it is.

`plan` is pure. It is made anew each time from what is there: a drain is the wish alone, so it goes on after
a restart of the control plane, and what changed meanwhile is planned for.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from cairn.compute import migrations, store
from cairn.compute import store_migrations as rows
from cairn.compute.migration_records import Cause, Drain, Migration, MigrationState, Moving, Way
from cairn.compute.migrations import Belongings
from cairn.compute.records import Server
from cairn.core.caller import Caller, system_caller
from cairn.core.errors import Conflict, NoCapacity
from cairn.core.ids import NodeId, ServerId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import Node
from cairn.placement import service as placement
from cairn.placement.records import Amounts, Room
from cairn.volume import service as volumes
from cairn.volume.records import Volume

PAUSE_S = 30.0  # before a server that could not be moved is tried again; doubled each time
PAUSE_S_MAX = 600.0

M = MigrationState


class Step(Struct, frozen=True, kw_only=True):
    """One server: where it goes, or why it stays."""

    server: Server
    target: Node | None = None
    way: Way | None = None
    reason: str | None = None
    disk_gib: int = 0  # to be copied


def plan(
    source: Node,
    servers: Sequence[Server],
    belongings: Mapping[ServerId, Belongings],
    nodes: Sequence[Node],
    rooms: Mapping[NodeId, Room],
) -> list[Step]:
    """For each server of a host, the biggest first: what is hard to place should find the most room."""
    left = dict(rooms)
    steps = []
    for server in sorted(servers, key=_size, reverse=True):
        has = belongings[server.id]
        disk_gib = (server.root_gib + has.disk_gib) if has.is_private else 0
        reason = migrations.obstacle(server, has)
        if reason is not None:
            steps.append(Step(server=server, reason=reason, disk_gib=disk_gib))
            continue
        try:
            fitting = migrations.find_hosts(server, has, Way.ANY, source, list(nodes), left)
        except NoCapacity as error:
            steps.append(Step(server=server, reason=error.message, disk_gib=disk_gib))
            continue
        target, way = fitting[0]
        left[target.id] = _less(left[target.id], migrations.need_of(server, has).amounts)
        steps.append(Step(server=server, target=target, way=way, disk_gib=disk_gib))
    return steps


def _size(server: Server) -> tuple[int, int, int, str]:
    need = server.need
    return need.memory_mib, need.vcpus, need.disk_gib, server.id


def _less(room: Room, taken: Amounts) -> Room:
    return Room(node_id=room.node_id, capacity=room.capacity, taken=room.taken + taken)


# --- the wish ----------------------------------------------------------------------------------------


def begin(tx: Tx, who: Caller, node: Node) -> None:
    """Wish a host empty: nothing new comes to it, and what is there goes. Repeatable."""
    if rows.drain_of(tx, node.id) is None:
        rows.add_drain(
            tx,
            Drain(
                node_id=node.id,
                began_at=tx.now,
                user_id=who.user_id,
                project_id=who.home,
            ),
        )
    fleet.set_draining(tx, node.id, is_draining=True)
    tx.wake(migrations.MOVER)


def undo(tx: Tx, node: Node, *, cancel_running: bool) -> int:
    """Take the wish back. What has not begun to copy stays, what has is finished unless `cancel_running`.
    How many moves go on. Repeatable."""
    rows.remove_drain(tx, node.id)
    fleet.set_draining(tx, node.id, is_draining=False)
    going_on = 0
    for move in rows.open_ones(tx):
        if move.from_node != node.id or move.cause is not Cause.DRAIN:
            continue
        if cancel_running or move.state in (M.QUEUED, M.PREPARING):
            migrations.cancel(tx, move, "The host is not drained any more.")
        else:
            going_on += 1
    tx.wake("compute.placer")
    tx.wake("volume.placer")
    return going_on


def begin_some(tx: Tx, node_id: NodeId, at_once: int) -> int:
    """Begin to move as many servers of a drained host as may move at once. How many were begun."""
    drain = rows.drain_of(tx, node_id)
    node = migrations.host(tx, node_id)
    if node is None:  # It is no member any more.
        rows.remove_drain(tx, node_id)
        return 0
    if drain is None or not fleet.is_up(node):
        return 0
    busy = sum(1 for m in rows.open_ones(tx) if m.from_node == node_id)
    if busy >= at_once:
        return 0
    steps = plan_of(tx, node)
    tries = _tries(rows.leaving_since(tx, node_id, drain.began_at))
    who = system_caller()
    begun = 0
    for step in steps:
        if busy + begun >= at_once:
            break
        if step.target is None or tx.now < tries.get(step.server.id, tx.now):
            continue
        migrations.begin(tx, who, step.server, way=Way.ANY, cause=Cause.DRAIN)
        begun += 1
    return begun


def plan_of(tx: Tx, node: Node) -> list[Step]:
    """What a drain of the host would do now."""
    servers = store.servers_on(tx, node.id)
    nodes = [n for n in fleet.nodes(tx) if n.id != node.id]
    return plan(
        node,
        servers,
        migrations.belongings(tx, node, servers),
        nodes,
        placement.rooms(tx, nodes),
    )


def unfinished(tx: Tx) -> list[NodeId]:
    """Hosts that are drained and have servers still."""
    return [d.node_id for d in rows.all_drains(tx) if rows.server_count(tx, d.node_id)]


def _tries(moves: Sequence[Migration]) -> dict[ServerId, datetime]:
    """When each server that could not be moved may be tried again."""
    failures: dict[ServerId, int] = {}
    next_at: dict[ServerId, datetime] = {}
    for move in moves:
        if move.state is M.FAILED and move.ended_at is not None:
            count = failures[move.server_id] = failures.get(move.server_id, 0) + 1
            pause_s = min(PAUSE_S * 2.0 ** (count - 1), PAUSE_S_MAX)
            next_at[move.server_id] = move.ended_at + timedelta(seconds=pause_s)
    return next_at


# --- how far it is -----------------------------------------------------------------------------------


class Guest(Struct, frozen=True, kw_only=True):
    """One server of a drained host, or one that was there when the drain began."""

    id: ServerId
    name: str
    state: str  # "waiting", "preparing", "copying", "stopping", "done", "failed" or "stays"
    way: str | None = None  # "live" or "cold"
    target: str | None = None  # a host's name
    reason: str | None = None
    disk_gib: int = 0
    memory_mib: int = 0
    total_bytes: int = 0
    left_bytes: int = 0
    pause_ms: int = 0
    tries: int = 0


class Progress(Struct, frozen=True, kw_only=True):
    node: Node
    began_at: datetime | None
    guests: tuple[Guest, ...]
    volumes: tuple[Volume, ...]  # that no server has: they stay


def progress(tx: Tx, node: Node) -> Progress:
    """The plan of what is still to do, and what became of the rest."""
    drain = rows.drain_of(tx, node.id)
    since = drain.began_at if drain is not None else tx.now
    moves = rows.leaving_since(tx, node.id, since)
    # Moves that began before the drain, and go on.
    known = {m.id for m in moves}
    moves = [
        *(m for m in rows.open_ones(tx) if m.from_node == node.id and m.id not in known),
        *moves,
    ]
    newest = {move.server_id: move for move in moves}
    failures = {
        i: sum(1 for m in moves if m.server_id == i and m.state is M.FAILED) for i in newest
    }
    names = {n.id: n.hostname for n in fleet.nodes(tx)}
    steps = plan_of(tx, node)
    guests = [
        _guest(step, newest.get(step.server.id), names, failures.get(step.server.id, 0))
        for step in steps
    ]
    here = {step.server.id for step in steps}
    gone = [m for m in newest.values() if m.server_id not in here and m.state is M.DONE]
    titles = store.names_of(tx, [m.server_id for m in gone])
    guests += [
        Guest(
            id=m.server_id,
            name=titles.get(m.server_id, "(deleted since)"),
            state="done",
            way=str(m.way),
            target=names.get(m.to_node) if m.to_node else None,
            total_bytes=m.total_bytes,
            pause_ms=m.pause_ms,
        )
        for m in gone
    ]
    is_private = not (node.facts is not None and node.facts.has_shared_pool)
    return Progress(
        node=node,
        began_at=drain.began_at if drain is not None else None,
        guests=tuple(guests),
        volumes=tuple(volumes.idle_on(tx, node.id)) if is_private else (),
    )


def _guest(step: Step, move: Migration | None, names: Mapping[NodeId, str], tries: int) -> Guest:
    server = step.server
    target = step.target.hostname if step.target is not None else None
    way = str(step.way) if step.way is not None else None
    more = {"disk_gib": step.disk_gib, "memory_mib": server.flavor.memory_mib, "tries": tries}
    if server.moving in (Moving.LIVE, Moving.COLD) and move is not None and move.is_open:
        state = "waiting" if move.state is M.QUEUED else str(move.state)
        return Guest(
            id=server.id,
            name=server.name,
            state=state,
            way=str(move.way) if move.way is not Way.ANY else way,
            target=names.get(move.to_node) if move.to_node is not None else target,
            reason=move.why,
            total_bytes=move.total_bytes,
            left_bytes=move.left_bytes,
            **more,
        )
    state = "waiting" if step.reason is None else "stays"
    reason = step.reason
    if reason is None and move is not None and move.state is M.FAILED:
        state, reason = "failed", move.why
    return Guest(
        id=server.id,
        name=server.name,
        state=state,
        way=way,
        target=target,
        reason=reason,
        **more,
    )


def require_drainable(node: Node) -> None:
    if not fleet.is_up(node):
        raise Conflict(
            f"Host {node.hostname} is {node.state}: only a host that is heard of can hand over its "
            "guests. If it is lost, fence it and recover its servers."
        )
