"""What an agent saw on its node, with a number.

A report is whole: what it does not list is not there. `number` grows with each report of one agent and
across its restarts, so that the control plane can refuse older news; `spec_number` says which wishes
were known when it was made.
"""

import hashlib
from enum import StrEnum

import msgspec
from msgspec import Struct

from cairn.core.ids import ImageId, NodeId, PortId, ServerId, SnapshotId, VolumeId
from cairn.wire.spec import DiskDoor


class GuestState(StrEnum):
    RUNNING = "running"
    STOPPING = "stopping"  # asked to shut down, still up
    STOPPED = "stopped"  # as wished
    ENDED = "ended"  # the guest shut itself down: its owner's wish, not ours to undo
    CRASHED = "crashed"  # the process died unasked; the agent boots it again
    WAITING = "waiting"  # not there yet: a disk, a port or an image is missing, or it failed
    RECEIVING = "receiving"  # comes from another host; not running here yet
    SENT = "sent"  # runs (or lies) elsewhere for good: must not run here again


class Trouble(Struct, frozen=True, kw_only=True):
    """Why something is not as wished: tried what, why it failed, since when, how often."""

    message: str  # for the user: the true cause, without paths or other tenants
    because: str = ""  # for the operator
    since: float = 0.0  # seconds since the epoch
    tries: int = 1


class MigrationSeen(Struct, frozen=True, kw_only=True):
    """How far one side of a migration is."""

    migration_id: str
    # The receiver waits at these; the sender needs them.
    memory_port: int = 0
    disks: tuple[DiskDoor, ...] = ()
    # Of the sender.
    total_bytes: int = 0
    left_bytes: int = 0
    pause_ms: int = 0  # how long the guest stood still, once it is over
    trouble: Trouble | None = None  # it failed: the guest still belongs to its old host


class GuestSeen(Struct, frozen=True, kw_only=True):
    id: ServerId
    incarnation: int
    boot_number: int  # of the process that runs or ran last; 0 before the first
    state: GuestState
    disks: tuple[VolumeId, ...] = ()  # plugged into the running process
    nics: tuple[PortId, ...] = ()
    trouble: Trouble | None = None
    migration: MigrationSeen | None = None


class VolumeSeen(Struct, frozen=True, kw_only=True):
    id: VolumeId
    size_gib: int
    ready: bool
    used_bytes: int = 0  # on the disk of the host
    snapshots: tuple[SnapshotId, ...] = ()
    trouble: Trouble | None = None


class ImageSeen(Struct, frozen=True, kw_only=True):
    id: ImageId
    ready: bool
    trouble: Trouble | None = None


class PortSeen(Struct, frozen=True, kw_only=True):
    id: PortId
    up: bool  # flows for it are in place
    trouble: Trouble | None = None


class ZoneSeen(Struct, frozen=True, kw_only=True):
    """How far the zone's logical network is written."""

    spec_number: int  # the newest that is in the network database
    trouble: Trouble | None = None


class MachineSeen(Struct, frozen=True, kw_only=True):
    """What became of a wish about another host's power."""

    node_id: NodeId
    number: int  # of the wish
    is_on: bool
    trouble: Trouble | None = None


class DoorSeen(Struct, frozen=True, kw_only=True):
    """What became of a wish about another host's way to the shared pool."""

    node_id: NodeId
    number: int  # of the wish
    is_open: bool
    trouble: Trouble | None = None


class EngineSeen(Struct, frozen=True, kw_only=True):
    """A process that the agent keeps alive, such as ovs-vswitchd."""

    name: str
    pid: int
    up: bool
    since: float = 0.0
    restarts: int = 0
    trouble: Trouble | None = None


class HealthSeen(Struct, frozen=True, kw_only=True):
    """One thing about a host's health that was looked at."""

    name: str  # "disk /dev/sda", "memory", "nic eth0", "clock", "pool"
    level: str  # "ok", "warning" or "critical"
    found: str  # "12 reallocated sectors"
    meaning: str = ""  # what it means for the host and what to do; empty when all is well


class HostFacts(Struct, frozen=True, kw_only=True):
    """What the host is and has, probed when the agent starts (capacities) and at each report (free)."""

    hostname: str
    vcpus: int
    memory_mib: int
    disk_gib: int
    disk_free_gib: int
    accelerator: str  # "kvm" or "tcg"
    hypervisor: str = "QEMU"
    hypervisor_version: int = 0  # 7002000 is 7.2.0
    cpu_model: str = ""
    address: str = ""  # of the underlay
    underlay_mtu: int = 1500
    datapath: str = ""  # "system" (kernel) or "netdev" (userspace)
    physical_networks: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    agent_version: str = ""
    features: tuple[str, ...] = ()  # "live-migration", "reflink", ...: what was probed and works
    has_shared_pool: bool = False  # its volumes can be opened by every host of the zone
    southbound: str = ""  # "ssl:192.0.2.2:6642", of a host with the network role


class NodeReport(Struct, frozen=True, kw_only=True):
    node_id: NodeId
    number: int
    spec_number: int  # 0: no spec known yet
    facts: HostFacts
    guests: tuple[GuestSeen, ...] = ()
    volumes: tuple[VolumeSeen, ...] = ()
    images: tuple[ImageSeen, ...] = ()
    ports: tuple[PortSeen, ...] = ()
    zone: ZoneSeen | None = None
    engines: tuple[EngineSeen, ...] = ()
    health: tuple[HealthSeen, ...] = ()
    machines: tuple[MachineSeen, ...] = ()
    digest: bytes = b""  # of all that is news in it: equal digests tell the same
    doors: tuple[DoorSeen, ...] = ()
    is_clean: bool = False  # no guest is left here that the spec does not have


FREE_STEP_GIB = 8  # free space and use of disks are news in such steps: they always move a little
_encode = msgspec.msgpack.Encoder().encode


def digest_of(report: NodeReport) -> bytes:
    """16 bytes that are the same for two reports that tell the same, whatever their numbers.

    What moves all the time counts in coarse steps, so that a host where nothing happens says nothing.
    """
    replace = msgspec.structs.replace
    free_gib = report.facts.disk_free_gib // FREE_STEP_GIB
    essence = replace(
        report,
        number=0,
        digest=b"",
        facts=replace(report.facts, disk_free_gib=free_gib),
        volumes=tuple(
            replace(v, used_bytes=v.used_bytes >> 33) if v.used_bytes else v for v in report.volumes
        ),
        health=tuple(replace(h, found="", meaning="") for h in report.health),
    )
    return hashlib.blake2b(_encode(essence), digest_size=16).digest()
