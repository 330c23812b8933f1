"""What the agent asks of an engine: look, and the few verbs that let its plan run.

Promises common to all verbs: each may be repeated (done twice is done once); removing what is absent is
no error; after a crash in the middle, looking shows either the old or the new, or calls it not ready;
each ends within its stated time or raises `Unavailable`. Failures are `CloudError`s whose `message` a
user may read (no host paths) and whose `because` tells the operator which command failed on what.
Every driver passes the suite in tests/contract; the fakes pass it first and can fail on order.
No driver knows the database, HTTP, policy or another driver.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from cairn.core.ids import ImageId, NetworkId, NodeId, PortId, ServerId, SnapshotId, VolumeId
from cairn.wire.report import EngineSeen
from cairn.wire.spec import (
    DiskDoor,
    GuestSpec,
    ImageSpec,
    MachineSpec,
    MetadataNetworkSpec,
    PortSpec,
    VolumeSpec,
    ZoneSpec,
)

Changed = Callable[[], None]
"""Called by a driver, on the event loop, when something changed unasked: "look now", no facts in it."""


# --- disks -------------------------------------------------------------------------------------------


class BlockNode(Struct, frozen=True, kw_only=True):
    """How QEMU opens a volume: the engine's own words, so that the hypervisor needs to know no engine.

    `options` is a QMP `BlockdevOptions` object without node-name (QEMU QMP reference, "blockdev-add").
    `owned_paths` are the files that the guest's user must own; `read_paths` those that it must read.
    """

    options: dict[str, object]
    owned_paths: tuple[str, ...] = ()
    read_paths: tuple[str, ...] = ()
    is_shared: bool = (
        False  # every host of the zone can open it: a migration need not move its bytes
    )


class VolumeView(Struct, frozen=True, kw_only=True):
    id: VolumeId
    size_gib: int
    used_bytes: int = 0
    snapshots: tuple[SnapshotId, ...] = ()


class PoolFacts(Struct, frozen=True, kw_only=True):
    """The pool's room, in GiB, and how it clones: "reflink", "qcow2", "rbd"."""

    total_gib: int
    free_gib: int
    engine: str
    is_shared: bool = False  # one pool of all hosts of a zone


