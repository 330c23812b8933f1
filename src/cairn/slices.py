"""The list of slices: the only module that knows them all.

Here a host's whole spec is put together out of what each slice wants there, and a host's report is shown
to each slice in turn.
"""

from collections.abc import Callable, Mapping

from msgspec import Struct

from cairn.compute import quota as compute_quota
from cairn.compute import records as compute_records
from cairn.compute import service as compute
from cairn.core.ids import ImageId, NodeId, ProjectId
from cairn.core.limits import Limits
from cairn.db.engine import Tx
from cairn.fleet import loss, southbound
from cairn.fleet import service as fleet
from cairn.image import records as image_records
from cairn.image import service as image
from cairn.network import records as network_records
from cairn.network import service as network
from cairn.network.service import quotas as network_quotas
from cairn.volume import quota as volume_quota
from cairn.volume import records as volume_records
from cairn.volume import service as volume
from cairn.wire.report import NodeReport
from cairn.wire.spec import ImageSpec, NodeSpec, VolumeSpec


class Counted(Struct, frozen=True, kw_only=True):
    """A slice's limits, and how much of them a project uses: of those that count over a whole project."""

    limits: Limits
    used: Callable[[Tx, ProjectId], Mapping[str, int]]


COUNTED = (
    Counted(limits=compute_records.LIMITS, used=compute_quota.used),
    Counted(limits=volume_records.LIMITS, used=volume_quota.used),
    Counted(limits=network_records.LIMITS, used=network_quotas.counts),
    Counted(limits=image_records.LIMITS, used=image.used),
)
"""The limits of all slices: the one place that has them all."""


def compile_spec(tx: Tx, node_id: NodeId) -> NodeSpec:
    """All that should be on a host, sorted by id, so that equal wishes are equal specs."""
    node = fleet.node(tx, node_id)
    servers = compute.wanted_on(tx, node_id)
    volumes = [*servers.disks, *volume.volumes_of(tx, node_id)]
    if node.facts is None or not node.facts.has_shared_pool:
        volumes = [
            v for v in volumes if not v.is_doomed
        ]  # A pool of its own loses what is not named.
    machines, doors = loss.wishes_for(tx, node) if node.is_fencer else ((), ())
    ports = [*network.ports_of(tx, node_id), *network.ports_of_servers(tx, servers.arriving)]
    return NodeSpec(
        node_id=node_id,
        number=node.spec_number,
        guests=tuple(sorted(servers.guests, key=lambda g: g.id)),
        volumes=tuple(sorted(volumes, key=lambda v: v.id)),
        images=_images(tx, volumes, (*node.images, *node.wanted_images)),
        ports=tuple(sorted(ports, key=lambda p: p.id)),
        metadata_networks=network.metadata_networks_of(tx, node_id) if ports else (),
        zone=network.zone_of(tx, node.zone) if "network" in node.roles else None,
        southbound=southbound.southbound_of(tx, node),
        machines=machines,
        doors=doors,
    )


def take_report(tx: Tx, report: NodeReport) -> None:
    """Believe a report, unless it is old news; storage and ports first, since guests wait for them."""
    if fleet.take_report(tx, report):
        volume.take_report(tx, report)
        network.take_report(tx, report)
        compute.take_report(tx, report)


def _images(tx: Tx, volumes: list[VolumeSpec], held: tuple[ImageId, ...]) -> tuple[ImageSpec, ...]:
    """What disks are made from, and what the host holds already: the next disk of it costs nothing."""
    wanted = {v.from_image for v in volumes if v.from_image is not None} | set(held)
    specs = (image.spec_of(tx, image_id) for image_id in sorted(wanted))
    return tuple(spec for spec in specs if spec is not None)
