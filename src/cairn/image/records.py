"""What an image, its members and its import tasks are, and the life of an image."""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from cairn.core.ids import ImageId, ProjectId
from cairn.core.limits import Limit, Limits
from cairn.life.machine import Life

MIB = 1 << 20
GIB = 1 << 30

CONTAINER_FORMATS = ("bare", "ami", "aki", "ari", "ovf", "ova", "docker", "compressed")
CHECKED_CONTAINERS = frozenset({"bare", "ami", "aki", "ari"})
"""Containers whose file is the disk itself, so that its format can be checked. The rest are archives:
kept and given out again, never opened."""

BOOTABLE_FORMATS = {"raw": "raw", "qcow2": "qcow2", "iso": "raw"}
"""Disk formats that a disk can be made from, and as what an engine opens them."""

LIMITS = Limits(
    service="image",
    limits=(
        Limit(name="image_size_total", default=-1, unit="MiB"),
        Limit(name="image_stage_total", default=-1, unit="MiB"),
        Limit(name="image_count_total", default=1000),
        Limit(name="image_count_uploading", default=-1),
    ),
)
"""Glance's unified limits, per project."""

TAGS_MAX = 128
PROPERTIES_MAX = 128
MEMBERS_MAX = 128


class ImageStatus(StrEnum):
    QUEUED = "queued"  # a record without content
    SAVING = "saving"  # content arrives
    UPLOADING = "uploading"  # content arrives or lies in the staging area, until it is imported
    ACTIVE = "active"
    DEACTIVATED = "deactivated"  # an administrator's or owner's stop: no download, no boot


class Visibility(StrEnum):
    PRIVATE = "private"  # the owner's project
    SHARED = "shared"  # and its members
    COMMUNITY = "community"  # everybody who knows the id
    PUBLIC = "public"  # everybody's list


class MemberStatus(StrEnum):
    PENDING = "pending"  # may use it, does not list it
    ACCEPTED = "accepted"
    REJECTED = "rejected"


S = ImageStatus
IMAGE_LIFE = Life(
    "image",
    {
        (S.QUEUED, "upload"): S.SAVING,
        (S.SAVING, "saved"): S.ACTIVE,
        (S.SAVING, "failed"): S.QUEUED,
        (S.QUEUED, "stage"): S.UPLOADING,
        (S.UPLOADING, "imported"): S.ACTIVE,
        (S.UPLOADING, "failed"): S.QUEUED,
        (S.ACTIVE, "deactivate"): S.DEACTIVATED,
        (S.DEACTIVATED, "deactivate"): S.DEACTIVATED,
        (S.DEACTIVATED, "reactivate"): S.ACTIVE,
        (S.ACTIVE, "reactivate"): S.ACTIVE,
    },
)


class Content(Struct, frozen=True, kw_only=True):
    """A whole file that was received."""

    path: str  # absolute; the agent on the same machine links it
    size_bytes: int
    virtual_bytes: int | None  # of the disk inside; None where the file is not a disk
    md5: str
    sha256: str
    sha512: str
    refusal: str | None = None  # staged only: why it cannot be imported


class ImportTask(Struct, frozen=True, kw_only=True):
    """An import, as the API shows it afterwards."""

    id: str
    request_id: str
    user_id: str
    method: str
    status: str  # "success" or "failure"
    message: str
    at: datetime


class Image(Struct, frozen=True, kw_only=True):
    id: ImageId
    name: str | None
    owner: ProjectId | None
    status: ImageStatus
    visibility: Visibility
    is_protected: bool
    is_hidden: bool
    format: str | None  # of the disk
    container: str | None
    min_disk_gib: int
    min_ram_mib: int
    created_at: datetime
    updated_at: datetime
    content: Content | None = None
    staged: Content | None = None
    upload_id: str | None = None  # who may finish the upload that is under way
    upload_until: datetime | None = None  # when the upload is given up unless it is renewed
    tasks: tuple[ImportTask, ...] = ()
    tags: tuple[str, ...] = ()
    properties: dict[str, str | None] = {}

    @property
    def size_bytes(self) -> int | None:
        return self.content.size_bytes if self.content else None

    @property
    def virtual_bytes(self) -> int | None:
        return self.content.virtual_bytes if self.content else None


class ImageWish(Struct, frozen=True, kw_only=True):
    """What the creator of an image says about it."""

    id: ImageId | None = None
    name: str | None = None
    owner: ProjectId | None = None
    visibility: Visibility = Visibility.SHARED
    is_protected: bool = False
    is_hidden: bool = False
    format: str | None = None
    container: str | None = None
    min_disk_gib: int = 0
    min_ram_mib: int = 0
    tags: tuple[str, ...] = ()
    properties: dict[str, str | None] = {}


class Member(Struct, frozen=True, kw_only=True):
    image_id: ImageId
    project_id: ProjectId
    status: MemberStatus
    created_at: datetime
    updated_at: datetime


class Upload(Struct, frozen=True, kw_only=True):
    """The right to bring the content of an image."""

    image_id: ImageId
    upload_id: str
    format: str | None  # to check against; None: an archive
    bytes_max: int | None  # what the project's limit leaves; None: unlimited

    @property
    def file_name(self) -> str:
        return f"{self.image_id}.{self.upload_id}"


class Usage(Struct, frozen=True, kw_only=True):
    """What a project has."""

    images: int = 0
    bytes: int = 0
    staged_bytes: int = 0
    uploads: int = 0  # images whose content is on its way, or waits to be imported

    @property
    def counts(self) -> dict[str, int]:
        """By the name of the limit, in its unit."""
        return {
            "image_size_total": -(-self.bytes // MIB),
            "image_stage_total": -(-self.staged_bytes // MIB),
            "image_count_total": self.images,
            "image_count_uploading": self.uploads,
        }
