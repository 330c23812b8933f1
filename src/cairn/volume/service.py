"""What may be done to volumes, snapshots and types, and what a host's report makes of them.

A request writes what should be and raises the host's number; `take_report` writes what is. A volume lives
on one host: a copy stays where its source is, a server's volume goes where the server goes (`place`),
everything else is placed by `volume.placer` (control.py).
"""

from collections.abc import Collection, Mapping

from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import ImageId, NodeId, ProjectId, ServerId, SnapshotId, VolumeId
from cairn.db.engine import Tx
from cairn.fleet import service as fleet
from cairn.fleet.records import DEFAULT_ZONE
from cairn.image import service as images
from cairn.image.records import Image
from cairn.volume import quota, sightings, store, types
from cairn.volume.records import (
    DEFAULT_TYPE,
    GIB,
    SNAPSHOT_LIFE,
    VOLUME_LIFE,
    Attachment,
    Snapshot,
    SnapshotState,
    SnapshotWish,
    Volume,
    VolumeState,
    VolumeWish,
)
from cairn.wire.spec import SnapshotSpec, VolumeSpec

PLACER = sightings.PLACER


# --- volumes -----------------------------------------------------------------------------------------


def create(tx: Tx, who: Caller, wish: VolumeWish) -> Volume:
    """Promise a volume. Raises Invalid, NotFound, Conflict, OverQuota."""
    sources = (wish.image_id, wish.snapshot_id, wish.source_id)
    if sum(source is not None for source in sources) > 1:
        raise Invalid("Only one of imageRef, snapshot_id and source_volid may be given.")
    snapshot = _usable_snapshot(tx, who, wish.snapshot_id) if wish.snapshot_id else None
    if snapshot is not None:
        source: Volume | None = store.volume(tx, who.reach, snapshot.volume_id)
    else:
        source = _usable_source(tx, who, wish.source_id) if wish.source_id else None
    image = _usable_image(tx, who, wish.image_id) if wish.image_id else None
    size_gib = _size_gib(wish, image, snapshot, source)
    volume_type = types.find(tx, who, wish.type) if wish.type else None
    if volume_type is not None and _is_true(volume_type.extra_specs.get("multiattach", "")):
        raise Invalid(
            f"volume_type: '{volume_type.name}' asks for volumes of several servers at once, which no "
            "engine here can do."
        )
    type_id = volume_type.id if volume_type else (source.type_id if source else DEFAULT_TYPE.id)
    quota.require_room(
        tx, who.home, type_id, volumes=1, gigabytes=size_gib, one_volume_gib=size_gib
    )
    volume_id = VolumeId(tx.new_id())
    new = Volume(
        id=volume_id,
        project_id=who.home,
        user_id=who.user_id,
        name=wish.name,
        description=wish.description,
        size_gib=size_gib,
        seen_size_gib=0,
        state=VolumeState.CREATING,
        type_id=type_id,
        zone=_zone(tx, wish.zone, source),
        node_id=source.node_id if source else None,
        image_id=wish.image_id,
        snapshot_id=wish.snapshot_id,
        source_id=wish.source_id,
        image_metadata=_image_metadata(image) if image else _inherited(source),
        metadata=wish.metadata,
        is_bootable=image is not None or (source is not None and source.is_bootable),
        is_readonly=None,
        trouble=None,
        gone_number=None,
        seen_number=0,
        created_at=tx.now,
        updated_at=None,
        attachments=_reserved(tx, who, wish, volume_id),
    )
    store.add_volume(tx, new)
    if new.node_id is not None:
        fleet.touch(tx, new.node_id)
    else:
        tx.wake(PLACER)
    return new


def get(tx: Tx, who: Caller, volume_id: VolumeId) -> Volume:
    """Raises NotFound, also for what belongs to others."""
    return store.volume(tx, who.reach, volume_id)


