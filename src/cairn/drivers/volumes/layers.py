"""The pool's ledger: which files make which disks. Pure: values in, values out.

A layer is one file; a qcow2 layer has a parent whose content shows through. Images, volumes and snapshots
are names for layers. A layer that no name reaches any more, directly or through children, goes; one that
is still somebody's parent stays, nameless. One ledger for the whole pool, replaced as one file, makes
every change that touches several disks happen at once or not at all.

Sizes are not in here: a running guest's disk grows without us, so the files are asked.
"""

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from cairn.core.errors import NotFound
from cairn.core.ids import ImageId, SnapshotId, VolumeId


class Layer(Struct, frozen=True, kw_only=True):
    format: str  # "raw" or "qcow2"
    parent: str | None = None


class Pending(Struct, frozen=True, kw_only=True):
    """A snapshot of a running disk that was begun: the guest may or may not write to `layer` already."""

    snapshot_id: SnapshotId
    layer: str


class VolumeRecord(Struct, frozen=True, kw_only=True):
    top: str
    snapshots: dict[SnapshotId, str] = {}
    pending: Pending | None = None


class Ledger(Struct, frozen=True, kw_only=True):
    engine: str  # "reflink" or "qcow2"; a pool keeps the one it began with
    serial: int = 0  # part of each layer's name, so that no name is ever used twice
    layers: dict[str, Layer] = {}
    images: dict[ImageId, str] = {}
    volumes: dict[VolumeId, VolumeRecord] = {}


def with_layer(ledger: Ledger, name: str, layer: Layer) -> Ledger:
    return replace(ledger, layers={**ledger.layers, name: layer})


def with_volume(ledger: Ledger, volume_id: VolumeId, record: VolumeRecord) -> Ledger:
    return replace(ledger, volumes={**ledger.volumes, volume_id: record})


def without_volume(ledger: Ledger, volume_id: VolumeId) -> Ledger:
    left = {key: record for key, record in ledger.volumes.items() if key != volume_id}
    return swept(replace(ledger, volumes=left))


def without_image(ledger: Ledger, image_id: ImageId) -> Ledger:
    left = {key: layer for key, layer in ledger.images.items() if key != image_id}
    return swept(replace(ledger, images=left))


def without_snapshot(ledger: Ledger, volume_id: VolumeId, snapshot_id: SnapshotId) -> Ledger:
    record = promoted(ledger.volumes[volume_id])
    left = {key: layer for key, layer in record.snapshots.items() if key != snapshot_id}
    return swept(with_volume(ledger, volume_id, replace(record, snapshots=left)))


def promoted(record: VolumeRecord) -> VolumeRecord:
    """The record with its pending snapshot finished.

    Right at any time: if the guest never switched, its writes went to the layer below, and they show
    through the new one, which is empty.
    """
    if record.pending is None:
        return record
    snapshots = {**record.snapshots, record.pending.snapshot_id: record.top}
    return VolumeRecord(top=record.pending.layer, snapshots=snapshots)


def chain(ledger: Ledger, layer: str) -> list[str]:
    """The layer and all below it, the top one first."""
    return list(_down(ledger, layer))


def volume(ledger: Ledger, volume_id: VolumeId) -> VolumeRecord:
    try:
        return ledger.volumes[volume_id]
    except KeyError:
        raise NotFound(f"volume {volume_id} is not in this pool") from None


def image_layer(ledger: Ledger, image_id: ImageId) -> str:
    try:
        return ledger.images[image_id]
    except KeyError:
        raise NotFound(f"image {image_id} is not in this pool") from None


def snapshot_layer(ledger: Ledger, snapshot_id: SnapshotId) -> str:
    for record in ledger.volumes.values():
        if snapshot_id in record.snapshots:
            return record.snapshots[snapshot_id]
    raise NotFound(f"snapshot {snapshot_id} is not in this pool")


def swept(ledger: Ledger) -> Ledger:
    """Without the layers that nothing needs."""
    needed: set[str] = set()
    for name in _named(ledger):
        for layer in _down(ledger, name):
            if layer in needed:
                break
            needed.add(layer)
    kept = {name: layer for name, layer in ledger.layers.items() if name in needed}
    return replace(ledger, layers=kept)


def _named(ledger: Ledger) -> Iterator[str]:
    yield from ledger.images.values()
    for record in ledger.volumes.values():
        yield record.top
        yield from record.snapshots.values()
        if record.pending:
            yield record.pending.layer


def _down(ledger: Ledger, layer: str) -> Iterator[str]:
    current: str | None = layer
    while current is not None:
        yield current
        current = ledger.layers[current].parent
