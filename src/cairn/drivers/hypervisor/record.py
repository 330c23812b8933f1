"""What is kept on disk about a guest, so that a new agent knows what the last one did.

One small JSON file in each guest's directory, replaced by rename. It holds only what cannot be asked
of the running process: whose it is, which boot it is, how it came to its end, and which files were
handed to it. Whether it runs is never read from here, but from the kernel.
"""

import os
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct

from cairn.core.ids import PortId, ServerId, VolumeId
from cairn.wire.spec import DiskDoor

FILE = "guest.json"


class Fate(StrEnum):
    """What became of the guest, or is to become of it."""

    BOOTING = "booting"  # being started: a process found in this state is half made
    RUNNING = "running"
    STOPPING = "stopping"  # asked to shut down
    STOPPED = "stopped"  # ended as asked
    ENDED = "ended"  # shut itself down
    CRASHED = "crashed"  # ended, and nobody asked for it
    RECEIVING = "receiving"  # waits for what comes from another host
    SENT = "sent"  # another host's now: must not run here again
    UNSURE = (
        "unsure"  # ended in the last moment of being sent: nobody here knows whether it runs there
    )


class Stage(StrEnum):
    """How far a guest is on its way to another host."""

    DISKS = "disks"  # its private disks are copied, and from then on written on both hosts
    STATE = "state"  # its memory is copied while it runs
    SWITCH = "switch"  # it stands still; from here on it may run there
    DONE = "done"
    FAILED = "failed"


class Departure(Struct, frozen=True, kw_only=True):
    """A guest's way to another host. Without its key: whoever goes on with it needs none."""

    migration_id: str
    stage: Stage
    address: str
    memory_port: int
    doors: tuple[DiskDoor, ...] = ()
    host_boot: str = ""  # the kernel's boot in which this was written
    bandwidth_mib_s: int = 0
    memory_bytes: int = 0  # 0: only its disks are sent
    total_bytes: int = 0
    left_bytes: int = 0
    pause_ms: int = 0
    trouble: str = ""

    @property
    def is_under_way(self) -> bool:
        return self.stage not in (Stage.DONE, Stage.FAILED)


class Arrival(Struct, frozen=True, kw_only=True):
    """Where a guest is waited for."""

    migration_id: str
    is_running: bool  # it is to run when it has come; else only its disks come
    memory_port: int = 0
    doors: tuple[DiskDoor, ...] = ()
    trouble: str = ""


class Layer(Struct, frozen=True, kw_only=True):
    """One file of a disk's chain that we opened by name."""

    node_name: str
    owned_paths: tuple[str, ...] = ()


class PluggedDisk(Struct, frozen=True, kw_only=True):
    volume_id: VolumeId
    slot: int
    layers: tuple[Layer, ...]  # the one that the guest writes to is the last

    @property
    def top(self) -> Layer:
        return self.layers[-1]


class PluggedNic(Struct, frozen=True, kw_only=True):
    port_id: PortId
    slot: int


class GuestRecord(Struct, frozen=True, kw_only=True):
    id: ServerId
    incarnation: int
    boot_number: int
    uid: int
    fate: Fate
    disks: tuple[PluggedDisk, ...] = ()
    nics: tuple[PluggedNic, ...] = ()
    arrival: Arrival | None = None
    departure: Departure | None = None

    @property
    def is_on_its_way(self) -> bool:
        return self.departure is not None and self.departure.is_under_way

    def disk(self, volume_id: VolumeId) -> PluggedDisk | None:
        return next((disk for disk in self.disks if disk.volume_id == volume_id), None)

    def nic(self, port_id: PortId) -> PluggedNic | None:
        return next((nic for nic in self.nics if nic.port_id == port_id), None)

    @property
    def owned_paths(self) -> tuple[str, ...]:
        return tuple(p for disk in self.disks for layer in disk.layers for p in layer.owned_paths)


_LASTING = (Fate.STOPPED, Fate.ENDED, Fate.SENT, Fate.UNSURE)


def host_boot() -> str:
    """Differs after each start of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def load(home: Path) -> GuestRecord | None:
    """The record in a guest's directory; None if there is none that can be read."""
    try:
        return msgspec.json.decode((home / FILE).read_bytes(), type=GuestRecord)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def save(home: Path, record: GuestRecord, *, lasting: bool = False) -> None:
    """Replace the record. An end is on the disk when this returns; the rest may be lost with the host,
    since a guest whose record is lost is booted again, which is what a lost host needs anyway. Not so one
    that may run elsewhere, or that has just come from there."""
    lasting = (
        lasting
        or record.fate in _LASTING
        or (record.departure is not None and record.departure.stage is Stage.STATE)
    )
    draft = home / f"{FILE}.new"
    with draft.open("wb") as file:
        file.write(msgspec.json.encode(record))
        if lasting:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(home / FILE)
    if lasting:
        folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