def update(tx: Tx, who: Caller, volume_id: VolumeId, changes: Mapping[str, str | None]) -> Volume:
    """Change name or description."""
    get(tx, who, volume_id)
    if changes:
        store.change_volume(tx, volume_id, **changes)
    return get(tx, who, volume_id)


def set_metadata(tx: Tx, who: Caller, volume_id: VolumeId, metadata: dict[str, str]) -> Volume:
    get(tx, who, volume_id)
    store.change_volume(tx, volume_id, metadata=metadata)
    return get(tx, who, volume_id)


def set_image_metadata(
    tx: Tx, who: Caller, volume_id: VolumeId, metadata: dict[str, str]
) -> Volume:
    get(tx, who, volume_id)
    store.change_volume(tx, volume_id, image_metadata=metadata)
    return get(tx, who, volume_id)


def set_bootable(tx: Tx, who: Caller, volume_id: VolumeId, bootable: bool) -> None:
    get(tx, who, volume_id)
    store.change_volume(tx, volume_id, is_bootable=bootable)


def set_readonly(tx: Tx, who: Caller, volume_id: VolumeId, readonly: bool) -> None:
    """Only of a volume that no server has: a guest that writes would not hear of it."""
    found = get(tx, who, volume_id)
    if found.state is not VolumeState.AVAILABLE:
        raise Conflict(
            f"Volume {found.id} is {found.state}; the read-only flag changes on available ones."
        )
    store.change_volume(tx, volume_id, is_readonly=readonly)


def delete(
    tx: Tx, who: Caller, volume_id: VolumeId, *, cascade: bool = False, force: bool = False
) -> None:
    """Wish the volume gone; with `cascade` its snapshots too. Raises Conflict while something uses it.

    `force` (administrators) does not ask for its state, but never takes a disk from a server.
    """
    found = get(tx, who, volume_id)
    if found.attachments:
        raise Conflict(
            f"Volume {found.id} is {found.state}: server {found.attachments[0].server_id} has it."
        )
    if force and not VOLUME_LIFE.allows(found.state, "delete"):
        reset_state(tx, who, volume_id, VolumeState.ERROR)
        found = get(tx, who, volume_id)
    VOLUME_LIFE.require(found.state, "delete")
    kept = store.snapshots_of(tx, [found.id]).get(found.id, [])
    if kept and not cascade:
        raise Conflict(f"Volume {found.id} has {len(kept)} dependent snapshots.")
    for snapshot in kept:
        _require_idle(tx, snapshot)
    if store.is_source_in_use(tx, volume_id=found.id):
        raise Conflict(f"Volume {found.id} is being copied into another volume.")
    if found.node_id is None:
        store.remove_volume(tx, found.id)
        return
    gone_number = fleet.touch(tx, found.node_id)
    store.move_volume(tx, found, "delete", gone_number=gone_number)
    for snapshot in kept:
        if snapshot.gone_number is None:
            store.move_snapshot(tx, snapshot, "delete", gone_number=gone_number)


def extend(tx: Tx, who: Caller, volume_id: VolumeId, size_gib: int, *, even_in_use: bool) -> Volume:
    """Wish the volume larger. Raises Invalid when it would not grow."""
    found = get(tx, who, volume_id)
    _require_still(found)
    in_use = found.state is VolumeState.IN_USE
    event = "extend in use" if in_use and even_in_use else "extend"
    VOLUME_LIFE.require(found.state, event)
    if size_gib <= found.size_gib:
        raise Invalid(
            f"New size for extend must be greater than current size. "
            f"(current: {found.size_gib}, extended: {size_gib})."
        )
    growth_gib = size_gib - found.size_gib
    quota.require_room(
        tx, found.project_id, found.type_id, gigabytes=growth_gib, one_volume_gib=size_gib
    )
    home = _home(found)
    store.move_volume(tx, found, event, size_gib=size_gib)
    fleet.touch(tx, home)
    return get(tx, who, volume_id)


