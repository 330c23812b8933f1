"""From what is wished and what is seen to what is told. Pure."""

from collections.abc import Callable, Collection

from msgspec import structs

from cairn.agent.look import View
from cairn.agent.plan import SOUTHBOUND, is_under_way, waiting_for
from cairn.drivers.contracts import GuestView
from cairn.wire.report import (
    DoorSeen,
    GuestSeen,
    GuestState,
    HealthSeen,
    HostFacts,
    ImageSeen,
    MachineSeen,
    MigrationSeen,
    NodeReport,
    PortSeen,
    Trouble,
    VolumeSeen,
    ZoneSeen,
)
from cairn.wire.spec import GuestSpec, NodeSpec, Power

TroubleOf = Callable[[str], Trouble | None]
"""By a step's key: "guest:<id>"."""


def report(
    want: NodeSpec,
    have: View,
    *,
    number: int,
    facts: HostFacts,
    trouble_of: TroubleOf,
    applied_zone_number: int,
    health: tuple[HealthSeen, ...] = (),
    looked_number: int | None = None,
    restless: Collection[str] = (),
) -> NodeReport:
    """All that this host saw, under the number of the wishes it knew when it looked: what was seen before
    is no answer to newer ones. `restless` are the keys of steps that were under way meanwhile."""
    wished = {(g.id, g.incarnation) for g in want.guests}
    return NodeReport(
        node_id=want.node_id,
        number=number,
        spec_number=want.number if looked_number is None else min(want.number, looked_number),
        facts=facts,
        guests=_guests(want, have, trouble_of, restless),
        volumes=_volumes(want, have, trouble_of),
        images=_images(want, have, trouble_of),
        ports=_ports(want, have, trouble_of),
        zone=(
            ZoneSeen(spec_number=applied_zone_number, trouble=trouble_of("zone"))
            if want.zone is not None
            else None
        ),
        engines=have.engines,
        health=health,
        machines=_machines(want, have, trouble_of),
        doors=_doors(want, have, trouble_of),
        is_clean=all((g.id, g.incarnation) in wished for g in have.guests.values()),
    )


def _guests(
    want: NodeSpec, have: View, trouble_of: TroubleOf, restless: Collection[str]
) -> tuple[GuestSeen, ...]:
    wanted = {g.id: g for g in want.guests}
    seen = []
    for view in have.guests.values():
        told = _present(view, wanted.get(view.id), trouble_of)
        moving = _moving(view, wanted.get(view.id), f"guest:{view.id}" in restless)
        seen.append(told if moving is None else structs.replace(told, migration=moving))
    for spec in want.guests:
        if spec.id not in have.guests:
            told = _absent(spec, want, have, trouble_of)
            moving = _moving(None, spec, f"guest:{spec.id}" in restless)
            seen.append(told if moving is None else structs.replace(told, migration=moving))
    return tuple(sorted(seen, key=lambda g: g.id))


def _present(view: GuestView, spec: GuestSpec | None, trouble_of: TroubleOf) -> GuestSeen:
    return GuestSeen(
        id=view.id,
        incarnation=view.incarnation,
        boot_number=view.boot_number,
        state=_state(view, spec),
        disks=view.disks if view.running else (),
        nics=view.nics if view.running else (),
        trouble=trouble_of(f"guest:{view.id}"),
    )


def _moving(
    view: GuestView | None, spec: GuestSpec | None, is_restless: bool
) -> MigrationSeen | None:
    """How far the guest is on its way here or away."""
    if view is not None and (waits := view.reception) is not None:
        return MigrationSeen(
            migration_id=waits.migration_id,
            memory_port=waits.memory_port,
            disks=waits.disks,
            trouble=Trouble(message=waits.trouble) if waits.trouble else None,
        )
    sent = view.sending if view is not None else None
    outgoing = spec.outgoing if spec is not None else None
    if outgoing is not None and (sent is None or sent.migration_id != outgoing.migration_id):
        if outgoing.is_cancelled and not is_restless:
            # It was stopped before it began, and will not begin.
            never = Trouble(message="It was not sent.")
            return MigrationSeen(migration_id=outgoing.migration_id, trouble=never)
        return None
    if sent is None:
        return None
    return MigrationSeen(
        migration_id=sent.migration_id,
        total_bytes=sent.total_bytes,
        left_bytes=sent.left_bytes,
        pause_ms=sent.pause_ms,
        trouble=Trouble(message=sent.trouble) if sent.trouble and not is_restless else None,
    )


