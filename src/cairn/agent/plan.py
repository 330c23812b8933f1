"""From what should be and what is to the next steps. Pure: no clock, no I/O, the same in for the same out.

A step is given only when all it needs is there already, so the order network, volumes, guests follows
from looking and not from a script, and is the same at the first start, after a crash and after a reboot
of the host. `waiting_for` says what a guest still lacks.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

from cairn.agent.look import View
from cairn.core.ids import ImageId, NetworkId, PortId, ServerId, SnapshotId, VolumeId
from cairn.drivers.contracts import GuestView
from cairn.wire.spec import (
    DoorSpec,
    GuestSpec,
    ImageSpec,
    MachineSpec,
    MetadataNetworkSpec,
    NodeSpec,
    Outgoing,
    PortSpec,
    Power,
    VolumeSpec,
    ZoneSpec,
)


class Step(Struct, frozen=True, kw_only=True):
    """One effect on one resource. `key` names the resource: its steps never overlap."""

    @property
    def key(self) -> str:
        raise NotImplementedError


SOUTHBOUND = "southbound"  # the key of `JoinZone`


class ApplyZone(Step, frozen=True, kw_only=True):
    zone: ZoneSpec
    spec_number: int

    @property
    def key(self) -> str:
        return "zone"


class JoinZone(Step, frozen=True, kw_only=True):
    """Follow the zone's network database on another host, or our own again."""

    southbound: tuple[str, ...]

    @property
    def key(self) -> str:
        return SOUTHBOUND


class ImportImage(Step, frozen=True, kw_only=True):
    image: ImageSpec

    @property
    def key(self) -> str:
        return f"image:{self.image.id}"


class RemoveImage(Step, frozen=True, kw_only=True):
    image_id: ImageId

    @property
    def key(self) -> str:
        return f"image:{self.image_id}"


class VolumeStep(Step, frozen=True, kw_only=True):
    volume_id: VolumeId

    @property
    def key(self) -> str:
        return f"volume:{self.volume_id}"


class CreateVolume(VolumeStep, frozen=True, kw_only=True):
    spec: VolumeSpec


class ExtendVolume(VolumeStep, frozen=True, kw_only=True):
    size_gib: int
    used_by: ServerId | None  # the running guest that has it open


class TakeSnapshot(VolumeStep, frozen=True, kw_only=True):
    snapshot_id: SnapshotId
    used_by: ServerId | None


class RemoveSnapshot(VolumeStep, frozen=True, kw_only=True):
    snapshot_id: SnapshotId


class RemoveVolume(VolumeStep, frozen=True, kw_only=True):
    pass


class PortStep(Step, frozen=True, kw_only=True):
    port_id: PortId

    @property
    def key(self) -> str:
        return f"port:{self.port_id}"


class Plug(PortStep, frozen=True, kw_only=True):
    port: PortSpec


class Unplug(PortStep, frozen=True, kw_only=True):
    pass


class MetadataStep(Step, frozen=True, kw_only=True):
    network_id: NetworkId

    @property
    def key(self) -> str:
        return f"metadata:{self.network_id}"


class OpenMetadata(MetadataStep, frozen=True, kw_only=True):
    network: MetadataNetworkSpec


class CloseMetadata(MetadataStep, frozen=True, kw_only=True):
    pass


class GuestStep(Step, frozen=True, kw_only=True):
    guest_id: ServerId

    @property
    def key(self) -> str:
        return f"guest:{self.guest_id}"


class Boot(GuestStep, frozen=True, kw_only=True):
    spec: GuestSpec
    ports: tuple[PortSpec, ...]  # in the order of the spec's nics


class ShutDown(GuestStep, frozen=True, kw_only=True):
    pass


class CutOff(GuestStep, frozen=True, kw_only=True):
    pass


class RemoveGuest(GuestStep, frozen=True, kw_only=True):
    pass


class ReceiveGuest(GuestStep, frozen=True, kw_only=True):
    """Wait for it to come from another host."""

    spec: GuestSpec
    ports: tuple[PortSpec, ...]


class SendGuest(GuestStep, frozen=True, kw_only=True):
    spec: GuestSpec


class CancelSend(GuestStep, frozen=True, kw_only=True):
    pass


class PlugDisk(GuestStep, frozen=True, kw_only=True):
    spec: GuestSpec
    volume_id: VolumeId