def reset_state(tx: Tx, who: Caller, volume_id: VolumeId, state: VolumeState) -> None:
    """An administrator's word about what a volume is; the next report may know better.

    "deleting" is a word too: only `delete` takes data from a host, and what it took has no way back.
    """
    found = get(tx, who, volume_id)
    if found.gone_number is not None:
        raise Conflict(f"Volume {found.id} is being removed from its host.")
    if state is not found.state:
        store.move_volume(tx, found, f"reset to {state}")


def reserve(tx: Tx, who: Caller, volume_id: VolumeId) -> None:
    """Keep the volume from everybody else until `unreserve`."""
    store.move_volume(tx, get(tx, who, volume_id), "reserve")


def unreserve(tx: Tx, who: Caller, volume_id: VolumeId) -> None:
    found = get(tx, who, volume_id)
    if found.attachments:
        raise Conflict(f"Volume {found.id} is promised to server {found.attachments[0].server_id}.")
    store.move_volume(tx, found, "unreserve")


def place(tx: Tx, volume_id: VolumeId, node_id: NodeId) -> None:
    """Decide where the volume lives. Repeatable; raises Conflict when it lives elsewhere."""
    if store.place_volume(tx, volume_id, node_id):
        fleet.touch(tx, node_id)
        return
    found = store.find_volume(tx, volume_id)
    if found is None:
        raise NotFound(f"Volume {volume_id} could not be found.")
    if found.node_id != node_id:
        raise Conflict(f"Volume {volume_id} lives on host {found.node_id}, not on {node_id}.")


def unplace(tx: Tx, volume_id: VolumeId) -> None:
    """Its host was lost; it lies in the shared pool still, and goes where its server goes. Repeatable."""
    store.unplace_volume(tx, volume_id)


def held(
    tx: Tx, volume_ids: Collection[VolumeId]
) -> tuple[dict[VolumeId, Volume], dict[VolumeId, int]]:
    """These volumes, and how many snapshots each has: what decides whether they can move."""
    if not volume_ids:
        return {}, {}
    kept = store.snapshots_of(tx, volume_ids)
    return store.volumes_by_id(tx, volume_ids), {i: len(found) for i, found in kept.items()}


def set_moving(tx: Tx, volume_ids: Collection[VolumeId], *, is_moving: bool) -> None:
    """Whether they are on their way to another host: nothing else may happen to them meanwhile."""
    if volume_ids:
        store.set_moving(tx, volume_ids, is_moving)


def move(tx: Tx, volume_id: VolumeId, node_id: NodeId) -> None:
    """It came to another host with its server."""
    store.move_home(tx, volume_id, node_id)


def idle_on(tx: Tx, node_id: NodeId) -> list[Volume]:
    """Volumes of a host that no server has, by id."""
    return [v for v in store.volumes_on(tx, node_id) if not v.attachments]


def move_care(tx: Tx, of: NodeId, to: NodeId) -> int:
    """Volumes of a shared pool that were one host's care and that no server has are another's from now
    on. How many."""
    count = 0
    for volume in store.volumes_on(tx, of):
        if volume.attachments:
            continue
        number = fleet.touch(tx, to)
        gone_number = None if volume.gone_number is None else number
        store.move_care(tx, volume.id, to, gone_number)
        count += 1
    return count


# --- for servers -------------------------------------------------------------------------------------


def attach(
    tx: Tx, who: Caller, volume_id: VolumeId, server_id: ServerId, device: str
) -> Attachment:
    """Promise an available volume to a server. Raises NotFound, Conflict."""
    found = get(tx, who, volume_id)
    if found.attachments:
        raise Conflict(
            f"Volume {found.id} is {found.state}: server {found.attachments[0].server_id} has it."
        )
    if store.is_source_in_use(tx, volume_id=found.id):
        raise Conflict(f"Volume {found.id} is being copied into another volume.")
    store.move_volume(tx, found, "reserve")
    attachment = _attachment(tx, found.id, server_id, found.project_id, device)
    store.add_attachment(tx, attachment)
    return attachment


