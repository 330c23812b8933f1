"""What an agent saw on its node, with a number.

A report is whole: what it does not list is not there. `number` grows with each report of one agent and
across its restarts, so that the control plane can refuse older news; `spec_number` says which wishes
were known when it was made.
"""

from enum import StrEnum

from msgspec import Struct

from cairn.core.ids import ImageId, NodeId, PortId, ServerId, SnapshotId, VolumeId


class GuestState(StrEnum):
    RUNNING = "running"
    STOPPING = "stopping"  # asked to shut down, still up
    STOPPED = "stopped"  # as wished
    ENDED = "ended"  # the guest shut itself down: its owner's wish, not ours to undo
    CRASHED = "crashed"  # the process died unasked; the agent boots it again
    WAITING = "waiting"  # not there yet: a disk, a port or an image is missing, or it failed


class Trouble(Struct, frozen=True, kw_only=True):
    """Why something is not as wished: tried what, why it failed, since when, how often."""

    message: str  # for the user: the true cause, without paths or other tenants
    because: str = ""  # for the operator
    since: float = 0.0  # seconds since the epoch
    tries: int = 1


class GuestSeen(Struct, frozen=True, kw_only=True):
    id: ServerId
    incarnation: int
    boot_number: int  # of the process that runs or ran last; 0 before the first
    state: GuestState
    disks: tuple[VolumeId, ...] = ()  # plugged into the running process
    nics: tuple[PortId, ...] = ()
    trouble: Trouble | None = None


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


class EngineSeen(Struct, frozen=True, kw_only=True):
    """A process that the agent keeps alive, such as ovs-vswitchd."""

    name: str
    pid: int
    up: bool
    since: float = 0.0
    restarts: int = 0
    trouble: Trouble | None = None


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
