"""Disks as files in one directory: raw files that share blocks where the file system can, else qcow2 layers.

    POOL/ledger.json    which layers exist and who uses them (layers.py)
    POOL/layers/        the files; what the ledger does not name is a leftover of a crash and is removed
    POOL/ballast        room that is given up when a full disk would not even take a smaller ledger
    POOL/lock           held by the one process that may change the pool

Every change has the same order: make and sync the new file, replace the ledger (temporary name, fsync,
rename, fsync of the directory), unlink what is no longer named. So a crash at any point leaves the old or
the new, and files nobody names.

Work happens in threads, one change at a time; only the import of an image, which may copy, runs outside.
"""

import asyncio
import errno
import fcntl
import os
import stat
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from cairn.core import log
from cairn.core.errors import CloudError, Conflict, Invalid, NoCapacity, NotFound, Unavailable
from cairn.core.ids import ImageId, NodeId, SnapshotId, VolumeId
from cairn.drivers import formats
from cairn.drivers.contracts import BlockNode, PoolFacts, VolumeView
from cairn.drivers.volumes import layers, qcow2, reflink
from cairn.drivers.volumes.layers import Layer, Ledger, Pending, VolumeRecord
from cairn.wire.spec import ImageSpec, VolumeSpec

GIB = 1 << 30
_BALLAST_BYTES = 1 << 20
_LOCK_WAIT_S = 2.0
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_log = log.get("volumes")


class FilesOptions(Struct, frozen=True, kw_only=True):
    pool_dir: Path
    reader_gid: int | None = (
        None  # the group of guests' processes: reads the layers below their own
    )
    engine: str | None = None  # "reflink" or "qcow2" instead of what the probe finds; tests only
    aio: str = "threads"  # or "io_uring", where the sandbox of guests allows it
    convert_s_max: int = 3600