def attached(tx: Tx, volume_id: VolumeId, server_id: ServerId) -> None:
    """The server's guest has the disk. Late or repeated news changes nothing."""
    held = _held(tx, volume_id, server_id)
    if held is None:
        return
    found, attachment = held
    store.set_attached(tx, attachment.id)
    if found.state is not VolumeState.IN_USE and VOLUME_LIFE.allows(found.state, "attached"):
        store.move_volume(tx, found, "attached")


def detach(tx: Tx, who: Caller, volume_id: VolumeId, server_id: ServerId) -> None:
    """Wish the disk out of the server; `detached` follows. Raises NotFound, Conflict."""
    found = get(tx, who, volume_id)
    if all(a.server_id != server_id for a in found.attachments):
        raise NotFound(f"Volume {found.id} is not attached to server {server_id}.")
    if found.state is not VolumeState.DETACHING:
        store.move_volume(tx, found, "detach")


def detached(tx: Tx, volume_id: VolumeId, server_id: ServerId) -> None:
    """The server let go of the disk, or is no more. Repeatable."""
    held = _held(tx, volume_id, server_id)
    if held is None:
        return
    found, attachment = held
    store.remove_attachment(tx, attachment.id)
    if VOLUME_LIFE.allows(found.state, "detached"):
        store.move_volume(tx, found, "detached")
    if found.node_id is None:
        tx.wake(PLACER)


def attachments_of(
    tx: Tx, server_ids: Collection[ServerId]
) -> dict[ServerId, tuple[Attachment, ...]]:
    """What each of these servers has or was promised; one query for all."""
    found: dict[ServerId, list[Attachment]] = {server_id: [] for server_id in server_ids}
    for attachment in store.attachments_of(tx, server_ids):
        found[attachment.server_id].append(attachment)
    return {server_id: tuple(of) for server_id, of in found.items()}


# --- snapshots ---------------------------------------------------------------------------------------


def create_snapshot(tx: Tx, who: Caller, wish: SnapshotWish) -> Snapshot:
    """Promise a snapshot of a volume as it is now. Raises NotFound, Conflict, OverQuota."""
    volume = get(tx, who, wish.volume_id)
    _require_still(volume)
    in_use = volume.state in (VolumeState.IN_USE, VolumeState.ATTACHING, VolumeState.DETACHING)
    if volume.state is not VolumeState.AVAILABLE and not (in_use and wish.even_in_use):
        raise Conflict(
            f"Invalid volume: volume {volume.id} status must be available, but is {volume.state}."
        )
    home = _home(volume)
    quota.require_room(
        tx, volume.project_id, volume.type_id, snapshots=1, gigabytes=volume.size_gib
    )
    new = Snapshot(
        id=SnapshotId(tx.new_id()),
        volume_id=volume.id,
        project_id=volume.project_id,
        user_id=who.user_id,
        name=wish.name,
        description=wish.description,
        size_gib=volume.size_gib,
        state=SnapshotState.CREATING,
        metadata=wish.metadata,
        trouble=None,
        gone_number=None,
        seen_number=0,
        created_at=tx.now,
        updated_at=None,
    )
    store.add_snapshot(tx, new)
    fleet.touch(tx, home)
    return new


def get_snapshot(tx: Tx, who: Caller, snapshot_id: SnapshotId) -> Snapshot:
    return store.snapshot(tx, who.reach, snapshot_id)


def update_snapshot(
    tx: Tx, who: Caller, snapshot_id: SnapshotId, changes: Mapping[str, str | None]
) -> Snapshot:
    get_snapshot(tx, who, snapshot_id)
    if changes:
        store.change_snapshot(tx, snapshot_id, **changes)
    return get_snapshot(tx, who, snapshot_id)


