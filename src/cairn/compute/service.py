"""What may be done to servers, and what the hosts should make of it.

Verbs write wishes (power, boot_number, is_doomed, the lists of disks and nics) and raise the number of
the server's host; reports.py writes what came of it. Making servers is in birth.py, plugging in plugs.py.
"""

from msgspec import Struct, structs

from cairn.compute import birth, migrations, recovery, store, store_actions, store_migrations
from cairn.compute.marks import Mark, mark_of
from cairn.compute.metadata import guest_metadata
from cairn.compute.migration_records import Migration, Moving
from cairn.compute.plugs import changeable, note
from cairn.compute.records import (
    MOVING_TASKS,
    Action,
    Disk,
    Nic,
    Search,
    Server,
    ServerState,
    task_of,
)
from cairn.compute.reports import release, take_report
from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import NodeId, ServerId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.volume import service as volumes
from cairn.wire.spec import DiskSpec, GuestSpec, NicSpec, Power, VolumeSpec

__all__ = ["take_report", "wanted_on"]

TAGS_MAX = 50  # a server, as Nova


# --- look --------------------------------------------------------------------------------------------


def get(tx: Tx, who: Caller, server_id: ServerId) -> Server:
    """Raises NotFound, also for what belongs to others."""
    return store.server(tx, who.reach, server_id)


def list_servers(tx: Tx, who: Caller, search: Search, *, everywhere: bool) -> list[Server]:
    """One page. `everywhere`: of all projects, for administrators."""
    reach = None if everywhere and who.is_admin else who.home
    return store.list_servers(tx, reach, search)


def actions_of(tx: Tx, who: Caller, server_id: ServerId) -> list[Action]:
    """The newest first; also of a server that is gone. Raises NotFound when nothing is known of it."""
    found = store_actions.actions_of(tx, who.reach, server_id)
    if not found:
        store.server(tx, who.reach, server_id)
    return found


# --- change ------------------------------------------------------------------------------------------


def update(tx: Tx, who: Caller, server_id: ServerId, changes: dict[str, object]) -> Server:
    """Change name, description, host name, access addresses or disk config."""
    server = get(tx, who, server_id)
    if changes:
        store.change_server(tx, server.id, **changes)
        if server.node_id is not None and "hostname" in changes:
            fleet.touch(tx, server.node_id)  # The metadata service tells it.
    return get(tx, who, server_id)


def set_metadata(
    tx: Tx, who: Caller, server_id: ServerId, items: dict[str, str], *, replace: bool
) -> dict[str, str]:
    """Add to the server's metadata, or replace it all. Raises Invalid, OverQuota."""
    server = get(tx, who, server_id)
    wanted = items if replace else {**server.metadata, **items}
    birth.require_metadata(tx, who, wanted)
    _write_metadata(tx, server, wanted)
    return wanted


def remove_metadata(tx: Tx, who: Caller, server_id: ServerId, key: str) -> None:
    """Raises NotFound when there is no such key."""
    server = get(tx, who, server_id)
    if key not in server.metadata:
        raise NotFound("Metadata item was not found")
    _write_metadata(tx, server, {k: v for k, v in server.metadata.items() if k != key})


def set_tags(tx: Tx, who: Caller, server_id: ServerId, tags: tuple[str, ...]) -> tuple[str, ...]:
    """Raises Invalid: too many."""
    server = get(tx, who, server_id)
    wanted = tuple(sorted(set(tags)))
    if len(wanted) > TAGS_MAX:
        raise Invalid(f"The number of tags exceeded the per-server limit {TAGS_MAX}")
    store.change_server(tx, server.id, tags=wanted)
    return wanted


def reset_state(tx: Tx, who: Caller, server_id: ServerId, state: ServerState) -> None:
    """An administrator's word about what a server is; the next change that its host sees knows better."""
    server = get(tx, who, server_id)
    store.move(tx, server, f"reset to {state}", fault=None)