class UnplugDisk(GuestStep, frozen=True, kw_only=True):
    volume_id: VolumeId


class PlugNic(GuestStep, frozen=True, kw_only=True):
    spec: GuestSpec
    port: PortSpec


class UnplugNic(GuestStep, frozen=True, kw_only=True):
    port_id: PortId


class TurnPower(Step, frozen=True, kw_only=True):
    """Give or cut another host's power."""

    machine: MachineSpec

    @property
    def key(self) -> str:
        return f"power:{self.machine.node_id}"


class TurnDoor(Step, frozen=True, kw_only=True):
    """Shut another host out of the shared pool, or let it in."""

    door: DoorSpec

    @property
    def key(self) -> str:
        return f"door:{self.door.node_id}"


Stopping = Mapping[ServerId, float]
"""For how many seconds each guest that was asked to shut down has been thinking about it."""


def plan(
    want: NodeSpec, have: View, *, applied_zone: ZoneSpec | None, stopping_s: Stopping
) -> list[Step]:
    """The next steps, at most one for each resource; [] when nothing is left to do."""
    return [
        *_zone(want, applied_zone),
        *_join(want, have),
        *_guests(want, have, stopping_s),  # Ends before beginnings: memory is freed first.
        *_ports(want, have),
        *_metadata(want, have),
        *_images(want, have),
        *_volumes(want, have),
        *_other_hosts(want, have),
    ]


def waiting_for(guest: GuestSpec, want: NodeSpec, have: View) -> str | None:
    """What a guest lacks before it can boot, in words for its owner; None when all is there."""
    for disk in guest.disks:
        if disk.volume_id not in have.volumes:
            source = next((v.from_image for v in want.volumes if v.id == disk.volume_id), None)
            if source is not None and source not in have.images:
                return f"image {source} to be brought to the host"
            return f"volume {disk.volume_id} to be made"
    if guest.nics and must_join(want, have):
        return "the zone's network database"
    described = {p.id for p in want.ports}
    for nic in guest.nics:
        if nic.port_id not in described or nic.port_id not in have.ports:
            return f"port {nic.port_id} to be plugged"
    if guest.needs_confirmation and not have.is_confirmed:
        return "the control plane to confirm that it still belongs here"
    return None


def _zone(want: NodeSpec, applied: ZoneSpec | None) -> Iterator[Step]:
    if want.zone is not None and want.zone != applied:
        yield ApplyZone(zone=want.zone, spec_number=want.number)


def must_join(want: NodeSpec, have: View) -> bool:
    """Whether ports must wait for the zone. That no database is known any more is no reason to leave it."""
    is_known = bool(want.southbound) or want.zone is not None
    return is_known and want.southbound != have.southbound


def _join(want: NodeSpec, have: View) -> Iterator[Step]:
    if must_join(want, have):
        yield JoinZone(southbound=want.southbound)


def _guests(want: NodeSpec, have: View, stopping_s: Stopping) -> Iterator[Step]:
    wanted = {g.id: g for g in want.guests}
    for guest_id, view in sorted(have.guests.items()):
        spec = wanted.get(guest_id)
        if spec is None or view.incarnation < spec.incarnation:
            yield RemoveGuest(guest_id=guest_id)
        elif spec.incoming is not None or view.reception is not None:
            yield from _awaited(spec, view, want, have)
        elif view.sending is not None and view.sending.done:
            continue  # It runs elsewhere, whatever this host was told last.
        elif spec.outgoing is not None:
            yield from _leaving(spec, spec.outgoing, view, have, stopping_s)
        elif view.running and is_under_way(view):
            yield CancelSend(guest_id=guest_id)
        else:
            yield from _present(spec, view, want, have, stopping_s)
    for guest in want.guests:
        if guest.id in have.guests:
            continue
        if guest.incoming is not None:
            yield from _receive(guest, want, have)
        elif guest.outgoing is not None:
            yield from _send(guest, guest.outgoing, have)
        elif guest.power is Power.RUNNING:
            yield from _boot(guest, want, have)


def is_under_way(view: GuestView) -> bool:
    """Whether the guest is being sent, as far as this host can know."""
    sending = view.sending
    return sending is not None and not sending.done and not sending.trouble


