"""Virtual machines: one QEMU process for each guest, which outlives the agent.

This file is about the host: which accelerator works, who may run, and finding what an earlier agent
left. One guest's life is in guest.py, the command line in command.py.
"""

import asyncio
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from msgspec import Struct

from cairn.core import log
from cairn.core.errors import Conflict, Invalid, NoCapacity, NotFound, Unavailable
from cairn.core.ids import PortId, ServerId, VolumeId
from cairn.core.tasks import TaskGroup
from cairn.drivers.contracts import BlockNode, Changed, GuestView, HypervisorFacts, Tap
from cairn.drivers.hypervisor import command, process, record, uids
from cairn.drivers.hypervisor.guest import Guest, Host
from cairn.drivers.hypervisor.home import Home
from cairn.drivers.hypervisor.record import Fate
from cairn.wire.spec import GuestSpec, Power

SOCKET_PATH_MAX = 107  # sockaddr_un holds 108 bytes with the ending zero
ADOPTIONS_AT_ONCE = 32
PROBE_S_MAX = 10

_log = log.get("hypervisor")


class QemuOptions(Struct, frozen=True, kw_only=True):
    """`uid_first` and the following `uid_count` numbers must belong to nobody on this host; two
    drivers on one host need ranges that do not overlap."""

    state_dir: Path
    accelerator: str = "auto"  # "kvm", "tcg", or the better one that works
    program: str = "qemu-system-x86_64"
    uid_first: int = 1_900_000_000  # above what systemd and containers take by themselves
    uid_count: int = 65_536
    address: str = "127.0.0.1"  # of the underlay: where guests of other hosts come in
    tb_size_mib: int = 32  # of TCG's translation cache; QEMU's own default costs 32 MiB more

    @property
    def guests_dir(self) -> Path:
        return self.state_dir / "guests"

    @property
    def keys_dir(self) -> Path:
        return self.state_dir / "keys"

    @property
    def uids(self) -> uids.UidRange:
        return uids.UidRange(first=self.uid_first, count=self.uid_count)