# --- power -------------------------------------------------------------------------------------------


def start(tx: Tx, who: Caller, server_id: ServerId) -> None:
    """Raises NotFound, Conflict."""
    server = _idle(tx, who, server_id, "start")
    _wish(tx, server, power=Power.RUNNING, boot_number=server.boot_number + 1, is_soft_reboot=False)
    note(tx, who, server, "start", "compute_start_instance")


def stop(tx: Tx, who: Caller, server_id: ServerId) -> None:
    """Let the guest shut itself down; its host cuts it off after its grace. Raises NotFound, Conflict."""
    server = _idle(tx, who, server_id, "stop")
    _wish(tx, server, power=Power.STOPPED)
    note(tx, who, server, "stop", "compute_stop_instance")


def reboot(tx: Tx, who: Caller, server_id: ServerId, *, softly: bool) -> None:
    """End this boot of the guest and begin the next. Raises NotFound, Conflict."""
    if softly:
        server = _idle(tx, who, server_id, "reboot softly")
    else:  # The way out of every other task, so it waits for none.
        server = changeable(tx, who, server_id, "reboot hard")
    _wish(
        tx,
        server,
        power=Power.RUNNING,
        boot_number=server.boot_number + 1,
        is_soft_reboot=softly,
    )
    note(tx, who, server, "reboot", "compute_reboot_instance")


def delete(tx: Tx, who: Caller, server_id: ServerId) -> None:
    """Wish the server gone. Repeatable while it goes. Raises NotFound, Conflict when it is locked."""
    server = get(tx, who, server_id)
    if server.is_doomed:
        return
    if server.is_locked and not who.is_admin:
        raise Conflict(f"Instance {server.id} is locked")
    note(tx, who, server, "delete", "compute_terminate_instance")
    if server.moving == Moving.MOVED:
        migrations.confirm(tx, server)
    if server.moving in (Moving.LIVE, Moving.COLD):
        migrations.delete_moving(tx, server)
    elif server.node_id is None:
        if not recovery.dispose(tx, server):
            release(tx, server)
    else:
        store.doom(tx, server.id, fleet.touch(tx, server.node_id))


# --- what hosts should run ---------------------------------------------------------------------------


class Wanted(Struct, frozen=True, kw_only=True):
    """What compute wants on a host, by id."""

    guests: tuple[GuestSpec, ...] = ()
    # Root disks that are no block storage volumes, and every disk that is received.
    disks: tuple[VolumeSpec, ...] = ()
    arriving: tuple[ServerId, ...] = ()  # whose ports are bound to another host yet


def wanted_on(tx: Tx, node_id: NodeId) -> Wanted:
    """Every guest that the host should have, and the root disks of those that own theirs: doomed ones
    too, which a shared pool does not lose by not being named."""
    placed = store.servers_on(tx, node_id)
    moves = store_migrations.arriving(tx, node_id)
    arriving = [_arrival(tx, move) for move in moves]
    received = tuple(guest for guest, _ in arriving)
    fills = tuple(disk for _, filled in arriving for disk in filled)
    coming = tuple(move.server_id for move in moves)
    if not placed:
        return Wanted(guests=received, disks=fills, arriving=coming)
    servers = [s for s in placed if not s.is_doomed or s.moving in MOVING_TASKS]
    disks = store.disks_on(tx, node_id)
    nics = store.nics_on(tx, node_id)
    return Wanted(
        arriving=coming,
        guests=received
        + tuple(_leaving(tx, s, disks.get(s.id, []), nics.get(s.id, [])) for s in servers),
        disks=fills
        + tuple(
            VolumeSpec(
                id=s.root_id,
                size_gib=s.root_gib,
                from_image=s.image_id,
                is_doomed=s.is_doomed and s.moving not in MOVING_TASKS,
            )
            for s in placed
            if s.root_id is not None
        ),
    )


