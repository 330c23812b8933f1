"""What volumes, snapshots, types and attachments are, and which state follows which.

A volume's `size_gib` is its owner's wish; `seen_size_gib` is what its host reported, 0 until it was made.
"""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from cairn.core.ids import ImageId, NodeId, ProjectId, ServerId, SnapshotId, UserId, VolumeId
from cairn.core.limits import Limit, Limits
from cairn.life.machine import Life

GIB = 1 << 30


class VolumeState(StrEnum):
    """Spelled as block storage's API spells them."""

    CREATING = "creating"
    AVAILABLE = "available"
    ATTACHING = "attaching"
    IN_USE = "in-use"
    DETACHING = "detaching"
    EXTENDING = "extending"
    ERROR_EXTENDING = "error_extending"
    ERROR = "error"
    DELETING = "deleting"


V = VolumeState
RESETTABLE = (V.AVAILABLE, V.IN_USE, V.ATTACHING, V.DETACHING, V.CREATING, V.ERROR, V.DELETING)
"""States that an administrator may declare."""

VOLUME_LIFE: Life[VolumeState] = Life(
    "volume",
    {
        (V.CREATING, "made"): V.AVAILABLE,
        (V.CREATING, "made for a server"): V.ATTACHING,
        (V.CREATING, "attached"): V.IN_USE,  # the guest's report may be read before the disk's
        (V.CREATING, "detached"): V.CREATING,
        (V.CREATING, "broke"): V.ERROR,
        (V.CREATING, "delete"): V.DELETING,
        # The host goes on trying: what was given up too early may still come true.
        (V.ERROR, "made"): V.AVAILABLE,
        (V.ERROR, "made for a server"): V.ATTACHING,
        (V.ERROR, "detached"): V.ERROR,
        (V.ERROR, "delete"): V.DELETING,
        (V.AVAILABLE, "reserve"): V.ATTACHING,
        (V.AVAILABLE, "extend"): V.EXTENDING,
        (V.AVAILABLE, "delete"): V.DELETING,
        (V.ATTACHING, "unreserve"): V.AVAILABLE,
        (V.ATTACHING, "attached"): V.IN_USE,
        (V.ATTACHING, "detach"): V.DETACHING,
        (V.ATTACHING, "detached"): V.AVAILABLE,
        (V.IN_USE, "attached"): V.IN_USE,
        (V.IN_USE, "detach"): V.DETACHING,
        (V.IN_USE, "detached"): V.AVAILABLE,
        (V.IN_USE, "extend in use"): V.EXTENDING,
        (V.DETACHING, "detached"): V.AVAILABLE,
        (V.DETACHING, "detach"): V.DETACHING,
        (V.EXTENDING, "extended"): V.AVAILABLE,
        (V.EXTENDING, "extended in use"): V.IN_USE,
        (V.EXTENDING, "detached"): V.EXTENDING,
        (V.EXTENDING, "broke"): V.ERROR_EXTENDING,
        (V.ERROR_EXTENDING, "extended"): V.AVAILABLE,
        (V.ERROR_EXTENDING, "extended in use"): V.IN_USE,
        (V.ERROR_EXTENDING, "detached"): V.ERROR_EXTENDING,
        (V.ERROR_EXTENDING, "delete"): V.DELETING,
    }
    | {(s, f"reset to {t}"): t for s in V for t in RESETTABLE},
)


class SnapshotState(StrEnum):
    CREATING = "creating"
    AVAILABLE = "available"
    ERROR = "error"
    DELETING = "deleting"
    ERROR_DELETING = "error_deleting"  # only an administrator says so


S = SnapshotState
SNAPSHOT_LIFE: Life[SnapshotState] = Life(
    "snapshot",
    {
        (S.CREATING, "made"): S.AVAILABLE,
        (S.CREATING, "broke"): S.ERROR,
        (S.CREATING, "delete"): S.DELETING,
        (S.AVAILABLE, "delete"): S.DELETING,
        (S.ERROR, "made"): S.AVAILABLE,
        (S.ERROR, "delete"): S.DELETING,
        (S.ERROR_DELETING, "delete"): S.DELETING,
    }
    | {(s, f"reset to {t}"): t for s in S for t in S},
)