class QemuHypervisor:
    def __init__(self, options: QemuOptions) -> None:
        self._options = options
        self._guests: dict[ServerId, Guest] = {}
        self._tasks = TaskGroup()
        self._host: Host | None = None
        self._facts: HypervisorFacts | None = None
        # A guest's first seconds are the dearest, above all without KVM.
        self._boots = asyncio.Semaphore(max(2, 2 * (os.cpu_count() or 1)))

    async def start(self, changed: Changed) -> None:
        guests_dir = self._options.guests_dir
        longest = guests_dir / ("0" * 36) / "serial.sock"
        if len(str(longest)) > SOCKET_PATH_MAX:
            raise Invalid(
                "the state directory's path is too long for unix sockets",
                because=f"{longest} has more than {SOCKET_PATH_MAX} characters",
            )
        accelerator = choose_accelerator(self._options.accelerator)
        version = await asyncio.to_thread(_version, self._options.program)
        self._facts = HypervisorFacts(
            accelerator=accelerator,
            hypervisor="QEMU",
            version=version,
            cpu_model=_cpu_line("model name"),
            # Older ones build a machine that no other version knows by name.
            can_live_migrate=version >= command.MACHINE_VERSION,
            cpu_digest=cpu_digest(accelerator, version),
        )
        groups = [self._options.uids.readers_gid]
        if accelerator == "kvm":
            groups.append(KVM.stat().st_gid)
        self._host = Host(
            engine=command.Engine(
                program=self._options.program,
                accelerator=accelerator,
                tb_size_mib=self._options.tb_size_mib,
                machine=command.machine_of(self._facts.version),
            ),
            uids=self._options.uids,
            groups=tuple(groups),
            address=self._options.address,
            keys_dir=self._options.keys_dir,
            tasks=self._tasks,
            changed=changed,
        )
        guests_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The disks of the agent's own pool are in there, too.
        uids.let_through(self._options.state_dir, self._options.uids)
        await self._adopt_all(self._host)

    async def _adopt_all(self, host: Host) -> None:
        running = process.find(self._options.guests_dir, self._options.uids)
        at_once = asyncio.Semaphore(ADOPTIONS_AT_ONCE)

        async def adopt(home: Home) -> None:
            pids = running.pop(home.id, [])
            known = home.load()
            async with at_once:
                if known is None or len(pids) > 1:
                    await _end_all(pids)
                if known is None:
                    home.remove()
                    return
                guest = Guest(home, host, known)
                if len(pids) == 1:
                    await guest.adopt(pids[0])
                else:
                    await guest.find_dead()
                if guest.record is not None:
                    self._guests[known.id] = guest

        async with asyncio.TaskGroup() as adoptions:
            for path in sorted(self._options.guests_dir.iterdir()):
                adoptions.create_task(adopt(Home(path)))
        for pids in running.values():  # Their directories are gone.
            await _end_all(pids)

    async def close(self) -> None:
        await self._tasks.close()
        for guest in self._guests.values():
            await guest.let_go()
        self._guests.clear()

    def facts(self) -> HypervisorFacts:
        assert self._facts is not None, "start comes first"
        return self._facts

    async def look(self) -> list[GuestView]:
        for guest in list(self._guests.values()):
            await guest.keep()
        views = (guest.view() for guest in self._guests.values())
        return [view for view in views if view is not None]

    def _known_or_new(self, spec: GuestSpec) -> Guest:
        """The guest of this spec, which is one that can be. Raises Invalid."""
        assert self._host is not None, "start comes first"
        _require_possible(spec)
        guest = self._guests.get(spec.id)
        if guest is None:
            guest = Guest(Home(self._options.guests_dir / spec.id), self._host)
            self._guests[spec.id] = guest
        return guest

    async def boot(
        self,
        spec: GuestSpec,
        disks: tuple[BlockNode, ...],
        taps: tuple[Tap, ...],
        config_drive: bytes | None,
    ) -> None:
        guest = self._known_or_new(spec)
        async with self._boots, guest.lock:
            known = guest.record
            if known is not None:
                wanted, there = boot_key(spec), boot_key(known)
                if guest.is_running and wanted == there:
                    return
                if guest.is_running or wanted < there:
                    raise Conflict(
                        f"server {spec.id} already had another boot here",
                        because=f"(incarnation, boot) is {there}, wanted {wanted}",
                    )
                _require_ours(spec, known)
            self._require_unshared(spec.id, disks)
            try:
                uid = known.uid if known is not None else self._free_uid()
                await guest.boot(spec, uid, disks, taps, config_drive)
            finally:
                if guest.record is None:
                    self._guests.pop(spec.id, None)

    async def receive(
        self,
        spec: GuestSpec,
        disks: tuple[BlockNode, ...],
        taps: tuple[Tap, ...],
        config_drive: bytes | None,
    ) -> None:
        assert spec.incoming is not None
        guest = self._known_or_new(spec)
        async with self._boots, guest.lock:
            known = guest.record
            if known is not None and known.incarnation == spec.incarnation:
                waits = known.arrival
                if guest.is_running or (
                    waits is not None
                    and waits.migration_id == spec.incoming.migration_id
                    and not waits.trouble
                ):
                    return
            if known is not None and (guest.is_running or known.incarnation > spec.incarnation):
                raise Conflict(
                    f"server {spec.id} already had another life here",
                    because=f"incarnation is {known.incarnation}, wanted {spec.incarnation}",
                )
            self._require_unshared(spec.id, disks)
            try:
                uid = known.uid if known is not None else self._free_uid()
                await guest.receive(spec, uid, disks, taps, config_drive)
            finally:
                if guest.record is None:
                    self._guests.pop(spec.id, None)

    async def send(self, spec: GuestSpec, disks: tuple[BlockNode, ...]) -> None:
        assert self._host is not None, "start comes first"
        assert spec.outgoing is not None
        guest = self._guests.get(spec.id)
        if guest is None:
            if spec.power is Power.RUNNING:
                raise NotFound(f"server {spec.id} is not on this host")
            # It never ran here, so it left no record; its disks are here all the same.
            guest = Guest(Home(self._options.guests_dir / spec.id), self._host)
            self._guests[spec.id] = guest
        async with guest.lock:
            known = guest.record
            way = known.departure if known is not None else None
            if way is not None and way.migration_id == spec.outgoing.migration_id:
                return
            if known is not None:
                _require_ours(spec, known)
                if known.is_on_its_way:
                    raise Conflict(f"server {spec.id} is on its way already")
            if not guest.is_running and spec.power is Power.RUNNING:
                raise Conflict(f"server {spec.id} does not run")
            try:
                uid = known.uid if known is not None else self._free_uid()
                await guest.send(spec, uid, disks)
            finally:
                if guest.record is None:
                    self._guests.pop(spec.id, None)

    async def cancel_send(self, guest_id: ServerId) -> None:
        if (guest := self._guests.get(guest_id)) is not None:
            async with guest.lock:
                await guest.cancel_send()

    def _free_uid(self) -> int:
        return self._options.uids.free(
            guest.record.uid for guest in self._guests.values() if guest.record is not None
        )

    def _require_unshared(self, guest_id: ServerId, disks: tuple[BlockNode, ...]) -> None:
        """Two writers would ruin a disk, and only the engine's own lock might still prevent it."""
        wanted = {path for disk in disks for path in disk.owned_paths}
        for other in self._guests.values():
            if other.record is None or other.record.id == guest_id:
                continue
            if shared := wanted & set(other.record.owned_paths):
                raise Conflict(
                    f"a disk of server {guest_id} is in use by another server",
                    because=f"{other.record.id} has {sorted(shared)[0]}",
                )

    async def plug_disk(self, spec: GuestSpec, volume_id: VolumeId, disk: BlockNode) -> None:
        guest = self._guest(spec.id)
        async with guest.lock:
            self._require_unshared(spec.id, (disk,))
            await guest.plug_disk(spec, volume_id, disk)

    async def unplug_disk(self, guest_id: ServerId, volume_id: VolumeId) -> None:
        if (guest := self._guests.get(guest_id)) is not None:
            async with guest.lock:
                await guest.unplug_disk(volume_id)

    async def plug_nic(self, spec: GuestSpec, tap: Tap) -> None:
        guest = self._guest(spec.id)
        async with guest.lock:
            await guest.plug_nic(spec, tap)

    async def unplug_nic(self, guest_id: ServerId, port_id: PortId) -> None:
        if (guest := self._guests.get(guest_id)) is not None:
            async with guest.lock:
                await guest.unplug_nic(port_id)

    async def switch_layer(self, guest_id: ServerId, volume_id: VolumeId, layer: BlockNode) -> None:
        guest = self._guest(guest_id)
        async with guest.lock:
            await guest.switch_layer(volume_id, layer)

    async def resize_disk(self, guest_id: ServerId, volume_id: VolumeId, size_gib: int) -> None:
        guest = self._guest(guest_id)
        async with guest.lock:
            await guest.resize_disk(volume_id, size_gib)

    async def shut_down(self, guest_id: ServerId) -> None:
        if (guest := self._guests.get(guest_id)) is not None:
            async with guest.lock:
                await guest.shut_down()

    async def cut_off(self, guest_id: ServerId) -> None:
        if (guest := self._guests.get(guest_id)) is not None:
            async with guest.lock:
                await guest.cut_off()

    async def reset(self, guest_id: ServerId) -> None:
        guest = self._guest(guest_id)
        async with guest.lock:
            await guest.reset()

    async def remove(self, guest_id: ServerId) -> None:
        if (guest := self._guests.get(guest_id)) is not None:
            async with guest.lock:
                await guest.remove()
                self._guests.pop(guest_id, None)

    async def console_log(self, guest_id: ServerId, lines: int | None) -> bytes:
        return self._guest(guest_id).console_log(lines)

    def vnc_socket(self, guest_id: ServerId) -> Path:
        guest = self._guest(guest_id)
        if not guest.is_running:
            raise NotFound(f"server {guest_id} does not run")
        return guest.vnc_socket

    def _guest(self, guest_id: ServerId) -> Guest:
        guest = self._guests.get(guest_id)
        if guest is None:
            raise NotFound(f"server {guest_id} is not on this host")
        return guest