def _awaited(spec: GuestSpec, view: GuestView, want: NodeSpec, have: View) -> Iterator[Step]:
    """A guest that is received here, or was. Only when the move is over may it boot from its disks."""
    waits, incoming = view.reception, spec.incoming
    if incoming is None:
        # It is this host's now. What has not come by itself is made anew from the disks, which are whole.
        if waits is not None and (waits.trouble or spec.power is Power.STOPPED):
            yield RemoveGuest(guest_id=spec.id)
    elif waits is not None and waits.migration_id != incoming.migration_id:
        yield RemoveGuest(guest_id=spec.id)


def _leaving(
    spec: GuestSpec, outgoing: Outgoing, view: GuestView, have: View, stopping_s: Stopping
) -> Iterator[Step]:
    """A guest that is to leave. It is not booted meanwhile: it may run there already."""
    sent = view.sending
    is_begun = sent is not None and sent.migration_id == outgoing.migration_id
    if outgoing.is_cancelled:
        if is_under_way(view) and not view.crashed and not view.ended:
            yield CancelSend(guest_id=spec.id)
    elif view.running and spec.power is Power.STOPPED:
        yield from _end(spec, view, stopping_s, grace_s=spec.stop_grace_s)
    elif not is_begun and (view.running or spec.power is Power.STOPPED):
        yield from _send(spec, outgoing, have)


def _send(spec: GuestSpec, outgoing: Outgoing, have: View) -> Iterator[Step]:
    are_there = all(disk.volume_id in have.volumes for disk in spec.disks)
    if not outgoing.is_cancelled and are_there:
        yield SendGuest(guest_id=spec.id, spec=spec)


def _receive(guest: GuestSpec, want: NodeSpec, have: View) -> Iterator[Step]:
    if waiting_for(guest, want, have) is None:
        described = {p.id: p for p in want.ports}
        ports = tuple(described[n.port_id] for n in guest.nics)
        yield ReceiveGuest(guest_id=guest.id, spec=guest, ports=ports)


def _present(
    spec: GuestSpec, view: GuestView, want: NodeSpec, have: View, stopping_s: Stopping
) -> Iterator[Step]:
    """The next step of a guest that this host knows."""
    is_current = view.boot_number >= spec.boot_number
    if view.running and spec.power is Power.STOPPED:
        yield from _end(spec, view, stopping_s, grace_s=spec.stop_grace_s)
    elif view.running and not is_current:
        grace_s = spec.stop_grace_s if spec.soft_reboot else 0
        yield from _end(spec, view, stopping_s, grace_s=grace_s)
    elif view.running and not view.stopping:
        yield from _hardware(spec, view, want, have)
    elif not view.running and spec.power is Power.RUNNING and (view.crashed or not is_current):
        # A guest that shut itself down is reported, not booted again: that is its owner's wish.
        yield from _boot(spec, want, have)


def _boot(guest: GuestSpec, want: NodeSpec, have: View) -> Iterator[Step]:
    if waiting_for(guest, want, have) is None:
        described = {p.id: p for p in want.ports}
        ports = tuple(described[n.port_id] for n in guest.nics)
        yield Boot(guest_id=guest.id, spec=guest, ports=ports)


def _end(spec: GuestSpec, view: GuestView, stopping_s: Stopping, *, grace_s: int) -> Iterator[Step]:
    """First ask, then cut off."""
    if grace_s <= 0 or stopping_s.get(spec.id, 0.0) >= grace_s:
        yield CutOff(guest_id=spec.id)
    elif not view.stopping:
        yield ShutDown(guest_id=spec.id)


def _hardware(spec: GuestSpec, view: GuestView, want: NodeSpec, have: View) -> Iterator[Step]:
    """One difference in disks or NICs of a running guest at a time."""
    wanted_disks = [d.volume_id for d in spec.disks]
    wanted_nics = [n.port_id for n in spec.nics]
    described = {p.id: p for p in want.ports}
    for volume_id in view.disks:
        if volume_id not in wanted_disks:
            yield UnplugDisk(guest_id=spec.id, volume_id=volume_id)
            return
    for port_id in view.nics:
        if port_id not in wanted_nics:
            yield UnplugNic(guest_id=spec.id, port_id=port_id)
            return
    for volume_id in wanted_disks:
        if volume_id not in view.disks and volume_id in have.volumes:
            yield PlugDisk(guest_id=spec.id, spec=spec, volume_id=volume_id)
            return
    for port_id in wanted_nics:
        if port_id not in view.nics and port_id in have.ports and port_id in described:
            yield PlugNic(guest_id=spec.id, spec=spec, port=described[port_id])
            return