class FilesVolumes:
    """The driver; see `contracts.Volumes` for what each verb promises."""

    def __init__(self, options: FilesOptions) -> None:
        self._options = options
        self._pool = options.pool_dir
        self._layers = options.pool_dir / "layers"
        self._turn = threading.Lock()
        self._serial = 0
        self._made: set[str] = set()  # by the change under way
        self._importing: dict[ImageId, str] = {}  # files on their way into the ledger
        self._lock_fd: int | None = None
        self._direct = False
        self._ledger_now: Ledger | None = None

    # --- the contract -----------------------------------------------------------------------------

    async def start(self) -> None:
        await asyncio.to_thread(self._start)

    async def close(self) -> None:
        """Let another process have the pool."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    async def look(self) -> tuple[list[VolumeView], list[ImageId]]:
        return await asyncio.to_thread(self._look)

    def facts(self) -> PoolFacts:
        room = os.statvfs(self._pool)
        return PoolFacts(
            total_gib=room.f_blocks * room.f_frsize // GIB,
            free_gib=room.f_bavail * room.f_frsize // GIB,
            engine=self._ledger.engine,
        )

    async def import_image(self, spec: ImageSpec, source: Path) -> None:
        await asyncio.to_thread(self._import_image, spec, source)

    async def remove_image(self, image_id: ImageId) -> None:
        await self._change(lambda ledger: layers.without_image(ledger, image_id))

    async def create(self, spec: VolumeSpec) -> None:
        await self._change(lambda ledger: self._create(ledger, spec))

    async def extend(self, volume_id: VolumeId, size_gib: int) -> None:
        await self._change(lambda ledger: self._extend(ledger, volume_id, size_gib * GIB))

    async def snapshot(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> None:
        await self._change(lambda ledger: self._snapshot(ledger, volume_id, snapshot_id))

    async def begin_live_snapshot(
        self, volume_id: VolumeId, snapshot_id: SnapshotId
    ) -> BlockNode | None:
        if self._ledger.engine == "reflink":
            await self.snapshot(volume_id, snapshot_id)
            return None
        await self._change(lambda ledger: self._begin(ledger, volume_id, snapshot_id))
        pending = layers.volume(self._ledger, volume_id).pending
        if pending is None:
            return None  # an earlier call was finished already
        path = str(self._layers / pending.layer)
        # The guest's own open disk becomes the backing: an overlay for `blockdev-snapshot` has none yet.
        return BlockNode(
            options={**self._layer_node("qcow2", pending.layer), "backing": None},
            owned_paths=(path,),
        )

    async def finish_live_snapshot(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> None:
        await self._change(lambda ledger: self._finish(ledger, volume_id, snapshot_id))

    async def remove_snapshot(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> None:
        def without(ledger: Ledger) -> Ledger:
            if volume_id not in ledger.volumes:
                return ledger
            return layers.without_snapshot(ledger, volume_id, snapshot_id)

        await self._change(without)

    async def remove(self, volume_id: VolumeId) -> None:
        await self._change(lambda ledger: layers.without_volume(ledger, volume_id))

    async def open(self, volume_id: VolumeId) -> BlockNode:
        def settle(ledger: Ledger) -> Ledger:
            record = layers.volume(ledger, volume_id)
            return layers.with_volume(ledger, volume_id, layers.promoted(record))

        await self._change(settle)
        return await asyncio.to_thread(self._node, volume_id)

    async def shut_out(self, node_id: NodeId, number: int) -> None:
        raise _not_shared()

    async def let_in(self, node_id: NodeId, number: int) -> None:
        raise _not_shared()

    # --- the pool ---------------------------------------------------------------------------------

    def _start(self) -> None:
        self._layers.mkdir(mode=0o710, parents=True, exist_ok=True)
        for directory in (self._pool, self._layers):
            self._share(directory, mode=0o710)
        self._take_lock()
        with self._turn:
            self._ledger_now = self._read_ledger()
            self._serial = self._ledger.serial
            self._remove_leftovers(self._ledger)
            self._keep_ballast()
        self._direct = _can_open_direct(self._pool)

    def _take_lock(self) -> None:
        if self._lock_fd is not None:
            return
        fd = os.open(self._pool / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        patience = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                # A killed agent's qemu-img holds it too, until it was told of the death.
                if time.monotonic() < patience:
                    time.sleep(0.02)
                    continue
                os.close(fd)
                because = f"{self._pool}/lock is held"
                raise Conflict("another process uses this storage pool", because=because) from error
        self._lock_fd = fd

    @property
    def _ledger(self) -> Ledger:
        assert self._ledger_now is not None, "the pool was not started"
        return self._ledger_now

    def _read_ledger(self) -> Ledger:
        path = self._pool / "ledger.json"
        try:
            ledger = msgspec.json.decode(path.read_bytes(), type=Ledger)
        except FileNotFoundError:
            # An empty pool is a new one. Files without a ledger are somebody's disks: hands off.
            if any(self._layers.iterdir()):
                because = f"{path} is missing, but {self._layers} has files"
                raise Unavailable("the storage pool lost its ledger", because=because) from None
            supported = reflink.is_supported(self._pool)
            ledger = Ledger(engine=self._options.engine or ("reflink" if supported else "qcow2"))
            self._write_ledger(ledger)
        except (msgspec.DecodeError, OSError) as error:
            because = f"{path}: {error}"
            raise Unavailable("the storage pool's ledger is unreadable", because=because) from error
        if ledger.engine == "reflink" and not reflink.is_supported(self._pool):
            because = f"{self._pool} was made for reflink, but its file system cannot share blocks"
            raise Unavailable("the storage pool lies on another file system", because=because)
        return ledger

    def _write_ledger(self, ledger: Ledger) -> None:
        temporary = self._pool / "ledger.json.new"
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(ledger), indent=1))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        temporary.rename(self._pool / "ledger.json")
        _sync_directory(self._pool)

    async def _change(self, step: Callable[[Ledger], Ledger]) -> None:
        await asyncio.to_thread(self._change_now, step)

    def _change_now(self, step: Callable[[Ledger], Ledger]) -> None:
        """Replace the ledger by what `step` makes of it, then remove what it no longer names."""
        with self._turn:
            before = self._ledger
            try:
                after = step(before)
                if after != before:
                    self._commit(before, after)
            except OSError as error:
                raise _storage_error(error) from error
            finally:
                # Both ways: layers that a failed step made, and those that a good one let go.
                for name in (before.layers.keys() | self._made) - self._ledger.layers.keys():
                    (self._layers / name).unlink(missing_ok=True)
                self._made.clear()

    def _commit(self, before: Ledger, after: Ledger) -> None:
        if after.layers.keys() - before.layers.keys():
            _sync_directory(self._layers)
        after = replace(after, serial=self._serial)
        try:
            self._write_ledger(after)
        except OSError as error:
            if error.errno not in _FULL or after.layers.keys() - before.layers.keys():
                raise
            # The disk is full and this change frees room: it must not fail for want of room.
            (self._pool / "ballast").unlink(missing_ok=True)
            self._write_ledger(after)
        self._ledger_now = after

    def _remove_leftovers(self, ledger: Ledger) -> None:
        for entry in self._layers.iterdir():
            if entry.name not in ledger.layers and entry.name not in self._importing.values():
                _log.info("leftover removed", file=entry.name)
                entry.unlink()

    def _keep_ballast(self) -> None:
        path = self._pool / "ballast"
        try:
            with path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, _BALLAST_BYTES)
        except OSError:
            path.unlink(missing_ok=True)  # no room now; the next start tries again

    def _share(self, path: Path, *, mode: int) -> None:
        """Let guests' processes read (or pass through), and nobody else."""
        if self._options.reader_gid is None:
            return
        os.chown(path, os.geteuid(), self._options.reader_gid)
        path.chmod(mode)

    # --- looking ----------------------------------------------------------------------------------

    def _look(self) -> tuple[list[VolumeView], list[ImageId]]:
        with self._turn:
            ledger = self._ledger
            self._remove_leftovers(ledger)
            with os.scandir(self._layers) as entries:
                stats = {entry.name: entry.stat() for entry in entries}
            views = [
                self._view(volume_id, record, stats)
                for volume_id, record in sorted(ledger.volumes.items())
                if self._is_whole(ledger, record.top, stats)
            ]
            images = [
                image_id
                for image_id, layer in sorted(ledger.images.items())
                if self._is_whole(ledger, layer, stats)
            ]
        return views, images

    def _view(
        self, volume_id: VolumeId, record: VolumeRecord, stats: dict[str, os.stat_result]
    ) -> VolumeView:
        own = [record.top, *record.snapshots.values()]
        return VolumeView(
            id=volume_id,
            size_gib=self._size_of(self._ledger, record.top) // GIB,
            used_bytes=sum(stats[name].st_blocks * 512 for name in own if name in stats),
            snapshots=tuple(sorted(record.snapshots)),
        )

    @staticmethod
    def _is_whole(ledger: Ledger, layer: str, stats: dict[str, os.stat_result]) -> bool:
        lost = [name for name in layers.chain(ledger, layer) if name not in stats]
        if lost:
            _log.error("layer is missing", layer=layer, missing=lost)
        return not lost

    # --- images -----------------------------------------------------------------------------------

    def _import_image(self, spec: ImageSpec, source: Path) -> None:
        keep = "raw" if self._ledger.engine == "reflink" else spec.format
        with self._turn:
            if spec.id in self._ledger.images:
                return
            if spec.id in self._importing:
                raise Unavailable(f"image {spec.id} is being imported already")
            name = self._importing[spec.id] = self._new_name("image", spec.id, keep)
        try:
            self._bring(spec, source, self._layers / name)
            self._change_now(
                lambda ledger: replace(
                    layers.with_layer(ledger, name, Layer(format=keep)),
                    images={**ledger.images, spec.id: name},
                )
            )
        except OSError as error:
            raise _storage_error(error) from error
        finally:
            with self._turn:
                del self._importing[spec.id]
                if name not in self._ledger.layers:
                    (self._layers / name).unlink(missing_ok=True)

    def _bring(self, spec: ImageSpec, source: Path, target: Path) -> None:
        if spec.format not in ("raw", "qcow2"):
            raise Invalid(f"image {spec.id} has format {spec.format}: disks need raw or qcow2")
        if not stat.S_ISREG(source.lstat().st_mode):
            because = f"{source} is not a regular file"
            raise Invalid(f"image {spec.id} is not a file", because=because)
        found = formats.check_file(source, spec.format)
        if spec.virtual_bytes and found.virtual_bytes != spec.virtual_bytes:
            raise Invalid(
                f"image {spec.id} has a disk of {found.virtual_bytes} bytes,"
                f" not {spec.virtual_bytes} as registered"
            )
        if self._ledger.engine == "qcow2":
            _link_or_copy(source, target)
        elif spec.format == "raw":
            _clone_or_copy(source, target)
        else:
            qcow2.convert_to_raw(
                source,
                target,
                size_bytes=found.virtual_bytes,
                timeout_s=self._options.convert_s_max,
            )
        _sync_file(target)
        self._share(target, mode=0o640)

    # --- volumes ----------------------------------------------------------------------------------

    def _create(self, ledger: Ledger, spec: VolumeSpec) -> Ledger:
        if spec.id in ledger.volumes:
            return ledger
        ledger, source = self._source(ledger, spec)
        size_bytes = spec.size_gib * GIB
        if source is not None and (needed := self._size_of(ledger, source)) > size_bytes:
            raise Invalid(
                f"volume {spec.id} of {spec.size_gib} GiB is smaller than its source"
                f" of {-(-needed // GIB)} GiB"
            )
        ledger, top = self._derive(ledger, "volume", spec.id, source, size_bytes)
        return layers.with_volume(ledger, spec.id, VolumeRecord(top=top))

    def _source(self, ledger: Ledger, spec: VolumeSpec) -> tuple[Ledger, str | None]:
        """The layer to clone; a volume as the source is frozen first where clones are overlays."""
        if spec.is_received:
            return ledger, None  # All of its bytes come from the other host.
        given = [s for s in (spec.from_image, spec.from_snapshot, spec.from_volume) if s]
        if len(given) > 1:
            raise Invalid(f"volume {spec.id} has more than one source")
        if spec.from_image:
            return ledger, layers.image_layer(ledger, spec.from_image)
        if spec.from_snapshot:
            return ledger, layers.snapshot_layer(ledger, spec.from_snapshot)
        if spec.from_volume:
            if ledger.engine == "reflink":
                return ledger, layers.volume(ledger, spec.from_volume).top
            return self._freeze(ledger, spec.from_volume)
        return ledger, None

    def _extend(self, ledger: Ledger, volume_id: VolumeId, size_bytes: int) -> Ledger:
        record = layers.promoted(layers.volume(ledger, volume_id))
        ledger = layers.with_volume(ledger, volume_id, record)
        if self._size_of(ledger, record.top) >= size_bytes:
            return ledger
        if ledger.layers[record.top].format == "qcow2":
            self._require_closed(volume_id, record.top)
            options = self._chain_node(ledger, record.top)
            qcow2.resize(options, size_bytes=size_bytes)
        else:
            os.truncate(self._layers / record.top, size_bytes)
        _sync_file(self._layers / record.top)
        return ledger

    def _snapshot(self, ledger: Ledger, volume_id: VolumeId, snapshot_id: SnapshotId) -> Ledger:
        record = layers.volume(ledger, volume_id)
        if snapshot_id in record.snapshots:
            return ledger
        if ledger.engine == "reflink":
            size_bytes = self._size_of(ledger, record.top)
            ledger, kept = self._derive(ledger, "snapshot", snapshot_id, record.top, size_bytes)
        else:
            ledger, kept = self._freeze(ledger, volume_id)
            record = ledger.volumes[volume_id]
            if snapshot_id in record.snapshots:
                return ledger  # it was begun live, and freezing finished it
        record = replace(record, snapshots={**record.snapshots, snapshot_id: kept})
        return layers.with_volume(ledger, volume_id, record)

    def _freeze(self, ledger: Ledger, volume_id: VolumeId) -> tuple[Ledger, str]:
        """Put a new layer on top of a volume that nobody has open; the one below is returned."""
        record = layers.promoted(layers.volume(ledger, volume_id))
        ledger = layers.with_volume(ledger, volume_id, record)
        self._require_closed(volume_id, record.top)
        size_bytes = self._size_of(ledger, record.top)
        ledger, top = self._derive(ledger, "volume", volume_id, record.top, size_bytes)
        frozen = record.top
        return layers.with_volume(ledger, volume_id, replace(record, top=top)), frozen

    def _begin(self, ledger: Ledger, volume_id: VolumeId, snapshot_id: SnapshotId) -> Ledger:
        record = layers.volume(ledger, volume_id)
        if snapshot_id in record.snapshots:
            return ledger
        if record.pending is not None:
            if record.pending.snapshot_id == snapshot_id:
                return ledger
            raise Conflict(f"another snapshot of volume {volume_id} is under way")
        size_bytes = self._size_of(ledger, record.top)
        ledger, top = self._derive(ledger, "volume", volume_id, record.top, size_bytes)
        record = replace(record, pending=Pending(snapshot_id=snapshot_id, layer=top))
        return layers.with_volume(ledger, volume_id, record)

    def _finish(self, ledger: Ledger, volume_id: VolumeId, snapshot_id: SnapshotId) -> Ledger:
        record = layers.volume(ledger, volume_id)
        if snapshot_id in record.snapshots:
            return ledger
        if record.pending is None or record.pending.snapshot_id != snapshot_id:
            raise NotFound(f"snapshot {snapshot_id} of volume {volume_id} was not begun")
        return layers.with_volume(ledger, volume_id, layers.promoted(record))

    # --- layers -----------------------------------------------------------------------------------

    def _derive(
        self, ledger: Ledger, kind: str, owner: str, source: str | None, size_bytes: int
    ) -> tuple[Ledger, str]:
        """A new layer with the content of `source` (or zeros), grown to `size_bytes`, synced."""
        format_ = "raw" if ledger.engine == "reflink" else "qcow2"
        name = self._new_name(kind, owner, format_)
        self._made.add(name)
        path = self._layers / name
        if format_ == "raw":
            if source is None:
                path.touch(mode=0o600, exist_ok=False)
            elif not reflink.clone(self._layers / source, path):
                raise Unavailable("the storage pool cannot clone", because=f"FICLONE of {source}")
            os.truncate(path, size_bytes)
            parent = None
        else:
            below = (source, ledger.layers[source].format) if source else None
            qcow2.create(path, size_bytes=size_bytes, parent=below)
            parent = source
        path.chmod(0o600)
        _sync_file(path)
        return layers.with_layer(ledger, name, Layer(format=format_, parent=parent)), name

    def _new_name(self, kind: str, owner: str, format_: str) -> str:
        self._serial += 1
        return f"{kind}-{owner}.{self._serial}.{format_}"

    def _size_of(self, ledger: Ledger, layer: str) -> int:
        path = self._layers / layer
        is_raw = ledger.layers[layer].format == "raw"
        return path.stat().st_size if is_raw else qcow2.virtual_bytes(path)

    def _require_closed(self, volume_id: VolumeId, layer: str) -> None:
        """Refuse when a QEMU has the layer open: putting a layer on a disk that is being written
        would lose what is written next."""
        if _is_open_in_qemu(self._layers / layer):
            raise Conflict(f"volume {volume_id} is in use by a guest")

    # --- how QEMU opens it ------------------------------------------------------------------------

    def _node(self, volume_id: VolumeId) -> BlockNode:
        with self._turn:
            ledger = self._ledger
            top, *below = layers.chain(ledger, layers.volume(ledger, volume_id).top)
            for name in below:
                self._share(self._layers / name, mode=0o640)
        return BlockNode(
            options=self._chain_node(ledger, top),
            owned_paths=(str(self._layers / top),),
            read_paths=tuple(str(self._layers / name) for name in below),
        )

    def _chain_node(self, ledger: Ledger, top: str) -> dict[str, object]:
        """The chain as nested options: QEMU never reads a format or a backing file's name from a header."""
        node: dict[str, object] | None = None
        for name in reversed(layers.chain(ledger, top)):
            layer = ledger.layers[name]
            below, node = node, self._layer_node(layer.format, name, is_top=name == top)
            if layer.format == "qcow2":
                node["backing"] = below
        assert node is not None
        return node

    def _layer_node(self, format_: str, name: str, *, is_top: bool = True) -> dict[str, object]:
        file: dict[str, object] = {
            "driver": "file",
            "filename": str(self._layers / name),
            "aio": self._options.aio,
            # What many guests read (an image) stays in the host's cache; what one writes bypasses it.
            "cache": {"direct": self._direct and is_top},
        }
        if not is_top:
            return {"driver": format_, "file": file, "read-only": True}
        return {"driver": format_, "file": {**file, "discard": "unmap"}, "discard": "unmap"}


