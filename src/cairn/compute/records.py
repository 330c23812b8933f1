"""What servers, flavors and key pairs are, and which state of a server follows which.

A server's `state` says what it is; what is wanted of it are other fields (power, boot_number,
gone_number); what its host saw are the `seen_…` fields. Task, power state and status of the API are
computed from these three and stored nowhere.
"""

from datetime import datetime
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from cairn.core.ids import FlavorId, ImageId, NodeId, PortId, ProjectId, ServerId, UserId, VolumeId
from cairn.core.limits import Limit, Limits
from cairn.life.machine import Life
from cairn.placement.records import Amounts
from cairn.wire.report import GuestState, Trouble
from cairn.wire.spec import Power


class ServerState(StrEnum):
    """Spelled as the API's `vm_state`."""

    BUILDING = "building"
    ACTIVE = "active"
    STOPPED = "stopped"
    ERROR = "error"


S = ServerState
SERVER_LIFE: Life[ServerState] = Life(
    "server",
    {
        # What hosts report. An error heals when the guest runs (or stops) after all.
        (S.BUILDING, "running"): S.ACTIVE,
        (S.ACTIVE, "running"): S.ACTIVE,
        (S.STOPPED, "running"): S.ACTIVE,
        (S.ERROR, "running"): S.ACTIVE,
        (S.BUILDING, "stopped"): S.STOPPED,
        (S.ACTIVE, "stopped"): S.STOPPED,
        (S.STOPPED, "stopped"): S.STOPPED,
        (S.ERROR, "stopped"): S.STOPPED,
        (S.BUILDING, "failed"): S.ERROR,
        (S.ACTIVE, "failed"): S.ERROR,
        (S.STOPPED, "failed"): S.ERROR,
        (S.ERROR, "failed"): S.ERROR,
        # What users ask. These leave the state as it is until the host has done it.
        (S.ACTIVE, "stop"): S.ACTIVE,
        (S.ERROR, "stop"): S.ERROR,
        (S.STOPPED, "start"): S.STOPPED,
        (S.ACTIVE, "reboot softly"): S.ACTIVE,
        (S.ACTIVE, "reboot hard"): S.ACTIVE,
        (S.STOPPED, "reboot hard"): S.STOPPED,
        (S.ERROR, "reboot hard"): S.ERROR,
        (S.ACTIVE, "attach"): S.ACTIVE,
        (S.STOPPED, "attach"): S.STOPPED,
        (S.ACTIVE, "detach"): S.ACTIVE,
        (S.STOPPED, "detach"): S.STOPPED,
        (S.ACTIVE, "open console"): S.ACTIVE,
        (S.ERROR, "open console"): S.ERROR,
    }
    # Its host was lost: it is to be built anew elsewhere, of what is left.
    | {(s, "evict"): S.BUILDING for s in S}
    | {(s, "delete"): s for s in S}
    | {(s, f"reset to {t}"): t for s in S for t in (S.ACTIVE, S.ERROR)},
)

STATUSES = {S.BUILDING: "BUILD", S.ACTIVE: "ACTIVE", S.STOPPED: "SHUTOFF", S.ERROR: "ERROR"}

POWER_STATES: dict[GuestState | None, int] = {
    None: 0,
    GuestState.WAITING: 0,
    GuestState.RUNNING: 1,
    GuestState.STOPPING: 1,
    GuestState.STOPPED: 4,
    GuestState.ENDED: 4,
    GuestState.CRASHED: 6,
    GuestState.RECEIVING: 0,
    GuestState.SENT: 0,
}
"""Nova's numbers: 0 none, 1 running, 4 shut down, 6 crashed."""

MOVING_TASKS: dict[str | None, str] = {"live": "migrating", "cold": "resize_migrating"}

TRIES_BEFORE_ERROR = (
    3  # a host's failed tries after which a server counts as broken; it goes on trying
)


class Flavor(Struct, frozen=True, kw_only=True):
    id: FlavorId
    name: str
    vcpus: int
    memory_mib: int
    disk_gib: int  # of the root disk; 0: as large as the image
    ephemeral_gib: int = 0
    swap_mib: int = 0
    rxtx_factor: float = 1.0
    is_public: bool = True
    is_disabled: bool = False
    description: str | None = None
    extra_specs: dict[str, str] = {}