def _state(view: GuestView, spec: GuestSpec | None) -> GuestState:
    if view.reception is not None:
        return GuestState.RECEIVING
    if view.sending is not None and view.sending.done:
        return GuestState.SENT
    if is_under_way(view) and not view.running and not view.crashed and not view.ended:
        # It stands still for the last moment before it runs there, unless it is off anyway.
        is_off = spec is None or spec.power is Power.STOPPED
        return GuestState.STOPPED if is_off else GuestState.RUNNING
    if view.running:
        return GuestState.STOPPING if view.stopping else GuestState.RUNNING
    if view.crashed:
        # Nobody boots it again where it should be off: that is all that was wished.
        is_off = spec is not None and spec.power is Power.STOPPED
        return GuestState.STOPPED if is_off else GuestState.CRASHED
    if spec is not None and spec.power is Power.RUNNING and view.boot_number < spec.boot_number:
        return GuestState.WAITING
    return GuestState.ENDED if view.ended else GuestState.STOPPED


def _absent(spec: GuestSpec, want: NodeSpec, have: View, trouble_of: TroubleOf) -> GuestSeen:
    """A guest that should be here and never was: why not, its own trouble or that of what it needs."""
    if spec.power is Power.STOPPED and spec.incoming is None:
        state, trouble = GuestState.STOPPED, None
    else:
        state, trouble = GuestState.WAITING, trouble_of(f"guest:{spec.id}")
        trouble = trouble or _trouble_of_needs(spec, want, have, trouble_of)
    return GuestSeen(
        id=spec.id, incarnation=spec.incarnation, boot_number=0, state=state, trouble=trouble
    )


def _trouble_of_needs(
    spec: GuestSpec, want: NodeSpec, have: View, trouble_of: TroubleOf
) -> Trouble | None:
    sources = {v.id: v.from_image for v in want.volumes}
    keys = [SOUTHBOUND] if spec.nics else []
    keys += [f"port:{n.port_id}" for n in spec.nics]
    for disk in spec.disks:
        keys.append(f"volume:{disk.volume_id}")
        if (source := sources.get(disk.volume_id)) is not None:
            keys.append(f"image:{source}")
    for key in keys:
        if (trouble := trouble_of(key)) is not None:
            waits = waiting_for(spec, want, have)
            return Trouble(
                message=f"Waits for {waits}: {trouble.message}" if waits else trouble.message,
                because=trouble.because,
                since=trouble.since,
                tries=trouble.tries,
            )
    return None


def _volumes(want: NodeSpec, have: View, trouble_of: TroubleOf) -> tuple[VolumeSeen, ...]:
    """On a shared pool only those that are this host's care."""
    wanted = {v.id for v in want.volumes}
    seen = [
        VolumeSeen(
            id=view.id,
            size_gib=view.size_gib,
            ready=True,
            used_bytes=view.used_bytes,
            snapshots=view.snapshots,
            trouble=trouble_of(f"volume:{view.id}"),
        )
        for view in have.volumes.values()
        if not have.is_pool_shared or view.id in wanted
    ]
    for spec in want.volumes:
        if spec.id not in have.volumes and not spec.is_doomed:
            trouble = trouble_of(f"volume:{spec.id}")
            if trouble is None and spec.from_image is not None:
                trouble = trouble_of(f"image:{spec.from_image}")
            seen.append(VolumeSeen(id=spec.id, size_gib=0, ready=False, trouble=trouble))
    return tuple(sorted(seen, key=lambda v: v.id))


def _images(want: NodeSpec, have: View, trouble_of: TroubleOf) -> tuple[ImageSeen, ...]:
    return tuple(
        ImageSeen(id=i.id, ready=i.id in have.images, trouble=trouble_of(f"image:{i.id}"))
        for i in sorted(want.images, key=lambda i: i.id)
    )


def _ports(want: NodeSpec, have: View, trouble_of: TroubleOf) -> tuple[PortSeen, ...]:
    zone_trouble = trouble_of(SOUTHBOUND)
    return tuple(
        PortSeen(
            id=p.id,
            up=p.id in have.ports and have.ports[p.id].up,
            trouble=trouble_of(f"port:{p.id}") or (None if p.id in have.ports else zone_trouble),
        )
        for p in sorted(want.ports, key=lambda p: p.id)
    )


def _machines(want: NodeSpec, have: View, trouble_of: TroubleOf) -> tuple[MachineSeen, ...]:
    """Until a wish is done, the opposite of it is told."""
    seen = []
    for machine in want.machines:
        number, is_on = have.machines.get(machine.node_id, (-1, True))
        seen.append(
            MachineSeen(
                node_id=machine.node_id,
                number=machine.number,
                is_on=is_on if number == machine.number else not machine.on,
                trouble=trouble_of(f"power:{machine.node_id}"),
            )
        )
    return tuple(seen)


def _doors(want: NodeSpec, have: View, trouble_of: TroubleOf) -> tuple[DoorSeen, ...]:
    seen = []
    for door in want.doors:
        number, is_open = have.doors.get(door.node_id, (-1, True))
        seen.append(
            DoorSeen(
                node_id=door.node_id,
                number=door.number,
                is_open=is_open if number == door.number else not door.is_open,
                trouble=trouble_of(f"door:{door.node_id}"),
            )
        )
    return tuple(seen)