def _ports(want: NodeSpec, have: View) -> Iterator[Step]:
    in_use = {port_id for g in have.guests.values() if _holds(g) for port_id in g.nics}
    wanted = {p.id for p in want.ports}
    for port_id in sorted(have.ports.keys() - wanted - in_use):
        yield Unplug(port_id=port_id)
    for port in want.ports:
        if port.id not in have.ports and not must_join(want, have):
            yield Plug(port_id=port.id, port=port)


def _metadata(want: NodeSpec, have: View) -> Iterator[Step]:
    wanted = {n.network_id for n in want.metadata_networks}
    for network_id in sorted((have.metadata_networks | have.unanswered_metadata) - wanted):
        yield CloseMetadata(network_id=network_id)
    for network in want.metadata_networks:
        if network.network_id not in have.metadata_networks:
            yield OpenMetadata(network_id=network.network_id, network=network)


def _images(want: NodeSpec, have: View) -> Iterator[Step]:
    if not have.is_pool_shared:
        for image_id in sorted(have.images - {i.id for i in want.images}):
            yield RemoveImage(image_id=image_id)
    for image in want.images:
        if image.id not in have.images:
            yield ImportImage(image=image)


def _volumes(want: NodeSpec, have: View) -> Iterator[Step]:
    users = {volume_id: g.id for g in have.guests.values() if _holds(g) for volume_id in g.disks}
    snapshots = {s for v in have.volumes.values() for s in v.snapshots}
    doomed = {v.id for v in want.volumes if v.is_doomed}
    unwanted = have.volumes.keys() & doomed
    if not have.is_pool_shared:
        unwanted |= have.volumes.keys() - {v.id for v in want.volumes}
    for volume_id in sorted(unwanted):
        if volume_id not in users:
            yield RemoveVolume(volume_id=volume_id)
    for spec in want.volumes:
        if spec.is_doomed:
            continue
        if spec.is_received and spec.id in have.volumes:
            continue  # What is in it comes from elsewhere, its snapshots too.
        if spec.id in have.volumes:
            yield from _volume(spec, have, users.get(spec.id))
        elif _source_is_there(spec, have, snapshots):
            yield CreateVolume(volume_id=spec.id, spec=spec)


def _volume(spec: VolumeSpec, have: View, used_by: ServerId | None) -> Iterator[Step]:
    """The next step of a volume that is there."""
    view = have.volumes[spec.id]
    wanted = {s.id for s in spec.snapshots}
    for snapshot in spec.snapshots:
        if snapshot.id not in view.snapshots:
            yield TakeSnapshot(volume_id=spec.id, snapshot_id=snapshot.id, used_by=used_by)
            return
    for snapshot_id in view.snapshots:
        if snapshot_id not in wanted:
            yield RemoveSnapshot(volume_id=spec.id, snapshot_id=snapshot_id)
            return
    if view.size_gib < spec.size_gib:
        yield ExtendVolume(volume_id=spec.id, size_gib=spec.size_gib, used_by=used_by)


def _holds(view: GuestView) -> bool:
    """Whether a process has its disks and nics open."""
    return view.running or view.reception is not None or is_under_way(view)


def _source_is_there(spec: VolumeSpec, have: View, snapshots: set[SnapshotId]) -> bool:
    if spec.from_image is not None:
        return spec.from_image in have.images
    if spec.from_snapshot is not None:
        return spec.from_snapshot in snapshots
    if spec.from_volume is not None:
        return spec.from_volume in have.volumes
    return True


def _other_hosts(want: NodeSpec, have: View) -> Iterator[Step]:
    """Each wish about another host is done once: who switches its power on again has a reason."""
    if not have.is_told:
        return
    for machine in want.machines:
        if have.machines.get(machine.node_id, (-1,))[0] < machine.number:
            yield TurnPower(machine=machine)
    for door in want.doors:
        if have.doors.get(door.node_id, (-1,))[0] < door.number:
            yield TurnDoor(door=door)