def set_snapshot_metadata(
    tx: Tx, who: Caller, snapshot_id: SnapshotId, metadata: dict[str, str]
) -> Snapshot:
    get_snapshot(tx, who, snapshot_id)
    store.change_snapshot(tx, snapshot_id, metadata=metadata)
    return get_snapshot(tx, who, snapshot_id)


def delete_snapshot(tx: Tx, who: Caller, snapshot_id: SnapshotId, *, force: bool = False) -> None:
    """Wish the snapshot gone; volumes made from it live on. Raises NotFound, Conflict."""
    found = get_snapshot(tx, who, snapshot_id)
    if force and not SNAPSHOT_LIFE.allows(found.state, "delete"):
        if found.gone_number is not None:
            return  # it is going already
        reset_snapshot_state(tx, who, snapshot_id, SnapshotState.ERROR)
        found = get_snapshot(tx, who, snapshot_id)
    SNAPSHOT_LIFE.require(found.state, "delete")
    _require_idle(tx, found)
    volume = store.find_volume(tx, found.volume_id)
    assert volume is not None, "a snapshot goes before its volume"
    gone_number = fleet.touch(tx, _home(volume))
    store.move_snapshot(tx, found, "delete", gone_number=gone_number)


def reset_snapshot_state(
    tx: Tx, who: Caller, snapshot_id: SnapshotId, state: SnapshotState
) -> None:
    """As `reset_state`."""
    found = get_snapshot(tx, who, snapshot_id)
    if found.gone_number is not None:
        raise Conflict(f"Snapshot {found.id} is being removed from its host.")
    if state is not found.state:
        store.move_snapshot(tx, found, f"reset to {state}")


# --- hosts -------------------------------------------------------------------------------------------


take_report = sightings.take_report


def volumes_of(tx: Tx, node_id: NodeId) -> tuple[VolumeSpec, ...]:
    """All volumes that should exist on the host, with their snapshots, by id; and as doomed those that
    should go, which a shared pool does not lose by not being named."""
    here = store.volumes_on(tx, node_id)
    snapshots = store.snapshots_of(tx, [v.id for v in here if v.gone_number is None])
    return tuple(_spec(v, snapshots.get(v.id, [])) for v in here)


def counts_by_node(tx: Tx) -> dict[NodeId, int]:
    """How many volumes each host holds."""
    return store.counts_by_node(tx)


def claimed_gib(tx: Tx) -> dict[NodeId, int]:
    """GiB promised to volumes, by host: the sum of their sizes, whatever they use by now."""
    return store.claimed_gib(tx)


def _spec(volume: Volume, snapshots: list[Snapshot]) -> VolumeSpec:
    wanted = sorted(s.id for s in snapshots if s.gone_number is None)
    return VolumeSpec(
        id=volume.id,
        size_gib=volume.size_gib,
        from_image=volume.image_id,
        from_snapshot=volume.snapshot_id,
        from_volume=volume.source_id,
        snapshots=tuple(SnapshotSpec(id=snapshot_id) for snapshot_id in wanted),
        is_doomed=volume.gone_number is not None,
    )


# --- checks ------------------------------------------------------------------------------------------


def _home(volume: Volume) -> NodeId:
    """Raises Conflict while its server is looked a new host for: what was made lives somewhere else."""
    if volume.node_id is None:
        raise Conflict(f"Volume {volume.id} is on its way to another host. Try again later.")
    return volume.node_id


def _usable_snapshot(tx: Tx, who: Caller, snapshot_id: SnapshotId) -> Snapshot:
    snapshot = get_snapshot(tx, who, snapshot_id)
    if snapshot.state is not SnapshotState.AVAILABLE:
        raise Conflict(
            f"Invalid snapshot: originating snapshot status must be available, "
            f"but {snapshot.id} is {snapshot.state}."
        )
    return snapshot


def _usable_source(tx: Tx, who: Caller, source_id: VolumeId) -> Volume:
    source = get(tx, who, source_id)
    if source.state is not VolumeState.AVAILABLE:
        raise Conflict(
            f"Invalid volume: source volume {source.id} status must be available, but is "
            f"{source.state}. Of a volume in use, make a snapshot first."
        )
    return source


