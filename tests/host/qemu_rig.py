"""Real guests for tests: a state directory and a pool of their own, taps, and a shell in the guest.

Every wait is for something that the guest prints, never for a time that it should have taken.
"""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path

from cairn.core.ids import PortId, ServerId, VolumeId
from cairn.drivers.contracts import BlockNode, Changed, Tap
from cairn.drivers.hypervisor import process
from cairn.drivers.hypervisor.qemu import QemuHypervisor, QemuOptions, tear_down
from cairn.wire.spec import DiskSpec, GuestSpec, NicSpec

PROBE_IMAGE = Path("/var/cache/cairn/images/probe.qcow2")
CONSOLE_S_MAX = 240.0  # a guest boots in software emulation, beside whatever else runs here
GUEST_MEMORY_MIB = 160


class QemuRig:
    """Makes drivers, disks and taps, and does to guests what users, hosts and chance do."""

    _made = itertools.count()

    def __init__(self) -> None:
        assert PROBE_IMAGE.exists(), f"{PROBE_IMAGE} is missing: ./cairn image build probe"
        self.home = Path(tempfile.mkdtemp(prefix="cairn-qemu-", dir="/tmp"))
        self.home.chmod(0o711)
        state_dir = self.home / "state"
        self.pool = state_dir / "volumes"
        for directory in (state_dir, self.pool):
            directory.mkdir(mode=0o700)
        self._number = next(self._made) % 2  # two hosts of one test stand side by side
        self.options = QemuOptions(
            state_dir=state_dir,
            uid_first=1_950_000_000 + os.getpid() % 1000 * 100 + self._number * 50,
        )
        self._base: Path | None = None
        self._taps: list[str] = []
        self._drivers: list[QemuHypervisor] = []

    async def close(self) -> None:
        for driver in self._drivers:
            await driver.close()
        await tear_down(self.options)
        for name in self._taps:
            _ip("link", "del", name)
        shutil.rmtree(self.home)

    # --- making ----------------------------------------------------------------------------------

    async def agent(self, changed: Changed = lambda: None) -> QemuHypervisor:
        """A driver as a fresh agent has it; the earlier one is dropped as if its agent had died."""
        for driver in self._drivers:
            await driver.close()
        self._drivers = []
        return await self.agent_beside(changed)

    async def agent_beside(self, changed: Changed = lambda: None) -> QemuHypervisor:
        """The same, but the earlier one hangs where it is, as a killed agent's memory would."""
        driver = QemuHypervisor(self.options)
        self._drivers.append(driver)
        await driver.start(changed)
        return driver

    def disk(self, volume_id: VolumeId, *, bootable: bool = False) -> BlockNode:
        """An overlay on the probe image, or an empty disk of 64 MiB, which is made once."""
        path = self.pool / f"{volume_id}.qcow2"
        if not bootable:
            if not path.exists():
                _qemu_img("create", "-q", "-f", "qcow2", path, "64M")
            return _node(path)
        if self._base is None:
            self._base = self.pool / "base.qcow2"
            shutil.copyfile(PROBE_IMAGE, self._base)
        _qemu_img("create", "-q", "-f", "qcow2", "-b", self._base, "-F", "qcow2", path, "256M")
        return _node(path, read_paths=(str(self._base),))

    def layer(self, below: VolumeId) -> BlockNode:
        """The next layer over a volume, as a storage driver prepares it for a snapshot."""
        path = self.pool / f"{uuid.uuid4()}.qcow2"
        below_path = self.pool / f"{below}.qcow2"
        _qemu_img("create", "-q", "-f", "qcow2", "-b", below_path, "-F", "qcow2", "-u", path, "64M")
        return _node(path, read_paths=(str(below_path),))

    def broken_disk(self, volume_id: VolumeId) -> BlockNode:
        return _node(self.pool / f"{volume_id}.qcow2")

    def tap(self, port_id: PortId) -> Tap:
        name = f"cvt{self._number}{port_id.replace('-', '')[:11]}"
        _ip("tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr")
        _ip("link", "set", name, "up")
        self._taps.append(name)
        mac = f"fa:16:3e:{port_id[0:2]}:{port_id[2:4]}:{port_id[4:6]}"
        return Tap(port_id=port_id, name=name, mac=mac, mtu=1442, checksum_offload=False)

    # --- what happens to guests ------------------------------------------------------------------

    def pid(self, guest_id: ServerId) -> int:
        (pid,) = process.find(self.options.guests_dir, self.options.uids)[guest_id]
        return pid

    async def up(self, guest_id: ServerId) -> None:
        """Returns when the guest's system has done all that it does at its start."""
        await self.console_has(guest_id, b"PROBE: done")

    async def console_has(self, guest_id: ServerId, text: bytes) -> bytes:
        log = self.options.guests_dir / guest_id / "console.log"
        async with asyncio.timeout(CONSOLE_S_MAX):
            while text not in (said := log.read_bytes()):  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.05)
        return said

    async def shell(self, guest_id: ServerId, command: str, *, last: bytes = b"\ndone\r\n") -> str:
        path = self.options.guests_dir / guest_id / "serial.sock"
        return await shell(path, command, last=last)

    async def end(self, guest_id: ServerId) -> None:
        """The guest's owner types `poweroff`."""
        await self.shell(guest_id, "poweroff -f", last=b"Power down")

    async def crash(self, guest_id: ServerId) -> None:
        os.kill(self.pid(guest_id), signal.SIGKILL)

    async def power_cut(self) -> None:
        """Everything dies at once, and nobody could write anything down."""
        for driver in self._drivers:
            await driver.close()
        self._drivers = []
        running = process.find(self.options.guests_dir, self.options.uids)
        watched = [process.Process(pid) for pids in running.values() for pid in pids]
        for one in watched:
            one.signal(signal.SIGKILL)
            await one.gone()


