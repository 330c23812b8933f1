"""Disks in memory: keeps the promises of the contract and fails on order.

For the simulator: thousands of instances in one process, deterministic, no files. Content is a small
mapping from block number to a value, so that a test can write a disk, snapshot it and see what a clone
reads. The object stands for the pool, not for the agent: it outlives a restarted agent.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from cairn.core.errors import CloudError, Conflict, Invalid, NoCapacity, NotFound, Unavailable
from cairn.core.ids import ImageId, NodeId, SnapshotId, VolumeId
from cairn.drivers.contracts import BlockNode, PoolFacts, VolumeView
from cairn.wire.spec import ImageSpec, VolumeSpec

GIB = 1 << 30
_BLOCK_BYTES = 4096


class Disk(Struct, frozen=True, kw_only=True):
    size_bytes: int
    blocks: dict[int, int] = {}


class FakeVolume(Struct, frozen=True, kw_only=True):
    disk: Disk
    snapshots: dict[SnapshotId, Disk] = {}
    pending: tuple[SnapshotId, Disk] | None = None


class SharedPool:
    """One pool of several hosts: each has a `FakeVolumes` on it. It keeps who is shut out of it."""

    def __init__(self) -> None:
        self.volumes: dict[VolumeId, FakeVolume] = {}
        self.images: dict[ImageId, Disk] = {}
        self._doors: dict[NodeId, tuple[int, bool]] = {}  # the newest wish: its number, and if open

    @property
    def shut_out(self) -> frozenset[NodeId]:
        return frozenset(n for n, (_, is_open) in self._doors.items() if not is_open)

    def turn(self, node_id: NodeId, number: int, *, is_open: bool) -> None:
        """Open or shut one host's door, unless a newer wish was otherwise."""
        known, was_open = self._doors.get(node_id, (0, True))
        if number < known or (number == known and is_open != was_open):
            raise Conflict(f"a newer wish about host {node_id} has reached the pool")
        self._doors[node_id] = (number, is_open)