def _usable_image(tx: Tx, who: Caller, image_id: ImageId) -> Image:
    try:
        return images.image_for_boot(tx, who, image_id)
    except NotFound as error:
        raise Invalid(
            f"imageRef: image {image_id[:64]} does not exist or is not visible."
        ) from error


def _size_gib(
    wish: VolumeWish, image: Image | None, snapshot: Snapshot | None, source: Volume | None
) -> int:
    origin_gib = snapshot.size_gib if snapshot else source.size_gib if source else None
    size_gib = wish.size_gib if wish.size_gib is not None else origin_gib
    if size_gib is None:
        raise Invalid("size: it is required for a volume that is not a copy of another.")
    if size_gib < 1:
        raise Invalid(f"size: {size_gib} is not an integer greater than 0.")
    if origin_gib is not None and size_gib < origin_gib:
        raise Invalid(f"size: {size_gib} GiB is less than the {origin_gib} GiB of the source.")
    if image is not None:
        least_gib = max(image.min_disk_gib, -(-(image.virtual_bytes or 0) // GIB))
        if size_gib < least_gib:
            raise Invalid(f"size: {size_gib} GiB is too small; the image needs {least_gib} GiB.")
    return size_gib


def _zone(tx: Tx, wished: str | None, source: Volume | None) -> str:
    if source is not None:
        if wished and wished != source.zone:
            raise Invalid(f"availability_zone: a copy stays in its source's, '{source.zone}'.")
        return source.zone
    if not wished or wished == DEFAULT_ZONE:
        return DEFAULT_ZONE
    if wished not in fleet.zones(tx):
        raise Invalid(f"availability_zone: '{wished[:64]}' does not exist.")
    return wished


def _require_still(volume: Volume) -> None:
    if volume.is_moving:
        raise Conflict(f"Volume {volume.id} is being moved to another host with its server.")


def _require_idle(tx: Tx, snapshot: Snapshot) -> None:
    if store.is_source_in_use(tx, snapshot_id=snapshot.id):
        raise Conflict(f"Snapshot {snapshot.id} is being copied into a volume.")


def _held(tx: Tx, volume_id: VolumeId, server_id: ServerId) -> tuple[Volume, Attachment] | None:
    found = store.find_volume(tx, volume_id)
    for attachment in found.attachments if found else ():
        if found is not None and attachment.server_id == server_id:
            return found, attachment
    return None


def _reserved(tx: Tx, who: Caller, wish: VolumeWish, volume_id: VolumeId) -> tuple[Attachment, ...]:
    if wish.for_server is None:
        return ()
    return (_attachment(tx, volume_id, wish.for_server, who.home, wish.device),)


def _attachment(
    tx: Tx, volume_id: VolumeId, server_id: ServerId, project_id: ProjectId, device: str
) -> Attachment:
    return Attachment(
        id=tx.new_id(),
        volume_id=volume_id,
        server_id=server_id,
        project_id=project_id,
        device=device,
        made_at=tx.now,
    )


def _image_metadata(image: Image) -> dict[str, str]:
    """What the API shows of the image that a volume was made from."""
    own = {
        "image_id": image.id,
        "image_name": image.name or "",
        "checksum": image.content.md5 if image.content else "",
        "disk_format": image.format or "",
        "container_format": image.container or "",
        "min_disk": str(image.min_disk_gib),
        "min_ram": str(image.min_ram_mib),
        "size": str(image.size_bytes or 0),
    }
    return {k: v for k, v in image.properties.items() if v is not None} | own


def _is_true(spec: str) -> bool:
    """An extra spec's boolean: "<is> True"."""
    return spec.removeprefix("<is>").strip().lower() == "true"


def _inherited(source: Volume | None) -> dict[str, str]:
    return source.image_metadata if source else {}
