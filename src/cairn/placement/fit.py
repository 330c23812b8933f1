"""What fits where: arithmetic over rooms, and how far a process promises things twice."""

from cairn.placement.records import (
    MEMORY_RESERVED_MIB,
    Amounts,
    Ratios,
    Room,
)
from cairn.wire.report import HostFacts

_ratios = Ratios()


def promise(ratios: Ratios) -> None:
    """How far this process promises hosts' resources, from here on: an installation's setting."""
    global _ratios
    _ratios = ratios


def capacity_of(facts: HostFacts) -> Amounts:
    """What a host may promise: its facts, less the host's own share, times the ratios."""
    return Amounts(
        vcpus=int(facts.vcpus * _ratios.vcpus),
        memory_mib=int(max(0, facts.memory_mib - MEMORY_RESERVED_MIB) * _ratios.memory),
        disk_gib=int(facts.disk_gib * _ratios.disk),
    )


def lacks(room: Room, need: Amounts) -> str | None:
    """What a host lacks for `need`, in words for a user; None when it fits."""
    rows = (
        ("virtual CPUs", need.vcpus, room.capacity.vcpus - room.taken.vcpus),
        ("MiB of memory", need.memory_mib, room.capacity.memory_mib - room.taken.memory_mib),
        ("GiB of disk", need.disk_gib, room.capacity.disk_gib - room.taken.disk_gib),
    )
    found = [
        f"lacks {wanted} {what} ({max(free, 0)} free)"
        for what, wanted, free in rows
        if wanted > 0 and wanted > free
    ]
    return ", ".join(found) or None


def emptiness(room: Room) -> float:
    """How free a host is, 0 to 1 by its scarcest resource: spreading guests prefers the emptiest."""
    shares = [
        1 - taken / capacity
        for taken, capacity in (
            (room.taken.vcpus, room.capacity.vcpus),
            (room.taken.memory_mib, room.capacity.memory_mib),
            (room.taken.disk_gib, room.capacity.disk_gib),
        )
        if capacity > 0
    ]
    return min(shares, default=0.0)
