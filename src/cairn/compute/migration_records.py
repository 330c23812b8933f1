"""What the move of a server to another host is.

Both hosts act on their own specs and never talk to the control plane about each other; the row says how
far they are. The guest belongs to its old host until that host says "sent" or the new one says that it
runs; from then on to the new one. In between, where a move is given up, the old host must first say
that it sends no more: only then may the new one clear away what it received.
"""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from cairn.core.ids import NodeId, ProjectId, ServerId, UserId
from cairn.life.machine import Life
from cairn.wire.spec import DiskDoor


class MigrationState(StrEnum):
    QUEUED = "queued"
    PREPARING = "preparing"  # the new host makes ready; the old one knows nothing of it
    COPYING = "copying"
    STOPPING = "stopping"  # given up, but the old host has not said yet that it stopped in time
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


M = MigrationState
MIGRATION_LIFE: Life[MigrationState] = Life(
    "migration",
    {
        (M.QUEUED, "prepare"): M.PREPARING,
        (M.PREPARING, "ready"): M.COPYING,
        (M.COPYING, "turn back"): M.STOPPING,
        (M.COPYING, "arrive"): M.DONE,
        (M.STOPPING, "arrive"): M.DONE,
    }
    | {(s, "fail"): M.FAILED for s in (M.QUEUED, M.PREPARING, M.COPYING, M.STOPPING)}
    | {(s, "cancel"): M.CANCELLED for s in (M.QUEUED, M.PREPARING, M.COPYING, M.STOPPING)},
)
OPEN = (M.QUEUED, M.PREPARING, M.COPYING, M.STOPPING)
WORKING = (M.PREPARING, M.COPYING, M.STOPPING)
"""Those that two hosts are busy with."""


class Way(StrEnum):
    LIVE = "live"  # it runs on
    COLD = "cold"  # it stands still meanwhile
    ANY = "any"  # live where it can; settled when a host is found


class Cause(StrEnum):
    API = "api"
    DRAIN = "drain"


class Moving(StrEnum):
    """What a server's row says of its move."""

    LIVE = "live"
    COLD = "cold"
    MOVED = "moved"  # it is there; somebody must confirm it or send it back


class Migration(Struct, frozen=True, kw_only=True):
    number: int  # the API's id
    id: str
    server_id: ServerId
    project_id: ProjectId
    user_id: UserId  # who asked for it
    cause: Cause
    way: Way
    asks_confirmation: bool  # when it is done, somebody must confirm it
    was_running: bool
    from_node: NodeId
    to_node: NodeId | None  # None until one is found
    state: MigrationState
    why: str | None  # it failed, or waits
    incarnation: int  # of the guest on its new host
    secret: str  # between both hosts; never shown
    is_cancelled: bool  # somebody wants it ended
    is_cleared: bool  # nothing that an earlier life of the server left lies on the new host
    prepare_number: int  # the first spec of the new host that says so
    stop_number: int  # the first spec of the old host that says "stop"
    ask_number: int  # the first spec of the new host after the old one could not tell; 0: it can
    memory_port: int
    disks: tuple[DiskDoor, ...]
    total_bytes: int
    left_bytes: int
    pause_ms: int
    progress_at: datetime  # when it came on last
    confirmation: str | None  # None while it is under way; "waiting", "confirmed" or "reverted"
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def stands_still(self) -> bool:
        """Whether the guest must not run while it is moved."""
        return self.way is Way.COLD

    @property
    def claimant(self) -> str:
        """Under which name room is kept for it."""
        return f"migration:{self.id}"


class Drain(Struct, frozen=True, kw_only=True):
    """A host that is being emptied."""

    node_id: NodeId
    began_at: datetime
    user_id: UserId
    project_id: ProjectId
