"""Hosts and servers by the ten thousand, straight into the tables: what a cloud of that size holds already.

The rows are those that the slices' own verbs leave when a server was created, placed and reported; a test
holds them against each other. Through the API it would take the better part of an hour.
"""

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec

from cairn import slices
from cairn.compute import store as compute
from cairn.compute.records import Flavor, Server, ServerState
from cairn.core.ids import FlavorId, ImageId, NodeId, ProjectId, ServerId, UserId
from cairn.db.engine import Database, Tx
from cairn.fleet import service as fleet
from cairn.fleet import store as fleet_store
from cairn.fleet.records import DEFAULT_ZONE
from cairn.placement import store as placement
from cairn.placement.records import Amounts
from cairn.wire.report import GuestState, HostFacts
from cairn.wire.spec import NodeSpec, Power

CHUNK = 2000  # rows a transaction
PROJECTS = 100  # that the servers belong to


def enrol_hosts(
    database: Database,
    node_ids: Sequence[NodeId],
    *,
    network_nodes: Sequence[NodeId],
    key_digest: str,
    tell: Callable[[str], None],
) -> None:
    """As members that have never been heard of."""
    holders = set(network_nodes)

    def enrol(tx: Tx, chunk: Sequence[tuple[int, NodeId]]) -> None:
        rows = [
            {
                "id": node_id,
                "hostname": f"host-{number}",
                "zone": DEFAULT_ZONE,
                "roles": _roles(node_id in holders),
                "has_network_role": node_id in holders,
                "state": "joining",
                "state_since": tx.now,
                "key_digest": key_digest,
            }
            for number, node_id in chunk
        ]
        tx.execute(fleet_store.nodes.insert(), rows)

    for chunk in _chunks(list(enumerate(node_ids))):
        database.write_now(lambda tx, chunk=chunk: enrol(tx, chunk))  # type: ignore[misc]
        tell(f"{chunk[-1][0] + 1:,} of {len(node_ids):,} hosts")


def _roles(network: bool) -> tuple[str, ...]:
    return ("compute", "network", "storage") if network else ("compute", "storage")


def add_servers(
    database: Database,
    node_ids: Sequence[NodeId],
    count: int,
    *,
    seed: int,
    flavor: Flavor,
    image_id: ImageId,
    tell: Callable[[str], None],
) -> None:
    """Running servers without network, evenly on the hosts, in many projects."""
    dice = random.Random(f"servers {seed}")  # noqa: S311 - reproducible on purpose
    projects = [ProjectId(uuid.UUID(bytes=dice.randbytes(16)).hex) for _ in range(PROJECTS)]
    ids = [ServerId(str(uuid.UUID(bytes=dice.randbytes(16), version=4))) for _ in range(count)]

    def add(tx: Tx, chunk: Sequence[tuple[int, ServerId]]) -> None:
        made = [
            _server(
                server_id,
                number=number,
                project_id=projects[number % PROJECTS],
                node_id=node_ids[number % len(node_ids)],
                flavor=flavor,
                image_id=image_id,
                now=tx.now,
            )
            for number, server_id in chunk
        ]
        tx.execute(compute.servers.insert(), [_row(server) for server in made])
        tx.execute(placement.claims.insert(), [_claim(server, tx.now) for server in made])

    for chunk in _chunks(list(enumerate(ids))):
        database.write_now(lambda tx, chunk=chunk: add(tx, chunk))  # type: ignore[misc]
        tell(f"{chunk[-1][0] + 1:,} of {count:,} servers")
    each = Amounts(vcpus=flavor.vcpus, memory_mib=flavor.memory_mib, disk_gib=flavor.disk_gib)
    database.write_now(lambda tx: _sum_up(tx, node_ids, count, each))


def bring_up(database: Database, node_ids: Sequence[NodeId], facts: HostFacts) -> None:
    """As if each of these hosts had connected and reported: for benchmarks without agents."""
    nodes = fleet_store.nodes

    def change(tx: Tx) -> None:
        for number, node_id in enumerate(node_ids):
            own = msgspec.structs.replace(facts, hostname=f"host-{number}")
            tx.execute(nodes.update().where(nodes.c.id == node_id).values(state="up", facts=own))

    database.write_now(change)