class Volumes(Protocol):
    """Disks of one pool. Create, clone and snapshot are O(1): no byte is copied, no temporary file."""

    async def start(self) -> None:
        """Make the pool usable and probe it. Repeatable; at most 30 s."""
        ...

    async def look(self) -> tuple[list[VolumeView], list[ImageId]]:
        """The volumes and images that are whole; half-made leftovers are removed, not shown. < 1 s."""
        ...

    def facts(self) -> PoolFacts: ...

    async def import_image(self, spec: ImageSpec, source: Path) -> None:
        """Take a local file as an image: linked, cloned or moved where possible, else copied or converted.

        The file's true format is checked against `spec.format` again. At most 1 h."""
        ...

    async def remove_image(self, image_id: ImageId) -> None:
        """Forget an image; disks cloned from it live on. < 10 s."""
        ...

    async def create(self, spec: VolumeSpec) -> None:
        """Make the volume from its source, at least as large as `size_gib`. NotFound: the source is gone;
        Invalid: the source is larger than the volume; NoCapacity: the pool is full. < 10 s."""
        ...

    async def extend(self, volume_id: VolumeId, size_gib: int) -> None:
        """Grow a volume that no guest has open. Never shrinks. < 10 s."""
        ...

    async def snapshot(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> None:
        """Keep the volume as it is now under another id. Of a volume that no guest has open. < 10 s."""
        ...

    async def begin_live_snapshot(
        self, volume_id: VolumeId, snapshot_id: SnapshotId
    ) -> BlockNode | None:
        """For a volume in use: done at once where the engine can (None); else the new layer, which the
        hypervisor must switch to before `finish_live_snapshot`. Repeatable until finished."""
        ...

    async def finish_live_snapshot(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> None: ...

    async def remove_snapshot(self, volume_id: VolumeId, snapshot_id: SnapshotId) -> None:
        """Clones of it live on. < 10 s."""
        ...

    async def remove(self, volume_id: VolumeId) -> None:
        """Remove the volume; its snapshots' clones live on. < 10 s."""
        ...

    async def open(self, volume_id: VolumeId) -> BlockNode:
        """How to plug it. NotFound if absent. Side effects (mapping, login) are repeatable."""
        ...

    async def shut_out(self, node_id: NodeId, number: int) -> None:
        """From now on this host can write nothing to the shared pool, whatever it still runs; when it
        returns, no write of its is under way. The pool keeps the number of each host's newest wish.
        Conflict: there was a newer one. Unavailable where the pool is not shared. < 30 s."""
        ...

    async def let_in(self, node_id: NodeId, number: int) -> None:
        """The host may write again. Conflict: a newer wish shut it out. Else as `shut_out`."""
        ...


# --- guests ------------------------------------------------------------------------------------------


class Reception(Struct, frozen=True, kw_only=True):
    """This host waits for a guest; where it is to be sent."""

    migration_id: str
    memory_port: (
        int  # for the guest's state; of one that is stopped, for the word that all is there
    )
    disks: tuple[DiskDoor, ...] = ()
    trouble: str = ""


class Sending(Struct, frozen=True, kw_only=True):
    """A guest is being sent to another host, or was."""

    migration_id: str
    total_bytes: int = 0
    left_bytes: int = 0
    pause_ms: int = 0
    done: bool = False  # it is the other host's now: this process must never run again
    trouble: str = ""  # it failed and the guest runs here as before


class GuestView(Struct, frozen=True, kw_only=True):
    """A guest as this host has it: from its process, or from the record that the last one left."""

    id: ServerId
    incarnation: int
    boot_number: int
    running: bool
    stopping: bool = False
    crashed: bool = False  # the process ended and nobody asked for it
    ended: bool = False  # the guest shut itself down
    disks: tuple[VolumeId, ...] = ()
    nics: tuple[PortId, ...] = ()
    reception: Reception | None = None  # while it is received; it is not `running` meanwhile
    sending: Sending | None = None


class Tap(Struct, frozen=True, kw_only=True):
    """A port that is plugged on the host's side, ready for a guest.

    `name` is a tap interface in the namespace of the agent; `checksum_offload` is False where the
    datapath needs finished frames (userspace OVS)."""

    port_id: PortId
    name: str
    mac: str
    mtu: int
    checksum_offload: bool = True


class HypervisorFacts(Struct, frozen=True, kw_only=True):
    accelerator: str  # "kvm" or "tcg"
    hypervisor: str
    version: int  # 7002000 is 7.2.0
    cpu_model: str
    can_live_migrate: bool = False
    # Guests see the same processor on hosts where this is equal: only there a running one can go on.
    cpu_digest: str = ""


class Hypervisor(Protocol):
    """Guests of one kind. A guest outlives the agent; a new agent adopts what runs."""

    async def start(self, changed: Changed) -> None:
        """Adopt every running guest of an earlier agent; call `changed` at each death or event. < 30 s."""
        ...

    async def close(self) -> None:
        """Let go of all guests without touching them."""
        ...

    def facts(self) -> HypervisorFacts: ...

    async def look(self) -> list[GuestView]:
        """Every guest that runs or left a record here. < 1 s."""
        ...

    async def boot(
        self,
        spec: GuestSpec,
        disks: tuple[BlockNode, ...],
        taps: tuple[Tap, ...],
        config_drive: bytes | None,
    ) -> None:
        """Start the guest's process with everything it has; `disks` and `taps` in the order of the spec.

        When it returns, the virtual CPUs run. Nothing is left of it when it fails. < 30 s."""
        ...

    async def receive(
        self,
        spec: GuestSpec,
        disks: tuple[BlockNode, ...],
        taps: tuple[Tap, ...],
        config_drive: bytes | None,
    ) -> None:
        """Wait for the guest of `spec.incoming` with everything it has; `look` shows its `reception`.

        A running guest's virtual CPUs run as soon as it has come; one that is stopped leaves a record.
        Repeatable. A reception that failed, or whose process died, says so in its `trouble` until the guest
        is removed or received anew. < 30 s."""
        ...

    async def send(self, spec: GuestSpec, disks: tuple[BlockNode, ...]) -> None:
        """Begin to send the guest to `spec.outgoing`, and return; `look` shows its `sending`.

        `disks` in the order of the spec. Repeatable. The guest runs on until it runs there; when it fails
        it runs on here, and its `sending` keeps the trouble until the next. When it is done the guest
        never boots here again (Conflict), also after a power cut; `remove` forgets it. Where the sender
        died and nobody here can know whether the guest runs there, `sending` stays neither done nor
        troubled. < 10 s."""
        ...

    async def cancel_send(self, guest_id: ServerId) -> None:
        """Stop sending, unless it is done; the guest runs on here. Nothing under way is no error. < 10 s."""
        ...

    async def plug_disk(self, spec: GuestSpec, volume_id: VolumeId, disk: BlockNode) -> None: ...

    async def unplug_disk(self, guest_id: ServerId, volume_id: VolumeId) -> None:
        """Returns when the guest has let go (< 30 s), else Unavailable."""
        ...

    async def plug_nic(self, spec: GuestSpec, tap: Tap) -> None: ...

    async def unplug_nic(self, guest_id: ServerId, port_id: PortId) -> None: ...

    async def switch_layer(self, guest_id: ServerId, volume_id: VolumeId, layer: BlockNode) -> None:
        """From now on the running guest writes to `layer`; what it wrote before stays below. < 10 s."""
        ...

    async def resize_disk(self, guest_id: ServerId, volume_id: VolumeId, size_gib: int) -> None:
        """Grow the disk of a running guest, engine and guest's view. < 10 s."""
        ...

    async def shut_down(self, guest_id: ServerId) -> None:
        """Ask the guest to power off (ACPI) and return at once; a deaf guest needs `cut_off`."""
        ...

    async def cut_off(self, guest_id: ServerId) -> None:
        """End the guest's process now; the record says that it was asked for. < 10 s."""
        ...

    async def reset(self, guest_id: ServerId) -> None:
        """The reset button: same process, virtual machine starts over. < 5 s."""
        ...

    async def remove(self, guest_id: ServerId) -> None:
        """End it and forget it: process, record, console log, user. < 15 s."""
        ...

    async def console_log(self, guest_id: ServerId, lines: int | None) -> bytes:
        """The last `lines` lines (None: all that is kept, at most 1 MiB) of the serial console."""
        ...

    def vnc_socket(self, guest_id: ServerId) -> Path:
        """The unix socket on which the guest's screen speaks RFB. NotFound if it does not run."""
        ...


# --- power -------------------------------------------------------------------------------------------


class Power(Protocol):
    """The power of other hosts, switched from outside them (a BMC): for fencing and for repair."""

    async def is_on(self, machine: MachineSpec) -> bool:
        """As the machine's controller says, not as was asked last. < 10 s."""
        ...

    async def turn(self, machine: MachineSpec, *, on: bool) -> None:
        """Cut or give power; returns when the controller says that it is so. < 60 s."""
        ...


# --- networks ----------------------------------------------------------------------------------------


class PortView(Struct, frozen=True, kw_only=True):
    id: PortId
    up: bool  # the datapath carries it


class NetworksView(Struct, frozen=True, kw_only=True):
    ports: tuple[PortView, ...] = ()  # plugged on this host
    metadata_networks: tuple[NetworkId, ...] = ()  # whose 169.254.169.254 can be answered here
    engines: tuple[EngineSeen, ...] = ()
    southbound: tuple[
        str, ...
    ] = ()  # the zone's database that was joined; (): this host's own, or none


class NetworksFacts(Struct, frozen=True, kw_only=True):
    datapath: str  # "system" or "netdev"
    underlay_mtu: int
    address: str
    physical_networks: tuple[str, ...]
    southbound: str = ""  # where other hosts reach the zone's database; "": not here


class Networks(Protocol):
    """The network engine of one host, and of the zone where this host has the network role."""

    async def start(self, changed: Changed) -> None:
        """Start the daemons that should run here and adopt those that do. Dead ones are started again
        by the driver itself, whenever it notices. < 60 s."""
        ...

    async def close(self) -> None:
        """Let go of the engine without stopping it: guests keep their network."""
        ...

    def facts(self) -> NetworksFacts: ...

    async def look(self) -> NetworksView:
        """< 1 s, from memory as far as possible."""
        ...

    async def join(self, southbound: tuple[str, ...]) -> None:
        """Follow the zone's database at these addresses ("ssl:192.0.2.2:6642"); (): this host's own, or
        none if it has no network role. Repeatable. Unavailable while nobody answers there. < 10 s."""
        ...

    async def apply_zone(self, zone: ZoneSpec) -> None:
        """Make the zone's logical network equal to `zone`: the difference is written in one transaction.
        Only on the host with the network role. < 30 s for 10,000 ports."""
        ...

    async def plug(self, port: PortSpec) -> Tap:
        """Make the host's end of the port and join it to the datapath. < 5 s.

        Unavailable on a host that has no zone yet: neither the network role nor `join`."""
        ...

    async def unplug(self, port_id: PortId) -> None: ...

    async def open_metadata(self, network: MetadataNetworkSpec) -> None:
        """Make this host answer for 169.254.169.254 in the network. The listening socket comes from
        `metadata_socket`. < 5 s."""
        ...

    def metadata_socket(self, network_id: NetworkId) -> "MetadataSocket":
        """A listening TCP socket on 169.254.169.254:80 inside the network; one for each call."""
        ...

    async def close_metadata(self, network_id: NetworkId) -> None: ...


class MetadataSocket(Protocol):
    """What asyncio needs of a listening socket (`socket.socket` is one)."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...