# --- files -------------------------------------------------------------------------------------------


def _storage_error(error: OSError) -> CloudError:
    because = f"{error.filename or 'file'}: {error.strerror}"
    if error.errno in _FULL:
        return NoCapacity("the storage pool is full", because=because)
    return Unavailable("the storage failed", because=because)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        _clone_or_copy(source, target)


def _clone_or_copy(source: Path, target: Path) -> None:
    if not reflink.clone(source, target):
        _copy_sparse(source, target)


def _copy_sparse(source: Path, target: Path) -> None:
    """Copy only what is data; holes stay holes."""
    with source.open("rb") as origin, target.open("xb") as copy:
        size = os.fstat(origin.fileno()).st_size
        at = 0
        while at < size:
            try:
                at = os.lseek(origin.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break  # only a hole is left
                raise
            end = os.lseek(origin.fileno(), at, os.SEEK_HOLE)
            os.lseek(origin.fileno(), at, os.SEEK_SET)
            os.lseek(copy.fileno(), at, os.SEEK_SET)
            while at < end:
                count = os.sendfile(copy.fileno(), origin.fileno(), at, min(end - at, 1 << 30))
                if count == 0:
                    raise OSError(errno.EIO, "the source became shorter", str(source))
                at += count
        os.truncate(copy.fileno(), size)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _can_open_direct(directory: Path) -> bool:
    path = directory / ".probe-direct"
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600))
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True


def _is_open_in_qemu(path: Path) -> bool:
    """Whether a QEMU holds its lock on the file (bytes 100-300, block/file-posix.c: RAW_LOCK_*_BASE)."""
    question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 100, 200, 0)
    fd = os.open(path, os.O_RDONLY)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, question)
    finally:
        os.close(fd)
    (kind,) = struct.unpack_from("h", answer)
    return bool(kind != fcntl.F_UNLCK)


def _not_shared() -> Unavailable:
    return Unavailable("This pool belongs to one host: nobody can be shut out of it.")