def new_spec(
    *, disks: tuple[VolumeId, ...] = (), nics: tuple[PortId, ...] = (), vcpus: int = 1
) -> GuestSpec:
    """A guest with a new id; the first disk is the one that it boots from."""
    return GuestSpec(
        id=ServerId(str(uuid.uuid4())),
        incarnation=1,
        name="web-1",
        vcpus=vcpus,
        memory_mib=GUEST_MEMORY_MIB,
        disks=tuple(
            DiskSpec(volume_id=volume_id, device=f"vd{'abcdefgh'[n]}", boot=n == 0)
            for n, volume_id in enumerate(disks)
        ),
        nics=tuple(NicSpec(port_id=port_id) for port_id in nics),
    )


def new_volume_id() -> VolumeId:
    return VolumeId(str(uuid.uuid4()))


def new_port_id() -> PortId:
    return PortId(str(uuid.uuid4()))


def _node(path: Path, read_paths: tuple[str, ...] = ()) -> BlockNode:
    return BlockNode(
        options={"driver": "qcow2", "file": {"driver": "file", "filename": str(path)}},
        owned_paths=(str(path),),
        read_paths=read_paths,
    )


def _qemu_img(*words: object) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


async def shell(console: Path, command: str, *, last: bytes = b"\ndone\r\n") -> str:
    """What a command prints, typed at the serial console, where root is signed in."""
    reader, writer = await asyncio.open_unix_connection(console)
    try:
        async with asyncio.timeout(CONSOLE_S_MAX):
            writer.write(b"\n")
            await _until(reader, b"# ")
            writer.write(f"echo be''gin; {command}; echo do''ne\n".encode())
            said = await _until(reader, last)
            # The guest's line editor breaks what was typed; only what follows is the answer.
            answer = said.decode(errors="replace").replace("\r", "").rpartition("begin\n")[2]
            # Nor is what the guest's services say on the same console meanwhile.
            return re.sub(r"PROBE: [^\n]*\n", "", answer).removesuffix("done\n")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _until(reader: asyncio.StreamReader, end: bytes) -> bytes:
    """What is said up to and with `end`, or until the guest hangs up."""
    said = b""
    while end not in said and (more := await reader.read(4096)):
        said += more
    return said