def boot_key(boot: GuestSpec | record.GuestRecord) -> tuple[int, int]:
    """Later boots are larger; an earlier one must never run again."""
    return boot.incarnation, boot.boot_number


def _require_ours(spec: GuestSpec, known: record.GuestRecord) -> None:
    """Only the control plane may know that a guest which was on its way belongs here again."""
    if known.incarnation < spec.incarnation:
        return
    if known.fate in (Fate.SENT, Fate.UNSURE):
        raise Conflict(
            f"server {spec.id} was sent to another host", because=f"its record says {known.fate}"
        )
    if known.fate == Fate.RECEIVING and spec.incoming is not None:
        raise Conflict(f"server {spec.id} has not come yet")


async def tear_down(options: QemuOptions) -> None:
    """End every guest of this state directory and forget it, with or without an agent."""
    running = process.find(options.guests_dir, options.uids)
    await _end_all([pid for pids in running.values() for pid in pids])
    shutil.rmtree(options.keys_dir, ignore_errors=True)
    if options.guests_dir.is_dir():
        for home in options.guests_dir.iterdir():
            if (known := record.load(home)) is not None:
                uids.give_back(known.owned_paths)
        shutil.rmtree(options.guests_dir)


KVM = Path("/dev/kvm")


def choose_accelerator(wish: str) -> str:
    """KVM only where it really works: a device that opens is not enough, as the processor may lack
    the instructions and guests would hang; and guests must be able to open it by their group."""
    if wish != "auto":
        return wish
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if not flags & {"vmx", "svm"}:
        return "tcg"
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return "tcg"
    if KVM.stat().st_mode & 0o060 != 0o060:
        _log.warning("KVM is not used: its group may not open it", device=str(KVM))
        return "tcg"
    return "kvm"