class FakeVolumes:
    """One pool. `latency` says how many seconds a verb takes; `engine` is "reflink" or "qcow2".

    With `shared` it is the door of the host `node_id` to a pool that other hosts use too."""

    def __init__(
        self,
        *,
        capacity_gib: int = 1000,
        engine: str = "reflink",
        latency: Callable[[str], float] | None = None,
        shared: SharedPool | None = None,
        node_id: NodeId | None = None,
    ) -> None:
        self.capacity_gib = capacity_gib
        self.volumes: dict[VolumeId, FakeVolume] = {} if shared is None else shared.volumes
        self.images: dict[ImageId, Disk] = {} if shared is None else shared.images
        self.shared = shared
        self._node_id = node_id
        self._engine = engine
        self._latency = latency
        self._failures: dict[str, list[CloudError]] = {}

    def fail_next(self, verb: str, error: CloudError) -> None:
        """Let the next call of `verb` fail before it does anything; several calls queue up."""
        self._failures.setdefault(verb, []).append(error)

    def write(self, volume_id: VolumeId, block: int, value: int) -> None:
        """What a guest would do."""
        self._require_way_in()
        volume = self._volume(volume_id)
        disk = replace(volume.disk, blocks={**volume.disk.blocks, block: value})
        self.volumes[volume_id] = replace(volume, disk=disk)

    def read(self, volume_id: VolumeId, block: int) -> int:
        return self._volume(volume_id).disk.blocks.get(block, 0)

    def content(self, volume_id: VolumeId) -> object:
        """All that is written in it, to be carried to another pool."""
        return self._volume(volume_id).disk.blocks

    def fill(self, volume_id: VolumeId, content: object) -> None:
        """Overwrite all of it with what came from another pool."""
        assert isinstance(content, dict)
        volume = self._volume(volume_id)
        disk = replace(volume.disk, blocks=content)
        self.volumes[volume_id] = replace(volume, disk=disk)

    def grow(self, volume_id: VolumeId, size_gib: int) -> None:
        """The disk gets larger: what `extend` does, and a guest that has it open."""
        volume = self._volume(volume_id)
        size_bytes = max(volume.disk.size_bytes, size_gib * GIB)
        if (size_bytes - volume.disk.size_bytes) // GIB > self.facts().free_gib:
            raise NoCapacity("the storage pool is full")
        disk = replace(volume.disk, size_bytes=size_bytes)
        self.volumes[volume_id] = replace(volume, disk=disk)

    # --- the contract -----------------------------------------------------------------------------

    async def start(self) -> None:
        await self._enter("start")

    async def look(self) -> tuple[list[VolumeView], list[ImageId]]:
        await self._enter("look")
        views = [
            VolumeView(
                id=volume_id,
                size_gib=volume.disk.size_bytes // GIB,
                used_bytes=len(volume.disk.blocks) * _BLOCK_BYTES,
                snapshots=tuple(sorted(volume.snapshots)),
            )
            for volume_id, volume in sorted(self.volumes.items())
        ]
        return views, sorted(self.images)

    def facts(self) -> PoolFacts:
        used_gib = sum(volume.disk.size_bytes for volume in self.volumes.values()) // GIB
        free_gib = max(0, self.capacity_gib - used_gib)
        return PoolFacts(
            total_gib=self.capacity_gib,
            free_gib=free_gib,
            engine=self._engine,
            is_shared=self.shared is not None,
        )

    async def import_image(self, spec: ImageSpec, source: Path) -> None:
        await self._enter("import_image")
        if spec.format not in ("raw", "qcow2"):
            raise Invalid(f"image {spec.id} has format {spec.format}: disks need raw or qcow2")
        self.images.setdefault(spec.id, Disk(size_bytes=spec.virtual_bytes))

    async def remove_image(self, image_id: ImageId) -> None:
        await self._enter("remove_image")
        self.images.pop(image_id, None)

    async def create(self, spec: VolumeSpec) -> None:
        await self._enter("create")
        if spec.id in self.volumes:
            return
        source = self._source(spec)
        size_bytes = spec.size_gib * GIB
        if source.size_bytes > size_bytes:
            raise Invalid(f"volume {spec.id} of {spec.size_gib} GiB is smaller than its source")
        if self.facts().free_gib < spec.size_gib:
            raise NoCapacity("the storage pool is full")
        self.volumes[spec.id] = FakeVolume(disk=replace(source, size_bytes=size_bytes))

    async def extend(self, volume_id: VolumeId, size_gib: int) -> None:
        await self._enter("extend")
        self.grow(volume_id, size_gib)

    async def snapshot(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> None:
        await self._enter("snapshot")
        self._keep(volume_id, snapshot_id, self._volume(volume_id).disk)

    async def begin_live_snapshot(
        self, volume_id: VolumeId, snapshot_id: SnapshotId
    ) -> BlockNode | None:
        await self._enter("begin_live_snapshot")
        volume = self._volume(volume_id)
        if snapshot_id in volume.snapshots:
            return None
        if self._engine == "reflink":
            self._keep(volume_id, snapshot_id, volume.disk)
            return None
        if volume.pending and volume.pending[0] != snapshot_id:
            raise Conflict(f"another snapshot of volume {volume_id} is under way")
        if volume.pending is None:
            self.volumes[volume_id] = replace(volume, pending=(snapshot_id, volume.disk))
        return self._node(volume_id)

    async def finish_live_snapshot(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> None:
        await self._enter("finish_live_snapshot")
        volume = self._volume(volume_id)
        if snapshot_id in volume.snapshots:
            return
        if volume.pending is None or volume.pending[0] != snapshot_id:
            raise NotFound(f"snapshot {snapshot_id} of volume {volume_id} was not begun")
        self._keep(volume_id, snapshot_id, volume.pending[1])

    async def remove_snapshot(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> None:
        await self._enter("remove_snapshot")
        if (volume := self.volumes.get(volume_id)) is None:
            return
        volume = self._settled(volume)
        left = {key: disk for key, disk in volume.snapshots.items() if key != snapshot_id}
        self.volumes[volume_id] = replace(volume, snapshots=left)

    async def remove(self, volume_id: VolumeId) -> None:
        await self._enter("remove")
        self.volumes.pop(volume_id, None)

    async def open(self, volume_id: VolumeId) -> BlockNode:
        await self._enter("open")
        self.volumes[volume_id] = self._settled(self._volume(volume_id))
        return self._node(volume_id)

    async def shut_out(self, node_id: NodeId, number: int) -> None:
        await self._enter("shut_out")
        self._pool().turn(node_id, number, is_open=False)

    async def let_in(self, node_id: NodeId, number: int) -> None:
        await self._enter("let_in")
        self._pool().turn(node_id, number, is_open=True)

    # --- inside -----------------------------------------------------------------------------------

    async def _enter(self, verb: str) -> None:
        if self._latency is not None:
            await asyncio.sleep(self._latency(verb))
        if waiting := self._failures.get(verb):
            raise waiting.pop(0)
        if verb not in ("start", "look"):
            self._require_way_in()

    def _require_way_in(self) -> None:
        if self.shared is not None and self._node_id in self.shared.shut_out:
            raise Unavailable("this host is shut out of the shared pool", because="fenced")

    def _pool(self) -> SharedPool:
        if self.shared is None:
            raise Unavailable("this pool belongs to one host: nobody can be shut out of it")
        return self.shared

    def _volume(self, volume_id: VolumeId) -> FakeVolume:
        try:
            return self.volumes[volume_id]
        except KeyError:
            raise NotFound(f"volume {volume_id} is not in this pool") from None

    def _source(self, spec: VolumeSpec) -> Disk:
        if spec.is_received:
            return Disk(size_bytes=0)
        if sum(1 for s in (spec.from_image, spec.from_snapshot, spec.from_volume) if s) > 1:
            raise Invalid(f"volume {spec.id} has more than one source")
        if spec.from_image:
            if spec.from_image not in self.images:
                raise NotFound(f"image {spec.from_image} is not in this pool")
            return self.images[spec.from_image]
        if spec.from_snapshot:
            for volume in self.volumes.values():
                if spec.from_snapshot in volume.snapshots:
                    return volume.snapshots[spec.from_snapshot]
            raise NotFound(f"snapshot {spec.from_snapshot} is not in this pool")
        if spec.from_volume:
            return self._volume(spec.from_volume).disk
        return Disk(size_bytes=0)

    def _keep(self, volume_id: VolumeId, snapshot_id: SnapshotId, disk: Disk) -> None:
        volume = self._settled(self._volume(volume_id))
        snapshots = {snapshot_id: disk, **volume.snapshots}  # an earlier one of this id wins
        self.volumes[volume_id] = replace(volume, snapshots=snapshots)

    @staticmethod
    def _settled(volume: FakeVolume) -> FakeVolume:
        """A begun snapshot is finished by whatever comes next, as in the real engine."""
        if volume.pending is None:
            return volume
        snapshot_id, disk = volume.pending
        snapshots = {snapshot_id: disk, **volume.snapshots}
        return replace(volume, snapshots=snapshots, pending=None)

    def _node(self, volume_id: VolumeId) -> BlockNode:
        size_bytes = self._volume(volume_id).disk.size_bytes
        return BlockNode(
            options={"driver": "null-co", "size": size_bytes, "read-zeroes": True},
            is_shared=self.shared is not None,
        )
