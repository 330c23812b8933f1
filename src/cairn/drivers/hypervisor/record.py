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

FILE = "guest.json"


class Fate(StrEnum):
    """What became of the guest, or is to become of it."""

    BOOTING = "booting"  # being started: a process found in this state is half made
    RUNNING = "running"
    STOPPING = "stopping"  # asked to shut down
    STOPPED = "stopped"  # ended as asked
    ENDED = "ended"  # shut itself down
    CRASHED = "crashed"  # ended, and nobody asked for it


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

    def disk(self, volume_id: VolumeId) -> PluggedDisk | None:
        return next((disk for disk in self.disks if disk.volume_id == volume_id), None)

    def nic(self, port_id: PortId) -> PluggedNic | None:
        return next((nic for nic in self.nics if nic.port_id == port_id), None)

    @property
    def owned_paths(self) -> tuple[str, ...]:
        return tuple(p for disk in self.disks for layer in disk.layers for p in layer.owned_paths)


def load(home: Path) -> GuestRecord | None:
    """The record in a guest's directory; None if there is none that can be read."""
    try:
        return msgspec.json.decode((home / FILE).read_bytes(), type=GuestRecord)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def save(home: Path, record: GuestRecord) -> None:
    """Replace the record. An end is on the disk when this returns; the rest may be lost with the host,
    since a guest whose record is lost is booted again, which is what a lost host needs anyway."""
    draft = home / f"{FILE}.new"
    with draft.open("wb") as file:
        file.write(msgspec.json.encode(record))
        if record.fate in (Fate.STOPPED, Fate.ENDED):
            file.flush()
            os.fsync(file.fileno())
    draft.replace(home / FILE)