def add_waiting(
    database: Database, count: int, *, seed: int, flavor: Flavor, image_id: ImageId
) -> list[ServerId]:
    """Servers that were just asked for and have no host yet."""
    dice = random.Random(f"waiting {seed}")  # noqa: S311 - reproducible on purpose
    project_id = ProjectId(uuid.UUID(bytes=dice.randbytes(16)).hex)
    ids = [ServerId(str(uuid.UUID(bytes=dice.randbytes(16), version=4))) for _ in range(count)]

    def add(tx: Tx, chunk: Sequence[tuple[int, ServerId]]) -> None:
        rows = []
        for number, server_id in chunk:
            placed = _server(
                server_id,
                number=number,
                project_id=project_id,
                node_id=NodeId(""),
                flavor=flavor,
                image_id=image_id,
                now=tx.now,
            )
            waiting = msgspec.structs.replace(
                placed,
                node_id=None,
                zone=None,
                incarnation=0,
                state=ServerState.BUILDING,
                launched_at=None,
                seen_state=None,
                seen_boot=0,
                seen_number=0,
            )
            rows.append(_row(waiting))
        tx.execute(compute.servers.insert(), rows)

    for chunk in _chunks(list(enumerate(ids))):
        database.write_now(lambda tx, chunk=chunk: add(tx, chunk))  # type: ignore[misc]
    return ids


def _sum_up(tx: Tx, node_ids: Sequence[NodeId], count: int, each: Amounts) -> None:
    rows = []
    for number, node_id in enumerate(node_ids):
        held = count // len(node_ids) + (number < count % len(node_ids))
        rows.append(
            {
                "node_id": node_id,
                "vcpus": held * each.vcpus,
                "memory_mib": held * each.memory_mib,
                "disk_gib": held * each.disk_gib,
            }
        )
    for chunk in _chunks(rows):
        tx.execute(placement.sums.insert(), list(chunk))


def specs(
    database: Database, node_ids: Sequence[NodeId], *, tell: Callable[[str], None]
) -> Iterator[NodeSpec]:
    """What each host should be now, as the control plane would tell it."""
    for chunk in _chunks(list(enumerate(node_ids))):
        yield from database.read_now(
            lambda tx, chunk=chunk: [slices.compile_spec(tx, n) for _, n in chunk]  # type: ignore[misc]
        )
        tell(f"{chunk[-1][0] + 1:,} of {len(node_ids):,} hosts' specs")


def capacity_of(tx: Tx) -> list[str]:
    """Hosts whose claims pass what they have, a line each; () is as it must be."""
    from cairn.placement import service

    rooms = service.rooms(tx, fleet.nodes(tx))
    return [
        f"host {room.node_id} has {room.capacity} and promised {room.taken}"
        for room in rooms.values()
        if room.taken.vcpus > room.capacity.vcpus
        or room.taken.memory_mib > room.capacity.memory_mib
        or room.taken.disk_gib > room.capacity.disk_gib
    ]


def _chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def _server(
    server_id: ServerId,
    *,
    number: int,
    project_id: ProjectId,
    node_id: NodeId,
    flavor: Flavor,
    image_id: ImageId,
    now: datetime,
) -> Server:
    return Server(
        id=server_id,
        project_id=project_id,
        user_id=UserId(project_id),
        name=f"filled-{number}",
        description=None,
        hostname=f"filled-{number}",
        created_at=now,
        updated_at=now,
        flavor=flavor,
        image_id=image_id,
        root_gib=flavor.disk_gib,
        key_name=None,
        public_key=None,
        admin_password=None,
        user_data=None,
        has_config_drive=False,
        metadata={},
        tags=(),
        groups=(),
        zone_wish=None,
        disk_config="MANUAL",
        access_ipv4="",
        access_ipv6="",
        reservation_id=f"r-{number:08d}",
        launch_index=0,
        is_locked=False,
        locked_reason=None,
        power=Power.RUNNING,
        boot_number=1,
        is_soft_reboot=False,
        stop_grace_s=60,
        is_doomed=False,
        gone_number=None,
        node_id=node_id,
        zone=DEFAULT_ZONE,
        incarnation=1,
        state=ServerState.ACTIVE,
        fault=None,
        launched_at=now,
        seen_state=GuestState.RUNNING,
        seen_boot=1,
        seen_number=1,
        trouble=None,
    )


def _row(server: Server) -> dict[str, Any]:
    values = {c.name: getattr(server, c.name) for c in compute.SERVER_COLUMNS}
    of_flavor = {
        "flavor_id": FlavorId(server.flavor.id),
        "vcpus": server.flavor.vcpus,
        "memory_mib": server.flavor.memory_mib,
    }
    return values | of_flavor


def _claim(server: Server, now: datetime) -> dict[str, Any]:
    return {
        "consumer_id": server.id,
        "node_id": server.node_id,
        "vcpus": server.need.vcpus,
        "memory_mib": server.need.memory_mib,
        "disk_gib": server.need.disk_gib,
        "made_at": now,
    }
