"""Two hosts of their own: two network namespaces joined by a cable, each with a pool, a state and an agent.

An agent's driver runs in a thread whose network namespace is its host's, as threads of Linux may have one
each; so its processes, sockets and taps are that host's, and pulling the cable cuts what a cable cuts.
"""

import asyncio
import ctypes
import os
import re
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cairn.core.ids import ImageId, NodeId, PortId, ServerId, VolumeId
from cairn.drivers.contracts import BlockNode, GuestView, Sending, Tap
from cairn.drivers.hypervisor import process
from cairn.drivers.hypervisor.qemu import QemuHypervisor, QemuOptions, tear_down
from cairn.drivers.volumes.files import FilesOptions, FilesVolumes
from cairn.wire.spec import (
    DiskSpec,
    GuestSpec,
    ImageSpec,
    Incoming,
    NicSpec,
    Outgoing,
    Power,
    VolumeSpec,
)
from tests.host.qemu_rig import (
    CONSOLE_S_MAX,
    GUEST_MEMORY_MIB,
    PROBE_IMAGE,
    new_port_id,
    new_volume_id,
    shell,
)

T = TypeVar("T")
SECRET = "c0ffee" * 10 + "beef"
IMAGE = ImageId("0d4bb0a4-3b9c-4d52-8b5c-0000000000aa")
SIZE_GIB = 1
MOVE_S_MAX = 240.0
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

# Each record goes to its own block of the disk and is safe there before the console tells of it.
WRITER = (
    "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1));"
    ' printf "%012d %010d\\n" $i $((i*2654435761%4294967291))'
    " | dd of=/dev/vdb bs=512 seek=$i conv=sync,fsync 2>/dev/null; echo SEQ $i.; done"
)


def record(number: int) -> bytes:
    """What the writer writes."""
    return b"%012d %010d\n" % (number, number * 2654435761 % 4294967291)


