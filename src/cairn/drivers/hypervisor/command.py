"""From a guest's spec to QEMU's command line and QMP objects. Pure: opens and asks nothing.

A device looks the same whether it is there from the start (`-device` takes JSON) or plugged later
(`device_add`), so one function says it for both. Every disk and NIC sits in a root port of its own,
because only those can be unplugged; the fixed devices sit on the root bus. Paths are relative: QEMU
runs in the guest's directory and needs no way through ours.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from cairn.core.errors import Invalid
from cairn.core.ids import PortId, VolumeId
from cairn.drivers.contracts import BlockNode, Tap
from cairn.wire.spec import DiskSpec, GuestSpec

SLOTS = 24
DISK_SLOTS = 16  # the disks' own, by the letter of the device; the others are the nics'
MACHINE = "pc-q35-7.2"
MACHINE_VERSION = 7_002_000
SLOT_BASE = 8  # the first device number on the root bus that holds root ports, eight in each
CONFIG_DRIVE = "config.iso"
CONSOLE_LOG = "console.log"
VNC_SOCKET = "vnc.sock"
SERIAL_LENGTH_MAX = 20
PRODUCT = "OpenStack Compute"  # cloud-init's ds-identify knows OpenStack by this SMBIOS name

Device = dict[str, object]


class Engine(Struct, frozen=True, kw_only=True):
    """How this host runs guests."""

    program: str
    accelerator: str  # "kvm" or "tcg"
    tb_size_mib: int  # translation cache of TCG
    machine: str = "q35"


def machine_of(version: int) -> str:
    """The machine's hardware, by a name that means the same in every later QEMU: a guest that moves finds
    there what it left here."""
    return MACHINE if version >= MACHINE_VERSION else "q35"


class Listeners(Struct, frozen=True, kw_only=True):
    """Listening sockets that QEMU inherits, so that it need not be allowed to make them."""

    qmp: int
    serial: int
    agent: int


class Drive(Struct, frozen=True, kw_only=True):
    disk: DiskSpec
    node: BlockNode
    node_name: str
    slot: int


class Nic(Struct, frozen=True, kw_only=True):
    tap: Tap
    fd: int
    slot: int


def argv(
    engine: Engine,
    spec: GuestSpec,
    drives: Sequence[Drive],
    nics: Sequence[Nic],
    listeners: Listeners,
    *,
    has_config_drive: bool,
    is_received: bool = False,
) -> list[str]:
    """The whole command line. The guest starts stopped (`-S`) and, when it powers off, its process
    stays until somebody has seen that it did (`-no-shutdown`)."""
    return [
        engine.program,
        *("-name", f"guest={spec.id},debug-threads=on"),
        *("-uuid", spec.id),
        *("-no-user-config", "-nodefaults", "-S", "-no-shutdown"),
        *_machine(engine, spec),
        *_sandbox(),
        *_channels(listeners),
        *_fixed_devices(),
        *_root_ports(),
        *(_config_drive() if has_config_drive else ()),
        *(word for drive in drives for word in _drive(drive)),
        *(word for nic in nics for word in _nic(nic)),
        *(("-incoming", "defer") if is_received else ()),
    ]


def disks_argv(
    engine: Engine,
    spec: GuestSpec,
    drives: Sequence[Drive],
    listeners: Listeners,
    *,
    is_received: bool,
) -> list[str]:
    """A QEMU without a machine, which only holds the disks of a guest that is stopped."""
    return [
        engine.program,
        *("-name", f"guest={spec.id}", "-machine", "none"),
        *("-no-user-config", "-nodefaults", "-S", "-display", "none"),
        *_sandbox(),
        *("-chardev", f"socket,id=qmp,fd={listeners.qmp},server=on,wait=off"),
        *("-mon", "chardev=qmp,mode=control"),
        *(word for drive in drives for word in ("-blockdev", encode(node(drive)))),
        *(("-incoming", "defer") if is_received else ()),
    ]


def layout(spec: GuestSpec) -> dict[str, int]:
    """Where each disk and nic sits, by its id: the same on every host and whatever was plugged later.

    Only the spec decides, because the receiver of a running guest must build the very machine that its
    sender has. Who finds its own place taken or beyond the last sits where there is room.
    """
    wanted: dict[str, int | None] = {disk.volume_id: _disk_slot(disk) for disk in spec.disks}
    for number, nic in enumerate(spec.nics):
        place = DISK_SLOTS + (nic.position if nic.position >= 0 else number)
        wanted[nic.port_id] = place if place < SLOTS else None
    found: dict[str, int] = {}
    for name, slot in wanted.items():
        if slot is not None and slot not in found.values():
            found[name] = slot
    for name in wanted:
        if name not in found:
            free = next((s for s in range(SLOTS) if s not in found.values()), None)
            if free is None:
                raise Invalid(f"a guest may have at most {SLOTS} disks and ports together")
            found[name] = free
    return found


def _disk_slot(disk: DiskSpec) -> int | None:
    """ "vdc" is the third."""
    match = re.fullmatch(r"vd([a-z])", disk.device)
    slot = ord(match[1]) - ord("a") if match else SLOTS
    return slot if slot < DISK_SLOTS else None


def _machine(engine: Engine, spec: GuestSpec) -> list[str]:
    kvm = engine.accelerator == "kvm"
    return [
        *("-machine", f"{engine.machine},vmport=off,usb=off" + (",hpet=off" if kvm else "")),
        *("-accel", "kvm" if kvm else f"tcg,tb-size={engine.tb_size_mib}"),
        *("-cpu", "host" if kvm else "max"),
        *("-m", f"{spec.memory_mib}M"),
        *("-smp", f"{spec.vcpus},sockets=1,cores={spec.vcpus},threads=1"),
        *("-rtc", "base=utc,driftfix=slew"),
        *("-boot", "strict=off"),
        *("-smbios", f"type=1,manufacturer=Cairn,product={PRODUCT},serial={spec.id}"),
        # A guest that sleeps would look like one that runs and never answers.
        *("-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1"),
    ]


def _sandbox() -> list[str]:
    return [
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]


def _channels(listeners: Listeners) -> list[str]:
    def socket(name: str, fd: int, more: str = "") -> tuple[str, str]:
        return ("-chardev", f"socket,id={name},fd={fd},server=on,wait=off{more}")

    return [
        *socket("qmp", listeners.qmp),
        *("-mon", "chardev=qmp,mode=control"),
        *socket("serial", listeners.serial, f",logfile={CONSOLE_LOG},logappend=on"),
        *("-serial", "chardev:serial"),
        *device({"driver": "virtio-serial-pci", "id": "channels", "bus": "pcie.0", "addr": "0x2"}),
        *socket("agent", listeners.agent),
        *device(
            {
                "driver": "virtserialport",
                "bus": "channels.0",
                "chardev": "agent",
                "name": "org.qemu.guest_agent.0",
            }
        ),
        *("-display", "none", "-vnc", f"unix:{VNC_SOCKET}"),
    ]


def _fixed_devices() -> list[str]:
    return [
        *device({"driver": "VGA", "bus": "pcie.0", "addr": "0x1"}),
        *device(
            {
                "driver": "virtio-balloon-pci",
                "bus": "pcie.0",
                "addr": "0x3",
                "deflate-on-oom": True,
                "free-page-reporting": True,
            }
        ),
        *("-object", "rng-random,id=entropy,filename=/dev/urandom"),
        *device({"driver": "virtio-rng-pci", "rng": "entropy", "bus": "pcie.0", "addr": "0x4"}),
    ]


def _root_ports() -> list[str]:
    ports: list[str] = []
    for slot in range(SLOTS):
        ports += device(
            {
                "driver": "pcie-root-port",
                "id": slot_bus(slot),
                "bus": "pcie.0",
                "addr": f"{SLOT_BASE + slot // 8:#x}.{slot % 8}",
                "multifunction": True,
                "chassis": slot + 1,
            }
        )
    return ports


def _config_drive() -> list[str]:
    """A CD-ROM, so that it does not take the name of a disk ("vdb") away from the user's."""
    node = {
        "node-name": "config",
        "driver": "raw",
        "read-only": True,
        "file": {"driver": "file", "filename": CONFIG_DRIVE},
    }
    return [
        *("-blockdev", encode(node)),
        *device({"driver": "virtio-scsi-pci", "id": "scsi", "bus": "pcie.0", "addr": "0x5"}),
        *device({"driver": "scsi-cd", "bus": "scsi.0", "drive": "config"}),
    ]