class Attachment(Struct, frozen=True, kw_only=True):
    """A volume promised to a server; plugged since `attached_at`."""

    id: str
    volume_id: VolumeId
    server_id: ServerId
    project_id: ProjectId
    device: str  # "vdb"
    made_at: datetime
    attached_at: datetime | None = None


class Volume(Struct, frozen=True, kw_only=True):
    id: VolumeId
    project_id: ProjectId
    user_id: UserId
    name: str | None
    description: str | None
    size_gib: int
    seen_size_gib: int
    state: VolumeState
    type_id: str
    zone: str
    node_id: NodeId | None  # its engine keeps it there; None until it is placed
    image_id: ImageId | None
    snapshot_id: SnapshotId | None
    source_id: VolumeId | None
    image_metadata: dict[str, str]
    metadata: dict[str, str]
    is_bootable: bool
    is_readonly: bool | None  # None: never said
    trouble: str | None  # why it is not as wished, for its owner
    gone_number: int | None  # the first spec of its node that lacked it; None: it is to stay
    seen_number: int
    created_at: datetime
    updated_at: datetime | None
    attachments: tuple[Attachment, ...] = ()
    is_moving: bool = False  # with its server, to another host: nothing else may happen to it

    @property
    def shown_size_gib(self) -> int:
        """What the API calls its size: the wish, but while it grows what it still is."""
        if self.state in (V.EXTENDING, V.ERROR_EXTENDING):
            return self.seen_size_gib
        return self.size_gib

    @property
    def was_made(self) -> bool:
        return self.seen_size_gib > 0


class Snapshot(Struct, frozen=True, kw_only=True):
    id: SnapshotId
    volume_id: VolumeId
    project_id: ProjectId
    user_id: UserId
    name: str | None
    description: str | None
    size_gib: int
    state: SnapshotState
    metadata: dict[str, str]
    trouble: str | None
    gone_number: int | None
    seen_number: int
    created_at: datetime
    updated_at: datetime | None


class VolumeType(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    description: str | None
    is_public: bool
    extra_specs: dict[str, str]


DEFAULT_TYPE = VolumeType(
    id="6f1d1c1e-5d4b-4b53-9f0b-0d1f3c6a7c01",
    name="__DEFAULT__",
    description="Disks on the pool of the host that they live on",
    is_public=True,
    extra_specs={},
)
"""Always there, so that a new installation needs no row for it."""


class VolumeWish(Struct, frozen=True, kw_only=True):
    """What somebody wants of a new volume. At most one source."""

    size_gib: int | None = None  # None: the source's
    name: str | None = None
    description: str | None = None
    type: str | None = None  # id or name; None: the default
    zone: str | None = None
    metadata: dict[str, str] = {}
    image_id: ImageId | None = None
    snapshot_id: SnapshotId | None = None
    source_id: VolumeId | None = None
    for_server: ServerId | None = (
        None  # made on the host where this server is placed, and kept for it
    )
    device: str = "vda"  # with for_server


class SnapshotWish(Struct, frozen=True, kw_only=True):
    volume_id: VolumeId
    name: str | None = None
    description: str | None = None
    metadata: dict[str, str] = {}
    even_in_use: bool = False


class Usage(Struct, frozen=True, kw_only=True):
    """What counts against a project's limits."""

    volumes: int
    snapshots: int
    gigabytes: int  # of volumes and snapshots

    def of(self, name: str) -> int:
        return int(getattr(self, name, 0))


LIMITS = Limits(
    service="block-storage",
    limits=(
        Limit(name="volumes", default=10),
        Limit(name="snapshots", default=10),
        Limit(name="gigabytes", default=1000, unit="GiB"),
        Limit(name="per_volume_gigabytes", default=-1, unit="GiB"),
        Limit(name="backups", default=10),
        Limit(name="backup_gigabytes", default=1000, unit="GiB"),
        Limit(name="groups", default=10),
    ),
)
"""The API's limits with Cinder's defaults."""