def _version(program: str) -> int:
    try:
        words = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True, timeout=PROBE_S_MAX
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable("QEMU is not usable on this host", because=str(error)) from error
    numbers = words.split("version ", 1)[-1].split()[0].split("(")[0].split(".")
    major, minor, micro = (*(int(n) for n in numbers[:3] if n.isdigit()), 0, 0, 0)[:3]
    return major * 1_000_000 + minor * 1_000 + micro


def cpu_digest(accelerator: str, version: int) -> str:
    """Stands for the processor that guests see: with KVM the host's own, down to what its microcode left
    of it; without, the largest that this QEMU can emulate."""
    if accelerator != "kvm":
        return f"{accelerator}-{version // 1000}"
    flags = " ".join(sorted(_cpu_line("flags").split()))
    seen = f"{_cpu_line('model name')}: {flags}"
    return f"kvm-{hashlib.sha256(seen.encode()).hexdigest()[:12]}"


def _cpu_line(name: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(name):
            return line.split(":", 1)[1].strip()
    return ""


def _require_possible(spec: GuestSpec) -> None:
    """Refuse what can never be, before QEMU says it in its own words or the host runs out."""
    page = os.sysconf("SC_PAGE_SIZE")
    total_mib = os.sysconf("SC_PHYS_PAGES") * page >> 20
    if spec.memory_mib > total_mib:
        raise NoCapacity(
            f"memory: the server needs {spec.memory_mib} MiB and its host has {total_mib} MiB"
        )
    if spec.vcpus < 1 or spec.memory_mib < 1:
        raise Invalid(f"server {spec.id} needs at least one vCPU and 1 MiB of memory")


async def _end_all(pids: list[int]) -> None:
    for pid in pids:
        try:
            found = process.Process(pid)
        except ProcessLookupError:
            continue
        await found.end()
