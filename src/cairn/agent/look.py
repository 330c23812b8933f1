"""What is on this host now: every driver asked once, the answers in one record."""

from collections.abc import Mapping

from msgspec import Struct

from cairn.core.ids import ImageId, NetworkId, PortId, ServerId, VolumeId
from cairn.drivers.contracts import (
    GuestView,
    Hypervisor,
    Networks,
    PortView,
    Volumes,
    VolumeView,
)
from cairn.wire.report import EngineSeen


class Drivers(Struct, frozen=True, kw_only=True):
    """The engines of one host."""

    hypervisor: Hypervisor
    volumes: Volumes
    networks: Networks


class View(Struct, frozen=True, kw_only=True):
    """One look."""

    guests: Mapping[ServerId, GuestView] = {}
    volumes: Mapping[VolumeId, VolumeView] = {}
    images: frozenset[ImageId] = frozenset()
    ports: Mapping[PortId, PortView] = {}
    metadata_networks: frozenset[NetworkId] = frozenset()
    engines: tuple[EngineSeen, ...] = ()


async def look(drivers: Drivers, served_metadata: frozenset[NetworkId]) -> View:
    """Ask every driver. A network's metadata counts when its door is open and somebody answers it."""
    volumes, images = await drivers.volumes.look()
    networks = await drivers.networks.look()
    return View(
        guests={g.id: g for g in await drivers.hypervisor.look()},
        volumes={v.id: v for v in volumes},
        images=frozenset(images),
        ports={p.id: p for p in networks.ports},
        metadata_networks=served_metadata & frozenset(networks.metadata_networks),
        engines=networks.engines,
    )