def _drive(drive: Drive) -> list[str]:
    return ["-blockdev", encode(node(drive)), *device(disk_device(drive))]


def _nic(nic: Nic) -> list[str]:
    return [
        *("-netdev", f"tap,id={netdev_id(nic.tap.port_id)},fd={nic.fd}"),
        *device(nic_device(nic.tap, nic.slot)),
    ]


def node(drive: Drive) -> Device:
    """The disk's node for `-blockdev` and `blockdev-add`."""
    return {**drive.node.options, "node-name": drive.node_name}


def disk_device(drive: Drive) -> Device:
    boot = {"bootindex": 1} if drive.disk.boot else {}
    return {
        "driver": "virtio-blk-pci",
        "id": disk_id(drive.disk.volume_id),
        "bus": slot_bus(drive.slot),
        "drive": drive.node_name,
        "serial": (drive.disk.serial or drive.disk.volume_id)[:SERIAL_LENGTH_MAX],
        **boot,
    }


def nic_device(tap: Tap, slot: int) -> Device:
    """Without offload neither side may leave a checksum to the other, nor send what needs one."""
    parts = () if tap.checksum_offload else NEEDS_CHECKSUM_OFFLOAD
    return {
        "driver": "virtio-net-pci",
        "id": nic_id(tap.port_id),
        "bus": slot_bus(slot),
        "netdev": netdev_id(tap.port_id),
        "mac": tap.mac,
        "host_mtu": tap.mtu,
        "romfile": "",
        **dict.fromkeys(parts, False),
    }


NEEDS_CHECKSUM_OFFLOAD = (
    "csum",
    "gso",
    "host_tso4",
    "host_tso6",
    "host_ecn",
    "host_ufo",
    "guest_csum",
    "guest_tso4",
    "guest_tso6",
    "guest_ecn",
    "guest_ufo",
)


def disk_id(volume_id: VolumeId) -> str:
    return f"disk-{volume_id}"


def nic_id(port_id: PortId) -> str:
    return f"nic-{port_id}"


def netdev_id(port_id: PortId) -> str:
    return f"net-{port_id}"


def node_name(volume_id: VolumeId, layer: int) -> str:
    """QEMU allows 31 characters, one less than a UUID's digits."""
    return f"v{volume_id.replace('-', '')[:24]}.{layer}"


def slot_bus(slot: int) -> str:
    return f"slot{slot}"


def device(properties: Mapping[str, object]) -> list[str]:
    return ["-device", encode(properties)]


def encode(value: Mapping[str, object]) -> str:
    return msgspec.json.encode(value).decode()