class Site:
    """One host."""

    def __init__(self, name: str, address: str, home: Path, *, number: int) -> None:
        self.name, self.address, self.home = name, address, home
        self.node_id = NodeId(f"node-{name}")
        self.options = QemuOptions(
            state_dir=home,
            uid_first=1_960_000_000 + os.getpid() % 1000 * 100 + number * 50,
            address=address,
        )
        self._pool = FilesOptions(
            pool_dir=home / "volumes", reader_gid=self.options.uids.readers_gid
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name=name)
        self._thread.start()
        self.driver: QemuHypervisor
        self.volumes: FilesVolumes

    def _live(self) -> None:
        fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        assert _libc.setns(fd, _CLONE_NEWNET) == 0
        os.close(fd)
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def here(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it on this host."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def start(self) -> None:
        self.volumes = FilesVolumes(self._pool)
        await self.here(self.volumes.start())
        await self.agent()

    async def agent(self) -> None:
        """A fresh agent's driver; an earlier one is dropped as if it had been killed."""
        if hasattr(self, "driver"):
            await self.here(self.driver.close())
        self.driver = QemuHypervisor(self.options)
        await self.here(self.driver.start(lambda: None))

    async def close(self) -> None:
        await self.here(self.driver.close())
        await self.here(tear_down(self.options))
        await self.here(self.volumes.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def make(self, volume_id: VolumeId, *, image: ImageId | None = None) -> None:
        spec = VolumeSpec(id=volume_id, size_gib=SIZE_GIB, from_image=image)
        await self.here(self.volumes.create(spec))

    async def opened(self, spec: GuestSpec) -> tuple[BlockNode, ...]:
        return tuple([await self.here(self.volumes.open(d.volume_id)) for d in spec.disks])

    def tap(self, port_id: PortId, *, checksum_offload: bool = False) -> Tap:
        name = f"cvt{port_id.replace('-', '')[:11]}"
        if not self._has(name):
            ip("-n", self.name, "tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr")
            ip("-n", self.name, "link", "set", name, "up")
        mac = f"fa:16:3e:{port_id[0:2]}:{port_id[2:4]}:{port_id[4:6]}"
        return Tap(port_id=port_id, name=name, mac=mac, mtu=1442, checksum_offload=checksum_offload)

    def _has(self, link: str) -> bool:
        shown = ["ip", "-n", self.name, "link", "show", link]
        return subprocess.run(shown, capture_output=True, check=False).returncode == 0

    async def see(self, guest_id: ServerId) -> GuestView | None:
        return next((v for v in await self.here(self.driver.look()) if v.id == guest_id), None)

    async def until(self, guest_id: ServerId, is_so: Callable[[GuestView], bool]) -> GuestView:
        view = None
        try:
            async with asyncio.timeout(MOVE_S_MAX):
                while (view := await self.see(guest_id)) is None or not is_so(view):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise AssertionError(f"it stays {view}") from error
        return view

    def pid(self, guest_id: ServerId) -> int:
        (pid,) = process.find(self.options.guests_dir, self.options.uids)[guest_id]
        return pid

    def console(self, guest_id: ServerId) -> bytes:
        try:
            return (self.options.guests_dir / guest_id / "console.log").read_bytes()
        except FileNotFoundError:
            return b""

    async def console_has(self, guest_id: ServerId, text: bytes) -> None:
        async with asyncio.timeout(CONSOLE_S_MAX):
            while text not in self.console(guest_id):  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.05)

    async def shell(self, guest_id: ServerId, command: str) -> str:
        return await shell(self.options.guests_dir / guest_id / "serial.sock", command)

    async def content(self, volume_id: VolumeId) -> Path:
        """A raw copy of what a volume holds; nobody may have it open."""
        node = await self.here(self.volumes.open(volume_id))
        copy = self.home / f"{volume_id}.copy"
        source = f"json:{msgspec.json.encode(node.options).decode()}"
        subprocess.run(["qemu-img", "convert", "-O", "raw", source, str(copy)], check=True)  # noqa: ASYNC221
        return copy


class TwoHosts:
    def __init__(self, home: Path) -> None:
        self.names = [f"cv5{os.getpid() % 10000}{letter}" for letter in "ab"]
        self.home = home
        one, other = self.names
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", one, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", other)
        self.sites = []
        for number, name in enumerate(self.names):
            address = f"192.0.2.{number + 1}"
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            place = home / "ab"[number]
            place.mkdir(mode=0o711)
            self.sites.append(Site(name, address, place, number=number))
        self.a, self.b = self.sites
        self._moves = 0
        self._said = b""  # on the consoles, in the order of the hosts that the guest was on
        self._heard = [0, 0]  # how much of each console is in there

    async def start(self) -> None:
        for site in self.sites:
            await site.start()

    async def close(self) -> None:
        for site in self.sites:
            await site.close()
        for name in self.names:
            ip("netns", "del", name)

    def pull_the_cable(self) -> None:
        ip("-n", self.names[0], "link", "set", "cable", "down")

    def plug_the_cable(self) -> None:
        ip("-n", self.names[0], "link", "set", "cable", "up")

    async def guest(self, *, disks: int = 2, nics: int = 2) -> GuestSpec:
        """One that is not booted: a root disk from the probe image, empty volumes, nics."""
        volumes = [new_volume_id() for _ in range(disks)]
        image = ImageSpec(
            id=IMAGE,
            format="qcow2",
            size_bytes=PROBE_IMAGE.stat().st_size,
            virtual_bytes=0,
            sha256="",
        )
        copy = self.home / "probe.qcow2"
        shutil.copyfile(PROBE_IMAGE, copy)
        await self.a.here(self.a.volumes.import_image(image, copy))
        for number, volume_id in enumerate(volumes):
            await self.a.make(volume_id, image=None if number else IMAGE)
        return GuestSpec(
            id=ServerId(str(uuid.uuid4())),
            incarnation=1,
            name="mover",
            vcpus=1,
            memory_mib=GUEST_MEMORY_MIB,
            disks=tuple(
                DiskSpec(volume_id=volume_id, device=f"vd{'abcdefgh'[n]}", boot=n == 0)
                for n, volume_id in enumerate(volumes)
            ),
            nics=tuple(NicSpec(port_id=new_port_id(), position=n) for n in range(nics)),
        )

    async def boot(self, spec: GuestSpec, *, checksum_offload: bool = False) -> None:
        taps = tuple(
            self.a.tap(nic.port_id, checksum_offload=checksum_offload) for nic in spec.nics
        )
        await self.a.here(self.a.driver.boot(spec, await self.a.opened(spec), taps, None))
        await self.a.console_has(spec.id, b"PROBE: done")

    async def write(self, spec: GuestSpec) -> None:
        """The guest begins to write, for ever."""
        await self.a.shell(spec.id, f"rm -f /tmp/stop; ({WRITER}) & echo")
        await self.a.console_has(spec.id, b"SEQ 5.")

    async def awaited(
        self, spec: GuestSpec, at: Site, *, checksum_offload: bool = False
    ) -> GuestSpec:
        """The other host waits for the guest, in its next incarnation."""
        self._moves += 1
        there = msgspec.structs.replace(
            spec,
            incarnation=spec.incarnation + 1,
            outgoing=None,
            incoming=Incoming(
                migration_id=f"m{self._moves}",
                from_node=NodeId("other"),
                from_address="192.0.2.9",
                secret=SECRET,
            ),
        )
        for disk in spec.disks:
            await at.here(at.volumes.remove(disk.volume_id))
            received = VolumeSpec(id=disk.volume_id, size_gib=SIZE_GIB, is_received=True)
            await at.here(at.volumes.create(received))
        taps = tuple(at.tap(n.port_id, checksum_offload=checksum_offload) for n in spec.nics)
        await at.here(at.driver.receive(there, await at.opened(there), taps, None))
        return there

    async def send(
        self, spec: GuestSpec, to: Site, *, bandwidth_mib_s: int = 0, secret: str = SECRET
    ) -> None:
        at = self.a if to is self.b else self.b
        view = await to.see(spec.id)
        assert view is not None and view.reception is not None
        way = Outgoing(
            migration_id=view.reception.migration_id,
            to_node=to.node_id,
            address=to.address,
            memory_port=view.reception.memory_port,
            disks=view.reception.disks,
            bandwidth_mib_s=bandwidth_mib_s,
            secret=secret,
        )
        sent = msgspec.structs.replace(spec, outgoing=way)
        await at.here(at.driver.send(sent, await at.opened(sent)))

    async def move(self, spec: GuestSpec, to: Site) -> tuple[GuestSpec, Sending]:
        """There it runs, or lies; its spec there, and how it went."""
        at = self.a if to is self.b else self.b
        there = await self.awaited(spec, to)
        await self.send(spec, to)
        gone = await at.until(
            spec.id, lambda v: bool(v.sending and (v.sending.done or v.sending.trouble))
        )
        assert gone.sending is not None and gone.sending.done, gone.sending
        await to.until(
            spec.id, lambda v: v.reception is None and v.running == (spec.power is Power.RUNNING)
        )
        self._listen(spec, at)
        return msgspec.structs.replace(there, incoming=None), gone.sending

    def _listen(self, spec: GuestSpec, at: Site) -> None:
        number, said = self.sites.index(at), at.console(spec.id)
        self._said += said[self._heard[number] :]
        self._heard[number] = len(said)

    def written(self, spec: GuestSpec, at: Site) -> int:
        """The number of the last record that the guest told of; each before it was told once, in order, by
        one host after the other."""
        self._listen(spec, at)
        told = [int(n) for n in re.findall(rb"SEQ (\d+)\.", self._said)]
        assert told == list(range(1, len(told) + 1))
        return told[-1]

    async def writes_on(self, spec: GuestSpec, at: Site) -> None:
        """Returns when the guest has told of more records there."""
        before = at.console(spec.id).count(b"SEQ")
        async with asyncio.timeout(CONSOLE_S_MAX):
            while at.console(spec.id).count(b"SEQ") < before + 5:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def stop_writing(self, spec: GuestSpec, at: Site) -> int:
        """The last record."""
        await at.shell(spec.id, "touch /tmp/stop; wait")
        return self.written(spec, at)

    async def assert_written(self, volume_id: VolumeId, at: Site, last: int) -> None:
        copy = await at.content(volume_id)
        with copy.open("rb") as file:
            for number in range(1, last + 1):
                file.seek(number * 512)
                found = file.read(24)
                assert found == record(number), f"record {number} of {last} is {found!r}"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def new_home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="cvm", dir="/tmp"))
    home.chmod(0o711)
    return home
