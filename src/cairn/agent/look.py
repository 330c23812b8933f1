"""What is on this host now: every driver asked once, the answers in one record."""

from collections.abc import Mapping

from msgspec import Struct

from cairn.core.ids import ImageId, NetworkId, NodeId, PortId, ServerId, VolumeId
from cairn.drivers.contracts import (
    GuestView,
    Hypervisor,
    Networks,
    PortView,
    Power,
    Volumes,
    VolumeView,
)
from cairn.drivers.power import PowerKinds
from cairn.wire.report import EngineSeen


class Drivers(Struct, frozen=True, kw_only=True):
    """The engines of one host."""

    hypervisor: Hypervisor
    volumes: Volumes
    networks: Networks
    power: Power = PowerKinds()  # of other hosts


class View(Struct, frozen=True, kw_only=True):
    """One look."""

    guests: Mapping[ServerId, GuestView] = {}
    volumes: Mapping[VolumeId, VolumeView] = {}
    images: frozenset[ImageId] = frozenset()
    ports: Mapping[PortId, PortView] = {}
    metadata_networks: frozenset[NetworkId] = frozenset()
    # Whose metadata's door an earlier agent opened; nobody answers there.
    unanswered_metadata: frozenset[NetworkId] = frozenset()
    engines: tuple[EngineSeen, ...] = ()
    southbound: tuple[str, ...] = ()  # the zone's network database that the host follows
    is_pool_shared: bool = False  # what is there may be another host's: nothing unasked is removed
    # Whether the control plane has said, since this host booted, that the spec is what should be.
    is_confirmed: bool = True
    # The same since this agent started. Wishes about other hosts that lay in the ledger may be overtaken.
    is_told: bool = True
    machines: Mapping[
        NodeId, tuple[int, bool]
    ] = {}  # power: number of the wish done last, is it on
    doors: Mapping[NodeId, tuple[int, bool]] = {}  # number of the wish done last, is it open


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
        unanswered_metadata=frozenset(networks.metadata_networks) - served_metadata,
        engines=networks.engines,
        southbound=networks.southbound,
        is_pool_shared=drivers.volumes.facts().is_shared,
    )
