"""What must never be, whatever the weather; and what must be once it has settled.

Each check looks at the hosts' engines and the control plane's rows directly, past all reports.
"""

from collections import Counter
from collections.abc import Iterator

from cairn.compute import service as compute
from cairn.compute import store_migrations
from cairn.core.ids import ServerId, VolumeId
from cairn.placement import service as placement
from cairn.sim.node import SimNode
from cairn.sim.world import Check, World


def one_guest_per_server(world: World) -> list[str]:
    """No server runs twice, on one host or on two. What runs on a host that is shut out of the shared
    pool is a shadow: it can write nothing, and goes when the host is back."""
    running = Counter(
        guest.id
        for node in world.nodes
        for guest in node.hypervisor.guests.values()
        if guest.running and not is_shut_out(world, node)
    )
    return [f"server {s} runs {n} times" for s, n in running.items() if n > 1]


def one_writer_per_volume(world: World) -> list[str]:
    """No disk is plugged into two running guests."""
    writers = Counter(
        ("" if world.pool is not None else node.id, volume_id)
        for node in world.nodes
        for guest in node.hypervisor.guests.values()
        if guest.running and not is_shut_out(world, node)
        for volume_id in guest.disks
    )
    return [f"volume {v} has {n} writers" for (_, v), n in writers.items() if n > 1]


def is_shut_out(world: World, node: SimNode) -> bool:
    return world.pool is not None and node.id in world.pool.shut_out


def no_engine_was_misused(world: World) -> list[str]:
    """No agent asked its engine for what must not be."""
    return [f"{n.id}: {v}" for n in world.nodes for v in n.hypervisor.violations]


def claims_are_the_placed_servers(world: World) -> list[str]:
    """Capacity is taken for exactly the servers that have a host, and for those on their way to one."""
    placed: set[str] = world.database.read_now(lambda tx: set(compute.placed_servers(tx)))
    placed |= world.database.read_now(store_migrations.claimants)
    claimed = world.database.read_now(lambda tx: set(placement.claimants(tx)))
    return [
        *(f"server {s} is placed without a claim" for s in sorted(placed - claimed)),
        *(f"claim of {s}, which has no host" for s in sorted(claimed - placed)),
    ]


ALWAYS: tuple[Check, ...] = (
    one_guest_per_server,
    one_writer_per_volume,
    no_engine_was_misused,
    claims_are_the_placed_servers,
)


def nothing_is_left_over(world: World) -> Iterator[str]:
    """Hosts hold what the rows say and no more: guests, disks, ports."""
    servers = world.database.read_now(lambda tx: set(compute.placed_servers(tx)))
    wanted: set[VolumeId] = set()
    for node in world.nodes:
        want = node.agent.want if node.agent is not None else None
        disks: set[VolumeId] = {v.id for v in want.volumes} if want else set()
        for guest_id in node.hypervisor.guests:
            if guest_id not in servers:
                yield f"{node.id} holds guest {guest_id}, which is no server's"
        wanted |= disks
        if world.pool is None:
            for volume_id in node.volumes.volumes:
                if volume_id not in disks:
                    yield f"{node.id} holds disk {volume_id}, which nobody wants"
    if world.pool is not None:
        for volume_id in world.pool.volumes.keys() - wanted:
            yield f"the shared pool holds disk {volume_id}, which nobody wants"


def running(world: World, server_id: ServerId) -> bool:
    return any(
        guest.id == server_id and guest.running
        for node in world.nodes
        for guest in node.hypervisor.guests.values()
    )
