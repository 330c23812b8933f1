"""What becomes of servers when a host reports: sightings, events of their lives, completed removals.

A report is whole, so this may run twice on the same one, and every step is repeatable. Sightings of an
older incarnation, and news older than what is known, change nothing.
"""

from cairn.compute import migrations, plugs, store, store_actions
from cairn.compute.records import (
    MOVING_TASKS,
    Disk,
    Fault,
    Nic,
    Seen,
    Server,
    ServerState,
    event_of,
    task_of,
)
from cairn.core.caller import system_caller
from cairn.core.errors import Conflict, NotFound
from cairn.core.ids import PortId, VolumeId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.placement import service as placement
from cairn.volume import service as volumes
from cairn.wire.report import GuestSeen, GuestState, NodeReport
from cairn.wire.spec import Power

POWER_ACTIONS = ("create", "start", "stop", "reboot", "evacuate")


def take_report(tx: Tx, report: NodeReport) -> None:
    """Write what a host saw of its servers, their disks and their nics."""
    guests = {guest.id: guest for guest in report.guests}
    present_volumes = {volume.id for volume in report.volumes}
    present_ports = {port.id for port in report.ports}
    disks = store.disks_moving_on(tx, report.node_id)
    nics = store.nics_moving_on(tx, report.node_id)
    for known in store.watched_on(tx, report.node_id):
        guest = guests.pop(known.id, None)
        if known.moving in MOVING_TASKS:
            assert known.migration_id is not None
            if guest is None or migrations.take_source(tx, known.migration_id, guest, report):
                continue
        elif known.is_doomed:
            is_told = (known.gone_number or 0) <= report.spec_number
            if guest is None and is_told and VolumeId(known.id) not in present_volumes:
                release(tx, store.server(tx, None, known.id))
            continue
        if guest is None or guest.incarnation != known.incarnation:
            continue
        if report.number > known.seen_number and (
            _is_news(known, guest) or task_of(known) is not None
        ):
            _take_guest(tx, store.server(tx, None, known.id), guest, report.number)
        for disk in disks.get(known.id, []):
            _take_disk(tx, known.power, disk, guest, report.spec_number)
        for nic in nics.get(known.id, []):
            _take_nic(tx, nic, guest, present_ports, report.spec_number)
    if guests:
        migrations.take_target(tx, report, guests)


def _is_news(known: store.Watched | Server, guest: GuestSeen) -> bool:
    seen = (guest.state, guest.boot_number, guest.trouble)
    return seen != (known.seen_state, known.seen_boot, known.trouble)


def release(tx: Tx, server: Server) -> None:
    """The guest is no more: give back all that it held, and forget it."""
    for disk in store.disks_of(tx, [server.id]).get(server.id, []):
        store.remove_disk(tx, disk.id)
        volumes.detached(tx, disk.volume_id, server.id)
        if disk.delete_on_termination:
            _delete_volume(tx, disk.volume_id)
    for nic in store.nics_of(tx, [server.id]).get(server.id, []):
        store.remove_nic(tx, nic.port_id)
        plugs.release_port(tx, nic)
    placement.release(tx, server.id)
    store.remove_server(tx, server.id)
    store_actions.finish_actions(tx, server.id, "Success")
    tx.wake("compute.placer")  # There is room again.


def _delete_volume(tx: Tx, volume_id: VolumeId) -> None:
    try:
        volumes.delete(tx, system_caller(), volume_id)
    except (Conflict, NotFound):
        return  # It has snapshots or is being copied: it stays, as its owner's volume.


# --- a guest -----------------------------------------------------------------------------------------


def _take_guest(tx: Tx, server: Server, guest: GuestSeen, number: int) -> None:
    """News only: so an administrator's "reset state" holds until something changes."""
    if _is_news(server, guest) and not store.record_seen(
        tx,
        server,
        number,
        state=guest.state,
        boot=guest.boot_number,
        trouble=guest.trouble,
    ):
        return
    if guest.state is GuestState.CRASHED and server.seen_state is not GuestState.CRASHED:
        _note_crash(tx, server, guest)
    seen = Seen(
        state=guest.state,
        boot=guest.boot_number,
        wanted_boot=server.boot_number,
        power=server.power,
        trouble=guest.trouble,
    )
    event = event_of(seen)
    if event is not None:
        _live(tx, server, guest, event)


def _live(tx: Tx, server: Server, guest: GuestSeen, event: str) -> None:
    """Let `event` happen to the server, once."""
    if event == "failed":
        assert guest.trouble is not None, "only trouble makes a failure"
        message = guest.trouble.message
        if server.state is ServerState.ERROR and server.fault and server.fault.message == message:
            return
        fault = Fault(message=message, created_at=tx.now, details=guest.trouble.because)
        store.move(tx, server, event, fault=fault)
        store_actions.finish_actions(tx, server.id, "Error", details=message)
        return
    values: dict[str, object] = {"fault": None}
    if event == "running" and server.launched_at is None:
        values["launched_at"] = tx.now
    store.move(tx, server, event, **values)
    store_actions.finish_actions(tx, server.id, "Success", names=POWER_ACTIONS)
    if event == "stopped" and server.power is Power.RUNNING and store.record_ended(tx, server):
        assert server.node_id is not None, "its host has just reported it"
        fleet.touch(tx, server.node_id)
        _note(tx, server, "stop", "guest_shut_itself_down", "The guest shut itself down.")


def _note_crash(tx: Tx, server: Server, guest: GuestSeen) -> None:
    why = guest.trouble.message if guest.trouble else "The guest's process ended unexpectedly."
    _note(tx, server, "crash", "guest_crashed", f"{why} Its host boots it again.")


def _note(tx: Tx, server: Server, action: str, event: str, message: str) -> None:
    """File what nobody asked for."""
    store_actions.add_action(
        tx,
        server_id=server.id,
        project_id=server.project_id,
        user_id=server.user_id,
        request_id=f"req-{tx.new_id()}",
        action=action,
        event=event,
        node_id=server.node_id,
        message=message,
        finished_at=tx.now,
        result="Success",
    )


# --- its disks and nics ------------------------------------------------------------------------------


def _take_disk(tx: Tx, power: Power, disk: Disk, guest: GuestSeen, spec_number: int) -> None:
    is_there = disk.volume_id in guest.disks
    is_known = disk.want_number <= spec_number
    if disk.is_wanted and not disk.is_plugged:
        # A stopped server has its disk as soon as its host knows of it: the next boot plugs it.
        is_down = guest.state in (GuestState.STOPPED, GuestState.ENDED)
        if is_there or (is_down and is_known and power is Power.STOPPED):
            plugs.disk_is_in(tx, disk)
    elif not disk.is_wanted and not is_there and is_known:
        plugs.disk_is_out(tx, disk)


def _take_nic(tx: Tx, nic: Nic, guest: GuestSeen, present: set[PortId], spec_number: int) -> None:
    if not nic.is_wanted and nic.port_id not in guest.nics and nic.want_number <= spec_number:
        plugs.nic_is_out(tx, nic)