class KeyPair(Struct, frozen=True, kw_only=True):
    number: int
    user_id: UserId
    name: str
    kind: str  # "ssh" or "x509"
    public_key: str
    fingerprint: str
    created_at: datetime


class Fault(Struct, frozen=True, kw_only=True):
    """Why a server is in ERROR, as its owner may read it."""

    message: str
    created_at: datetime
    code: int = 500
    details: str = ""  # for administrators


class Disk(Struct, frozen=True, kw_only=True):
    """A block storage volume in a server. A root disk of the server's own is no Disk."""

    id: str  # of the attachment
    server_id: ServerId
    volume_id: VolumeId
    device: str  # "vdb"
    is_boot: bool
    delete_on_termination: bool
    tag: str | None
    is_wanted: bool  # False: being unplugged
    want_number: int  # the first spec of the node that says so; 0: not placed yet
    is_plugged: bool  # seen
    made_at: datetime


class Nic(Struct, frozen=True, kw_only=True):
    """A port in a server, in the order of `position`."""

    server_id: ServerId
    port_id: PortId
    position: int
    is_owned: bool  # made by compute, so removed with the server
    tag: str | None
    is_wanted: bool
    want_number: int
    made_at: datetime


class Server(Struct, frozen=True, kw_only=True):
    id: ServerId
    project_id: ProjectId
    user_id: UserId
    name: str
    description: str | None
    hostname: str
    created_at: datetime
    updated_at: datetime
    # What it is made of.
    flavor: Flavor  # as it was when the server was made
    image_id: ImageId | None
    root_gib: int  # of a root disk of its own; 0: it boots from a volume
    key_name: str | None
    public_key: str | None
    admin_password: str | None
    user_data: str | None  # base64, as given
    has_config_drive: bool
    metadata: dict[str, str]
    tags: tuple[str, ...]
    groups: tuple[str, ...]  # names of security groups, as asked for
    zone_wish: str | None
    disk_config: str  # "AUTO" or "MANUAL"
    access_ipv4: str
    access_ipv6: str
    reservation_id: str
    launch_index: int
    is_locked: bool
    locked_reason: str | None
    # Wishes.
    power: Power
    boot_number: int
    is_soft_reboot: bool
    stop_grace_s: int
    is_doomed: bool  # to be deleted
    gone_number: int | None  # the first spec of its node that lacks it
    # The placer's.
    node_id: NodeId | None
    zone: str | None  # of that node
    incarnation: int
    # Sightings.
    state: ServerState
    fault: Fault | None
    launched_at: datetime | None
    seen_state: GuestState | None
    seen_boot: int
    seen_number: int
    trouble: Trouble | None
    # Should its host be lost.
    restart_default: str = "false"  # the installation's word when it was made (marks.py)
    mark_number: int = 0  # the first spec of its node that says that it may start elsewhere
    evicted_incarnation: int = 0  # that lost its place; equal to `incarnation` until it has another
    pool_zone: str | None = None  # it was evicted: its disks lie in this zone's shared pool
    # While it is moved to another host (migrations.py).
    migration_id: str | None = None
    moving: str | None = None  # "live", "cold", or "moved": it is there, to be confirmed

    @property
    def need(self) -> Amounts:
        """What it takes of a host."""
        return Amounts(
            vcpus=self.flavor.vcpus, memory_mib=self.flavor.memory_mib, disk_gib=self.root_gib
        )

    @property
    def root_id(self) -> VolumeId | None:
        """The volume of its own root disk, if it has one."""
        return VolumeId(self.id) if self.root_gib else None


class Seen(Struct, frozen=True, kw_only=True):
    """What decides about an event in a server's life: wish and sighting side by side."""

    state: GuestState
    boot: int
    wanted_boot: int
    power: Power
    trouble: Trouble | None = None


def event_of(seen: Seen) -> str | None:
    """The event that a sighting stands for, or None while its wish is still under way."""
    if seen.trouble is not None and seen.state in (GuestState.WAITING, GuestState.CRASHED):
        return "failed" if seen.trouble.tries >= TRIES_BEFORE_ERROR else None
    is_this_boot = seen.boot == seen.wanted_boot
    if seen.state is GuestState.RUNNING and seen.power is Power.RUNNING and is_this_boot:
        return "running"
    if seen.state is GuestState.STOPPED and seen.power is Power.STOPPED:
        return "stopped"
    if seen.state is GuestState.ENDED and (is_this_boot or seen.power is Power.STOPPED):
        return "stopped"
    return None