def _leaving(tx: Tx, server: Server, disks: list[Disk], nics: list[Nic]) -> GuestSpec:
    """A guest of this host, with the word to send it away if there is one."""
    guest = _guest(server, disks, nics)
    if server.moving not in MOVING_TASKS or server.migration_id is None:
        return guest
    move = store_migrations.find(tx, server.migration_id)
    outgoing = migrations.outgoing_of(tx, move) if move is not None else None
    if move is None or outgoing is None:
        return guest
    return structs.replace(guest, outgoing=outgoing, power=migrations.power_of(move, server))


def _arrival(tx: Tx, move: Migration) -> tuple[GuestSpec, tuple[VolumeSpec, ...]]:
    """A guest of another host as this one is to receive it, and its disks."""
    server = store.server(tx, None, move.server_id)
    disks = store.disks_of(tx, [server.id]).get(server.id, [])
    guest = structs.replace(
        _guest(server, disks, store.nics_of(tx, [server.id]).get(server.id, [])),
        incarnation=move.incarnation,
        incoming=migrations.incoming_of(tx, move),
        power=migrations.power_of(move, server),
    )
    if not move.is_cleared:
        return guest, ()
    held, _ = volumes.held(tx, [disk.volume_id for disk in disks])
    sizes = {v.id: v.size_gib for v in held.values()}
    if server.root_id is not None:
        sizes[server.root_id] = server.root_gib
    return guest, tuple(
        VolumeSpec(id=i, size_gib=size, is_received=True) for i, size in sorted(sizes.items())
    )


def _guest(server: Server, disks: list[Disk], nics: list[Nic]) -> GuestSpec:
    root = server.root_id
    own = (DiskSpec(volume_id=root, device="vda", boot=True),) if root is not None else ()
    plugged = tuple(
        DiskSpec(
            volume_id=disk.volume_id,
            device=disk.device,
            boot=disk.is_boot,
            serial=disk.volume_id[:20],
        )
        for disk in sorted(disks, key=lambda d: d.device)
        if disk.is_wanted
    )
    return GuestSpec(
        id=server.id,
        incarnation=server.incarnation,
        name=server.name,
        vcpus=server.flavor.vcpus,
        memory_mib=server.flavor.memory_mib,
        disks=own + plugged,
        nics=tuple(
            NicSpec(port_id=nic.port_id, position=nic.position) for nic in nics if nic.is_wanted
        ),
        power=server.power,
        boot_number=server.boot_number,
        soft_reboot=server.is_soft_reboot,
        stop_grace_s=server.stop_grace_s,
        config_drive=server.has_config_drive,
        metadata=guest_metadata(server),
        needs_confirmation=mark_of(server) is not Mark.FALSE,
    )


def _idle(tx: Tx, who: Caller, server_id: ServerId, event: str) -> Server:
    """The server, if `event` may happen to it and nothing else is under way."""
    server = changeable(tx, who, server_id, event)
    if (task := task_of(server)) is not None:
        raise Conflict(f"Cannot '{event}' instance {server.id} while it is in task_state {task}")
    return server


def _wish(tx: Tx, server: Server, **values: object) -> None:
    if server.node_id is None:
        raise Conflict(f"Instance {server.id} is not on any host.")
    store.wish(tx, server, **values)
    fleet.touch(tx, server.node_id)


def _write_metadata(tx: Tx, server: Server, items: dict[str, str]) -> None:
    store.change_server(tx, server.id, metadata=items)
    if server.node_id is None:
        return
    number = fleet.touch(tx, server.node_id)  # The metadata service tells it.
    marked = structs.replace(server, metadata=items)
    if mark_of(server) is Mark.FALSE and mark_of(marked) is not Mark.FALSE:
        store.change_server(tx, server.id, mark_number=number)


def placed_servers(tx: Tx) -> list[ServerId]:
    """Every server that has a host: for checks of the whole, not for requests."""
    return store.placed_servers(tx)