class Wished(Protocol):
    """What is wished of a server and what was seen of it, of a whole `Server` or less."""

    @property
    def is_doomed(self) -> bool: ...
    @property
    def state(self) -> ServerState: ...
    @property
    def node_id(self) -> NodeId | None: ...
    @property
    def power(self) -> Power: ...
    @property
    def boot_number(self) -> int: ...
    @property
    def seen_boot(self) -> int: ...
    @property
    def is_soft_reboot(self) -> bool: ...
    @property
    def moving(self) -> str | None: ...


def task_of(server: Wished) -> str | None:
    """What is under way, in Nova's words; None when all is as wished."""
    if server.is_doomed:
        return "deleting"
    if server.moving in MOVING_TASKS:
        return MOVING_TASKS[server.moving]
    if server.state is S.BUILDING:
        return "scheduling" if server.node_id is None else "spawning"
    if server.node_id is None:
        return None
    if server.power is Power.STOPPED:
        return "powering-off" if server.state is S.ACTIVE else None
    if server.state is S.STOPPED:
        return "powering-on"
    if server.seen_boot < server.boot_number and server.state is S.ACTIVE:
        return "rebooting" if server.is_soft_reboot else "rebooting_hard"
    return None


class Action(Struct, frozen=True, kw_only=True):
    """One thing that was asked of a server, or happened to it, with its one event."""

    number: int
    server_id: ServerId
    project_id: ProjectId
    user_id: UserId
    request_id: str
    action: str  # "create", "stop", ...
    event: str  # "compute__do_build_and_run_instance"
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
    result: str | None = None  # "Success" or "Error"
    message: str | None = None
    details: str | None = None
    node_id: NodeId | None = None


LIMITS = Limits(
    service="compute",
    limits=(
        Limit(name="instances", default=10),
        Limit(name="cores", default=20),
        Limit(name="ram", default=50 * 1024, unit="MiB"),
        Limit(name="metadata_items", default=128),
        Limit(name="key_pairs", default=100),
        Limit(name="server_groups", default=10),
        Limit(name="server_group_members", default=10),
        Limit(name="injected_files", default=5),
        Limit(name="injected_file_content_bytes", default=10 * 1024, unit="bytes"),
        Limit(name="injected_file_path_bytes", default=255, unit="bytes"),
        Limit(name="floating_ips", default=-1, is_idle=True),
        Limit(name="fixed_ips", default=-1, is_idle=True),
        Limit(name="security_groups", default=-1, is_idle=True),
        Limit(name="security_group_rules", default=-1, is_idle=True),
    ),
)
"""The API's limits with Nova's defaults. The last four are the network service's."""


class Usage(Struct, frozen=True, kw_only=True):
    """What a project's servers take of its limits."""

    instances: int = 0
    cores: int = 0
    ram: int = 0


class Search(Struct, frozen=True, kw_only=True):
    """What a list of servers asks for. None: no matter."""

    name: str | None = None  # a pattern
    states: tuple[ServerState, ...] | None = None
    project_id: ProjectId | None = None
    user_id: UserId | None = None
    flavor_id: FlavorId | None = None
    image_id: ImageId | None = None
    node_ids: tuple[NodeId, ...] | None = None
    server_ids: tuple[ServerId, ...] | None = None
    zone: str | None = None
    key_name: str | None = None
    hostname: str | None = None
    description: str | None = None
    reservation_id: str | None = None
    is_locked: bool | None = None
    has_config_drive: bool | None = None
    power_state: int | None = None
    changed_since: datetime | None = None
    changed_before: datetime | None = None
    tags_all: tuple[str, ...] = ()
    tags_any: tuple[str, ...] = ()
    tags_not_all: tuple[str, ...] = ()
    tags_not_any: tuple[str, ...] = ()
    sort: tuple[tuple[str, bool], ...] = ()  # (attribute, descending)
    limit: int = 1000
    marker: ServerId | None = None
